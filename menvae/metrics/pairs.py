"""What metrics of pairs of partitions share."""

from __future__ import annotations

from itertools import combinations

from menvae.latent import LatentLayout
from menvae.metrics import Floats, SplitRecord

MOST_ROWS = 4096
"""Of larger splits evenly spaced rows are taken: the memory of a distance correlation grows with their square."""


def pairs(layout: LatentLayout) -> list[tuple[str, str]]:
    """Return every pair of partitions, in the order of z."""
    return list(combinations(layout, 2))


def spaced_means(record: SplitRecord) -> Floats:
    """Return the posterior means of the split [N, Z], of many subjects those of evenly spaced ones."""
    means = record.arrays["mean"]
    return means[:: -(-len(means) // MOST_ROWS) or 1]
