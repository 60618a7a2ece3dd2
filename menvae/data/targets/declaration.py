"""Declarations of targets by sources, and checks of configurations against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from menvae.data.masks.features import LOCATION_FEATURES, SHAPE_FEATURES, VOLUME_FEATURES
from menvae.data.targets.normalizer import RESIDUALISE, TargetSettings
from menvae.errors import UserError, nearest


@dataclass(frozen=True)
class Target:
    """A regression target that a source provides for its subjects.

    Attributes:
        unit: unit for display, such as ``years``.
        group: targets of one group describe the same aspect of a subject; usually, one partition learns one group.
        axis: for a location, the axis of the box (0, 1, 2 for D, H, W) along which it is a fraction; augmentation
            updates it. None: the value is invariant to flips and shifts.
    """

    unit: str
    group: str
    axis: int | None = None


MASK_TARGETS: Final[Mapping[str, Target]] = {
    **{name: Target("ln(mm³ + 1)", "vol") for name in VOLUME_FEATURES},
    **{name: Target("share of box", "loc", axis) for axis, name in enumerate(LOCATION_FEATURES)},
    **{
        name: Target("ln(mm² + 1)" if name.startswith("surface_area_") else "ratio", "shape") for name in SHAPE_FEATURES
    },
}
"""Targets measured on every mask by `menvae.data.masks.features.mask_features`."""


def by_group(targets: Mapping[str, Target]) -> dict[str, list[str]]:
    """Return group -> its targets, in declaration order.

    >>> by_group({"age": Target("years", "patient"), "loc_x": Target("share of box", "loc", 0)})
    {'patient': ['age'], 'loc': ['loc_x']}
    """
    groups: dict[str, list[str]] = {}
    for name, target in targets.items():
        groups.setdefault(target.group, []).append(name)
    return groups


def location_axes(targets: Mapping[str, Target]) -> dict[str, int]:
    """Return location target -> its axis of the box, without targets that are not locations."""
    return {name: target.axis for name, target in targets.items() if target.axis is not None}


def check_supervised(
    supervision: Mapping[str, Sequence[str]], targets: Mapping[str, Target], source: str = "this source"
) -> None:
    """Refuse targets that a source does not declare.

    Args:
        supervision: partition -> names of its targets.
        targets: targets that the source declares.
        source: name of the source in messages, such as ``data=brats``.

    Raises:
        UserError: if a target does not exist.
    """
    for partition, names in supervision.items():
        for name in names:
            if name not in targets:
                raise UserError(
                    f"model.supervision.{partition}: {source} has no target '{name}'; {_hint(name, targets)}"
                )


def applicable(settings: TargetSettings, targets: Mapping[str, Target], source: str = "this source") -> TargetSettings:
    """Restrict the settings to the targets of a source.

    Default entries of ``targets.residualise``, which concern mask features, are dropped if the source does not have
    their targets. Entries set by the user must name existing targets.

    Args:
        settings: keys of ``targets.*``.
        targets: targets that the source declares.
        source: name of the source in messages, such as ``data=brats``.

    Raises:
        UserError: if an entry set by the user names a target that does not exist.
    """
    residualise = {}
    for name, regressors in settings.residualise.items():
        unknown = [one for one in (name, *regressors) if one not in targets]
        if not unknown:
            residualise[name] = regressors
        elif list(regressors) != list(RESIDUALISE.get(name, ())):
            raise UserError(f"targets.residualise: {source} has no target '{unknown[0]}'; {_hint(unknown[0], targets)}")
    return replace(settings, residualise=residualise)


def _hint(name: str, targets: Mapping[str, Target]) -> str:
    return nearest(name, targets) if targets else "it has no targets as configured (see menvae-parts data)"
