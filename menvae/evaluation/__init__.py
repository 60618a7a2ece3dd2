"""Evaluation of a run: metrics, collapse watch, final evaluation, leak matrix and gates."""
