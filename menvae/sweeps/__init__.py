"""Runs among runs: their identity."""
