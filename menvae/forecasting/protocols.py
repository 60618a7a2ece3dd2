"""Which visits of a held-out patient are known, and which are forecast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from menvae.data.batches.folds import Folds
from menvae.errors import UserError
from menvae.growth import Visits

Protocol = Literal["last_from_rest", "all_from_first"]


@dataclass(frozen=True)
class Task:
    """A forecast to be judged.

    Attributes:
        patient: number of the patient.
        num_seen: number of visits that are known, the first ones.
        target: number of the visit that is forecast.
    """

    patient: int
    num_seen: int
    target: int


def tasks(patients: Sequence[Visits], protocol: Protocol) -> list[Task]:
    """Return the forecasts of a protocol; patients with a single visit have none."""
    return [
        Task(number, num_seen, target)
        for number, visits in enumerate(patients)
        if len(visits) > 1
        for num_seen, target in _PROTOCOLS[protocol](len(visits))
    ]


_PROTOCOLS: Mapping[Protocol, Callable[[int], list[tuple[int, int]]]] = {
    "last_from_rest": lambda num: [(num - 1, num - 1)],
    "all_from_first": lambda num: [(1, target) for target in range(1, num)],
}


def patient_folds(patients: Sequence[Visits], num_folds: int, seed: int) -> list[list[int]]:
    """Deal patients into folds that are alike in the first volume; numbers of the patients of each.

    Args:
        patients: at least ``num_folds``.
        num_folds: at least two.
        seed: of the deal, which is that of ``data.fold``.

    Raises:
        UserError: there are fewer patients than folds.
    """
    if num_folds > len(patients):
        raise UserError(f"{num_folds} folds need at least {num_folds} patients, and there are {len(patients)}")
    volumes = np.exp([visits.log_volume[0] for visits in patients])
    return [
        np.flatnonzero(Folds(index, num_folds).test(volumes, seed, "patients")).tolist() for index in range(num_folds)
    ]
