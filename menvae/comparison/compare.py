"""Comparison of runs: group them into configurations, rank these, and compute the effect of each swept key.

Runs that differ only in ``seed`` are replicates of one configuration: its numbers are means over the seeds, with their
standard deviation and a t-interval. Runs on different data, or with differently normalised targets, belong to different
*cohorts*: they share the table, but nothing is computed across cohorts; ``data.seed`` and ``data.split_seed`` make
different data.

Nothing is ever chosen by the test split: ranks, front, effects and differences are those of the validation split.
Values and verdicts of the test split are only shown beside them.
"""

from __future__ import annotations

import difflib
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from menvae.comparison.judged import GateValue
from menvae.comparison.pareto import Front, Objective, find_front
from menvae.comparison.results import Cohort, Comparison, Configuration, Difference, Effect, Summary
from menvae.comparison.swept_keys import SweptKey, canonical, check_ignored, natural, setting, swept_keys, values_of
from menvae.comparison.tracked_runs import TrackedRun, listed
from menvae.errors import UserError, nearest

CONFIDENCE = 0.95
"""Confidence level of every interval."""


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """Settings of a comparison; keys of ``conf/compare.yaml``.

    Attributes:
        sweep: name of a sweep, to compare only its points.
        ignore: keys or sections whose differences are ignored.
        front: gates of the Pareto front; None for all.
        baseline: configuration that others are compared with, given by the name or MLflow id of a run or as
            {key: value}; None for the best.
        sort: column to sort the table by; None for the order of merit.
    """

    sweep: str | int | None = None
    ignore: tuple[str, ...] = ()
    front: tuple[str, ...] | None = None
    baseline: str | dict[str, Any] | None = None
    sort: str | None = None


def compare(runs: Sequence[TrackedRun], settings: ComparisonSettings) -> Comparison:
    """Compare finished runs.

    Args:
        runs: at least one run, the oldest first.
        settings: settings of the comparison.

    Raises:
        UserError: a setting names a key, gate or configuration that does not exist.
    """
    check_ignored(settings.ignore, runs)
    gates, gate_notes = _gates(runs)
    keys = swept_keys(runs, settings.ignore, reserved=[gate.name for gate in gates])
    runs, repetition_notes = _without_repetitions(runs, keys)
    cohorts: list[Cohort] = []
    for members in _by_data(runs):
        first_number = 1 + sum(len(cohort.configurations) for cohort in cohorts)
        label = chr(ord("A") + len(cohorts)) if len(cohorts) < 26 else str(len(cohorts) + 1)
        cohorts.append(_cohort(members, label, first_number, keys, gates, settings))
    cohorts = _with_baselines(cohorts, settings.baseline, keys, gates)
    rows = _sorted_rows(cohorts, settings.sort, keys, gates)
    notes = [*repetition_notes, *_cohort_notes(cohorts), *gate_notes, *_run_notes(runs)]
    return Comparison(gates, keys, tuple(cohorts), rows, tuple(notes))


# --------------------------------------------------------------------------------------------------------------------
# Grouping of runs
# --------------------------------------------------------------------------------------------------------------------


def _without_repetitions(runs: Sequence[TrackedRun], keys: Sequence[SweptKey]) -> tuple[list[TrackedRun], list[str]]:
    """Keep the latest of runs with the same configuration, seed and data: repetitions are not replicates."""
    last: dict[tuple[object, ...], TrackedRun] = {}
    repeated: list[str] = []
    for run in sorted(runs, key=lambda one: one.started_ms):
        identity = (run.data_hash, run.targets_hash, run.seed, *values_of(run, keys).values())
        if identity in last:
            repeated.append(f"{last[identity].name} ({last[identity].run_id[:8]})")
        last[identity] = run
    note = f"Ignored, because a later run has the same configuration, seed and data: {listed(repeated)}."
    return list(last.values()), [note] * bool(repeated)


def _by_data(runs: Sequence[TrackedRun]) -> list[list[TrackedRun]]:
    groups: dict[tuple[str, str], list[TrackedRun]] = {}
    for run in runs:
        groups.setdefault((run.data_hash, run.targets_hash), []).append(run)
    return sorted(groups.values(), key=len, reverse=True)


# --------------------------------------------------------------------------------------------------------------------
# Gates
# --------------------------------------------------------------------------------------------------------------------


