"""Rows grouped by patient: the unit that is resampled, left out or permuted, because visits depend on each other."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


def rows_by_patient(patients: Sequence[Hashable]) -> list[Indices]:
    """Return the rows of each patient, patients in the order of their first row.

    Args:
        patients: patient of each of the N rows.

    Raises:
        ValueError: no row.

    >>> [rows.tolist() for rows in rows_by_patient(["b", "a", "b"])]
    [[0, 2], [1]]
    """
    if len(patients) == 0:
        raise ValueError("there are no rows; a statistic over patients needs at least one")
    found: dict[Hashable, list[int]] = {}
    for row, patient in enumerate(patients):
        found.setdefault(patient, []).append(row)
    return [np.array(rows, dtype=np.intp) for rows in found.values()]


def spaced(rows: Indices, most: int) -> Indices:
    """Return at most ``most`` of the rows, evenly spaced.

    >>> spaced(np.arange(7), most=3).tolist()
    [0, 3, 6]
    """
    return rows[:: -(-len(rows) // most) or 1]


def previous_of_another(patients: Sequence[Hashable]) -> list[int | None]:
    """Return, for each row, the last row before it that is of another patient; the last row precedes the first.

    Args:
        patients: patient of each row.

    >>> previous_of_another(["a", "b", "b", "c"]), previous_of_another(["a", "a"])
    ([3, 0, 0, 2], [None, None])
    """
    num = len(patients)
    found: list[int | None] = [None] * num
    for row in (*range(num), *range(num)):  # the second time, the first rows know the last ones
        before = row - 1 if row else num - 1
        found[row] = before if patients[before] != patients[row] else found[before]
    return found
