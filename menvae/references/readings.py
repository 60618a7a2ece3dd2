"""What a reference reads from the subjects of the judged splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Readings:
    """Targets of the judged subjects, as a reference reads them.

    Attributes:
        targets: names of the F targets that it reads, which may be fewer than the cohort has.
        values: split -> subject -> z-scores [F], finite.
        facts: how they were obtained, for ``references.json``.
    """

    targets: tuple[str, ...]
    values: Mapping[str, Mapping[str, Sequence[float]]]
    facts: Mapping[str, object] = field(default_factory=dict)


def by_subject(subjects: Iterable[str], values: Floats) -> dict[str, list[float]]:
    """Return subject -> its row of an array [N, F]."""
    rows: list[list[float]] = values.astype(np.float64).tolist()
    return dict(zip(subjects, rows, strict=True))