def _gates(runs: Sequence[TrackedRun]) -> tuple[tuple[Objective, ...], list[str]]:
    """Return the gates of all runs, and a note for each gate whose target or metric differs between runs."""
    found: dict[str, list[GateValue]] = {}
    for run in runs:
        for name, gate in run.gates.items():
            found.setdefault(name, []).append(gate)
    objectives, notes = [], []
    for name, values in found.items():
        larger = values[-1].comparison == ">"
        targets = sorted({gate.target for gate in values}, reverse=larger)
        meaning = next((gate.meaning for gate in reversed(values) if gate.meaning), "")
        objectives.append(Objective(name, targets[0], larger, meaning))
        if len(targets) > 1:
            listing = ", ".join(f"{target:g}" for target in targets)
            notes.append(
                f"Runs have different targets for {name} ({listing}): whether a run passes depends on its own target; "
                f"tables and front use {targets[0]:g}."
            )
        metrics = sorted({gate.metric for gate in values if gate.metric})
        if len(metrics) > 1:
            notes.append(
                f"The gate {name} bounds different metrics ({', '.join(metrics)}): its values cannot be compared "
                "between runs; rename one of the gates."
            )
    return tuple(objectives), notes


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Return the confidence interval of the mean of independent values, by Student's t; None for fewer than two.

    >>> low, high = mean_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    if len(values) < 2:
        return None
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * deviation / math.sqrt(len(values))
    return mean - half, mean + half


def summarise(values: Mapping[str, float | None]) -> Summary:
    """Summarise a gate, or another number, over the seeds.

    >>> summary = summarise({"0": 1.0, "1": 3.0, "2": None})
    >>> summary.mean, round(summary.deviation, 3), summary.missing
    (2.0, 1.414, 1)
    >>> [round(end, 2) for end in summary.interval]  # 2 -+ 12.706 sqrt(2) / sqrt(2)
    [-10.71, 14.71]
    """
    known = [value for value in values.values() if value is not None]
    return Summary(
        values=values,
        mean=statistics.fmean(known) if known else None,
        deviation=statistics.stdev(known) if len(known) > 1 else None,
        interval=mean_interval(known),
    )


def _value(gates: Mapping[str, GateValue], name: str) -> float | None:
    return gates[name].value if name in gates else None


def _cohort(
    runs: Sequence[TrackedRun],
    label: str,
    first_number: int,
    keys: Sequence[SweptKey],
    gates: Sequence[Objective],
    settings: ComparisonSettings,
) -> Cohort:
    groups: dict[tuple[str, ...], list[TrackedRun]] = {}
    for run in runs:
        groups.setdefault(tuple(values_of(run, keys).values()), []).append(run)
    unranked = [_configuration(group, label, keys, gates) for group in groups.values()]
    ranks = _mean_ranks([configuration.gates for configuration in unranked], gates)
    ranked = [replace(one, mean_rank=rank) for one, rank in zip(unranked, ranks, strict=True)]
    ranked.sort(key=lambda one: (-one.gates_passed, one.mean_rank, [natural(value) for value in one.values.values()]))
    configurations = tuple(replace(one, number=first_number + place) for place, one in enumerate(ranked))
    return Cohort(
        label=label,
        data_hash=runs[0].data_hash,
        targets_hash=runs[0].targets_hash,
        configurations=configurations,
        front=_front(configurations, gates, settings.front),
        effects=tuple(effect for key in keys if (effect := _effect(key, runs, keys, gates)) is not None),
        baseline=configurations[0],
        differences={},
    )


def _configuration(
    runs: Sequence[TrackedRun], cohort: str, keys: Sequence[SweptKey], gates: Sequence[Objective]
) -> Configuration:
    by_seed = sorted(runs, key=lambda run: natural(run.seed))
    return Configuration(
        number=0,
        cohort=cohort,
        values=values_of(runs[0], keys),
        runs=tuple(by_seed),
        gates={gate.name: summarise({run.seed: _value(run.gates, gate.name) for run in by_seed}) for gate in gates},
        test_gates={
            gate.name: summarise({run.seed: _value(run.test_gates, gate.name) for run in by_seed})
            for gate in gates
            if any(run.test_gates for run in by_seed)
        },
        gates_passed=statistics.fmean(sum(gate.passed for gate in run.gates.values()) for run in runs),
        mean_rank=0.0,
    )


