"""Rows of visits -> patients, or one sentence about what is wrong with them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from menvae.errors import UserError
from menvae.growth import Visits
from menvae.presentation.text import counted

_log = logging.getLogger(__name__)

LARGEST_MM3 = 1e7
"""Largest volume of a visit."""
LONGEST_DAYS = 40_000
"""Longest time between two visits of a patient."""

SameDay = Literal["fail", "mean"]


class VisitRow(NamedTuple):
    """A visit as it was found.

    Attributes:
        patient: name.
        days: on any clock that the visits of a patient share.
        volume_mm3: 0 or more.
        variance: of the error of its logarithm, as far as it is known; 0 where it is not.
        latents: mean latents, or None.
    """

    patient: str
    days: float
    volume_mm3: float
    variance: float = 0.0
    latents: Sequence[float] | None = None


def patients_of(
    rows: Sequence[VisitRow], place: Callable[[int], str], *, smallest_mm3: float, same_day: SameDay
) -> list[Visits]:
    """Group visits by patient, in the order of time; patients in the order of their names.

    Args:
        rows: in any order.
        place: number of a row -> where it stands, for messages.
        smallest_mm3: volumes below count as this one, such as that of a tumour that has vanished.
        same_day: what to do with two visits of a patient on one day: ``fail``, or take the ``mean`` log volume.

    Raises:
        UserError: a number is missing, a volume is negative, or a patient has two visits on one day.
    """
    for number, row in enumerate(rows):
        if not math.isfinite(row.days) or not math.isfinite(row.volume_mm3) or row.volume_mm3 < 0.0:
            raise UserError(
                f"{place(number)}: patient '{row.patient}' has days {row.days:g} and a volume of "
                f"{row.volume_mm3:g} mm^3; days must be a number, and the volume 0 or more"
            )
        if row.volume_mm3 > LARGEST_MM3:
            raise UserError(
                f"{place(number)}: patient '{row.patient}' has a volume of {row.volume_mm3:g} mm^3, "
                "more than a head holds"
            )
    by_patient: dict[str, list[int]] = {}
    for number in sorted(range(len(rows)), key=lambda number: rows[number].days):
        by_patient.setdefault(rows[number].patient, []).append(number)
    for name, numbers in by_patient.items():
        first, last = numbers[0], numbers[-1]
        if rows[last].days - rows[first].days > LONGEST_DAYS:
            raise UserError(
                f"{place(first)} and {place(last)}: visits of patient '{name}' on days {rows[first].days:g} and "
                f"{rows[last].days:g} are more than a life apart; days are counted from any day, and are no dates"
            )
    small = sum(row.volume_mm3 < smallest_mm3 for row in rows)
    if small and small == len(rows):
        raise UserError(
            f"all {small} volumes are below {smallest_mm3:g} mm^3, where tumours count as vanished (smallest_mm3); "
            "volumes in mL need source.unit=ml"
        )
    if small:
        _log.warning("%s below %g mm^3: count as that (smallest_mm3)", counted(small, "volume"), smallest_mm3)
    return [
        _visits(name, [rows[number] for number in by_patient[name]], by_patient[name], place, smallest_mm3, same_day)
        for name in sorted(by_patient)
    ]


def _visits(
    name: str,
    rows: Sequence[VisitRow],
    numbers: Sequence[int],
    place: Callable[[int], str],
    smallest_mm3: float,
    same_day: SameDay,
) -> Visits:
    days = np.array([row.days for row in rows], dtype=np.float64)
    (twice,) = np.nonzero(np.diff(days) == 0.0)
    if len(twice) and same_day == "fail":
        first, second = (place(numbers[number]) for number in (twice[0], twice[0] + 1))
        raise UserError(
            f"{first} and {second}: patient '{name}' has two visits on day {days[twice[0]]:g}; correct one, or set "
            "same_day=mean for their mean log volume"
        )
    logarithms = np.log(np.maximum([row.volume_mm3 for row in rows], smallest_mm3))
    variances = np.array([row.variance for row in rows], dtype=np.float64)
    different, group = np.unique(days, return_inverse=True)
    count = np.bincount(group)
    latents = None
    if all(row.latents is not None for row in rows):
        values = np.array([row.latents for row in rows], dtype=np.float64)
        latents = np.stack([np.bincount(group, column) / count for column in values.T], axis=1)
    return Visits(
        name,
        different,
        np.bincount(group, logarithms) / count,
        np.bincount(group, variances) / count**2,
        latents,
    )
