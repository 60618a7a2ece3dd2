"""The tumour of a phantom: site, shape, necrotic core, oedema."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from menvae.data.phantom.anatomy import Anatomy
from menvae.data.phantom.distributions import ROW, SITES, draw_value
from menvae.data.phantom.shapes import Float, Lobes, Point, Waves, norm, occupancy

_OEDEMA_REACH_MM: Final = ROW["oedema_reach"].values[0]


@dataclass(frozen=True)
class PhantomVisit:
    """One of several visits of a patient.

    Attributes:
        number: 0 for the first. Contrasts of healthy tissue, gain, bias field and noise are drawn per visit.
        tumour_mm3: volume of enhancing tumour and necrotic core, replacing the drawn volume.
        first_mm3: the same at the first visit; decides, once per patient, how likely oedema is.
    """

    number: int
    tumour_mm3: float
    first_mm3: float


class Tumour:
    """A meningioma on the dura: an enhancing body, optionally with a necrotic core and oedema in the brain around it.

    Each part is a level set of a field. The levels are fitted on a separate small grid, so that the drawn volumes are
    reached at any image spacing.

    Attributes:
        factors: group -> what was drawn: logarithms of volumes in mm^3 and of ratios, place in mm from the centre of
            the box, and the core as a share of the tumour.
    """

    _GRID = 25  # points along each axis of that grid

    def __init__(self, rng: np.random.Generator, anatomy: Anatomy, visit: PhantomVisit | None = None) -> None:
        self._anatomy = anatomy
        attachment, inward = _site(rng, anatomy)
        self._falx_side = float(inward[0]) if attachment[1] else 0.0
        volume_mm3 = deciding_mm3 = 1000.0 * draw_value(rng, "tumour_volume")
        if visit is not None:
            volume_mm3, deciding_mm3 = visit.tumour_mm3, visit.first_mm3
        height, elongation = draw_value(rng, "tumour_height_ratio"), draw_value(rng, "tumour_elongation")
        ratios = np.array([height, math.sqrt(elongation), 1 / math.sqrt(elongation)])
        ratios /= np.prod(ratios) ** (1 / 3)
        # 1.25: lobes add about as much as the dura cuts off; the level set below corrects the rest
        self._radii = (ratios * (1.25 * volume_mm3 * 3 / (4 * math.pi)) ** (1 / 3)).tolist()
        self._frame = _frame(rng, inward).tolist()  # rows: inward, and two directions along the dura
        self._centre = (attachment[0] + inward * self._radii[0] * draw_value(rng, "tumour_seat")).tolist()
        lobe_size, sharpness = draw_value(rng, "tumour_lobe_size"), draw_value(rng, "tumour_lobe_sharpness")
        self._lobes = Lobes.draw(rng, 7, lobe_size, sharpness)
        self._overshoot_mm = draw_value(rng, "dural_overshoot")
        self._draw_core(rng)
        self._has_oedema = draw_value(rng, "oedema_present", covariate=deciding_mm3 / 1000.0) > 0
        oedema_mm3 = volume_mm3 * draw_value(rng, "oedema_index")
        self._irregularity = draw_value(rng, "oedema_irregularity")
        self._fingers = Lobes.draw(rng, 6, 2.0 * self._irregularity, 6.0)
        self._front = Waves.draw(rng, 3, 14.0, 30.0)
        x, y, z = self._centre
        self.factors = {
            "volume": {
                "tumour": math.log(volume_mm3),
                "oedema": math.log1p(oedema_mm3) if self._has_oedema else 0.0,
                "core": self._core_fraction if self._has_core else 0.0,
            },
            "place": {"x": x, "y": y, "z": z},
            "shape": {"height": math.log(height), "elongation": math.log(elongation), "lobes": lobe_size},
        }

        self._level, self._core_level, self._oedema_level_mm = 1.0, 0.0, 0.0
        self._set_levels(volume_mm3)
        self._reach_mm = max(self._radii) * self._level * 2.2
        if self._has_oedema:
            self._set_oedema_level(oedema_mm3)

    def _draw_core(self, rng: np.random.Generator) -> None:
        self._has_core = draw_value(rng, "necrosis_present") > 0
        self._core_fraction = draw_value(rng, "necrosis_fraction")
        ratios = np.array([draw_value(rng, "necrosis_elongation") for _ in range(3)])
        self._core_ratios = (ratios / np.prod(ratios) ** (1 / 3)).tolist()
        self._core_offset = rng.uniform(-0.35, 0.35, 3).tolist()
        self._core_lobes = Lobes.draw(rng, 5, draw_value(rng, "necrosis_lobe_size"), 4.0)

    # the three fields

    def _offset(self, x: Float, y: Float, z: Float) -> list[Float]:
        """Coordinates relative to the tumour's centre, mm."""
        return [axis - middle for axis, middle in zip((x, y, z), self._centre, strict=True)]

    def _local(self, x: Float, y: Float, z: Float) -> tuple[list[Float], Float]:
        """Coordinates along the tumour's axes in units of its radii, and their norm."""
        first, second, third = self._offset(x, y, z)
        local = [
            first * (along[0] / radius) + second * (along[1] / radius) + third * (along[2] / radius)
            for along, radius in zip(self._frame, self._radii, strict=True)
        ]
        return local, np.maximum(norm(*local), 1e-3)

    def _relative_radius(self, local: list[Float], length: Float) -> Float:
        """Radius relative to the drawn surface, before the level is fitted and the dura cuts."""
        radius = self._lobes((local[0] / length, local[1] / length, local[2] / length))
        relative: Float = length / radius
        return relative

    def _outside_dura_mm(self, x: Float, y: Float, surface_mm: Float) -> Float:
        """Signed distance beyond the dura or falx in mm; positive where the tumour cannot grow."""
        beyond = surface_mm - self._overshoot_mm
        if self._falx_side:
            beyond = np.maximum(beyond, -self._falx_side * (x - self._anatomy.shift_mm[0]) - 1)
        return beyond

    def _core_field(self, local: list[Float]) -> Float:
        """Field in tumour radii whose level sets are the candidates for the necrotic core."""
        place = [
            (axis - offset) / ratio
            for axis, offset, ratio in zip(local, self._core_offset, self._core_ratios, strict=True)
        ]
        length = np.maximum(norm(*place), 1e-3)
        field: Float = length / self._core_lobes((place[0] / length, place[1] / length, place[2] / length))
        return field

    def _oedema_field_mm(self, x: Float, y: Float, z: Float, body_mm: Float, surface_mm: Float) -> Float:
        """Effective distance of oedema from the tumour, mm; cortex and midline lengthen it, white matter does not."""
        offset = self._offset(x, y, z)
        length = np.maximum(norm(*offset), 1.0)
        speed = self._fingers((offset[0] / length, offset[1] / length, offset[2] / length))
        field = np.maximum(body_mm, 0.0) / speed
        field += (2.0 * self._irregularity) * self._front(x, y, z)
        field += np.clip(4 + surface_mm, 0.0, 4.0) * 1.5
        middle = self._anatomy.shift_mm[0]
        across = math.copysign(1.0, middle - self._centre[0]) * (x - middle)
        field += np.clip(across, 0.0, 6.0) * 3.0
        ventricles_mm = self._anatomy.ventricles_mm(*self._anatomy.to_average(x, y, z))
        field = np.maximum(field, 20 * (body_mm - _OEDEMA_REACH_MM))
        blocked: Float = np.maximum(np.maximum(field, 60 + 60 * surface_mm), 30 - 30 * ventricles_mm)
        return blocked

    # levels and voxels

    def _body_mm(self, local: list[Float], length: Float, x: Float, y: Float, z: Float) -> Float:
        """Signed distance to the body along the ray from its centre, mm, before the dura cuts."""
        relative = self._relative_radius(local, length)
        return norm(*self._offset(x, y, z)) * (1 - self._level / np.maximum(relative, 1e-3))

    def _set_levels(self, volume_mm3: float) -> None:
        line = np.linspace(-1.9, 1.9, self._GRID)
        cell_mm3 = (line[1] - line[0]) ** 3 * math.prod(self._radii)
        local = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
        scaled = local * self._radii
        x, y, z = (
            (scaled * [along[axis] for along in self._frame]).sum(axis=1).astype(np.float32) + self._centre[axis]
            for axis in range(3)
        )
        columns = list(local.T.astype(np.float32))
        length = np.maximum(norm(*columns), 1e-3)
        relative = self._relative_radius(columns, length)
        beyond_mm = self._outside_dura_mm(x, y, self._anatomy.surface_mm(x, y, z))
        self._level = _level_at(relative[beyond_mm < 0], volume_mm3 / cell_mm3, highest=1.8)
        if self._has_core:
            rim = (relative < 0.85 * self._level) & (beyond_mm < -2.0)
            wanted = max(self._core_fraction * volume_mm3, 100.0) / cell_mm3
            self._core_level = _level_at(self._core_field(columns)[rim], wanted, highest=1.5)

    def _set_oedema_level(self, oedema_mm3: float) -> None:
        half_mm = self._reach_mm + 0.75 * _OEDEMA_REACH_MM
        lines = [np.linspace(middle - half_mm, middle + half_mm, self._GRID) for middle in self._centre]
        cell_mm3 = math.prod(float(line[1] - line[0]) for line in lines)
        grid = np.meshgrid(*(line.astype(np.float32) for line in lines), indexing="ij")
        x, y, z = (axis.ravel() for axis in grid)
        surface_mm = self._anatomy.surface_mm(x, y, z)
        local, length = self._local(x, y, z)
        body_mm = self._body_mm(local, length, x, y, z)
        field = self._oedema_field_mm(x, y, z, body_mm, surface_mm)
        self._oedema_level_mm = _level_at(field[body_mm > 0], oedema_mm3 / cell_mm3, highest=_OEDEMA_REACH_MM)

    def near(self, x: Float, y: Float, z: Float) -> NDArray[np.intp]:
        """Indices of the points that the tumour or its oedema may reach."""
        reach_mm = (
            self._reach_mm + (min(2 * self._oedema_level_mm, _OEDEMA_REACH_MM) if self._has_oedema else 0.0) + 6.0
        )
        inside = np.ones(x.shape, dtype=bool)
        for axis, centre in zip((x, y, z), self._centre, strict=True):
            inside &= np.abs(axis - centre) < reach_mm
        return np.flatnonzero(inside)

    def shares(self, x: Float, y: Float, z: Float, step_mm: float) -> tuple[Float, Float, Float]:
        """Occupancy of voxels of size ``step_mm`` by necrotic core, enhancing tumour and oedema."""
        surface_mm = self._anatomy.surface_mm(x, y, z)
        local, length = self._local(x, y, z)
        body_mm = self._body_mm(local, length, x, y, z)
        body = occupancy(np.maximum(body_mm, self._outside_dura_mm(x, y, surface_mm)), step_mm)
        core = np.zeros_like(body)
        if self._has_core:
            radius_mm = math.prod(self._radii) ** (1 / 3)
            core_mm = (self._core_field(local) - self._core_level) * radius_mm
            rim_mm = np.maximum(body_mm, self._outside_dura_mm(x, y, surface_mm)) + 2.0
            core = body * occupancy(np.maximum(core_mm, rim_mm), step_mm)
        oedema = np.zeros_like(body)
        if self._has_oedema:
            field_mm = self._oedema_field_mm(x, y, z, body_mm, surface_mm)
            oedema = (1 - body) * occupancy(field_mm - self._oedema_level_mm, step_mm)
        return core, body - core, oedema


