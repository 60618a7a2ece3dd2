"""Registered data sources, one a file."""
