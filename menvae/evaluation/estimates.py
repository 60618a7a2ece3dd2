"""Metrics of a split as estimates: with intervals over patients, and reasons for what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from menvae.metrics import Findings, Means, Metric, SplitRecord, is_met, measure
from menvae.statistics.bootstrap import (
    MIN_PATIENTS,
    bootstrap_intervals,
    bootstrap_intervals_of_means,
    jackknife_intervals,
    too_few_patients,
)
from menvae.statistics.estimate import Estimate
from menvae.statistics.patients import Indices

NO_INTERVAL = "no interval: it would take too long"


def estimate(metrics: Iterable[Metric], record: SplitRecord) -> Findings:
    """Return the values of `menvae.metrics.measure` with 95 % intervals over patients, sorted by key, and tables.

    Metrics that are functions of means share one matrix product for all resamples. The others are computed once per
    resample, or once per patient left out (see `Metric.interval`).

    Args:
        metrics: metrics built for the context of the split.
        record: record of the whole split.
    """
    found: dict[str, Estimate] = {}
    tables: dict[str, Sequence[Mapping[str, Any]]] = {}
    looped = []
    with threadpool_limits(1):  # thousands of small products: on busy cores, two threads take ten times as long
        for metric in metrics:
            if is_met(metric, record):
                direct = _without_loop(metric, record)
                found |= direct.estimates if direct else {}
                tables |= direct.tables if direct else {}
                looped += [metric] if direct is None else []
        found |= _of_loops(looped, record)
    return Findings(dict(sorted(found.items())), tables)


def _without_loop(metric: Metric, record: SplitRecord) -> Findings | None:
    """Return the findings of a metric; None if it has to be computed for every resample."""
    if len(record.subject_id) < metric.min_subjects:
        nothing = _without_interval(None, record)
        return Findings({key: _finished(nothing, key, metric, record) for key in metric.names()})
    own, means = metric.findings(record), metric.means(record)
    if own is not None:
        return own
    if means is not None:
        found = _of_means(means, metric.compute(record), record)
    elif metric.interval is None:
        found = {key: _without_interval(value, record) for key, value in metric.compute(record).items()}
    else:
        return None
    return Findings({key: _finished(value, key, metric, record) for key, value in found.items()})


def _of_means(means: Means, values: Mapping[str, float | None], record: SplitRecord) -> dict[str, Estimate]:
    found = bootstrap_intervals_of_means(means.values, means.rows, record.patient_id)
    patients = np.array(record.patient_id)
    counts = {key: len(set(patients[rows])) for key, rows in means.rests_on.items()}
    # the same numbers but for the order of their sums
    exact = {key: each if each.value is None else replace(each, value=values[key]) for key, each in found.items()}
    return {key: _resting_on(each, counts.get(key, each.n)) for key, each in exact.items()}


def _resting_on(found: Estimate, n: int) -> Estimate:
    """Return an estimate that rests on ``n`` patients; fewer than `MIN_PATIENTS` give no interval."""
    if found.value is not None and n < MIN_PATIENTS:
        return Estimate(found.value, None, None, n, too_few_patients(n))
    return replace(found, n=n)


def _of_loops(metrics: Sequence[Metric], record: SplitRecord) -> dict[str, Estimate]:
    resampled, left_out = ([each for each in metrics if each.interval == how] for how in ("bootstrap", "jackknife"))
    owners = {key: metric for metric in metrics for key in metric.names()}
    functions = [(metric, metric.leaving_out(record)) for metric in left_out]

    def linear(kept: Indices) -> Mapping[str, float | None]:
        left = np.setdiff1d(np.arange(len(record.subject_id)), kept)
        values: dict[str, float | None] = {}
        for metric, without in functions:
            values |= without(left) if len(kept) >= metric.min_subjects else dict.fromkeys(metric.names())
        return {key: None if value is None else owners[key].to_linear(value) for key, value in values.items()}

    found: dict[str, Estimate] = {}
    if resampled:
        found |= bootstrap_intervals(lambda rows: measure(resampled, record.rows(rows)), record.patient_id)
    if left_out:
        intervals = jackknife_intervals(linear, record.patient_id)
        found |= {key: value.transformed(owners[key].from_linear) for key, value in intervals.items()}
    return {key: _finished(value, key, owners[key], record) for key, value in found.items()}


def _without_interval(value: float | None, record: SplitRecord) -> Estimate:
    known = value is not None and math.isfinite(value)
    n = len(set(record.patient_id))
    return Estimate(value if known else None, None, None, n, NO_INTERVAL if known else "undefined")


def _finished(found: Estimate, key: str, metric: Metric, record: SplitRecord) -> Estimate:
    """Return an estimate with the reason of a missing value, and an interval within the range of the metric."""
    if found.value is None:
        return replace(found, reason=metric.reason(key, record))
    if found.low is None or found.high is None:
        return found
    low, high = np.clip([found.low, found.high], *metric.range)
    return replace(found, low=float(low), high=float(high))
