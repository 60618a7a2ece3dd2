"""Subjects on disk: discovery, NIfTI reading, checks of every file."""
