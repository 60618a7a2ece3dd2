"""Functions shared by metrics of pairs of partitions."""

from __future__ import annotations

from itertools import combinations

from menvae.latent import LatentLayout
from menvae.metrics import Floats, SplitRecord

MOST_ROWS = 4096
"""Larger splits are subsampled to evenly spaced rows, as distance correlation needs memory quadratic in the rows."""


def pairs(layout: LatentLayout) -> list[tuple[str, str]]:
    """Return every pair of partitions, in the order of z."""
    return list(combinations(layout, 2))


def spaced_means(record: SplitRecord) -> Floats:
    """Return the posterior means of the split [N, Z], subsampled to at most `MOST_ROWS` evenly spaced subjects."""
    means = record.arrays["mean"]
    return means[:: -(-len(means) // MOST_ROWS) or 1]
