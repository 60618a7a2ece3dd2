"""Pareto front of configurations over gates, and its hypervolume.

A configuration is on the front if no other is at least as good in every gate and better in one. Two hypervolumes
measure the quality of a front; both are exact (Guerreiro, Fonseca and Paquete, ACM Computing Surveys 54, 2021), but for
fronts whose exact volume would take minutes (see `hypervolume`).

- *Beyond the targets*: the reference point is the targets of the gates, the least acceptable values. It is in units of
  the gates, so it is comparable between sweeps with the same gates. It is 0 unless a configuration meets every target.
- *Share of the range*: the reference point is, in every gate, the worst value found, moved away by a tenth of the
  range, so that a configuration that is worst in one gate still counts (Ishibuchi et al., Evolutionary Computation 26,
  2018). It is the fraction of the box between this point and the best value of every gate that the front dominates; 1
  means that one configuration is best in every gate. It is informative before any target is met, but the box depends on
  the set of configurations. Gates in which all configurations are equal are excluded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import moocore
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MOST_EXACT = 50
"""A front of so many configurations has an exact hypervolume in any number of gates."""
_MOST_STEPS = 1e8
"""An exact hypervolume of n points in m dimensions takes n^(m - 3) steps at worst."""
_SAMPLES = 1 << 14
"""Directions of an approximation: it is a thousandth off."""

RANGE_MARGIN = 0.1
"""Distance of the reference point beyond the worst value, as a fraction of the range."""


@dataclass(frozen=True)
class Objective:
    """One gate as an axis of the front.

    Attributes:
        name: name of the gate.
        target: the least acceptable value.
        larger_is_better: direction of the gate.
        meaning: what it measures, in one sentence; empty if unknown.
        metric: key of the metric that it bounds; empty if unknown.
    """

    name: str
    target: float
    larger_is_better: bool
    meaning: str = ""
    metric: str = ""


@dataclass(frozen=True)
class Front:
    """The Pareto front of some configurations.

    Attributes:
        objectives: names of the gates that span the front.
        unmeasured: gates without a value in any configuration; they are excluded.
        members: numbers of the configurations on the front, ascending; empty for a single gate and for a single
            configuration with a value for every gate, which leave nothing to trade off.
        excluded: number of a configuration -> the gates without a value, because of which it cannot be placed.
        hypervolume: hypervolume beyond the targets, in units of the gates.
        range_share: share of the range that the front dominates; None if all configurations are equal.
        constant: gates in which all configurations are equal.
        range_reference: gate -> coordinate of the reference point for ``range_share``.
    """

    objectives: tuple[str, ...]
    unmeasured: tuple[str, ...]
    members: tuple[int, ...]
    excluded: Mapping[int, tuple[str, ...]]
    hypervolume: float
    range_share: float | None
    constant: tuple[str, ...]
    range_reference: Mapping[str, float]

    @cached_property
    def on_front(self) -> frozenset[int]:
        """The members, to look one up among thousands."""
        return frozenset(self.members)


def find_front(values: Mapping[int, Mapping[str, float | None]], objectives: Sequence[Objective]) -> Front:
    """Find the front of configurations.

    Args:
        values: number of a configuration -> gate -> value, or None if it is missing.
        objectives: the gates that span the front.

    >>> gates = [Objective("r2", 0.0, True), Objective("dcor", 1.0, False)]
    >>> values = {1: {"r2": 0.5, "dcor": 0.5}, 2: {"r2": 0.2, "dcor": 0.2}, 3: {"r2": 0.2, "dcor": 0.9}}
    >>> front = find_front(values, gates)
    >>> front.members, round(front.hypervolume, 3)
    ((1, 2), 0.31)
    """
    used = [one for one in objectives if any(row.get(one.name) is not None for row in values.values())]
    missing = {number: tuple(one.name for one in used if row.get(one.name) is None) for number, row in values.items()}
    placed = [number for number in sorted(values) if not missing[number]]
    points = np.array([[values[number][one.name] for one in used] for number in placed], dtype=np.float64)
    points = points.reshape(len(placed), len(used))
    has_trade_off = len(used) > 1 and len(placed) > 1
    larger = [one.larger_is_better for one in used]
    share, constant, reference = range_share(points, larger)
    return Front(
        objectives=tuple(one.name for one in used),
        unmeasured=tuple(one.name for one in objectives if one not in used),
        members=tuple(number for number, best in zip(placed, nondominated(points, larger), strict=True) if best)
        if has_trade_off
        else (),
        excluded={number: gates for number, gates in missing.items() if gates},
        hypervolume=hypervolume(points, [one.target for one in used], larger),
        range_share=share,
        constant=tuple(used[index].name for index in constant),
        range_reference={used[index].name: value for index, value in reference.items()},
    )


def nondominated(points: Floats, larger_is_better: Sequence[bool]) -> list[bool]:
    """Return for each point [N, M] whether no other dominates it; equal points do not dominate each other."""
    if points.size == 0:
        return [False] * len(points)
    kept = moocore.is_nondominated(points, maximise=list(larger_is_better), keep_weakly=True)
    return [bool(one) for one in kept]


def hypervolume(points: Floats, reference: Sequence[float], larger_is_better: Sequence[bool]) -> float:
    """Return the volume dominated by points [N, M] up to a reference point [M]; 0 if none is better in all M.

    It is exact for up to 50 points and in up to four dimensions. Hundreds of points in more than six dimensions would
    take minutes; theirs is approximated (Deng and Zhang, IEEE Transactions on Evolutionary Computation 23, 2019).
    """
    if points.size == 0:
        return 0.0
    larger = list(larger_is_better)
    sign = np.where(np.asarray(larger, dtype=bool), 1.0, -1.0)
    counts = np.all(points * sign > np.asarray(reference) * sign, axis=1) & np.array(nondominated(points, larger))
    points = points[counts]
    num, num_gates = points.shape
    if num == 0:
        return 0.0
    if num <= _MOST_EXACT or num ** max(0, num_gates - 3) <= _MOST_STEPS:
        return float(moocore.hypervolume(points, ref=list(reference), maximise=larger))
    return float(moocore.hv_approx(points, ref=list(reference), maximise=larger, nsamples=_SAMPLES))


def range_share(points: Floats, larger_is_better: Sequence[bool]) -> tuple[float | None, list[int], dict[int, float]]:
    """Return the share of the range dominated by points [N, M], constant columns, and the reference of the others.

    >>> round(range_share(np.array([[0.0, 1.0], [1.0, 0.0]]), [True, True])[0], 4)  # (2 * 1.1 * 0.1 - 0.1**2) / 1.1**2
    0.1736
    """
    if len(points) == 0:
        return None, [], {}
    sign = np.where(np.asarray(larger_is_better, dtype=bool), 1.0, -1.0)
    worst, best = (points * sign).min(axis=0), (points * sign).max(axis=0)
    varying = [index for index in range(points.shape[1]) if best[index] > worst[index]]
    constant = [index for index in range(points.shape[1]) if index not in varying]
    if not varying:
        return None, constant, {}
    low = worst - RANGE_MARGIN * (best - worst)
    scaled = ((points * sign - low)[:, varying]) / (best - low)[varying]
    share = hypervolume(scaled, [0.0] * len(varying), [True] * len(varying))
    return share, constant, {index: float(low[index] * sign[index]) for index in varying}
