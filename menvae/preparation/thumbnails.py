"""Three slices of a subject through the centre of its tumour, with the outline of each region; small, for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from menvae.data.features import LOCATION_FEATURES
from menvae.data.prepare import PreparedSubject
from menvae.data.subjects import REGION_CODES
from menvae.data.workers import ShowProgress, run_tasks, unseen
from menvae.presentation.planes import PLANES, Plane, displayed_slice, mask_outline, slice_size_mm

REGION_COLOURS: Final = {"ncr": "#ff7ac0", "ed": "#56b4e9", "et": "#ffb000"}
"""Bright on grey, and different for the colour-blind."""

_LONGEST_SIDE_PIXELS: Final = 220
_GAP_PIXELS: Final = 6
_LETTER_PIXELS: Final = 13
_QUALITY: Final = 80
_TASKS_WORTH_PROCESSES: Final = 8


@dataclass(frozen=True)
class Thumbnail:
    """A WebP file as a data URI, with its size in pixels."""

    source: str
    width: int
    height: int


def draw_thumbnails(
    subjects: Sequence[PreparedSubject], num_workers: int | None = None, show: ShowProgress = unseen
) -> dict[str, Thumbnail]:
    """Return {subject: its thumbnail}.

    Args:
        subjects: entries of the cache.
        num_workers: processes; None is one a core.
        show: how to show progress.
    """
    if len(subjects) < _TASKS_WORTH_PROCESSES:  # starting processes would take longer
        return dict(map(_draw, subjects))
    return dict(show(run_tasks(_draw, subjects, num_workers=num_workers), "drawing", len(subjects)))


def _draw(subject: PreparedSubject) -> tuple[str, Thumbnail]:
    stored = subject.load()
    picture = draw_planes(stored.image[0], stored.mask, subject.spacing_mm, centre_of(subject, stored.mask.shape))
    content = io.BytesIO()
    picture.save(content, format="WEBP", quality=_QUALITY, method=4)
    source = f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
    return subject.subject_id, Thumbnail(source, picture.width, picture.height)


def centre_of(subject: PreparedSubject, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the voxel that holds the centroid of the tumour, or the middle of the box without a tumour."""
    places = [subject.features[name] for name in LOCATION_FEATURES]
    return tuple(
        min(int((0.5 if place is None else place) * extent), extent - 1)
        for place, extent in zip(places, shape, strict=True)
    )


def draw_planes(
    volume: NDArray[Any], mask: NDArray[np.uint8], spacing_mm: tuple[float, float, float], centre: tuple[int, ...]
) -> Image.Image:
    """Draw the axial, coronal and sagittal slices through a voxel side by side, all at one scale in millimetres.

    Args:
        volume: stored values [D, H, W]; 0 is background, and black.
        mask: labels [D, H, W].
        spacing_mm: voxel size along D, H, W.
        centre: voxel that all three go through.
    """
    inside = volume[volume != 0]
    low, high = (float(bound) for bound in np.percentile(inside, (0.5, 99.5))) if inside.size else (0.0, 1.0)
    sizes_mm = [slice_size_mm(plane, volume.shape, spacing_mm) for plane in PLANES]
    pixels_per_mm = _LONGEST_SIDE_PIXELS / max(max(size) for size in sizes_mm)
    sizes = [(round(width * pixels_per_mm), round(height * pixels_per_mm)) for width, height in sizes_mm]
    total = sum(width for width, _ in sizes) + _GAP_PIXELS * (len(sizes) - 1)
    sheet = Image.new("RGB", (total, max(height for _, height in sizes)))
    left = 0
    for plane, size in zip(PLANES, sizes, strict=True):
        cut = displayed_slice(volume, plane, centre[plane.axis])
        grey = np.where(cut == 0, 0.0, np.clip(30 + 225 * (cut - low) / max(high - low, 1e-12), 0, 255))
        shown = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).convert("RGB")
        labels = displayed_slice(mask, plane, centre[plane.axis])
        _outline(shown, labels)
        _letter(shown, plane)
        sheet.paste(shown, (left, (sheet.height - size[1]) // 2))
        left += size[0] + _GAP_PIXELS
    return sheet


def _outline(picture: Image.Image, labels: NDArray[np.uint8]) -> None:
    """Draw the border of every region along the edges of its voxels."""
    draw = ImageDraw.Draw(picture)
    rows, columns = labels.shape
    scale = np.array([picture.width / columns, picture.height / rows])
    for region, code in REGION_CODES.items():
        for start, end in mask_outline(labels == code) * scale:
            draw.line([tuple(start.tolist()), tuple(end.tolist())], fill=REGION_COLOURS[region], width=1)


def _letter(picture: Image.Image, plane: Plane) -> None:
    """Write where right and left, front and back, top and bottom are."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_LETTER_PIXELS)
    width, height = picture.size
    places = (((2, height / 2), "lm"), ((width - 2, height / 2), "rm"), ((width / 2, 1), "mt"))
    for letter, (place, anchor) in zip(plane.letters, (*places, ((width / 2, height - 2), "mb")), strict=True):
        draw.text(place, letter, font=font, anchor=anchor, fill="white", stroke_width=1, stroke_fill="black")
