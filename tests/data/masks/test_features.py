"""Closed forms and invariances of the mask features."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.special import elliprg
from skimage.measure import marching_cubes

from menvae.data.masks.features import (
    ED,
    ET,
    FEATURES,
    LOCATION_FEATURES,
    NCR,
    SHAPE_FEATURES,
    VOLUME_FEATURES,
    bounding_box,
    mask_features,
)
from menvae.statistics.mesh import mesh_hull_volume, mesh_volume_and_area

Spacing = tuple[float, float, float]

DIGITAL_AREA_BIAS = 1.087  # marching cubes on a binary, isotropic, well resolved ball


def ellipsoid(
    shape: tuple[int, int, int], centre_mm: Spacing, radii_mm: Spacing, spacing_mm: Spacing = (1.0, 1.0, 1.0)
) -> NDArray[np.uint8]:
    axes = [
        ((np.arange(n) + 0.5) * step - centre) / radius
        for n, step, centre, radius in zip(shape, spacing_mm, centre_mm, radii_mm, strict=True)
    ]
    squared = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    return (squared <= 1.0).astype(np.uint8) * ET


def values(mask: NDArray[np.uint8], spacing_mm: Spacing = (1.0, 1.0, 1.0)) -> dict[str, float]:
    """The features that are present."""
    return {name: value for name, value in mask_features(mask, spacing_mm).items() if value is not None}


def check_ranges(found: dict[str, float]) -> None:
    assert all(math.isfinite(value) for value in found.values())
    for name in ("loc_x", "loc_y", "loc_z", "sphericity_total", "solidity_total"):
        assert 0.0 < found[name] <= 1.0, name
    assert 0.0 < found.get("sphericity_ncr", 1.0) <= 1.0
    assert found["aspect_xy_total"] > 0.0


def test_names_and_order() -> None:
    assert FEATURES == VOLUME_FEATURES + LOCATION_FEATURES + SHAPE_FEATURES
    assert len(set(FEATURES)) == len(FEATURES) == 13
    assert tuple(mask_features(np.ones((2, 2, 2), dtype=np.uint8), (1.0, 1.0, 1.0))) == FEATURES


def test_empty_mask_observes_nothing() -> None:
    found = mask_features(np.zeros((4, 5, 6), dtype=np.uint8), (1.0, 1.0, 1.0))
    assert found == dict.fromkeys(FEATURES)


@pytest.mark.parametrize("missing", [NCR, ED, ET])
def test_missing_region_is_none_and_not_zero(missing: int) -> None:
    mask = np.zeros((9, 9, 9), dtype=np.uint8)
    for label in {NCR, ED, ET} - {missing}:
        mask[2:6, 2:6, 2 * label : 2 * label + 2] = label
    found = mask_features(mask, (1.0, 1.0, 1.0))
    absent = {name for name, value in found.items() if value is None}
    assert (
        absent
        == {
            NCR: {"vol_ncr", "sphericity_ncr", "surface_area_ncr"},
            ED: {"vol_ed"},
            ET: {"vol_et"},
        }[missing]
    )


@pytest.mark.parametrize("radius_mm", [8.0, 15.0, 20.0])
def test_ball(radius_mm: float) -> None:
    found = values(ellipsoid((48, 48, 48), (24.0, 24.0, 24.0), (radius_mm,) * 3))
    volume_mm3, area_mm2 = 4 / 3 * math.pi * radius_mm**3, 4 * math.pi * radius_mm**2
    assert math.expm1(found["vol_total"]) == pytest.approx(volume_mm3, rel=0.02)
    assert math.expm1(found["surface_area_total"]) == pytest.approx(area_mm2 * DIGITAL_AREA_BIAS, rel=0.03)
    assert found["sphericity_total"] == pytest.approx(1 / DIGITAL_AREA_BIAS, rel=0.03)
    assert found["solidity_total"] > 0.92
    assert found["aspect_xy_total"] == 1.0
    assert [found[name] for name in LOCATION_FEATURES] == pytest.approx([0.5, 0.5, 0.5])


def test_ball_at_anisotropic_spacing() -> None:
    spacing_mm = (1.0, 1.0, 3.0)
    found = values(ellipsoid((48, 48, 16), (24.0, 24.0, 24.0), (20.0,) * 3, spacing_mm), spacing_mm)
    assert math.expm1(found["vol_total"]) == pytest.approx(4 / 3 * math.pi * 20.0**3, rel=0.03)
    # the staircase of thick slices adds area: +8.7 % becomes +12 to +20 %
    assert 1.10 < math.expm1(found["surface_area_total"]) / (4 * math.pi * 20.0**2) < 1.22
    assert found["aspect_xy_total"] == 1.0
    assert found["loc_z"] == pytest.approx(0.5)


def test_ellipsoid() -> None:
    a, b, c = 20.0, 10.0, 14.0
    found = values(ellipsoid((48, 48, 48), (22.0, 26.0, 20.0), (a, b, c)))
    exponent = 1.6075  # Thomsen's formula, within 1.1 % of the elliptic integral
    area_mm2 = 4 * math.pi * (((a * b) ** exponent + (a * c) ** exponent + (b * c) ** exponent) / 3) ** (1 / exponent)
    volume_mm3 = 4 / 3 * math.pi * a * b * c
    assert math.expm1(found["vol_total"]) == pytest.approx(volume_mm3, rel=0.02)
    assert math.expm1(found["surface_area_total"]) == pytest.approx(area_mm2 * DIGITAL_AREA_BIAS, rel=0.03)
    smooth_sphericity = (36 * math.pi * volume_mm3**2) ** (1 / 3) / area_mm2
    assert found["sphericity_total"] == pytest.approx(smooth_sphericity / DIGITAL_AREA_BIAS, rel=0.03)
    assert found["solidity_total"] > 0.94
    assert found["aspect_xy_total"] == pytest.approx(2.0, rel=0.05)
    assert [found[name] for name in LOCATION_FEATURES] == pytest.approx([22 / 48, 26 / 48, 20 / 48], abs=1e-3)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 1.25, 3.0)])
def test_box(spacing_mm: Spacing) -> None:
    mask = np.zeros((40, 40, 40), dtype=np.uint8)
    mask[4:34, 10:30, 8:33] = ED
    found = values(mask, spacing_mm)
    edges = [n * step for n, step in zip((30, 20, 25), spacing_mm, strict=True)]
    area_mm2 = 2 * (edges[0] * edges[1] + edges[0] * edges[2] + edges[1] * edges[2])
    assert math.expm1(found["vol_ed"]) == pytest.approx(math.prod(edges))  # exact: voxels are counted
    assert math.expm1(found["surface_area_total"]) == pytest.approx(area_mm2, rel=0.04)  # bevelled edges only
    assert found["solidity_total"] > 0.999
    assert found["aspect_xy_total"] == pytest.approx(edges[0] / edges[1])
    assert (found["loc_x"], found["loc_y"], found["loc_z"]) == pytest.approx((19 / 40, 20 / 40, 20.5 / 40))


def test_l_shape_has_the_solidity_of_its_hull() -> None:
    mask = np.zeros((50, 50, 30), dtype=np.uint8)
    mask[5:45, 5:45, 5:25] = ET
    mask[25:45, 25:45, :] = 0  # three quarters of the square remain, the hull has seven eighths
    assert values(mask)["solidity_total"] == pytest.approx(6 / 7, abs=0.01)


def test_single_voxel() -> None:
    mask = np.zeros((5, 5, 5), dtype=np.uint8)
    mask[1, 2, 3] = NCR
    found = values(mask)
    check_ranges(found)
    # marching cubes draws an octahedron of half-axis 1/2: V = 1/6, A = sqrt(3)
    assert math.expm1(found["surface_area_total"]) == pytest.approx(math.sqrt(3.0), rel=1e-5)
    octahedron = (36 * math.pi / 36) ** (1 / 3) / math.sqrt(3.0)
    assert found["sphericity_total"] == found["sphericity_ncr"] == pytest.approx(octahedron, rel=1e-5)
    assert found["solidity_total"] == pytest.approx(1.0)
    assert math.expm1(found["vol_ncr"]) == pytest.approx(1.0)
    assert (found["loc_x"], found["loc_y"], found["loc_z"]) == pytest.approx((0.3, 0.5, 0.7))


def test_tumour_cut_by_the_border_has_a_closed_mesh() -> None:
    found = values(ellipsoid((24, 48, 48), (0.0, 24.0, 24.0), (20.0,) * 3))
    check_ranges(found)
    half_ball_area_mm2 = 2 * math.pi * 20.0**2 * DIGITAL_AREA_BIAS + math.pi * 20.0**2
    assert math.expm1(found["surface_area_total"]) == pytest.approx(half_ball_area_mm2, rel=0.03)
    assert values(np.full((4, 5, 6), ET, dtype=np.uint8))["solidity_total"] > 0.99


def test_hollow_ball_counts_both_surfaces() -> None:
    outer, inner = (ellipsoid((48, 48, 48), (24.0,) * 3, (radius,) * 3) for radius in (20.0, 10.0))
    found = values(np.where(inner > 0, 0, outer).astype(np.uint8))
    check_ranges(found)
    area_mm2 = 4 * math.pi * (20.0**2 + 10.0**2) * DIGITAL_AREA_BIAS
    assert math.expm1(found["surface_area_total"]) == pytest.approx(area_mm2, rel=0.02)
    assert found["solidity_total"] == pytest.approx(1 - 0.5**3, abs=0.04)


def test_two_components() -> None:
    mask = ellipsoid((80, 40, 40), (18.0, 20.0, 20.0), (12.0,) * 3)
    mask += ellipsoid((80, 40, 40), (62.0, 20.0, 20.0), (12.0,) * 3)
    found = values(mask)
    check_ranges(found)
    assert found["loc_x"] == pytest.approx(0.5)
    assert found["sphericity_total"] == pytest.approx(2 ** (-1 / 3) / DIGITAL_AREA_BIAS, rel=0.03)
    assert found["solidity_total"] < 0.7


def test_necrotic_core_is_measured_by_itself() -> None:
    mask = ellipsoid((48, 48, 48), (24.0,) * 3, (20.0,) * 3)
    mask[ellipsoid((48, 48, 48), (24.0,) * 3, (9.0,) * 3) > 0] = NCR
    found = values(mask)
    assert math.expm1(found["vol_ncr"]) == pytest.approx(4 / 3 * math.pi * 9.0**3, rel=0.03)
    assert math.expm1(found["surface_area_ncr"]) == pytest.approx(4 * math.pi * 81.0 * DIGITAL_AREA_BIAS, rel=0.03)
    assert found["sphericity_ncr"] == pytest.approx(found["sphericity_total"], rel=0.02)
    total_mm3 = math.expm1(found["vol_total"])
    assert total_mm3 == pytest.approx(math.expm1(found["vol_ncr"]) + math.expm1(found["vol_et"]))


def random_tumour(seed: int, edge: int = 14) -> NDArray[np.uint8]:
    """A random blob with all three labels, away from the border of its box."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(edge,) * 3), 1.5)
    mask = np.digitize(field, np.quantile(field, (0.7, 0.8, 0.9))).astype(np.uint8)
    mask[edge // 2, edge // 2, edge // 2 : edge // 2 + 3] = (NCR, ED, ET)
    return mask


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.tuples(*[st.integers(0, 6)] * 3))
@settings(max_examples=25, deadline=None)
def test_translation_moves_only_the_location(seed: int, shift: tuple[int, int, int]) -> None:
    tumour = random_tumour(seed)
    still, moved = np.zeros((2, 20, 20, 20), dtype=np.uint8)
    still[:14, :14, :14] = tumour
    moved[tuple(slice(step, step + 14) for step in shift)] = tumour
    before, after = values(still), values(moved)
    check_ranges(after)
    for name in FEATURES:
        axis = {"loc_x": 0, "loc_y": 1, "loc_z": 2}.get(name)
        expected = before[name] + (shift[axis] / 20 if axis is not None else 0.0)
        assert after[name] == pytest.approx(expected, rel=1e-5, abs=1e-6), name


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_quarter_turn_permutes_the_axes(seed: int) -> None:
    tumour = random_tumour(seed)
    before = values(tumour, (1.0, 1.5, 2.0))
    after = values(np.ascontiguousarray(np.rot90(tumour, axes=(0, 1))), (1.5, 1.0, 2.0))
    # the mesh itself may differ in a few ambiguous configurations of the voxels, by well under 1 %
    for name in (*VOLUME_FEATURES, "surface_area_total", "solidity_total", "sphericity_total", "sphericity_ncr"):
        assert after[name] == pytest.approx(before[name], rel=0.01), name
    assert after["aspect_xy_total"] == pytest.approx(1 / before["aspect_xy_total"])
    assert after["loc_x"] == pytest.approx(1 - before["loc_y"])
    assert after["loc_y"] == pytest.approx(before["loc_x"])
    assert after["loc_z"] == pytest.approx(before["loc_z"])