def _mean_ranks(rows: Sequence[Mapping[str, Summary]], gates: Sequence[Objective]) -> list[float]:
    """Return each row's mean rank over the gates: independent of scale and robust to one extreme value."""
    columns = []
    for gate in gates:
        sign = -1.0 if gate.larger_is_better else 1.0
        means = [row[gate.name].mean for row in rows]
        columns.append(stats.rankdata([math.inf if mean is None else sign * mean for mean in means]))
    return [float(rank) for rank in np.mean(columns, axis=0)]


def _front(configurations: Sequence[Configuration], gates: Sequence[Objective], wanted: Sequence[str] | None) -> Front:
    known = {gate.name: gate for gate in gates}
    for name in wanted or ():
        if name not in known:
            raise UserError(f"front: '{name}' is not a gate; {nearest(name, known)}")
    # A mean over some of the seeds would favour a configuration whose bad runs have no value.
    values = {
        one.number: {name: None if summary.missing else summary.mean for name, summary in one.gates.items()}
        for one in configurations
    }
    return find_front(values, gates if wanted is None else [known[name] for name in dict.fromkeys(wanted)])


# --------------------------------------------------------------------------------------------------------------------
# Effects of keys
# --------------------------------------------------------------------------------------------------------------------


def _effect(
    key: SweptKey, runs: Sequence[TrackedRun], keys: Sequence[SweptKey], gates: Sequence[Objective]
) -> Effect | None:
    """Return the effect of a key among runs; None if all runs have the same value."""
    by_value = {value: [run for run in runs if setting(run, key.name) == value] for value in key.values}
    by_value = {value: members for value, members in by_value.items() if members}
    if len(by_value) < 2:
        return None
    others = [other for other in keys if other is not key]
    settings = [Counter((run.seed, *values_of(run, others).values()) for run in group) for group in by_value.values()]
    means = {
        value: {
            gate.name: summarise({run.run_id: _value(run.gates, gate.name) for run in group}).mean for gate in gates
        }
        for value, group in by_value.items()
    }
    return Effect(
        key=key,
        num_runs={value: len(group) for value, group in by_value.items()},
        means=means,
        ranges={gate.name: _range([row[gate.name] for row in means.values()]) for gate in gates},
        balanced=all(one == settings[0] for one in settings),
    )


def _range(means: Sequence[float | None]) -> float | None:
    known = [mean for mean in means if mean is not None]
    return max(known) - min(known) if len(known) > 1 else None


# --------------------------------------------------------------------------------------------------------------------
# Differences from the baseline
# --------------------------------------------------------------------------------------------------------------------


def difference(one: Summary, baseline: Summary) -> Difference:
    """Return the difference of a gate from the baseline, over the seeds for which both have a value."""
    pairs = [
        (value, other)
        for seed, value in one.values.items()
        if value is not None and (other := baseline.values.get(seed)) is not None
    ]
    differences = [value - other for value, other in pairs]
    mean = statistics.fmean(differences) if differences else None
    return Difference(len(differences), mean, mean_interval(differences))


def _with_baselines(
    cohorts: Sequence[Cohort],
    wanted: str | Mapping[str, Any] | None,
    keys: Sequence[SweptKey],
    gates: Sequence[Objective],
) -> list[Cohort]:
    """Add the differences from the baseline; a cohort without the wanted baseline uses its best configuration."""
    found = [_baseline(cohort, wanted, keys) for cohort in cohorts]
    if wanted is not None and not any(found):
        hint = _allowed_baselines(cohorts, wanted, keys)
        raise UserError(f"baseline: no configuration matches {_described(wanted)}; {hint}")
    complete = []
    for cohort, baseline in zip(cohorts, found, strict=True):
        against = baseline or cohort.configurations[0]
        differences = {
            one.number: {gate.name: difference(one.gates[gate.name], against.gates[gate.name]) for gate in gates}
            for one in cohort.configurations
            if one is not against
        }
        complete.append(replace(cohort, baseline=against, differences=differences))
    return complete


