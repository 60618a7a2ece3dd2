"""Procedural heads with a meningioma."""
