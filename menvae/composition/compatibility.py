"""Checks that the parts of an experiment fit together, without data or a training step.

Each function raises `UserError` for the first mismatch and names the keys that fix it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from menvae.data.source import DataSource
from menvae.errors import UserError
from menvae.layers import OutputActivation
from menvae.models import Model
from menvae.objective import WEIGHT_PREFIX, Objective
from menvae.registry import Bound

__all__ = ["check_needs", "check_reach", "check_supervision"]


def check_needs(
    objective: Objective,
    parts: Mapping[str, Bound],
    supervision: Mapping[str, Sequence[str]],
    partitions: Iterable[str],
    gives: frozenset[str],
) -> None:
    """Check that model and data provide what the active terms require.

    Args:
        objective: objective of the run.
        parts: configuration key -> part; ``model``, ``data`` and, if present, ``encoder`` and ``decoder`` are used.
        supervision: partition -> names of its targets.
        partitions: names of the partitions of z.
        gives: batch fields of these data besides the inputs (see `menvae.data.source.DataSource.gives`).

    Raises:
        UserError: a requirement is not met.
    """
    model, data = parts["model"].part, parts["data"].part
    provides = cast(type[Model], model.factory).provides
    offered = _offered(parts)
    for name, (part, override) in offered.items():
        if name not in objective.requires:
            remedy = "set the weight of its term above 0" if name in objective.could_require else f"add {override}"
            raise UserError(f"{part}: no term of the loss trains its output '{name}'; {remedy}")
    for key, term in objective.active_terms.items():
        path = f"loss.terms.{key}"
        off = " ".join(f"loss.{WEIGHT_PREFIX}{name}=0" for name in term.scalars if objective.weights[name])
        for need in sorted(term.requires - provides(supervision) - offered.keys()):
            missing = [name for name in partitions if need in provides({**supervision, name: ("a target",)})]
            supervise = "".join(f", or supervise the partition with model.supervision.{name}" for name in missing[:1])
            raise UserError(
                f"{path} requires '{need}', which model={model.name} does not provide: set "
                f"{term.remedy(need, path) or off}{supervise}"
            )
        for need in sorted(term.batch_requires - gives):
            raise UserError(
                f"{path} requires '{need}' of every subject, which data={data.name} does not provide as configured: "
                f"set {term.remedy(need, path) or off}, or the key of data that provides it (see menvae-parts data)"
            )


def _offered(parts: Mapping[str, Bound]) -> dict[str, tuple[str, str]]:
    """Return {output of encoder or decoder: (that part, overrides that add a term which trains it)}."""
    found: dict[str, tuple[str, str]] = {}
    for key in ("encoder", "decoder"):
        if key in parts:
            part = parts[key].part
            found |= {name: (f"{key}={part.name}", override) for name, override in part.offers.items()}
    return found


def check_supervision(objective: Objective, model: Bound, supervision: Mapping[str, Sequence[str]]) -> None:
    """Check that a term, even one with weight 0, reads the targets of every supervised partition.

    A loss without any supervision, such as loss=vae, is allowed with a model that has supervised partitions.

    Args:
        objective: objective of the run.
        model: model part with its settings.
        supervision: partition -> names of its targets.

    Raises:
        UserError: no term reads the targets of a partition.
    """
    read = {name for name in supervision if f"predictions.{name}" in objective.could_require}
    for name, targets in supervision.items():
        if not read or not targets or name in read:
            continue
        head = "" if name in model.settings.get("heads", {}) else f"+head@model.heads.{name}=mlp "
        raise UserError(
            f"model.supervision.{name}: no term of the loss reads these targets; add {head}"
            f"+term@loss.terms.{name}=semantic loss.terms.{name}.partition={name} +loss.{WEIGHT_PREFIX}{name}=1, "
            "or remove the targets"
        )


def check_reach(model: Model, parts: Mapping[str, Bound], source: DataSource, *, changes_intensities: bool) -> None:
    """Check that the range of every output activation covers the values to reconstruct.

    Args:
        model: the built model, on any device.
        parts: configuration key -> part.
        source: source of the data.
        changes_intensities: whether augmentation changes intensities.

    Raises:
        UserError: the range of an output activation is too narrow.
    """
    data = parts["data"]
    low, high = source.value_range
    what, remedy = f"values of data={data.part.name}", "linear"
    if "normalisation" in data.settings:
        what = f"intensities with data.normalisation={data.settings['normalisation']}"
        remedy = "linear or data.normalisation=minmax"
    if math.isfinite(high) and changes_intensities:
        low, high = -math.inf, math.inf
        what = "intensities with augmentation.contrast and brightness"
        remedy = "linear or no such augmentation"
    for name, module in model.named_modules():
        if isinstance(module, OutputActivation) and not (module.reach[0] <= low and high <= module.reach[1]):
            reach = " to ".join(f"{end:g}" for end in module.reach)
            raise UserError(
                f"{_path_of('activation', name, parts)}: {module.name} is not allowed; its range is {reach}, which "
                f"{what} exceed; choose {remedy}"
            )


def _path_of(key: str, module: str, parts: Mapping[str, Bound]) -> str:
    """Return the configuration path of a key of the part, or of a part nested in it, that owns a module."""
    part = module.split(".", 1)[0]
    settings = parts[part].settings
    inside = [name for name, value in settings.items() if isinstance(value, Mapping) and key in value]
    return f"{part}.{key}" if key in settings or not inside else f"{part}.{inside[0]}.{key}"
