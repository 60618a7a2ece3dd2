"""Targets: normalised and residualised on training subjects."""
