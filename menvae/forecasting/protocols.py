"""Which visits of a held-out patient are known, and which are forecast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