@given(seeds, st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3))
@settings(max_examples=25, deadline=None)
def test_axes_in_another_order_or_direction_take_their_locations_along(
    seed: int, order: list[int], mirrored: tuple[bool, bool, bool]
) -> None:
    tumour, spacing_mm = random_tumour(seed), (1.0, 1.5, 2.0)
    directions = tuple(slice(None, None, -1 if flip else 1) for flip in mirrored)
    turned = np.ascontiguousarray(tumour.transpose(order)[directions])
    before = values(tumour, spacing_mm)
    after = values(turned, (spacing_mm[order[0]], spacing_mm[order[1]], spacing_mm[order[2]]))
    for name in (*VOLUME_FEATURES, "surface_area_total", "solidity_total", "sphericity_total", "sphericity_ncr"):
        assert after[name] == pytest.approx(before[name], rel=0.01), name  # as for a quarter turn
    for new, old, flip in zip(LOCATION_FEATURES, order, mirrored, strict=True):
        place = before[LOCATION_FEATURES[old]]
        assert after[new] == pytest.approx(1 - place if flip else place, abs=1e-12), new


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_doubled_spacing_scales_volume_and_area_only(seed: int) -> None:
    tumour = random_tumour(seed)
    before, after = values(tumour, (1.0, 1.0, 2.0)), values(tumour, (2.0, 2.0, 4.0))
    for name in FEATURES:
        factor = 8.0 if name.startswith("vol") else 4.0 if name.startswith("surface") else None
        if factor is None:
            assert after[name] == pytest.approx(before[name], rel=1e-5), name
        else:
            assert math.expm1(after[name]) == pytest.approx(factor * math.expm1(before[name]), rel=1e-5), name


