"""From subject folders to batches: sources, preparation, targets, datasets.

A source is a registered part of group ``data``: a keyword-only dataclass whose fields are the keys ``data.*``.
"""
