"""Differences of configurations from a baseline, run by run: with intervals, and tests under a false discovery rate."""

from __future__ import annotations

import difflib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from menvae.comparison.pareto import Objective
from menvae.comparison.replicates import overlap
from menvae.comparison.results import Cohort, Configuration, Difference, Summary
from menvae.comparison.summaries import mean_interval, p_value
from menvae.comparison.swept_keys import SweptKey, canonical, setting
from menvae.errors import UserError
from menvae.statistics.discoveries import q_values

Wanted = str | Mapping[str, Any] | None
"""How a baseline is named: a run, {key: value}, or not at all."""


def difference(one: Summary, baseline: Summary, shared: float = 0.0) -> Difference:
    """Return the difference of a gate from the baseline, over the replicates for which both have a value.

    Args:
        one: the gate of a configuration.
        baseline: the same gate of the baseline.
        shared: `menvae.comparison.replicates.overlap` of their runs.
    """
    pairs = [
        (value, other)
        for name, value in one.values.items()
        if value is not None and (other := baseline.values.get(name)) is not None
    ]
    differences = [value - other for value, other in pairs]
    mean = statistics.fmean(differences) if differences else None
    return Difference(len(differences), mean, mean_interval(differences, shared), p_value(differences, shared))


def with_false_discovery_rate(rows: Mapping[int, Mapping[str, Difference]]) -> dict[int, dict[str, Difference]]:
    """Return differences with their p-values adjusted for the number of tests, by Benjamini & Hochberg (1995).

    Args:
        rows: number of a configuration -> name -> difference; one family of tests.
    """
    adjusted = q_values({(number, name): one.p_value for number, row in rows.items() for name, one in row.items()})
    return {
        number: {name: replace(one, q_value=adjusted[number, name]) for name, one in row.items()}
        for number, row in rows.items()
    }


def with_baselines(
    cohorts: Sequence[Cohort], wanted: Wanted, keys: Sequence[SweptKey], gates: Sequence[Objective]
) -> list[Cohort]:
    """Add the differences from the baseline; a cohort without the wanted baseline uses its best configuration.

    Raises:
        UserError: the wanted baseline does not exist, or several configurations match it.
    """
    found = [_baseline(cohort, wanted, keys) for cohort in cohorts]
    if wanted is not None and not any(found):
        hint = _allowed_baselines(cohorts, wanted, keys)
        raise UserError(f"baseline: no configuration matches {_described(wanted)}; {hint}")
    complete = []
    for cohort, baseline in zip(cohorts, found, strict=True):
        against = baseline or cohort.configurations[0]
        differences = {
            one.number: _differences(one, against, gates) for one in cohort.configurations if one is not against
        }
        complete.append(replace(cohort, baseline=against, differences=with_false_discovery_rate(differences)))
    return complete


def _differences(one: Configuration, baseline: Configuration, gates: Sequence[Objective]) -> dict[str, Difference]:
    shared = overlap(one.runs)
    return {gate.name: difference(one.gates[gate.name], baseline.gates[gate.name], shared) for gate in gates}


def _baseline(cohort: Cohort, wanted: Wanted, keys: Sequence[SweptKey]) -> Configuration | None:
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
