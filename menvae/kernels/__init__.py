"""Computations that layers share: exact, but cheaper in time or memory than the operations that define them."""
