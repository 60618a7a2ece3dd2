"""Closed-form distances and textures, the building blocks of heads and tumours."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[Any]  # float32 throughout; numpy's stubs would call it float64 after an operation with a Python float
Point = tuple[float, float, float]


class Waves(NamedTuple):
    """A smooth random field: a sum of plane waves with unit variance."""

    vectors: NDArray[np.float32]  # [K, 3], radians per mm
    phases: NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator, num: int, shortest_mm: float, longest_mm: float) -> Waves:
        """Draw ``num`` waves in random directions, with wavelengths between two bounds."""
        directions = rng.standard_normal((num, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        vectors = directions * (2 * math.pi / rng.uniform(shortest_mm, longest_mm, (num, 1)))
        return cls(vectors.astype(np.float32), rng.uniform(0, 2 * math.pi, num).astype(np.float32))

    def shifted(self, distances_mm: list[float]) -> Waves:
        """Return the field with each wave shifted along its direction."""
        shift = np.linalg.norm(self.vectors, axis=1) * np.array(distances_mm)
        return self._replace(phases=(self.phases - shift).astype(np.float32))

    def __call__(self, x: Float, y: Float, z: Float) -> Float:
        """Return the dimensionless field at the given points."""
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
        for (kx, ky, kz), phase in zip(self.vectors, self.phases, strict=True):
            total += np.sin(kx * x + ky * y + kz * z + phase)
        return total * math.sqrt(2.0 / len(self.phases))


def ellipsoid_distance(x: Float, y: Float, z: Float, centre: Point, radii: Point) -> Float:
    """Signed distance (first order, mm) to an ellipsoid with its axes along x, y, z."""
    unit = [(axis - c) / r for axis, c, r in zip((x, y, z), centre, radii, strict=True)]
    level = norm(*unit)
    slope = norm(unit[0] / radii[0], unit[1] / radii[1], unit[2] / radii[2])
    distance: Float = level * (level - 1.0) / np.maximum(slope, 1e-6)
    return distance


def norm(x: Float, y: Float, z: Float) -> Float:
    """Euclidean length of vectors."""
    length: Float = np.sqrt(x * x + y * y + z * z)
    return length


def smooth_union(a: Float, b: Float, blend_mm: float) -> Float:
    """Smallest of two signed distances, with a rounded seam."""
    overlap = np.maximum(blend_mm - np.abs(a - b), 0.0) / blend_mm
    union: Float = np.minimum(a, b) - overlap * overlap * (blend_mm / 4)
    return union


def occupancy(distance_mm: Float, step_mm: float) -> Float:
    """Share of a voxel that lies inside a surface at a signed distance from its centre."""
    return np.clip(0.5 - distance_mm / step_mm, 0.0, 1.0)


def sheet_occupancy(distance_mm: Float, half_width_mm: Float | float, step_mm: float) -> Float:
    """Share of a voxel inside a sheet that may be thinner than the voxel."""
    half = step_mm / 2
    overlap = np.minimum(distance_mm + half, half_width_mm) - np.maximum(distance_mm - half, -half_width_mm)
    return np.clip(overlap / step_mm, 0.0, 1.0).astype(np.float32)


# --- tumour --------------------------------------------------------------------------------------------------------


class Lobes(NamedTuple):
    """A function of direction: 1 plus bumps and dents."""

    directions: NDArray[np.float32]
    sizes: NDArray[np.float32]
    sharpness: float

    @classmethod
    def draw(cls, rng: np.random.Generator, num: int, size: float, sharpness: float) -> Lobes:
        """Draw ``num`` lobes, of which a third are dents on average."""
        directions = rng.standard_normal((num, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        sizes = size * rng.uniform(0.4, 1.0, num) * rng.choice((1.0, 1.0, -0.7), num)
        return cls(directions.astype(np.float32), sizes.astype(np.float32), sharpness)

    def __call__(self, unit: tuple[Float, Float, Float]) -> Float:
        """Return the radius along unit vectors, relative to the radius without lobes."""
        radius = np.ones(np.broadcast_shapes(*(axis.shape for axis in unit)), dtype=np.float32)
        for direction, size in zip(self.directions, self.sizes, strict=True):
            along = unit[0] * direction[0] + unit[1] * direction[1] + unit[2] * direction[2]
            radius += size * np.exp(self.sharpness * (along - 1))
        return np.clip(radius, 0.35, 2.0)
