"""Gates: thresholds that a run must pass before its latent space may be used.

A gate compares the interval of a metric with its target: it passes if the whole interval lies on the right side, fails
if it lies on the wrong side, and is undecided if the target lies in between. A value without an interval is compared
itself where there cannot be one: in splits with fewer than `MIN_PATIENTS` patients, whose note says that no gate can be
trusted, where no resample differs, and for metrics that have none. In a larger split, a value that rests on fewer
patients than that is undecided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from menvae.gates import Comparison, Target
from menvae.metrics import Metric
from menvae.metrics.pairs import pairs
from menvae.statistics.bootstrap import MIN_PATIENTS
from menvae.statistics.estimate import Estimate

Verdict = Literal["pass", "fail", "undecided", "not computed"]

SMALL_SPLIT = 64
"""With fewer subjects, the gates table states the level of chance."""
NO_TEST_SPLIT = "no test split: gates are judged only on the validation split, which also chose the checkpoint"

_WORDS = {"val": "validation", "train": "training"}


@dataclass(frozen=True)
class Gate:
    """Result of one gate on one split.

    Attributes:
        name: name of its entry in ``gates.*``.
        metric: key of the metric.
        value: value on the split; None if missing.
        target: threshold.
        comparison: ``>`` or ``<``.
        reason: why the value, or an interval that it should have, is missing; else empty.
        meaning: what the metric measures, in one sentence.
        low, high: ends of the 95 % interval; None without one.
        rests_on_few: whether the value has no interval because it rests on too few patients of the split.
    """

    name: str
    metric: str
    value: float | None
    target: float
    comparison: Comparison
    reason: str = ""
    meaning: str = ""
    low: float | None = None
    high: float | None = None
    rests_on_few: bool = False

    @property
    def verdict(self) -> Verdict:
        """``pass``, ``fail``, ``undecided`` (see the module) or ``not computed`` (no finite value)."""
        if self.value is None or not math.isfinite(self.value):
            return "not computed"
        ends = (self.value, self.value) if self.low is None or self.high is None else (self.low, self.high)
        met = [end > self.target if self.comparison == ">" else end < self.target for end in ends]
        if self.rests_on_few or met[0] != met[1]:
            return "undecided"
        return "pass" if met[0] else "fail"

    @property
    def passed(self) -> bool:
        """Whether the verdict is ``pass``."""
        return self.verdict == "pass"

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of ``gates.json``."""
        judged = {"name": self.name, "metric": self.metric, "value": self.value, "low": self.low, "high": self.high}
        target = {"target": self.target, "comparison": self.comparison}
        words = {"reason": self.reason, "meaning": self.meaning}
        return {**judged, **target, **words, "verdict": self.verdict, "passed": self.passed}


