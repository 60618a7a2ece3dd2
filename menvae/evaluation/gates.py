"""Gates: what a run must reach before its latent space may be used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from menvae.evaluation.independence import max_dcor
from menvae.latent import LatentLayout

Comparison = Literal[">", "<"]

SMALL_SPLIT = 64
"""Below this many validation subjects the gates table says how wide chance is."""


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """Keys of ``gates.*``: the targets, and what a miss means.

    Attributes:
        vol_r2, loc_r2, shape_r2: unweighted mean R2 over the features of the partition must exceed this.
        max_dcor: largest |dCor| between two partitions must stay below this.
        residual_active_units: share of active dimensions of the residual must exceed this.
        mean_z_ratio: error with a constant z over error with the right one must exceed this.
        shuffled_ratio: error with another subject's z over error with the right one must exceed this.
        strict: exit code 3 where a gate is not met.
    """

    vol_r2: float = 0.85
    loc_r2: float = 0.91
    shape_r2: float = 0.40
    max_dcor: float = 0.35
    residual_active_units: float = 0.60
    mean_z_ratio: float = 1.5
    shuffled_ratio: float = 1.3
    strict: bool = False


@dataclass(frozen=True)
class Gate:
    """One gate of a run.

    Attributes:
        name: as in `GateSettings`.
        value: what was measured on the validation split; None if it cannot be.
        target: what it is compared with.
        comparison: ``>`` or ``<``.
        reason: why there is no value, or empty.
    """

    name: str
    value: float | None
    target: float
    comparison: Comparison
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the gate is met; one without a value is not."""
        if self.value is None or not math.isfinite(self.value):
            return False
        return self.value > self.target if self.comparison == ">" else self.value < self.target


@dataclass(frozen=True)
class GateTable:
    """All gates of a run.

    Attributes:
        gates: in the order of the table.
        note: what a reader must know about chance, and what is not judged; or empty.
    """

    gates: tuple[Gate, ...] = field(default_factory=tuple)
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every gate is met."""
        return all(gate.passed for gate in self.gates)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``gates.json``."""
        gates = [{**asdict(gate), "passed": gate.passed} for gate in self.gates]
        return {"gates": gates, "passed": self.passed, "note": self.note}


def evaluate_gates(
    metrics: Mapping[str, float | None], settings: GateSettings, num_subjects: int, layout: LatentLayout
) -> GateTable:
    """Compare the metrics of a validation split with the targets.

    A gate is listed where the latent space has what it judges: the partition it names, or two to compare.

    Args:
        metrics: of the whole split.
        settings: the targets.
        num_subjects: of the split.
        layout: the partitions of z.
    """
    gates = []
    for partition in ("vol", "loc", "shape"):
        if partition in layout.sizes:
            key, target = f"sem/{partition}_r2", getattr(settings, f"{partition}_r2")
            reason = "" if metrics.get(key) is not None else _why_no_r2(key, metrics, num_subjects)
            gates.append(Gate(f"{partition}_r2", metrics.get(key), target, ">", reason))
    if len(layout.sizes) > 1:
        dcor = max_dcor(dict(metrics))
        reason = "" if dcor is not None else _why_no_dcor(num_subjects)
        gates.append(Gate("max_dcor", dcor, settings.max_dcor, "<", reason))
    if "residual" in layout.sizes:
        active = metrics.get("diag/au_count_residual")
        share = active / layout.sizes["residual"] if active is not None and num_subjects > 1 else None
        reason = "" if share is not None else f"{_subjects(num_subjects)} has no variance"
        gates.append(Gate("residual_active_units", share, settings.residual_active_units, ">", reason))
    for name in ("mean_z_ratio", "shuffled_ratio"):
        value = metrics.get(f"diag/{name}")
        reason = "" if value is not None else "no other subject's z to decode"
        gates.append(Gate(name, value, getattr(settings, name), ">", reason))
    notes = [_chance(num_subjects)] if num_subjects < SMALL_SPLIT else []
    notes += ["the model has a single partition, so independence is not judged"] if len(layout.sizes) == 1 else []
    return GateTable(tuple(gates), "; ".join(notes))


def _why_no_r2(key: str, metrics: Mapping[str, float | None], num_subjects: int) -> str:
    if key not in metrics:
        return "no head was trained: the partition is not supervised, or its weight is 0"
    return f"{_subjects(num_subjects)} with no variance in any of its features"


def _why_no_dcor(num_subjects: int) -> str:
    return f"{_subjects(num_subjects)}; the estimator needs more than 3"


def _chance(num_subjects: int) -> str:
    note = f"only {_subjects(num_subjects)}: "
    if num_subjects < 4:
        return note + "no gate can be trusted"
    width = 1.96 / math.sqrt(num_subjects - 3)
    dcor = math.sqrt(math.sqrt(2.0 / (num_subjects * (num_subjects - 3.0))) * 1.96)
    return note + f"by chance alone correlations reach +-{math.tanh(width):.2f} and |dCor| about {dcor:.2f}"


def _subjects(count: int) -> str:
    return f"{count} validation subject{'s' if count != 1 else ''}"
