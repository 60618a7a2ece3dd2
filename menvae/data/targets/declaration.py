"""Targets as a source declares them, and whether what is asked of them fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from menvae.data.masks.features import LOCATION_FEATURES, SHAPE_FEATURES, VOLUME_FEATURES
from menvae.data.targets.normalizer import RESIDUALISE, TargetSettings
from menvae.errors import UserError, nearest


@dataclass(frozen=True)
class Target:
    """A number that a source knows of a subject, to be learnt from its input.

    Attributes:
        unit: as pictures write it, such as ``years``.
        group: targets of one group describe the same aspect of a subject: a partition is usually made for one group.
        axis: for a location, which axis of the box (0, 1, 2 of D, H, W) it is a share of; augmentation then moves it
            with the image. None: no mirror image and no shift changes the value.
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
"""What every mask is measured for: `menvae.data.masks.features.mask_features`."""


def by_group(targets: Mapping[str, Target]) -> dict[str, list[str]]:
    """Return group -> its targets, in their order.

    >>> by_group({"age": Target("years", "patient"), "loc_x": Target("share of box", "loc", 0)})
    {'patient': ['age'], 'loc': ['loc_x']}
    """
    groups: dict[str, list[str]] = {}
    for name, target in targets.items():
        groups.setdefault(target.group, []).append(name)
    return groups


def location_axes(targets: Mapping[str, Target]) -> dict[str, int]:
    """Return location -> the axis of the box that it lies on; other targets are left out."""
    return {name: target.axis for name, target in targets.items() if target.axis is not None}


def check_supervised(
    supervision: Mapping[str, Sequence[str]], targets: Mapping[str, Target], source: str = "this source"
) -> None:
    """Refuse targets that a source does not have.

    Args:
        supervision: partition -> names of its targets.
        targets: that the source declares.
        source: what messages call it, such as ``data=brats``.

    Raises:
        UserError: the first that does not exist.
    """
    for partition, names in supervision.items():
        for name in names:
            if name not in targets:
                raise UserError(
                    f"model.supervision.{partition}: {source} has no target '{name}'; {_hint(name, targets)}"
                )


def applicable(settings: TargetSettings, targets: Mapping[str, Target], source: str = "this source") -> TargetSettings:
    """Return the settings as far as they concern the targets of a source.

    The default of ``targets.residualise`` is about the features of tumour masks; its entries about targets that a
    source does not have are left out. Other entries are the user's, and must name targets.

    Args:
        settings: keys of ``targets.*``.
        targets: that the source declares.
        source: what messages call it, such as ``data=brats``.

    Raises:
        UserError: an entry of the user about a target that does not exist.
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
    return nearest(name, targets) if targets else "it has none as configured (see menvae-parts data)"
