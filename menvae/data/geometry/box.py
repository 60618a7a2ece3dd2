"""The training box: its placement, how much of a subject it holds, and how much is too little.

Whether the mask fits the images is judged here too, because an enlarged box is no remedy for a mask that does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from menvae.data.files.findings import Finding
from menvae.data.masks.features import bounding_box
from menvae.registry import Field

BoxStrategy = Literal["center", "brain", "resize"]
"""``center``: centred on the image. ``brain``: centred on the bounding box of the brain, which is where any modality is
non-zero. ``resize``: the whole image, at the spacing that fits it into the box."""

Content = Literal["tumour", "brain"]
Problem = Literal["off_brain", "tumour_cut", "brain_cut", "resampling", "small", "lesions"]
KeptShares = dict[Content, Annotated[float, Field(ge=0.0, le=1.0)]]
Kind = TypeVar("Kind", bound=np.generic)
Corner = tuple[int, int, int]

SMALL_TUMOUR_MM3 = 100.0
MOST_VOLUME_CHANGE = 0.1
MOST_OFF_BRAIN = 0.1
LEAST_LESION = 0.1


@dataclass(frozen=True)
class BoxReport:
    """How much of a subject the training box holds, and how well its mask fits its images.

    Attributes:
        native_volume_mm3: volume of all labels at native resolution, voxel count times voxel volume.
        resampled_volume_mm3: the same after resampling, before cropping.
        volume_mm3: the same inside the box, which the targets describe.
        tumour_kept: share of the resampled tumour that lies in the box, in [0, 1]; 0 if resampling lost all of it.
        brain_kept: share of the resampled brain that lies in the box, in [0, 1].
        tumour_off_brain: share of the resampled tumour that lies where every image is 0, in [0, 1]; 0 in entries that
            were prepared before it was measured.
        second_lesion: share of the resampled tumour in its second largest separate part, in [0, 0.5]; 0 if there is
            one part, and as ``tumour_off_brain``.
    """

    native_volume_mm3: float
    resampled_volume_mm3: float
    volume_mm3: float
    tumour_kept: float
    brain_kept: float
    tumour_off_brain: float = 0.0
    second_lesion: float = 0.0

    @property
    def volume_change(self) -> float | None:
        """Relative change of the tumour volume by resampling; None without a tumour."""
        return self.resampled_volume_mm3 / self.native_volume_mm3 - 1.0 if self.native_volume_mm3 else None

    @property
    def least_volume_mm3(self) -> float:
        """The smaller of the volumes at native resolution and in the box."""
        return min(self.native_volume_mm3, self.volume_mm3)

    def problems(self, tumour_kept: float, brain_kept: float) -> dict[Problem, float]:
        """Return {problem: severity in [0, 1)}.

        Args:
            tumour_kept: minimum share of the tumour inside the box.
            brain_kept: minimum share of the brain inside the box.
        """
        change, volume = abs(self.volume_change or 0.0), self.least_volume_mm3
        amounts: dict[Problem, float] = {}
        if self.tumour_off_brain > MOST_OFF_BRAIN:
            amounts["off_brain"] = self.tumour_off_brain
        if self.tumour_kept < tumour_kept:
            amounts["tumour_cut"] = 1.0 - self.tumour_kept
        if self.brain_kept < brain_kept:
            amounts["brain_cut"] = 1.0 - self.brain_kept
        if change > MOST_VOLUME_CHANGE:
            amounts["resampling"] = change / (1.0 + change)
        if volume < SMALL_TUMOUR_MM3:
            amounts["small"] = 1.0 - volume / SMALL_TUMOUR_MM3
        if self.second_lesion >= LEAST_LESION:
            amounts["lesions"] = self.second_lesion
        return {problem: min(amount, 0.999) for problem, amount in amounts.items()}


def place_box(strategy: BoxStrategy, brain: NDArray[Any], size: tuple[int, int, int]) -> Corner:
    """Return the first voxel of the box along each axis, negative where the box extends beyond the image.

    Args:
        strategy: placement of the box; ``resize`` is placed like ``center``, on an image of the same size.
        brain: integers or booleans [D, H, W], non-zero in the brain.
        size: (D, H, W) of the box in voxels.
    """
    inside = bounding_box(brain) if strategy == "brain" else None
    if inside is None:  # rounds odd sides like MONAI's ResizeWithPadOrCrop
        starts = [
            old // 2 - side // 2 if side < old else -((side - old) // 2)
            for old, side in zip(brain.shape, size, strict=True)
        ]
    else:
        starts = [(part.start + part.stop - side) // 2 for part, side in zip(inside, size, strict=True)]
    return starts[0], starts[1], starts[2]


def cut_out(volume: NDArray[Kind], start: Corner, size: tuple[int, int, int]) -> NDArray[Kind]:
    """Return the box of a volume [D, H, W] as a new array in C order, padded with 0 beyond the volume."""
    box = np.zeros(size, volume.dtype)
    spans = [
        (max(first, 0), min(first + side, old)) for first, side, old in zip(start, size, volume.shape, strict=True)
    ]
    if any(last <= first for first, last in spans):
        return box
    of = tuple(slice(first, last) for first, last in spans)
    to = tuple(slice(first - corner, last - corner) for (first, last), corner in zip(spans, start, strict=True))
    source, target = volume[of], box[to]
    for begin in range(0, target.shape[2], 16):  # files are in Fortran order: slabs fit into the CPU cache
        target[:, :, begin : begin + 16] = source[:, :, begin : begin + 16]
    return box


def judge_box(
    subject_id: str,
    report: BoxReport,
    strategy: BoxStrategy,
    refuse_below: Mapping[Content, float],
    warn_below: Mapping[Content, float],
    *,
    has_mask: bool = True,
) -> list[Finding]:
    """Return the findings about a subject's box; a share below ``refuse_below`` is a fault.

    Without a mask, only the brain is judged.
    """
    shares: dict[Content, float] = {"tumour": report.tumour_kept, "brain": report.brain_kept}
    if not has_mask:
        shares = {"brain": report.brain_kept}
        report = BoxReport(SMALL_TUMOUR_MM3, SMALL_TUMOUR_MM3, SMALL_TUMOUR_MM3, 1.0, report.brain_kept)
    limits = {content: (refuse_below.get(content, 0.0), warn_below.get(content, 0.0)) for content in shares}
    problems = report.problems(max(limits.get("tumour", (0.0,))), max(limits["brain"]))
    found = []
    if "off_brain" in problems:
        problem = f"has {100.0 * report.tumour_off_brain:.3g} % of the tumour where every image is 0"
        found.append(Finding(subject_id, "the mask", problem, _OFF_BRAIN_REMEDY, False))
    for content, kept in shares.items():
        if f"{content}_cut" in problems:
            refused = limits[content][0]
            is_fault = kept < refused
            remedy = "enlarge data.roi_size or data.spacing_mm"
            if strategy == "center":
                remedy += ", or try data.box=brain"
            if report.resampled_volume_mm3 == 0 and content == "tumour":
                remedy = "the voxels are too large, use a smaller data.spacing_mm or a larger data.roi_size"
            if "off_brain" in problems and content == "tumour":
                if not is_fault:
                    continue  # said above
                remedy = _OFF_BRAIN_REMEDY
            if is_fault:
                remedy += f", or lower data.refuse_below.{content}={refused:g}"
            problem = f"holds {100.0 * kept:.3g} % of the {content}"
            found.append(Finding(subject_id, "the training box", problem, remedy, is_fault))
    native, resampled = report.native_volume_mm3, report.resampled_volume_mm3
    if "small" in problems:
        if "tumour_cut" not in problems:
            problem = f"has a tumour of {report.least_volume_mm3:.3g} mm^3, less than {SMALL_TUMOUR_MM3:g}"
            found.append(Finding(subject_id, "the mask", problem, "check that it is a tumour", False))
    elif "resampling" in problems:
        problem = f"has {native:.4g} mm^3 of tumour, but {resampled:.4g} mm^3 after resampling"
        found.append(Finding(subject_id, "the mask", problem, "use a smaller data.spacing_mm", False))
    if "lesions" in problems:
        problem = f"has separate lesions, the second with {100.0 * report.second_lesion:.3g} % of the tumour"
        remedy = "location and shape describe all of them together, and the location may lie between them"
        found.append(Finding(subject_id, "the mask", problem, remedy, False))
    return found


_OFF_BRAIN_REMEDY = (
    "look whether skull stripping removed the tumour, or the mask belongs to another image or is mirrored"
)
