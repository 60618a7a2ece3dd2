"""Semantic features of a tumour mask, in millimetres: volumes, location and shape.

The 13 features are the regression targets of the supervised latent partitions. All of them are functions of the
mask and its voxel spacing alone. Axes are (D, H, W) = (R, A, S): x is R (left to right), y is A (posterior to
anterior), z is S (inferior to superior).
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from menvae.statistics.mesh import mesh_hull_volume, mesh_volume_and_area

NCR: Final = 1
ED: Final = 2
ET: Final = 3

VOLUME_FEATURES: Final[tuple[str, ...]] = ("vol_total", "vol_ncr", "vol_ed", "vol_et")
LOCATION_FEATURES: Final[tuple[str, ...]] = ("loc_x", "loc_y", "loc_z")
SHAPE_FEATURES: Final[tuple[str, ...]] = (
    "sphericity_total",
    "surface_area_total",
    "solidity_total",
    "aspect_xy_total",
    "sphericity_ncr",
    "surface_area_ncr",
)
FEATURES: Final[tuple[str, ...]] = VOLUME_FEATURES + LOCATION_FEATURES + SHAPE_FEATURES


def mask_features(mask: NDArray[np.uint8], spacing_mm: tuple[float, float, float]) -> dict[str, float | None]:
    """Measure the 13 features of one label mask.

    - `vol_*` = ln(V + 1), V = number of voxels times voxel volume, in mm^3.
    - `loc_x`, `loc_y`, `loc_z` = mean of the voxel centres (index + 0.5) along R, A, S over the extent, in [0, 1].
    - `sphericity_*` = (36 pi V^2)^(1/3) / A with V and A of the marching-cubes mesh, in [0, 1].
    - `surface_area_*` = ln(A + 1), A in mm^2 of the same mesh.
    - `solidity_total` = mesh volume / volume of the convex hull of the mesh, in [0, 1].
    - `aspect_xy_total` = extent of the bounding box along R / extent along A, both in mm.

    The mesh of a binary mask follows its voxel staircase, so compare shape features only at the same spacing. Relative
    errors against the closed forms of balls and ellipsoids with radii of 8 to 28 mm (five shapes, each at 20 random
    positions):

    ==================== =============== =================
    error in percent     1 x 1 x 1 mm    1 x 1 x 3 mm
    ==================== =============== =================
    volume               -1.2 to +0.3    -1.4 to +1.7
    surface area         +6.9 to +9.1    +12.8 to +19.0
    sphericity           -8.6 to -7.6    -16.8 to -12.9
    solidity             -6.2 to -2.7    -16.6 to -5.2
    aspect_xy            -2.5 to +2.1    -6.2 to +6.7
    ==================== =============== =================

    The error of the area does not vanish with resolution: for a ball it approaches +8.7 % at isotropic spacing and
    +16 % at 1 x 1 x 3 mm, and the sphericity follows. The error of the solidity vanishes slowly, because the hull spans
    the steps. The aspect is off by at most one voxel of each extent, a location by less than a tenth of a voxel.

    Args:
        mask: labels [D, H, W] = (R, A, S): 0 background, 1 NCR, 2 ED, 3 ET.
        spacing_mm: voxel size along D, H, W in mm.

    Returns:
        One entry for each name of `FEATURES`, in that order. None means "not observed": the region that the feature
        describes has no voxels.

    Raises:
        ValueError: if the mask is not three-dimensional or contains another label, or a spacing is not positive.

    Source: definitions of sphericity as in Zwanenburg et al. 2020 (IBSI); marching cubes of Lewiner et al. 2003.

    >>> mask = np.zeros((8, 8, 8), dtype=np.uint8)
    >>> mask[2:4, 2:6, 2:6] = ET
    >>> found = mask_features(mask, (1.0, 1.0, 2.0))
    >>> found["vol_total"] == found["vol_et"] == math.log(2 * 4 * 4 * 2 + 1)
    True
    >>> found["loc_x"], found["loc_y"], found["loc_z"], found["aspect_xy_total"]
    (0.375, 0.5, 0.5, 0.5)
    >>> found["vol_ncr"] is None and found["sphericity_ncr"] is None
    True
    """
    if mask.ndim != 3:
        raise ValueError(f"mask must have 3 axes (D, H, W), got shape {mask.shape}")
    if len(spacing_mm) != 3 or not all(math.isfinite(step) and step > 0 for step in spacing_mm):
        raise ValueError(f"spacing_mm must be 3 positive numbers, got {spacing_mm}")
    found: dict[str, float | None] = dict.fromkeys(FEATURES)
    box = bounding_box(mask)
    if box is None:
        return found

    crop = np.ascontiguousarray(mask[box])
    if crop.max() > ET:
        raise ValueError(f"mask holds label {crop.max()}; allowed are 0, {NCR} (NCR), {ED} (ED), {ET} (ET)")
    voxel_volume_mm3 = math.prod(spacing_mm)
    tumour, core = crop != 0, crop == NCR
    for name, region in (("vol_total", tumour), ("vol_ncr", core), ("vol_ed", crop == ED), ("vol_et", crop == ET)):
        num_voxels = np.count_nonzero(region)
        if num_voxels > 0:
            found[name] = math.log(num_voxels * voxel_volume_mm3 + 1.0)

    found.update(zip(LOCATION_FEATURES, _centroid(tumour, box, mask.shape), strict=True))
    volume_mm3, area_mm2 = mesh_volume_and_area(tumour, spacing_mm)
    found["sphericity_total"] = _sphericity(volume_mm3, area_mm2)
    found["surface_area_total"] = math.log(area_mm2 + 1.0)
    found["solidity_total"] = min(1.0, volume_mm3 / (mesh_hull_volume(tumour) * voxel_volume_mm3))
    found["aspect_xy_total"] = (crop.shape[0] * spacing_mm[0]) / (crop.shape[1] * spacing_mm[1])
    box_of_core = bounding_box(core)
    if box_of_core is not None:
        volume_mm3, area_mm2 = mesh_volume_and_area(core[box_of_core], spacing_mm)
        found["sphericity_ncr"] = _sphericity(volume_mm3, area_mm2)
        found["surface_area_ncr"] = math.log(area_mm2 + 1.0)
    return found


def bounding_box(mask: NDArray[Any]) -> tuple[slice, slice, slice] | None:
    """Return the smallest box that contains every non-zero voxel.

    Reduces whole axes with a bitwise or instead of listing voxels: 20 times faster than `argwhere`.

    Args:
        mask: integers or booleans [D, H, W].

    Returns:
        One slice per axis, or None if the mask is empty.
    """
    in_plane = np.bitwise_or.reduce(mask, axis=0)
    in_h = np.flatnonzero(in_plane.any(axis=1))
    if len(in_h) == 0:
        return None
    in_w = np.flatnonzero(in_plane.any(axis=0))
    rows, columns = slice(int(in_h[0]), int(in_h[-1]) + 1), slice(int(in_w[0]), int(in_w[-1]) + 1)
    in_d = np.flatnonzero(mask[:, rows, columns].any(axis=(1, 2)))
    return slice(int(in_d[0]), int(in_d[-1]) + 1), rows, columns


def _centroid(tumour: NDArray[np.bool_], box: tuple[slice, slice, slice], shape: tuple[int, ...]) -> list[float]:
    """Mean voxel centre along each axis as a fraction of the full extent; `tumour` is the crop to `box`."""
    in_lines = tumour.sum(axis=2, dtype=np.int32)
    in_planes = (in_lines.sum(axis=1), in_lines.sum(axis=0), tumour.sum(axis=0, dtype=np.int32).sum(axis=0))
    num_voxels = float(in_lines.sum())
    centroid = []
    for axis, weights in enumerate(in_planes):
        centres = np.arange(box[axis].start, box[axis].stop) + 0.5
        centroid.append(float(weights @ centres) / num_voxels / shape[axis])
    return centroid


def _sphericity(volume_mm3: float, area_mm2: float) -> float:
    """(36 pi V^2)^(1/3) / A: 1 for a ball, less for anything else."""
    return float(min(1.0, (36.0 * math.pi * volume_mm3**2) ** (1.0 / 3.0) / area_mm2))
