"""Sweeps: planning, launching and monitoring many runs."""
