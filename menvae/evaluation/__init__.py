"""Evaluation of a run: metrics, final evaluation, leak matrix and gates."""
