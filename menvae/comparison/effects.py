"""Intervals of the effect of a key.

If a key is balanced and has replicates, its means are compared between the same settings of all other keys, so that
only the replicates are random: the interval of a mean is over them, each averaged over those settings. Otherwise the
settings of the other keys are a sample themselves, as in a random search, and the interval is over the configurations;
it then contains the effects of the other keys, and is wider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from menvae.comparison.replicates import Replicates, overlap
from menvae.comparison.summaries import mean_interval
from menvae.comparison.swept_keys import SweptKey, values_of
from menvae.comparison.tracked_runs import TrackedRun

Intervals = Mapping[str, Mapping[str, tuple[float, float] | None]]


def effect_intervals(
    by_value: Mapping[str, Sequence[TrackedRun]],
    others: Sequence[SweptKey],
    gates: Sequence[str],
    replicates: Replicates,
    balanced: bool,
) -> tuple[str, Intervals]:
    """Return what the intervals of the means are over, and value of the key -> gate -> interval.

    Args:
        by_value: value of the key -> its runs.
        others: all other swept keys.
        gates: names of the gates.
        replicates: what tells the runs of a configuration apart.
        balanced: see `menvae.comparison.results.Effect`.
    """
    first = next(iter(by_value.values()))
    if balanced and len({replicates.name(run) for run in first}) > 1:
        grouped = {value: _groups(runs, [replicates.name(run) for run in runs]) for value, runs in by_value.items()}
        shared = {value: overlap(runs) for value, runs in by_value.items()}
        over = replicates.words
    else:
        grouped = {
            value: _groups(runs, [tuple(values_of(run, others).values()) for run in runs])
            for value, runs in by_value.items()
        }
        shared = dict.fromkeys(by_value, 0.0)
        over = "configurations"
    intervals = {
        value: {gate: mean_interval(_means(groups, gate), shared[value]) for gate in gates}
        for value, groups in grouped.items()
    }
    return over, intervals


def _groups(runs: Sequence[TrackedRun], names: Sequence[object]) -> list[list[TrackedRun]]:
    groups: dict[object, list[TrackedRun]] = {}
    for run, name in zip(runs, names, strict=True):
        groups.setdefault(name, []).append(run)
    return list(groups.values())


def _means(groups: Sequence[Sequence[TrackedRun]], gate: str) -> list[float]:
    """Return the mean of a gate over the runs of each group in which any run has a value."""
    known = [
        [value for run in group if gate in run.gates and (value := run.gates[gate].value) is not None]
        for group in groups
    ]
    return [fmean(values) for values in known if values]
