"""Computations that layers share: equal to the operations that define them, but cheaper in time or memory.

Modules named ``triton_*`` need the package triton, which torch brings along where it is built for a GPU.
"""
