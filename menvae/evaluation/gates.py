"""Gates: thresholds that a run must pass before its latent space may be used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from menvae.gates import Comparison, Target
from menvae.metrics import Metric

SMALL_SPLIT = 64
"""With fewer validation subjects, the gates table states the level of chance."""


@dataclass(frozen=True)
class Gate:
    """Result of one gate.

    Attributes:
        name: name of its entry in ``gates.*``.
        metric: key of the metric.
        value: value on the validation split; None if missing.
        target: threshold.
        comparison: ``>`` or ``<``.
        reason: why the value is missing, else empty.
        meaning: what the metric measures, in one sentence.
    """

    name: str
    metric: str
    value: float | None
    target: float
    comparison: Comparison
    reason: str = ""
    meaning: str = ""

    @property
    def passed(self) -> bool:
        """Whether the gate passed; a missing or non-finite value fails."""
        if self.value is None or not math.isfinite(self.value):
            return False
        return self.value > self.target if self.comparison == ">" else self.value < self.target


@dataclass(frozen=True)
class GateTable:
    """All gates of a run.

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

    @property
    def targets_by_metric(self) -> dict[str, list[float]]:
        """Key of each metric with a gate -> targets of its gates."""
        found: dict[str, list[float]] = {}
        for gate in self.gates:
            found.setdefault(gate.metric, []).append(gate.target)
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``gates.json``."""
        gates = [{**asdict(gate), "passed": gate.passed} for gate in self.gates]
        others = {"not_applicable": list(self.not_applicable), "unjudged": list(self.unjudged)}
        return {"gates": gates, "passed": self.passed, "note": self.note, **others}


def evaluate_gates(
    values: Mapping[str, float | None],
    targets: Mapping[str, Target],
    metrics: Sequence[Metric],
    supervision: Mapping[str, Sequence[str]],
    num_subjects: int,
) -> GateTable:
    """Compare the metrics of a validation split with the targets.

    An optional gate is skipped, with a note, if none of the metrics can compute its key.

    Args:
        values: metrics of the whole split.
        targets: name of the gate -> metric and threshold.
        metrics: metrics that were computed.
        supervision: partition -> names of its targets.
        num_subjects: number of subjects in the split.
    """
    owners = {key: metric for metric in metrics for key in metric.names()}
    gates, not_applicable = [], []
    for name, target in targets.items():
        if target.metric not in owners and target.optional:
            not_applicable.append(name)
            continue
        value = values.get(target.metric)
        owner = owners.get(target.metric)
        absent = owner.absent if owner else "no metric computes it"
        meaning = owner.meaning(target.metric) if owner else ""
        reason = "" if value is not None else f"{_subjects(num_subjects)}; {absent}"
        gates.append(Gate(name, target.metric, value, target.bound, target.comparison, reason, meaning))
    unjudged = unjudged_partitions([gate.metric for gate in gates], supervision)
    notes = [_chance(num_subjects)] if num_subjects < SMALL_SPLIT else []
    if not_applicable:
        notes.append(f"gates skipped because they do not apply to this model: {', '.join(not_applicable)}")
    notes += [unjudged_words(unjudged)] if unjudged else []
    return GateTable(tuple(gates), "; ".join(notes), tuple(not_applicable), tuple(unjudged))


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


def _chance(num_subjects: int) -> str:
    note = f"only {_subjects(num_subjects)}: "
    if num_subjects < 4:
        return note + "no gate can be trusted"
    width = 1.96 / math.sqrt(num_subjects - 3)
    dcor = math.sqrt(math.sqrt(2.0 / (num_subjects * (num_subjects - 3.0))) * 1.96)
    return note + f"by chance alone, correlations reach +-{math.tanh(width):.2f} and |dCor| about {dcor:.2f}"


def _subjects(count: int) -> str:
    return f"{count} validation subject{'s' if count != 1 else ''}"
