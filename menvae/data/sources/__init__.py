"""Registered data sources, one per file."""
