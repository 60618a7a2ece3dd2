"""The healthy head: surface, ventricles, midline, tissues."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from menvae.data.phantom.distributions import draw_value
from menvae.data.phantom.shapes import Float, Point, Waves, ellipsoid_distance, occupancy, sheet_occupancy, smooth_union

# --- anatomy -------------------------------------------------------------------------------------------------------


class Tissues(NamedTuple):
    """Share of each tissue in every voxel, [N]; adding the tumour changes them in place."""

    white: Float
    grey: Float
    csf: Float
    ncr: Float
    oedema: Float
    enhancing: Float


class Anatomy:
    """A head without tumour: the envelope that skull stripping keeps, and the tissues in it."""

    # mm in the average head; |x| mirrors paired structures
    _CEREBRUM = ((0.0, 2.0, 12.0), (66.5, 84.0, 57.5))
    _TEMPORAL = ((39.0, 10.0, -22.0), (23.0, 41.0, 22.0))
    _CEREBELLUM = ((23.0, -49.0, -32.0), (30.0, 29.0, 24.0))
    _BRAINSTEM = ((0.0, -19.0, -42.0), (12.5, 13.5, 32.0))
    _BASE_Z = -22.0
    _AVERAGE_VOLUME_ML = 1460.0  # of this envelope at scale 1 (tested)
    _VENTRICLES = (
        ((9.0, 12.0, 15.0), (5.0, 24.0, 6.5)),
        ((20.0, -27.0, 9.0), (6.0, 18.0, 7.5)),
        ((0.0, -7.0, 3.0), (1.8, 13.0, 9.0)),
    )
    _DEEP_GREY = (
        ((10.5, -11.0, 5.0), (7.5, 13.0, 8.0)),
        ((26.0, 4.0, 3.0), (6.0, 17.0, 9.5)),
        ((15.5, 17.0, 13.0), (4.5, 13.0, 7.0)),
    )

    _FOLDS = Waves.draw(np.random.default_rng(20), 6, 18.0, 27.0)  # of the average cortex; zeros are the sulci

    def __init__(self, rng: np.random.Generator) -> None:
        scale = (draw_value(rng, "intracranial_volume") / self._AVERAGE_VOLUME_ML) ** (1 / 3)
        ratios = np.array([draw_value(rng, "head_axis_ratio") for _ in range(3)])
        ratios /= np.prod(ratios) ** (1 / 3)  # shape without size
        self.scale = [float(scale * ratio) for ratio in ratios]
        self.shift_mm = [draw_value(rng, "head_shift") for _ in range(3)]
        self.ventricle_scale = draw_value(rng, "ventricle_scale")
        self.cortex_mm = draw_value(rng, "cortex_thickness")
        self._relief_mm = draw_value(rng, "surface_relief")
        self._relief = Waves.draw(rng, 4, 35.0, 70.0)
        self._folds = self._FOLDS.shifted([draw_value(rng, "sulcus_shift") for _ in self._FOLDS.phases])
        self._fissure = Waves.draw(rng, 2, 60.0, 120.0)

    @property
    def factors(self) -> dict[str, float]:
        """What was drawn, apart from folds: sizes relative to the average head, and shift in mm."""
        axes = ("x", "y", "z")
        sizes = {f"size_{axis}": size for axis, size in zip(axes, self.scale, strict=True)}
        shifts = {f"shift_{axis}": shift for axis, shift in zip(axes, self.shift_mm, strict=True)}
        return {**sizes, **shifts, "ventricles": self.ventricle_scale, "cortex": self.cortex_mm}

    def to_average(self, x: Float, y: Float, z: Float) -> tuple[Float, Float, Float]:
        """Transform points of this head to coordinates of the average head, mm."""
        first, second, third = (
            (axis - shift) / scale for axis, shift, scale in zip((x, y, z), self.shift_mm, self.scale, strict=True)
        )
        return first, second, third

    def to_head(self, point: Point) -> NDArray[np.float64]:
        """Transform a point of the average head to coordinates of this head, mm."""
        return np.array(point) * self.scale + self.shift_mm

    def smooth_surface_mm(self, x: Float, y: Float, z: Float) -> Float:
        """Signed distance to the envelope without its relief: negative inside, mm of the average head."""
        x, y, z = self.to_average(x, y, z)
        side = np.abs(x)
        cerebrum = np.maximum(ellipsoid_distance(x, y, z, *self._CEREBRUM), self._BASE_Z - z)
        head = smooth_union(cerebrum, ellipsoid_distance(side, y, z, *self._TEMPORAL), 10.0)
        head = smooth_union(head, ellipsoid_distance(side, y, z, *self._CEREBELLUM), 6.0)
        return smooth_union(head, ellipsoid_distance(x, y, z, *self._BRAINSTEM), 8.0)

    def relief_mm(self, x: Float, y: Float, z: Float) -> Float:
        """Mild unevenness of the envelope, mm."""
        return self._relief(x, y, z) * self._relief_mm

    def surface_mm(self, x: Float, y: Float, z: Float) -> Float:
        """Signed distance to the envelope in mm, negative inside."""
        return self.smooth_surface_mm(x, y, z) + self.relief_mm(x, y, z)

    def ventricles_mm(self, x: Float, y: Float, z: Float) -> Float:
        """Signed distance to the ventricles in mm; takes points of the average head."""
        side = np.abs(x)
        scale = self.ventricle_scale
        parts = [
            ellipsoid_distance(side, y, z, centre, (radii[0] * scale, radii[1] * scale, radii[2] * scale))
            for centre, radii in self._VENTRICLES
        ]
        return smooth_union(smooth_union(parts[0], parts[1], 6.0), parts[2], 1.0)

    def midline_x(self, y: Float, z: Float) -> Float:
        """Position x of the falx, mm of the average head."""
        return self._fissure(np.zeros_like(y), y, z) * 0.8

    def tissues(self, x: Float, y: Float, z: Float, surface_mm: Float, step_mm: float) -> Tissues:
        """Shares of white matter, grey matter and CSF at points [N] of the head."""
        x, y, z = self.to_average(x, y, z)
        fold_field = self._folds(x, y, z)
        depth_mm = -surface_mm
        # zeros of the folding field are the sulci; its mean slope turns values into mm
        sulcus_mm = np.abs(fold_field) * (22.0 / (2 * math.pi))
        half_width_mm = np.clip(1.3 * (1 - depth_mm / 15), 0.0, 1.3)
        csf = sheet_occupancy(sulcus_mm, half_width_mm, step_mm)
        csf = np.maximum(csf, occupancy(depth_mm - 1.0, step_mm))
        callosum = ((y + 4) / 46) ** 2 + ((z - 4) / 25) ** 2  # the fissure stops at the corpus callosum
        between = np.abs(x - self.midline_x(y, z))
        open_fissure = occupancy((1 - callosum) * 12, step_mm) * (z > -20)
        csf = np.maximum(csf, sheet_occupancy(between, 1.1, step_mm) * open_fissure)
        csf = np.maximum(csf, occupancy(self.ventricles_mm(x, y, z), step_mm))

        cortex = self.cortex_mm
        grey = occupancy(depth_mm - cortex - 1.0, step_mm)
        banks = sheet_occupancy(sulcus_mm, cortex * 0.85, step_mm)
        grey = np.maximum(grey, banks * occupancy(depth_mm - 15.0, step_mm))
        medial = sheet_occupancy(between, cortex + 1, step_mm) * open_fissure
        grey = np.maximum(grey, medial)
        for centre, radii in self._DEEP_GREY:
            grey = np.maximum(grey, 0.8 * occupancy(ellipsoid_distance(np.abs(x), y, z, centre, radii), step_mm))
        grey = np.minimum(grey, 1 - csf)
        nothing = np.zeros((3, len(x)), dtype=np.float32)
        return Tissues(1 - csf - grey, grey, csf, nothing[0], nothing[1], nothing[2])
