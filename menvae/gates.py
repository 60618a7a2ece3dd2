"""Gates as data: which metric must exceed, or stay below, which value.

``gates.*`` holds ``strict`` and one entry per gate, ``{metric: <key>, above: <number>}`` or ``below``. Seven gates used
to be plain numbers, and still may be: `NUMBERS` defines what such a number means. `canonical` writes them as numbers,
so that both forms give the same configuration and the same run hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from menvae.errors import UserError, nearest
from menvae.registry import validated

if TYPE_CHECKING:
    from menvae.metrics import Metric  # and with it torch, which menvae-compare does not need

Comparison = Literal[">", "<"]

NUMBERS: Mapping[str, Mapping[str, Any]] = {
    "vol_r2": {"metric": "sem/vol_r2", "side": "above", "optional": True},
    "loc_r2": {"metric": "sem/loc_r2", "side": "above", "optional": True},
    "shape_r2": {"metric": "sem/shape_r2", "side": "above", "optional": True},
    "max_dcor": {"metric": "indep/max_dcor", "side": "below", "optional": True},
    "residual_active_units": {"metric": "diag/au_frac_residual", "side": "above", "optional": True},
    "mean_z_ratio": {"metric": "diag/mean_z_ratio", "side": "above", "optional": False},
    "shuffled_ratio": {"metric": "diag/shuffled_ratio", "side": "above", "optional": False},
}
"""Gate -> meaning of a bare number: the metric it bounds, from which side, and whether the model may lack it."""

ADDED: Mapping[str, Mapping[str, Any]] = {
    "leak_max": {"metric": "leak/max", "below": 0.10, "optional": True},
    "decoder_reads_vol": {"metric": "diag/reads_vol_tumour", "above": 1.05, "optional": True},
    "decoder_reads_loc": {"metric": "diag/reads_loc", "above": 1.05, "optional": True},
    "decoder_reads_shape": {"metric": "diag/reads_shape_tumour", "above": 1.05, "optional": True},
    "decoder_reads_residual": {"metric": "diag/reads_residual", "above": 1.05, "optional": True},
    "mean_image_ratio": {"metric": "diag/mean_image_ratio", "above": 1.5, "optional": True},
    "class_skill": {"metric": "sem/class_skill", "above": 0.0, "optional": True},
}
"""Gates that configurations of older runs lack. Absent means this default, so that old runs keep their hash and are
judged by the same gates as new ones; null removes a gate."""

METRIC_PREFIX = "gate/"
"""Prefix of gates as metrics, for trackers and studies."""
_FORM = "{metric: <key>, above: <number>} or {metric: <key>, below: <number>}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Keys of ``gates.<name>``.

    Attributes:
        metric: key of a metric of the validation split.
        above: the value must exceed this.
        below: the value must stay below this; exactly one of the two is given.
        optional: if the model cannot have the metric, the gate is skipped and the table says so; if False, such a
            configuration is an error.
    """

    metric: str
    above: float | None = None
    below: float | None = None
    optional: bool = False

    @property
    def bound(self) -> float:
        """The number that the value is compared with."""
        return float(self.above if self.above is not None else self.below or 0.0)

    @property
    def comparison(self) -> Comparison:
        """``>`` for above, ``<`` for below."""
        return ">" if self.above is not None else "<"


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """Checked ``gates.*``.

    Attributes:
        strict: exit with code 3 if a gate is not met.
        targets: name of the gate -> its target, in the order of the configuration.
    """

    strict: bool = False
    targets: Mapping[str, Target] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GateSettings:
        """Check ``gates.*``; null removes a gate.

        Raises:
            UserError: an entry is not a gate.
        """
        if not isinstance(config, Mapping):
            raise UserError(f"gates: {config!r} is not allowed; set its keys, gates.<name>={_FORM}")
        strict = config.get("strict", False)
        if not isinstance(strict, bool):
            raise UserError(f"gates.strict: {strict!r} is not allowed; it should be true or false")
        absent = {name: entry for name, entry in ADDED.items() if name not in config}
        entries = {
            name: entry for name, entry in {**config, **absent}.items() if name != "strict" and entry is not None
        }
        return cls(strict=strict, targets={name: _target(name, entry) for name, entry in entries.items()})


def _target(name: str, entry: Any) -> Target:
    path = f"gates.{name}"
    if not isinstance(entry, Mapping):
        number = isinstance(entry, int | float) and not isinstance(entry, bool)
        if number and name in NUMBERS:
            entry = _spelt_out(name, entry)
        elif number:
            raise UserError(
                f"{path}: a bare number is allowed for built-in gates only; use {_FORM}; {nearest(name, NUMBERS)}"
            )
        else:
            raise UserError(f"{path}: {entry!r} is not allowed; it should be {_FORM}")
    target = validated(Target, entry, path)
    if (target.above is None) == (target.below is None):
        given = "both above and below" if target.above is not None else "neither above nor below"
        raise UserError(f"{path}: {dict(entry)!r} is not allowed; it has {given}: use {_FORM}")
    return target


def _spelt_out(name: str, number: float) -> dict[str, Any]:
    meaning = NUMBERS[name]
    return {"metric": meaning["metric"], meaning["side"]: number, "optional": meaning["optional"]}


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``gates.*`` with a bare number for each gate of `NUMBERS` that differs from its default only in the bound.

    Gates of `ADDED` at their default are left out.

    >>> canonical({"vol_r2": {"metric": "sem/vol_r2", "above": 0.9, "optional": True}, "strict": False})
    {'vol_r2': 0.9, 'strict': False}
    >>> canonical({"vol_r2": {"metric": "sem/vol_total_r2", "above": 0.9}})
    {'vol_r2': {'metric': 'sem/vol_total_r2', 'above': 0.9}}
    """
    return {name: _number(name, entry) for name, entry in config.items() if not _is_default(name, entry)}


def _is_default(name: str, entry: Any) -> bool:
    return name in ADDED and isinstance(entry, Mapping) and dict(entry) == ADDED[name]


def _number(name: str, entry: Any) -> Any:
    if name not in NUMBERS or not isinstance(entry, Mapping):
        return entry
    number: Any = entry.get(NUMBERS[name]["side"])
    return number if dict(entry) == _spelt_out(name, number) else entry


def check_gates(targets: Mapping[str, Target], metrics: Iterable[Metric]) -> None:
    """Check that every gate can be judged.

    Args:
        targets: name of the gate -> its target.
        metrics: metrics of the run.

    Raises:
        UserError: a required metric is not among ``metrics``, or a gate bounds a metric from its better side.
    """
    owners = {key: metric for metric in metrics for key in metric.names()}
    for name, target in targets.items():
        metric = owners.get(target.metric)
        if metric is None:
            if target.optional:
                continue
            raise UserError(
                f"gates.{name}.metric: '{target.metric}' is not a metric of this model and data; "
                f"{nearest(target.metric, owners, 'menvae-parts metric')}"
            )
        side, better = ("above", "higher") if target.comparison == ">" else ("below", "lower")
        if metric.direction not in (None, better):
            other = "below" if side == "above" else "above"
            raise UserError(
                f"gates.{name}.{side}: {target.bound:g} is not allowed; {metric.direction} values of '{target.metric}' "
                f"are better: use {other}"
            )


def gate_values(table: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the content of ``gates.json`` as metrics ``gate/<name>`` and ``gate/passed``."""
    values = {f"{METRIC_PREFIX}{gate['name']}": gate["value"] for gate in table["gates"]}
    return {**values, f"{METRIC_PREFIX}passed": float(table["passed"])}