def _baseline(cohort: Cohort, wanted: str | Mapping[str, Any] | None, keys: Sequence[SweptKey]) -> Configuration | None:
    if wanted is None:
        return None
    matches = [one for one in cohort.configurations if _is_wanted(one, wanted, keys)]
    if len(matches) > 1:
        several = ", ".join(f"{key.name} ({', '.join(key.values)})" for key in keys)
        raise UserError(
            f"baseline: {len(matches)} configurations match {_described(wanted)}; specify more of {several}"
        )
    return matches[0] if matches else None


def _is_wanted(one: Configuration, wanted: str | Mapping[str, Any], keys: Sequence[SweptKey]) -> bool:
    if isinstance(wanted, str):
        short = len(wanted) >= 8
        return any(wanted in (run.name, run.run_id) or (short and run.run_id.startswith(wanted)) for run in one.runs)
    names = {word: key.name for key in keys for word in (key.label, key.name)}
    run = one.runs[0]
    return all(
        setting(run, names.get(key, key)) == canonical(value if isinstance(value, str) else json.dumps(value))
        for key, value in wanted.items()
    )


def _described(wanted: str | Mapping[str, Any]) -> str:
    return f"'{wanted}'" if isinstance(wanted, str) else ", ".join(f"{key}={value}" for key, value in wanted.items())


def _allowed_baselines(cohorts: Sequence[Cohort], wanted: str | Mapping[str, Any], keys: Sequence[SweptKey]) -> str:
    names = [run.name for cohort in cohorts for run in cohort.runs]
    if isinstance(wanted, str):
        close = difflib.get_close_matches(wanted, names, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        return f"{hint}give the name or MLflow id of one of the {len(names)} runs, or {{key: value}}"
    return "swept keys: " + (", ".join(f"{key.name} ({', '.join(key.values)})" for key in keys) or "none")


# --------------------------------------------------------------------------------------------------------------------
# Rows and notes
# --------------------------------------------------------------------------------------------------------------------


def _sorted_rows(
    cohorts: Sequence[Cohort], sort: str | None, keys: Sequence[SweptKey], gates: Sequence[Objective]
) -> tuple[Configuration, ...]:
    """Return the rows of the table, cohort by cohort."""
    columns: dict[str, Callable[[Configuration], Any]] = {
        "seeds": lambda one: -len(one.runs),
        "passed": lambda one: -one.gates_passed,
        "rank": lambda one: one.mean_rank,
    }
    for gate in gates:
        columns[gate.name] = _merit(gate)
    for key in keys:
        columns[key.name] = columns[key.label] = _setting_of(key)
    if sort is not None and sort not in columns:
        raise UserError(f"sort: '{sort}' is not a column; {nearest(sort, columns)}")
    by_column = columns[sort] if sort is not None else (lambda one: one.number)
    return tuple(row for cohort in cohorts for row in sorted(cohort.configurations, key=by_column))


def _merit(gate: Objective) -> Callable[[Configuration], float]:
    def merit(one: Configuration) -> float:
        mean = one.gates[gate.name].mean
        return math.inf if mean is None else -mean if gate.larger_is_better else mean

    return merit


def _setting_of(key: SweptKey) -> Callable[[Configuration], tuple[int, float, str]]:
    return lambda one: natural(one.values[key.name])


def _cohort_notes(cohorts: Sequence[Cohort]) -> list[str]:
    if len(cohorts) < 2:
        return []
    listing = "; ".join(
        f"{cohort.label}: {_count(len(cohort.runs), 'run')}, data {cohort.data_hash[:8] or 'unknown'}, "
        f"targets {cohort.targets_hash[:8] or 'unknown'}"
        for cohort in cohorts
    )
    return [f"The runs used different data or targets ({listing}). Nothing is compared across them."]


def _run_notes(runs: Sequence[TrackedRun]) -> list[str]:
    notes = []
    collapsed = [run.name for run in runs if run.state == "collapsed"]
    if collapsed:
        notes.append(f"Stopped by the collapse watch, with gates evaluated at that point: {listed(collapsed)}.")
    stand_ins = [f"{run.name} for {' and '.join(run.stands_for)}" for run in runs if run.stands_for]
    if stand_ins:
        notes.append(f"Run with other values of some keys, in place of points that failed: {listed(stand_ins)}.")
    versions = sorted({run.git_commit[:7] + run.git_commit[40:] for run in runs if run.git_commit})
    if len(versions) > 1:
        notes.append(f"The runs used {len(versions)} versions of the code ({listed(versions)}).")
    return notes


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
