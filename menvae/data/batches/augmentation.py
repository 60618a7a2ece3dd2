"""Augmentation that keeps targets valid: moving the tumour updates its location, and no shift cuts the tumour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from menvae.data.cache.storage import StoredSubject
from menvae.data.masks.features import bounding_box
from menvae.data.targets.declaration import MASK_TARGETS, location_axes
from menvae.registry import Field

Count = Annotated[int, Field(ge=0)]
Deviation = Annotated[float, Field(ge=0.0)]
LOCATION_AXES = location_axes(MASK_TARGETS)
Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """Keys of ``augmentation.*``. The defaults augment nothing; validation and test data are never augmented.

    Attributes:
        flip: probability of mirroring a subject left to right.
        max_shift: largest shift along D, H, W in voxels. Shifts are drawn among those that keep the tumour in the box;
            voxels that enter the box are 0.
        contrast: standard deviation of the log of a factor, drawn per channel and applied to non-zero voxels.
        brightness: standard deviation of an offset in units of normalised intensity, drawn per channel and applied to
            non-zero voxels.
    """

    flip: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    max_shift: tuple[Count, Count, Count] = (0, 0, 0)
    contrast: Deviation = 0.0
    brightness: Deviation = 0.0

    @property
    def changes_intensities(self) -> bool:
        """Whether normalised intensities may leave their original range."""
        return self.contrast > 0.0 or self.brightness > 0.0

    @property
    def does_something(self) -> bool:
        """Whether anything is augmented."""
        return self != AugmentationSettings()


class Augmented(NamedTuple):
    """An augmented subject and its updated raw targets."""

    subject: StoredSubject
    features: Mapping[str, float | None]


def augment(
    subject: StoredSubject,
    features: Mapping[str, float | None],
    settings: AugmentationSettings,
    random: np.random.Generator,
    axes: Mapping[str, int] = LOCATION_AXES,
) -> Augmented:
    """Return an augmented copy of one subject; intensities change only through ``mean`` and ``sd``.

    Args:
        subject: stored subject.
        features: raw targets.
        settings: augmentation to draw from.
        random: generator; the same state gives the same result.
        axes: location target -> axis of the box along which it is a fraction.
    """
    moved = dict(features)
    image, mask = subject.image, subject.mask
    if random.random() < settings.flip:
        image, mask = image[:, ::-1], mask[::-1]
        for name, axis in axes.items():
            value = moved[name]
            if axis == 0 and value is not None:
                moved[name] = 1.0 - value
    steps = _draw_shift(mask, settings.max_shift, random)
    if any(steps):
        image, mask = _shifted(image, (0, *steps)), _shifted(mask, steps)
        for name, axis in axes.items():
            value = moved[name]
            moved[name] = None if value is None else value + steps[axis] / mask.shape[axis]
    mean, sd = np.array(subject.mean), np.array(subject.sd)
    if settings.contrast or settings.brightness:
        factors = np.exp(settings.contrast * random.standard_normal(len(image)))
        summands = settings.brightness * random.standard_normal(len(image))
        mean, sd = mean - summands * sd / factors, sd / factors  # (x - mean) / sd -> factor * (x - mean) / sd + summand
    changed = replace(
        subject,
        image=np.ascontiguousarray(image),
        mask=np.ascontiguousarray(mask),
        mean=tuple(mean.tolist()),
        sd=tuple(sd.tolist()),
    )
    return Augmented(changed, moved)


def _draw_shift(
    mask: NDArray[np.uint8], most: tuple[int, int, int], random: np.random.Generator
) -> tuple[int, int, int]:
    """Draw a shift per axis that keeps the whole tumour in the box."""
    box = bounding_box(mask) or tuple(slice(extent // 2, extent // 2) for extent in mask.shape)
    steps = [
        int(random.integers(max(-limit, -inside.start), min(limit, extent - inside.stop) + 1))
        for limit, inside, extent in zip(most, box, mask.shape, strict=True)
    ]
    return steps[0], steps[1], steps[2]


def _shifted(array: NDArray[Kind], steps: tuple[int, ...]) -> NDArray[Kind]:
    """Return the array shifted along each axis and padded with zeros."""
    shifted = np.zeros_like(array)
    to = tuple(slice(max(step, 0), extent + min(step, 0)) for step, extent in zip(steps, array.shape, strict=True))
    of = tuple(slice(max(-step, 0), extent + min(-step, 0)) for step, extent in zip(steps, array.shape, strict=True))
    shifted[to] = array[of]
    return shifted
