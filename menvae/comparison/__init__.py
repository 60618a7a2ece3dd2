"""Comparison of finished runs: statistics, tables, pictures, page."""
