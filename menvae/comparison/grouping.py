"""Which runs can be compared: repetitions are left out, and runs with the same data and targets form a cohort."""

from __future__ import annotations

from collections.abc import Sequence

from menvae.comparison.replicates import Replicates, is_fold
from menvae.comparison.swept_keys import SweptKey, values_of
from menvae.comparison.tracked_runs import TrackedRun, listed

_Learnt = tuple[str, tuple[str, ...], str]
"""Hash of the data, split, and hash of the targets fitted on its training subjects."""


def without_repetitions(
    runs: Sequence[TrackedRun], keys: Sequence[SweptKey], replicates: Replicates
) -> tuple[list[TrackedRun], list[str]]:
    """Keep the latest of runs with the same configuration, seed, fold and data: repetitions are not replicates."""
    last: dict[tuple[object, ...], TrackedRun] = {}
    repeated: list[str] = []
    for run in sorted(runs, key=lambda one: one.started_ms):
        identity = (*_learnt(run, replicates), run.seed, *values_of(run, keys).values())
        if identity in last:
            repeated.append(f"{last[identity].name} ({last[identity].run_id[:8]})")
        last[identity] = run
    what = "configuration, seed, fold and data" if replicates.has_folds else "configuration, seed and data"
    note = f"Ignored, because a later run has the same {what}: {listed(repeated)}."
    return list(last.values()), [note] * bool(repeated)


def configurations_of(runs: Sequence[TrackedRun], keys: Sequence[SweptKey]) -> list[list[TrackedRun]]:
    """Return the runs of each configuration: they have the same values of the swept keys, and are its replicates."""
    groups: dict[tuple[str, ...], list[TrackedRun]] = {}
    for run in runs:
        groups.setdefault(tuple(values_of(run, keys).values()), []).append(run)
    return list(groups.values())


def cohorts_of(runs: Sequence[TrackedRun], keys: Sequence[SweptKey], replicates: Replicates) -> list[list[TrackedRun]]:
    """Return the runs of each cohort, the largest first.

    Runs with the same data and targets are of one cohort. So are the folds of one configuration, whose targets differ
    because each is fitted on its own training subjects, and thereby all configurations that share a fold with it. A
    configuration with two kinds of targets for one fold, such as of two versions of the code, joins nothing.
    """
    configurations: dict[tuple[object, ...], set[_Learnt]] = {}
    for run in runs:
        identity = (run.data_hash, is_fold(run), *values_of(run, keys).values())
        configurations.setdefault(identity, set()).add(_learnt(run, replicates))
    groups: dict[_Learnt, frozenset[_Learnt]] = {}
    for found in configurations.values():
        splits = {split for _, split, _ in found}
        for together in [found] if len(splits) == len(found) else [{one} for one in found]:
            joined: frozenset[_Learnt] = frozenset().union(*(groups.get(one, {one}) for one in together))
            groups |= dict.fromkeys(joined, joined)
    cohorts: dict[frozenset[_Learnt], list[TrackedRun]] = {}
    for run in runs:
        cohorts.setdefault(groups[_learnt(run, replicates)], []).append(run)
    return sorted(cohorts.values(), key=len, reverse=True)


def _learnt(run: TrackedRun, replicates: Replicates) -> _Learnt:
    return run.data_hash, replicates.values(run), run.targets_hash