def _level_at(field: Float, wanted: float, highest: float) -> float:
    """Level below which `wanted` cells of a sampled field lie, interpolated; never above `highest`."""
    if wanted >= len(field):
        return highest
    ordered = np.sort(field)
    return min(highest, float(np.interp(wanted, np.arange(len(ordered)) + 0.5, ordered)))


def _frame(rng: np.random.Generator, inward: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an orthonormal frame [3, 3] with first row `inward`, randomly rotated about it."""
    along = np.cross(inward, rng.standard_normal(3))
    along /= np.linalg.norm(along)
    return np.stack([inward, along, np.cross(inward, along)])


def _site(rng: np.random.Generator, anatomy: Anatomy) -> tuple[tuple[NDArray[np.float64], bool], NDArray[np.float64]]:
    """Draw the attachment (point in mm, whether it is on the falx) and the direction into the brain."""
    name = SITES[int(draw_value(rng, "site"))]
    side = float(rng.choice((-1.0, 1.0)))
    spread = rng.uniform(-1.0, 1.0, 3)
    if name == "falx":
        angle = math.radians(70 + 65 * spread[0])  # from the front over the top to the back
        reach = 0.75 + 0.13 * spread[1]
        point = anatomy.to_head((0.0, 2 + 80 * reach * math.cos(angle), 8 + 60 * reach * math.sin(angle)))
        return (point, True), np.array([side, 0.0, 0.0])
    angle = math.radians(90 + 80 * spread[0])
    aims: dict[str, Point] = {  # mm in the average head; the ray from the middle through it meets the dura
        "convexity": (side * (42 + 24 * spread[2]), 75 * math.cos(angle), 10 + 45 * (0.5 + 0.5 * spread[1])),
        "parasagittal": (side * (9 + 5 * spread[2]), 85 * math.cos(angle), 10 + 60 * math.sin(angle)),
        "sphenoid_wing": (side * (40 + 16 * spread[0]), 42 + 10 * spread[1], -28 + 8 * spread[2]),
        "olfactory_groove": (10 * spread[0], 48 + 12 * spread[1], -24 + 3 * spread[2]),
        "suprasellar": (8 * spread[0], 16 + 8 * spread[1], -24 + 2 * spread[2]),
        "posterior_fossa": (side * (30 + 18 * spread[0]), -48 + 22 * spread[1], -42 + 14 * spread[2]),
    }
    middle = anatomy.to_head((0.0, -40.0, -25.0) if name == "posterior_fossa" else (0.0, 5.0, 5.0))
    ray = anatomy.to_head(aims[name]) - middle
    ray /= np.linalg.norm(ray)
    distances = np.linspace(2.0, 120.0, 237)
    places = (middle + distances[:, None] * ray).astype(np.float32)
    surface_mm = anatomy.surface_mm(places[:, 0], places[:, 1], places[:, 2])
    point = middle + distances[int(np.argmax(surface_mm > 0))] * ray
    steps = np.concatenate([point + 2.0 * np.eye(3), point - 2.0 * np.eye(3)]).astype(np.float32)
    around = anatomy.surface_mm(steps[:, 0], steps[:, 1], steps[:, 2]).astype(np.float64)
    inward = around[3:] - around[:3]
    return (point, False), inward / np.linalg.norm(inward)
