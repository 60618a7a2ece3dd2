"""The cache of prepared subjects."""
