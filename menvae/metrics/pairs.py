"""Functions shared by metrics of pairs of partitions."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from menvae.latent import LatentLayout
from menvae.metrics import Floats, SplitRecord
from menvae.statistics.patients import Indices, rows_by_patient, spaced

MOST_ROWS = 4096
"""Larger splits are subsampled to evenly spaced rows, as distance correlation needs memory quadratic in the rows."""
MOST_TURNS = 4
_RELATIVE = 1e-6  # a range below it is rounding in float32


def pairs(layout: LatentLayout) -> list[tuple[str, str]]:
    """Return every pair of partitions, in the order of z."""
    return list(combinations(layout, 2))


def spaced_means(record: SplitRecord) -> Floats:
    """Return the posterior means of the split [N, Z], subsampled to at most `MOST_ROWS` evenly spaced subjects."""
    means = record.arrays["mean"]
    return means[spaced(np.arange(len(means)), MOST_ROWS)]


def one_visit_each(record: SplitRecord) -> list[Indices]:
    """Return up to `MOST_TURNS` sets of rows, each with one visit of every patient.

    Visits of a patient are alike in all partitions, so that the statistics of pairs of rows take independent partitions
    for dependent if two rows are of the same patient. A mean over these sets uses several visits without that bias.

    >>> record = SplitRecord(("a0", "a1", "b0"), {}, ("a", "a", "b"))
    >>> [rows.tolist() for rows in one_visit_each(record)]
    [[0, 2], [1, 2]]
    """
    of_patients = rows_by_patient(record.patient_id)
    turns = min(MOST_TURNS, max(map(len, of_patients)))
    return [np.array([rows[turn * len(rows) // turns] for rows in of_patients]) for turn in range(turns)]


def constant_partitions(means: Floats, layout: LatentLayout) -> set[str]:
    """Return the partitions none of whose dimensions varies.

    Args:
        means: posterior means [N, Z].
        layout: partitions of z.
    """
    varies = np.ptp(means, axis=0) > _RELATIVE * np.abs(means).max(axis=0)
    return {name for name in layout if not varies[slice(*layout.bounds(name))].any()}
