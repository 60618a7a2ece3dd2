"""Comparison of runs: group them into configurations, rank these, and compute the effect of each swept key.

Runs that differ only in ``seed`` and ``data.fold`` are replicates of one configuration: its numbers are means over
them, with their standard deviation and a t-interval. Runs on different data, or with differently normalised targets,
belong to different *cohorts*: they share the table, but nothing is computed across cohorts. Folds of one configuration
are of one cohort, although each normalises its targets by its own training subjects (see
`menvae.comparison.grouping`); ``data.seed`` and, unless it is a replicate too, ``data.split_seed`` make different data.

Nothing is ever chosen by the test split: ranks, front, effects and differences are those of the validation split.
Values and verdicts of the test split are only shown beside them, and so are the pooled predictions of all folds (see
`menvae.comparison.out_of_fold`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats

from menvae.comparison.differences import with_baselines
from menvae.comparison.effects import effect_intervals
from menvae.comparison.grouping import cohorts_of, configurations_of, without_repetitions
from menvae.comparison.judged import GateValue
from menvae.comparison.pareto import Front, Objective, find_front
from menvae.comparison.replicates import FOLD, Replicates, overlap, overlap_notes
from menvae.comparison.results import Cohort, Comparison, Configuration, Effect, Summary
from menvae.comparison.summaries import summarise
from menvae.comparison.swept_keys import SweptKey, check_keys, natural, setting, swept_keys, values_of
from menvae.comparison.tracked_runs import TrackedRun, listed
from menvae.errors import UserError, nearest
from menvae.presentation.text import counted

MOST_VALUES = 100
"""The effect of a key with more values than this is not shown: few runs share one."""


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """Settings of a comparison; keys of ``conf/compare.yaml``.

    Attributes:
        sweep: name of a sweep, to compare only its points.
        replicates: keys besides ``seed`` in which the runs of one configuration differ; add ``data.split_seed`` if
            repeated splits are meant as replicates.
        ignore: keys or sections whose differences are ignored.
        front: gates of the Pareto front; None for all.
        baseline: configuration that others are compared with, given by the name or MLflow id of a run or as
            {key: value}; None for the best.
        sort: column to sort the table by; None for the order of merit.
    """

    sweep: str | int | None = None
    replicates: tuple[str, ...] = (FOLD,)
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
    check_keys("ignore", settings.ignore, runs, sections=True)
    check_keys("replicates", [key for key in settings.replicates if key not in ("seed", FOLD)], runs)
    gates, gate_notes = gates_of(runs)
    keys = swept_keys(runs, settings.ignore, [gate.name for gate in gates], settings.replicates)
    replicates = Replicates.of([key for key in settings.replicates if key != "seed"], runs)
    runs, repetition_notes = without_repetitions(runs, keys, replicates)
    cohorts: list[Cohort] = []
    for members in cohorts_of(runs, keys, replicates):
        first_number = 1 + sum(len(cohort.configurations) for cohort in cohorts)
        label = chr(ord("A") + len(cohorts)) if len(cohorts) < 26 else str(len(cohorts) + 1)
        cohorts.append(_cohort(members, label, first_number, keys, gates, settings.front, replicates))
    cohorts = with_baselines(cohorts, settings.baseline, keys, gates)
    rows = _sorted_rows(cohorts, settings.sort, keys, gates)
    notes = [*repetition_notes, *_cohort_notes(cohorts), *gate_notes, *_run_notes(runs), *_key_notes(keys)]
    notes += overlap_notes([one.runs for one in rows])
    return Comparison(gates, keys, tuple(cohorts), rows, tuple(notes), replicates)


# --------------------------------------------------------------------------------------------------------------------
# Gates
# --------------------------------------------------------------------------------------------------------------------


def gates_of(runs: Sequence[TrackedRun]) -> tuple[tuple[Objective, ...], list[str]]:
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
        metrics = list(dict.fromkeys(gate.metric for gate in reversed(values) if gate.metric))
        objectives.append(Objective(name, targets[0], larger, meaning, metrics[0] if metrics else ""))
        if len(targets) > 1:
            listing = ", ".join(f"{target:g}" for target in targets)
            notes.append(
                f"Runs have different targets for {name} ({listing}): whether a run passes depends on its own target; "
                f"tables and front use {targets[0]:g}."
            )
        if len(metrics) > 1:
            notes.append(
                f"The gate {name} bounds different metrics ({', '.join(sorted(metrics))}): its values cannot be "
                "compared between runs; rename one of the gates."
            )
    return tuple(objectives), notes


def _value(gates: Mapping[str, GateValue], name: str) -> float | None:
    return gates[name].value if name in gates else None


def _cohort(
    runs: Sequence[TrackedRun],
    label: str,
    first_number: int,
    keys: Sequence[SweptKey],
    gates: Sequence[Objective],
    front: Sequence[str] | None,
    replicates: Replicates,
) -> Cohort:
    ranked = ranked_configurations(runs, label, keys, gates, replicates)
    configurations = tuple(replace(one, number=first_number + place) for place, one in enumerate(ranked))
    return Cohort(
        label=label,
        data_hash=runs[0].data_hash,
        targets_hashes=tuple(dict.fromkeys(run.targets_hash for run in runs)),
        configurations=configurations,
        front=_front(configurations, gates, front),
        effects=tuple(effect for key in keys if (effect := _effect(key, runs, keys, gates, replicates)) is not None),
        baseline=configurations[0],
        differences={},
    )


def ranked_configurations(
    runs: Sequence[TrackedRun],
    label: str,
    keys: Sequence[SweptKey],
    gates: Sequence[Objective],
    replicates: Replicates,
) -> list[Configuration]:
    """Return the configurations of a cohort, the best first: by gates passed, then by mean rank over the gates."""
    unranked = [_configuration(group, label, keys, gates, replicates) for group in configurations_of(runs, keys)]
    ranks = _mean_ranks([configuration.gates for configuration in unranked], gates)
    ranked = [replace(one, mean_rank=rank) for one, rank in zip(unranked, ranks, strict=True)]
    ranked.sort(key=lambda one: (-one.gates_passed, one.mean_rank, [natural(value) for value in one.values.values()]))
    return ranked


def _configuration(
    runs: Sequence[TrackedRun],
    cohort: str,
    keys: Sequence[SweptKey],
    gates: Sequence[Objective],
    replicates: Replicates,
) -> Configuration:
    ordered = sorted(runs, key=lambda run: [natural(value) for value in (run.seed, *replicates.values(run))])
    names, shared = [replicates.name(run) for run in ordered], overlap(runs)

    def over(found: Callable[[TrackedRun], Mapping[str, GateValue]], name: str) -> Summary:
        values = [_value(found(run), name) for run in ordered]
        return summarise(dict(zip(names, values, strict=True)), shared)

    return Configuration(
        number=0,
        cohort=cohort,
        values=values_of(runs[0], keys),
        runs=tuple(ordered),
        gates={gate.name: over(lambda run: run.gates, gate.name) for gate in gates},
        test_gates={
            gate.name: over(lambda run: run.test_gates, gate.name)
            for gate in gates
            if any(run.test_gates for run in ordered)
        },
        gates_passed=fmean(sum(gate.passed for gate in run.gates.values()) for run in runs),
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
    # A mean over some of the runs would favour a configuration whose bad runs have no value.
    values = {
        one.number: {name: None if summary.missing else summary.mean for name, summary in one.gates.items()}
        for one in configurations
    }
    return find_front(values, gates if wanted is None else [known[name] for name in dict.fromkeys(wanted)])


# --------------------------------------------------------------------------------------------------------------------
# Effects of keys
# --------------------------------------------------------------------------------------------------------------------


def _effect(
    key: SweptKey,
    runs: Sequence[TrackedRun],
    keys: Sequence[SweptKey],
    gates: Sequence[Objective],
    replicates: Replicates,
) -> Effect | None:
    """Return the effect of a key among runs; None if all runs have the same value, or too few share one."""
    by_value: dict[str, list[TrackedRun]] = {value: [] for value in key.values}
    for run in runs:
        by_value[setting(run, key.name)].append(run)
    by_value = {value: members for value, members in by_value.items() if members}
    if not 2 <= len(by_value) <= MOST_VALUES:
        return None
    others = [other for other in keys if other is not key]
    settings = [
        Counter((replicates.name(run), *values_of(run, others).values()) for run in group)
        for group in by_value.values()
    ]
    means = {
        value: {gate.name: _mean([_value(run.gates, gate.name) for run in group]) for gate in gates}
        for value, group in by_value.items()
    }
    balanced = all(one == settings[0] for one in settings)
    over, intervals = effect_intervals(by_value, others, [gate.name for gate in gates], replicates, balanced)
    return Effect(
        key=key,
        num_runs={value: len(group) for value, group in by_value.items()},
        means=means,
        ranges={gate.name: _range([row[gate.name] for row in means.values()]) for gate in gates},
        balanced=balanced,
        intervals=intervals,
        intervals_over=over,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _range(means: Sequence[float | None]) -> float | None:
    known = [mean for mean in means if mean is not None]
    return max(known) - min(known) if len(known) > 1 else None


# --------------------------------------------------------------------------------------------------------------------
# Rows and notes
# --------------------------------------------------------------------------------------------------------------------


def _sorted_rows(
    cohorts: Sequence[Cohort], sort: str | None, keys: Sequence[SweptKey], gates: Sequence[Objective]
) -> tuple[Configuration, ...]:
    """Return the rows of the table, cohort by cohort."""
    columns: dict[str, Callable[[Configuration], Any]] = {
        "seeds": lambda one: -len({run.seed for run in one.runs}),
        "runs": lambda one: -len(one.runs),
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
        f"{cohort.label}: {counted(len(cohort.runs), 'run')}, data {cohort.data_hash[:8] or 'unknown'}, "
        f"targets {cohort.targets_words}"
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


def _key_notes(keys: Sequence[SweptKey]) -> list[str]:
    """Name the keys without a table of effects."""
    many = [f"{key.name} ({len(key.values)} values)" for key in keys if len(key.values) > MOST_VALUES]
    return [f"The effect of a key with more than {MOST_VALUES} values is not shown: {listed(many)}."] * bool(many)