@dataclass(frozen=True)
class GateTable:
    """All gates of a run on one split.

    Attributes:
        gates: results in the order of the table.
        note: remarks on chance and on skipped or missing gates; may be empty.
        not_applicable: optional gates whose metric does not apply to the model.
        unjudged: supervised partitions whose targets no gate checks.
    """

    gates: tuple[Gate, ...] = ()
    note: str = ""
    not_applicable: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all gates passed."""
        return all(gate.passed for gate in self.gates)

    def as_dict(self) -> dict[str, Any]:
        """Return the part of ``gates.json`` for one split."""
        return {"gates": [gate.as_dict() for gate in self.gates], "passed": self.passed, "note": self.note}


@dataclass(frozen=True)
class JudgedGates:
    """The gates of a run on its judged splits.

    Attributes:
        splits: split -> its gates, the validation split first.
    """

    splits: Mapping[str, GateTable] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether all gates of all judged splits passed."""
        return all(table.passed for table in self.splits.values())

    @property
    def targets_by_metric(self) -> dict[str, list[float]]:
        """Key of each metric with a gate -> targets of its gates."""
        found: dict[str, list[float]] = {}
        for gate in next(iter(self.splits.values())).gates:
            found.setdefault(gate.metric, []).append(gate.target)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``gates.json``: the first split, and the others by name."""
        (_, first), *others = self.splits.items()
        names = {"not_applicable": list(first.not_applicable), "unjudged": list(first.unjudged)}
        notes = [first.note] * bool(first.note) + ([] if others or "val" not in self.splits else [NO_TEST_SPLIT])
        note = {"note": "; ".join(notes), "passed": self.passed}
        return {**first.as_dict(), **note, **names, **{name: table.as_dict() for name, table in others}}


def evaluate_gates(
    found: Mapping[str, Estimate],
    targets: Mapping[str, Target],
    metrics: Sequence[Metric],
    supervision: Mapping[str, Sequence[str]],
    num_subjects: int,
    num_patients: int | None = None,
    split: str = "val",
) -> GateTable:
    """Compare the metrics of a split with the targets.

    An optional gate is skipped, with a note, if none of the metrics can compute its key.

    Args:
        found: metrics of the whole split.
        targets: name of the gate -> metric and threshold.
        metrics: metrics that were computed.
        supervision: partition -> names of its targets.
        num_subjects: number of subjects in the split.
        num_patients: number of their patients; None: as many.
        split: name of the split.
    """
    owners = {key: metric for metric in metrics for key in metric.names()}
    patients = num_subjects if num_patients is None else num_patients
    subjects = _subjects(num_subjects, split)
    gates, not_applicable = [], []
    for name, target in targets.items():
        owner = owners.get(target.metric)
        if owner is None and target.optional:
            not_applicable.append(name)
            continue
        absent = owner.absent if owner else "no metric computes it"
        estimate = found.get(target.metric, Estimate(None, None, None, 0, absent))
        gates.append(_gate(name, target, estimate, owner, subjects, patients))
    unjudged = unjudged_partitions([gate.metric for gate in gates], supervision)
    num_pairs = len(pairs(metrics[0].context.layout)) if metrics else 0
    notes = [_chance(num_subjects, patients, num_pairs, subjects)] if num_subjects < SMALL_SPLIT else []
    if not_applicable:
        notes.append(f"gates skipped because they do not apply to this model: {', '.join(not_applicable)}")
    notes += [unjudged_words(unjudged)] if unjudged else []
    return GateTable(tuple(gates), "; ".join(notes), tuple(not_applicable), tuple(unjudged))


def _gate(name: str, target: Target, found: Estimate, owner: Metric | None, subjects: str, num_patients: int) -> Gate:
    rests_on_few = found.low is None and found.n < MIN_PATIENTS <= num_patients
    reason = found.reason if rests_on_few else ""
    return Gate(
        name,
        target.metric,
        found.value,
        target.bound,
        target.comparison,
        f"{subjects}; {found.reason}" if found.value is None else reason,
        owner.meaning(target.metric) if owner else "",
        found.low,
        found.high,
        rests_on_few,
    )


def unjudged_partitions(judged: Sequence[str], supervision: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the supervised partitions whose regression no gate checks.

    Args:
        judged: keys of the metrics with a gate.
        supervision: partition -> names of its targets.

    >>> unjudged_partitions(["sem/vol_r2", "sem/loc_x_r2"], {"vol": ["vol_ed"], "loc": ["loc_x"], "shape": ["size"]})
    ['shape']
    """
    regressed = {
        name: {f"sem/{key}_r2" for key in (name, *targets)} for name, targets in supervision.items() if targets
    }
    return [name for name, keys in regressed.items() if not keys & set(judged)]


def unjudged_words(partitions: Sequence[str]) -> str:
    """Return a sentence that names the partitions without a gate and shows how to add one."""
    first, (verb, pronoun) = partitions[0], ("are", "them") if len(partitions) > 1 else ("is", "it")
    return (
        f"{', '.join(partitions)} {verb} supervised, but no gate checks {pronoun}: add "
        f"+gates.{first}_r2={{metric: sem/{first}_r2, above: <number>}}"
    )


def _chance(num_subjects: int, num_patients: int, num_pairs: int, subjects: str) -> str:
    """Describe what chance does in a small split.

    95 % of the largest of K independent normal statistics are below the quantile 0.95^(1/K) (Sidak 1967). The bias-
    corrected squared distance correlation has variance 2 / (N (N - 3)) (Szekely & Rizzo 2013); N is that of patients,
    as it is of one visit each.
    """
    untrusted = "judged by their values alone, no gate can be trusted"
    if num_patients < 4:
        return f"only {subjects}: {untrusted}"
    several = max(1, num_pairs)
    correlation = math.tanh(_quantile(1) / math.sqrt(num_subjects - 3))
    dcor = math.sqrt(math.sqrt(2.0 / (num_patients * (num_patients - 3.0))) * _quantile(several))
    words = f"|dCor| about {dcor:.2f}" if several == 1 else f"the largest |dCor| of {several} pairs about {dcor:.2f}"
    note = f"only {subjects}: by chance alone, a correlation reaches +-{correlation:.2f} and {words}"
    return note if num_patients >= MIN_PATIENTS else f"{note}; {untrusted}"


def _quantile(several: int) -> float:
    """Return what the largest absolute value of ``several`` standard normal numbers exceeds in 5 % of cases."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + 0.5 * 0.95 ** (1.0 / several)))


def _subjects(count: int, split: str) -> str:
    return f"{count} {_WORDS.get(split, split)} subject{'s' if count != 1 else ''}"
