"""Thumbnails of subjects: three slices through the centre of the tumour, with an outline of each region."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from menvae.data.cache.cohort import PreparedSubject
from menvae.data.files.subjects import REGION_CODES
from menvae.data.masks.features import LOCATION_FEATURES
from menvae.data.workers import ShowProgress, run_tasks, unseen
from menvae.presentation.planes import PLANES, Plane, displayed_slice, slice_size_mm

REGION_COLOURS: Final = {"ncr": "#ff6ac1", "ed": "#4cc3ff", "et": "#ff9a00"}
"""Bright on grey, and distinguishable for colour-blind readers."""

_LONGEST_SIDE_PIXELS: Final = 220
_MARGIN_PIXELS: Final = 14
"""Margin around every slice, for the orientation letters."""
_DARKEST, _BRIGHTEST = 25.0, 200.0
"""Range of grey values of the foreground; outlines stay visible on the brightest."""
_LETTER_PIXELS: Final = 13
_QUALITY: Final = 85
_TASKS_WORTH_PROCESSES: Final = 100


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG file as a data URI, with its size in pixels."""

    source: str
    width: int
    height: int


def draw_thumbnails(
    subjects: Sequence[PreparedSubject], num_workers: int | None = None, show: ShowProgress = unseen
) -> dict[str, Thumbnail]:
    """Return {subject: its thumbnail}.

    Args:
        subjects: cache entries.
        num_workers: worker processes; None uses one per core.
        show: progress display.
    """
    if len(subjects) < _TASKS_WORTH_PROCESSES:  # starting processes would take longer
        return dict(map(_draw, subjects))
    return dict(show(run_tasks(_draw, subjects, num_workers=num_workers), "drawing", len(subjects)))


def _draw(subject: PreparedSubject) -> tuple[str, Thumbnail]:
    stored = subject.load()
    first = next(index for index in range(len(stored.image)) if index not in subject.missing_channels)
    centre = centre_of(subject, stored.mask.shape)
    picture = draw_planes(stored.image[first], stored.mask, subject.spacing_mm, centre)
    content = io.BytesIO()
    # full chroma resolution, which WebP halves: outlines of neighbouring regions would blend
    picture.save(content, format="JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    source = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
    return subject.subject_id, Thumbnail(source, picture.width, picture.height)


def centre_of(subject: PreparedSubject, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the voxel at the centroid of the tumour, or at the centre of the box without a tumour."""
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
        volume: stored values [D, H, W]; 0 is background and drawn black.
        mask: labels [D, H, W].
        spacing_mm: voxel size along D, H, W.
        centre: voxel (D, H, W) that all three slices contain.
    """
    inside = volume[volume != 0]
    low, high = (float(bound) for bound in np.percentile(inside, (0.5, 99.5))) if inside.size else (0.0, 1.0)
    sizes_mm = [slice_size_mm(plane, volume.shape, spacing_mm) for plane in PLANES]
    pixels_per_mm = _LONGEST_SIDE_PIXELS / max(max(size) for size in sizes_mm)
    sizes = [(round(width * pixels_per_mm), round(height * pixels_per_mm)) for width, height in sizes_mm]
    margin = 2 * _MARGIN_PIXELS
    height = max(height for _, height in sizes) + margin
    sheet = Image.new("RGB", (sum(width + margin for width, _ in sizes), height))
    left = 0
    for plane, size in zip(PLANES, sizes, strict=True):
        cut = displayed_slice(volume, plane, centre[plane.axis])
        share = np.clip((cut.astype(np.float64) - low) / max(high - low, 1e-12), 0.0, 1.0)
        grey = np.where(cut == 0, 0.0, _DARKEST + (_BRIGHTEST - _DARKEST) * share)
        smooth = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
        labels = Image.fromarray(np.ascontiguousarray(displayed_slice(mask, plane, centre[plane.axis])))
        outlined = _outlined(np.asarray(smooth), np.asarray(labels.resize(size, Image.Resampling.NEAREST)))
        place = (left + _MARGIN_PIXELS, (height - size[1]) // 2)
        sheet.paste(Image.fromarray(outlined), place)
        _letter(sheet, plane, place, size)
        left += size[0] + margin
    return sheet


def _outlined(grey: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the slice in RGB, with the boundary pixels of every region in the region's colour.

    Outlines consist of pixels inside the region; on a shared border, the last region drawn would hide the others.

    Args:
        grey: grey values [rows, columns].
        labels: labels [rows, columns].
    """
    shown = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    for region, code in REGION_CODES.items():
        inside = np.pad(labels == code, 1)
        core = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        shown[inside[1:-1, 1:-1] & ~core] = ImageColor.getrgb(REGION_COLOURS[region])
    return shown


def _letter(sheet: Image.Image, plane: Plane, place: tuple[int, int], size: tuple[int, int]) -> None:
    """Write the orientation letters around a slice."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_LETTER_PIXELS)
    (left, top), (width, height), half = place, size, _MARGIN_PIXELS / 2
    middle, centre = top + height / 2, left + width / 2
    places = ((left - half, middle), (left + width + half, middle), (centre, top - half), (centre, top + height + half))
    for letter, spot in zip(plane.letters, places, strict=True):
        draw.text(spot, letter, font=font, anchor="mm", fill="#d5dae0")
