"""The box of training: where it is put, what it holds of a subject, and what is too little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from menvae.data.features import bounding_box
from menvae.data.findings import Finding
from menvae.registry import Field

BoxStrategy = Literal["center", "brain", "resize"]
"""``center``: on the middle of the image. ``brain``: on the middle of the bounding box of the brain, which is where any
modality is not 0. ``resize``: the whole image, at the spacing that makes it fit."""

Content = Literal["tumour", "brain"]
KeptShares = dict[Content, Annotated[float, Field(ge=0.0, le=1.0)]]
Kind = TypeVar("Kind", bound=np.generic)
Corner = tuple[int, int, int]

SMALL_TUMOUR_MM3 = 100.0
MOST_VOLUME_CHANGE = 0.1


@dataclass(frozen=True)
class BoxReport:
    """How much of a subject is left in the box of training.

    Attributes:
        native_volume_mm3: volume of all labels at native resolution, voxel count times voxel volume.
        resampled_volume_mm3: the same after resampling, before the box is cut out.
        volume_mm3: the same in the box: what the targets describe.
        tumour_kept: share of the resampled tumour that lies in the box, in [0, 1]; 0 if resampling lost all of it.
        brain_kept: share of the resampled brain that lies in the box, in [0, 1].
    """

    native_volume_mm3: float
    resampled_volume_mm3: float
    volume_mm3: float
    tumour_kept: float
    brain_kept: float


def place_box(strategy: BoxStrategy, brain: NDArray[Any], size: tuple[int, int, int]) -> Corner:
    """Return the first voxel of a box along each axis; it is negative where the box reaches beyond the image.

    Args:
        strategy: where the box is put; ``resize`` is the image itself.
        brain: whole numbers or booleans [D, H, W] that are not 0 where the brain is.
        size: (D, H, W) of the box.
    """
    inside = bounding_box(brain) if strategy == "brain" else None
    if inside is None:  # the arithmetic of odd sides is that of MONAI's ResizeWithPadOrCrop
        starts = [
            old // 2 - side // 2 if side < old else -((side - old) // 2)
            for old, side in zip(brain.shape, size, strict=True)
        ]
    else:
        starts = [(part.start + part.stop - side) // 2 for part, side in zip(inside, size, strict=True)]
    return starts[0], starts[1], starts[2]


def cut_out(volume: NDArray[Kind], start: Corner, size: tuple[int, int, int]) -> NDArray[Kind]:
    """Return the box of a volume [D, H, W] as a new array in C order; what lies beyond the volume is 0."""
    box = np.zeros(size, volume.dtype)
    spans = [
        (max(first, 0), min(first + side, old)) for first, side, old in zip(start, size, volume.shape, strict=True)
    ]
    if any(last <= first for first, last in spans):
        return box
    of = tuple(slice(first, last) for first, last in spans)
    to = tuple(slice(first - corner, last - corner) for (first, last), corner in zip(spans, start, strict=True))
    source, target = volume[of], box[to]
    for begin in range(0, target.shape[2], 16):  # files lie in Fortran order: slabs stay in the processor's cache
        target[:, :, begin : begin + 16] = source[:, :, begin : begin + 16]
    return box


def judge_box(
    subject_id: str,
    report: BoxReport,
    strategy: BoxStrategy,
    refuse_below: Mapping[Content, float],
    warn_below: Mapping[Content, float],
) -> list[Finding]:
    """Return what is to be said about a subject's box; a fault where less is kept than ``refuse_below`` allows."""
    found = []
    for content, kept in (("tumour", report.tumour_kept), ("brain", report.brain_kept)):
        limits: Any = (refuse_below.get(content, 0.0), warn_below.get(content, 0.0))  # type: ignore[call-overload]
        if kept < max(limits):
            is_fault = kept < limits[0]
            remedy = "enlarge data.roi_size or data.spacing_mm"
            if strategy == "center":
                remedy += ", or try data.box=brain"
            if report.resampled_volume_mm3 == 0 and content == "tumour":
                remedy = "its voxels are too large, use a smaller data.spacing_mm or a larger data.roi_size"
            if is_fault:
                remedy += f", or lower data.refuse_below.{content}={limits[0]:g}"
            problem = f"holds {100.0 * kept:.3g} % of the {content}"
            found.append(Finding(subject_id, "the box of training", problem, remedy, is_fault))
    native, resampled = report.native_volume_mm3, report.resampled_volume_mm3
    if native < SMALL_TUMOUR_MM3:
        problem = f"has a tumour of {native:.3g} mm^3, less than {SMALL_TUMOUR_MM3:g}"
        found.append(Finding(subject_id, "the mask", problem, "check that it is one", False))
    elif abs(resampled / native - 1.0) > MOST_VOLUME_CHANGE:
        problem = f"has {native:.4g} mm^3 of tumour, and {resampled:.4g} after resampling"
        found.append(Finding(subject_id, "the mask", problem, "use a smaller data.spacing_mm", False))
    return found