def test_bounding_box_is_the_one_of_argwhere() -> None:
    mask = np.zeros((7, 8, 9), dtype=np.uint8)
    assert bounding_box(mask) is None
    mask[1, 6, 2] = mask[5, 0, 8] = ED
    assert bounding_box(mask) == (slice(1, 6), slice(0, 7), slice(2, 9))


def test_refuses_what_it_cannot_measure() -> None:
    good = np.ones((3, 3, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="3 axes"):
        mask_features(good[0], (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="spacing_mm"):
        mask_features(good, (1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="label 4"):
        mask_features(good * 4, (1.0, 1.0, 1.0))


# --- the mesh that is never built -----------------------------------------------------------------------------------

SPACINGS_MM: tuple[Spacing, ...] = ((1.0, 1.0, 1.0), (0.47, 0.47, 5.0), (3.0, 1.1, 0.7))


def skimage_mesh(region: NDArray[np.bool_], spacing_mm: Spacing) -> tuple[float, float, float]:
    """Volume (divergence theorem), area and hull volume of the padded region's mesh, triangle by triangle."""
    padded = np.pad(region, 1).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(padded, level=0.5, spacing=spacing_mm)
    vertices = vertices.astype(np.float64)
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    volume_mm3 = abs(np.einsum("fi,fi->", a, normals)) / 6
    return volume_mm3, np.linalg.norm(normals, axis=1).sum() / 2, ConvexHull(vertices).volume


def check_mesh(region: NDArray[np.bool_], spacing_mm: Spacing) -> None:
    volume_mm3, area_mm2, hull_mm3 = skimage_mesh(region, spacing_mm)
    found_mm3, found_mm2 = mesh_volume_and_area(region, spacing_mm)
    assert found_mm3 == pytest.approx(volume_mm3, rel=1e-9)
    assert found_mm2 == pytest.approx(area_mm2, rel=1e-9)
    assert mesh_hull_volume(region) * math.prod(spacing_mm) == pytest.approx(hull_mm3, rel=1e-9)


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_each_configuration_has_the_mesh_of_skimage(spacing_mm: Spacing) -> None:
    for configuration in range(1, 256):
        check_mesh((configuration >> np.arange(8) & 1).astype(np.bool_).reshape(2, 2, 2), spacing_mm)


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_random_regions_have_the_mesh_of_skimage(spacing_mm: Spacing) -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        noise = rng.random(rng.integers(1, 9, 3)) < rng.uniform(0.02, 0.98)  # full of ambiguous configurations
        smooth = ndimage.gaussian_filter(rng.normal(size=rng.integers(4, 24, 3)), 1.5) > rng.uniform(-0.2, 0.1)
        for region in (noise, smooth):
            if region.any():
                check_mesh(region, spacing_mm)


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_features_are_those_of_the_mesh_of_skimage(spacing_mm: Spacing) -> None:
    for seed in range(10):
        mask = random_tumour(seed, edge=20)
        found = values(mask, spacing_mm)
        total_mm3, total_mm2, hull_mm3 = skimage_mesh(mask != 0, spacing_mm)
        core_mm3, core_mm2, _ = skimage_mesh(mask == NCR, spacing_mm)
        assert found["surface_area_total"] == pytest.approx(math.log(total_mm2 + 1), rel=1e-9)
        assert found["surface_area_ncr"] == pytest.approx(math.log(core_mm2 + 1), rel=1e-9)
        assert found["sphericity_total"] == pytest.approx((36 * math.pi * total_mm3**2) ** (1 / 3) / total_mm2)
        assert found["sphericity_ncr"] == pytest.approx((36 * math.pi * core_mm3**2) ** (1 / 3) / core_mm2)
        assert found["solidity_total"] == pytest.approx(total_mm3 / hull_mm3, rel=1e-9)


def test_hull_of_balls_with_many_voxels_in_one_plane() -> None:
    for radius in (6.0, 11.5, 23.0):
        ball = ellipsoid((48, 48, 48), (24.0,) * 3, (radius,) * 3) > 0  # symmetric: every facet holds many voxels
        check_mesh(ball, (1.0, 1.0, 1.0))
    check_mesh(np.ones((30, 20, 10), dtype=np.bool_), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "voxels",
    [
        [(0, 0, 0)],
        [(0, 0, 0), (5, 3, 2)],
        [(0, 0, 0), (2, 2, 2), (4, 4, 4), (6, 6, 6)],
        [(0, 0, 0), (6, 0, 0), (0, 6, 0), (5, 5, 0), (3, 3, 0)],
        [(6, 0, 0), (0, 6, 0), (0, 0, 6), (2, 2, 2), (4, 1, 1)],
        [(6, 0, 0), (0, 6, 0), (0, 0, 6), (2, 2, 2), (2, 2, 3)],
    ],
    ids=["point", "pair", "line", "plane across an axis", "slanted plane", "almost a plane"],
)
def test_hull_of_voxels_that_span_no_volume(voxels: list[tuple[int, int, int]]) -> None:
    region = np.zeros((7, 7, 7), dtype=np.bool_)
    region[tuple(np.transpose(voxels))] = True
    for spacing_mm in SPACINGS_MM:
        check_mesh(region, spacing_mm)


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_box_has_bevelled_edges_and_cut_corners(spacing_mm: Spacing) -> None:
    """A closed form of the mesh itself: faces half a voxel out, a bevel for each edge, a triangle for each corner."""
    shape = (7, 5, 4)
    (a, b, c), (da, db, dc) = ((n - 1) * step for n, step in zip(shape, spacing_mm, strict=True)), spacing_mm
    faces_mm2 = 2 * (a * b + b * c + a * c)
    bevels_mm2 = 2 * (a * math.hypot(db, dc) + b * math.hypot(da, dc) + c * math.hypot(da, db))
    corners_mm2 = math.sqrt((da * db) ** 2 + (db * dc) ** 2 + (da * dc) ** 2)
    volume_mm3 = a * b * c + (a * b * dc + b * c * da + a * c * db) + (a * db * dc + b * da * dc + c * da * db) / 2
    volume_mm3 += da * db * dc / 6
    region = np.ones(shape, dtype=np.bool_)
    found_mm3, found_mm2 = mesh_volume_and_area(region, spacing_mm)
    assert found_mm3 == pytest.approx(volume_mm3, rel=1e-12)
    assert found_mm2 == pytest.approx(faces_mm2 + bevels_mm2 + corners_mm2, rel=1e-12)
    assert mesh_hull_volume(region) * math.prod(spacing_mm) == pytest.approx(volume_mm3, rel=1e-12)  # it is convex


# Relative errors of features that the docstring of `mask_features` states, with some room: lowest, highest.
STATED_ERRORS: dict[Spacing, dict[str, tuple[float, float]]] = {
    (1.0, 1.0, 1.0): {
        "volume": (-0.015, 0.015),
        "area": (0.065, 0.095),
        "sphericity": (-0.09, -0.07),
        "solidity": (-0.07, -0.02),
    },
    (1.0, 1.0, 3.0): {
        "volume": (-0.025, 0.025),
        "area": (0.12, 0.20),
        "sphericity": (-0.18, -0.12),
        "solidity": (-0.18, -0.04),
    },
}


@pytest.mark.parametrize("spacing_mm", STATED_ERRORS)
@pytest.mark.parametrize("radii_mm", [(8.0,) * 3, (27.5,) * 3, (20.0, 10.0, 14.0), (12.0, 24.0, 8.0)])
def test_errors_against_closed_forms_are_the_stated_ones(radii_mm: Spacing, spacing_mm: Spacing) -> None:
    rng = np.random.default_rng(3)
    a, b, c = radii_mm
    volume_mm3 = 4 / 3 * math.pi * a * b * c
    area_mm2 = 4 * math.pi * elliprg((a * b) ** 2, (a * c) ** 2, (b * c) ** 2)
    smooth_sphericity = (36 * math.pi * volume_mm3**2) ** (1 / 3) / area_mm2
    shape = tuple(math.ceil(2 * radius / step) + 4 for radius, step in zip(radii_mm, spacing_mm, strict=True))
    for _ in range(4):
        centre = tuple((n / 2 + rng.uniform(-0.5, 0.5)) * step for n, step in zip(shape, spacing_mm, strict=True))
        found = values(ellipsoid(shape, centre, radii_mm, spacing_mm), spacing_mm)
        errors = {
            "volume": math.expm1(found["vol_total"]) / volume_mm3 - 1,
            "area": math.expm1(found["surface_area_total"]) / area_mm2 - 1,
            "sphericity": found["sphericity_total"] / smooth_sphericity - 1,
            "solidity": found["solidity_total"] - 1,
        }
        for name, (lowest, highest) in STATED_ERRORS[spacing_mm].items():
            assert lowest < errors[name] < highest, name
        assert abs(found["aspect_xy_total"] * b / a - 1) < spacing_mm[0] / (2 * a) + spacing_mm[1] / (2 * b)
        for axis, name in enumerate(LOCATION_FEATURES):
            assert abs(found[name] * shape[axis] - centre[axis] / spacing_mm[axis]) < 0.1, name


any_mask = arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, ET))
any_spacing = st.tuples(*[st.floats(0.2, 5.0)] * 3)


@given(any_mask, any_spacing)
@settings(max_examples=200, deadline=None)
def test_any_mask_stays_in_range(mask: NDArray[np.uint8], spacing_mm: Spacing) -> None:
    found = values(mask, spacing_mm)
    if not mask.any():
        assert found == {}
        return
    check_ranges(found)
    # the definitions themselves stay in range: no clipping but that of rounding
    volume_mm3, area_mm2 = mesh_volume_and_area(mask != 0, spacing_mm)
    assert 0.0 < volume_mm3 <= mesh_hull_volume(mask != 0) * math.prod(spacing_mm) * (1 + 1e-12)
    assert 36 * math.pi * volume_mm3**2 <= area_mm2**3


@given(any_mask, any_spacing)
@settings(max_examples=50, deadline=None)
def test_hull_turns_with_the_mask(mask: NDArray[np.uint8], spacing_mm: Spacing) -> None:
    region = mask != 0
    if not region.any():
        return
    hull = mesh_hull_volume(region)
    for turned in (np.rot90(region, axes=(0, 1)), np.rot90(region, axes=(1, 2)), region.transpose(2, 0, 1)[::-1]):
        assert mesh_hull_volume(turned) == pytest.approx(hull, rel=1e-12)


@given(seeds, st.permutations([NCR, ED, ET]))
@settings(max_examples=25, deadline=None)
def test_permuted_labels_permute_their_volumes(seed: int, labels: list[int]) -> None:
    tumour = random_tumour(seed)
    before = values(tumour)
    after = values(np.array([0, *labels], dtype=np.uint8)[tumour])
    names = {NCR: "vol_ncr", ED: "vol_ed", ET: "vol_et"}
    for old, new in zip((NCR, ED, ET), labels, strict=True):
        assert after[names[new]] == before[names[old]]
    for name in FEATURES:
        if name.endswith("_total") or name in LOCATION_FEATURES:
            assert after[name] == before[name], name
