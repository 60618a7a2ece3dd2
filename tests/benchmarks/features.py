"""What measuring a tumour mask costs: three ways, interleaved in one run, and whether they agree.

- naive: marching cubes of the whole volume, solidity from the 3D region properties of scikit-image
- cropped: marching cubes of the padded bounding box, Qhull of all vertices of the mesh
- menvae: all 13 features by `mask_features`

Times are process-CPU milliseconds, so other programs on the machine disturb them little. The exit status is 1 when a
wanted ratio is missed, or when area, volume or solidity differ from those of scikit-image by more than 1e-4.

    python tests/benchmarks/features.py --repeats 7
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from skimage.measure import marching_cubes, regionprops

from menvae.data.masks.features import ED, ET, NCR, bounding_box, mask_features
from menvae.statistics.mesh import mesh_hull_volume, mesh_volume_and_area

Spacing = tuple[float, float, float]

SHAPE = (240, 240, 155)
LEAST_RATIOS = {"naive": 100.0, "cropped": 2.0}  # to menvae
MOST_DIFFERENCE = 1e-4
SPACINGS_MM: tuple[Spacing, ...] = ((1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (0.47, 0.47, 5.0))


def make_mask() -> NDArray[np.uint8]:
    """A ball of 55 mm with a necrotic core inside of enhancing tumour inside of oedema."""
    axes = [np.arange(size) + 0.5 - centre for size, centre in zip(SHAPE, (90.3, 130.2, 80.7), strict=True)]
    distances = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2] ** 2)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    for radius, label in ((27.5, ED), (20.0, ET), (12.0, NCR)):
        mask[distances < radius] = label
    return mask


def mesh(region: NDArray[np.bool_], spacing_mm: Spacing) -> tuple[float, float, NDArray[np.float64]]:
    """Volume, area and vertices of the mesh that scikit-image draws."""
    vertices, faces, _, _ = marching_cubes(region.astype(np.float32), level=0.5, spacing=spacing_mm)
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    normals = np.cross(b - a, c - a)
    volume_mm3 = abs(float(np.einsum("fi,fi->", a, normals))) / 6.0
    return volume_mm3, float(np.linalg.norm(normals, axis=1).sum()) / 2.0, vertices


def naive(mask: NDArray[np.uint8], spacing_mm: Spacing) -> None:
    """Area and volume of both regions and solidity of the whole tumour, on the whole volume."""
    mesh(mask != 0, spacing_mm)
    mesh(mask == NCR, spacing_mm)
    _ = regionprops((mask != 0).astype(np.uint8))[0].solidity


def cropped(mask: NDArray[np.uint8], spacing_mm: Spacing) -> tuple[float, float, float, float, float]:
    """Volume and area of the whole tumour, its solidity, volume and area of the core."""
    box = bounding_box(mask)
    assert box is not None
    crop = np.pad(mask[box], 1)
    volume_mm3, area_mm2, vertices = mesh(crop != 0, spacing_mm)
    volume_core_mm3, area_core_mm2, _ = mesh(crop == NCR, spacing_mm)
    return volume_mm3, area_mm2, volume_mm3 / ConvexHull(vertices).volume, volume_core_mm3, area_core_mm2


def greatest_difference(mask: NDArray[np.uint8], spacing_mm: Spacing) -> dict[str, float]:
    """Greatest relative difference between menvae and `cropped`, over the two regions."""
    volume_mm3, area_mm2 = mesh_volume_and_area(mask != 0, spacing_mm)
    volume_core_mm3, area_core_mm2 = mesh_volume_and_area(mask == NCR, spacing_mm)
    solidity = volume_mm3 / (mesh_hull_volume(mask != 0) * float(np.prod(spacing_mm)))
    found = np.array([volume_mm3, area_mm2, solidity, volume_core_mm3, area_core_mm2])
    differences = np.abs(found / cropped(mask, spacing_mm) - 1.0)
    return {
        "area": max(differences[1], differences[4]),
        "volume": max(differences[0], differences[3]),
        "solidity": differences[2],
    }


def cpu_ms(function: Callable[[], object]) -> float:
    """Process-CPU time of a call."""
    started = time.process_time()
    function()
    return (time.process_time() - started) * 1000.0


def main() -> int:
    """Measure and judge; 0 when ratios and differences are as wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    mask, spacing_mm = make_mask(), SPACINGS_MM[0]
    variants: dict[str, Callable[[], object]] = {
        "naive": lambda: naive(mask, spacing_mm),
        "cropped": lambda: cropped(mask, spacing_mm),
        "menvae": lambda: mask_features(mask, spacing_mm),
    }
    first_ms = cpu_ms(variants["menvae"])
    cpu_ms(variants["cropped"])
    found: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats):
        for name, function in variants.items():
            found[name].append(cpu_ms(function))
        print(f"repeat {repeat + 1}/{repeats}", file=sys.stderr, flush=True)

    medians_ms = {name: statistics.median(values) for name, values in found.items()}
    print(f"{SHAPE} mask, {np.count_nonzero(mask)} voxels; median of {repeats}, {os.cpu_count()} cores")
    for name, values in found.items():
        ratio = medians_ms[name] / medians_ms["menvae"]
        print(f"{name:<8}{medians_ms[name]:9.2f} ms  (x {ratio:.2f}; {min(values):.2f} to {max(values):.2f})")
    print(f"the first call of menvae in a process, which fills its tables: {first_ms:.2f} ms")
    claims = []
    for name, least in LEAST_RATIOS.items():
        ratio = medians_ms[name] / medians_ms["menvae"]
        claims.append((f"{name} / menvae {ratio:.2f}, wanted {least:.0f}", ratio >= least))
    by_spacing = [greatest_difference(mask, spacing_mm) for spacing_mm in SPACINGS_MM]
    for name in by_spacing[0]:
        greatest = max(differences[name] for differences in by_spacing)
        claims.append((f"{name} differs from scikit-image by at most {greatest:.1e}", greatest <= MOST_DIFFERENCE))
    for words, holds in claims:
        print(f"{'holds' if holds else 'FAILS':<6} {words}")
    return 0 if all(holds for _, holds in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
