"""Resampling: the geometry of MONAI, closed forms, and what must not change."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from late import Late
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from menvae.data.geometry.resampling import Resampling

monai_data, monai_transforms = Late("monai.data"), Late("monai.transforms")

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

SPACINGS: list[tuple[Shape, Triple, Triple]] = [
    ((12, 13, 14), (1.0, 1.0, 1.0), (1.25, 1.25, 1.25)),
    ((12, 13, 14), (1.0, 1.0, 1.0), (0.7, 1.3, 2.9)),
    ((9, 20, 7), (0.9375, 0.9375, 5.0), (1.0, 1.0, 1.0)),
    ((11, 6, 16), (2.0, 1.5, 1.0), (3.1, 0.6, 1.0)),
    ((5, 4, 3), (1.0, 2.0, 3.0), (40.0, 50.0, 60.0)),
]
SHAPES: list[tuple[Shape, Shape]] = [
    ((12, 13, 14), (7, 9, 20)),
    ((12, 13, 14), (12, 26, 5)),
    ((9, 20, 7), (16, 16, 16)),
    ((5, 4, 3), (1, 1, 1)),
]


def noise(shape: Shape) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(100.0, 50.0, shape).astype(np.float32)


def labels(shape: Shape) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 4, shape).astype(np.uint8)


def with_affine(volume: NDArray[Any], spacing_mm: Triple) -> Any:
    return monai_data.MetaTensor(
        torch.from_numpy(volume)[None], affine=torch.diag(torch.tensor([*spacing_mm, 1.0]).double())
    )


def monai_spacing(volume: NDArray[Any], old_mm: Triple, new_mm: Triple, mode: str) -> NDArray[Any]:
    spacing = monai_transforms.Spacing(new_mm, mode=mode, dtype=torch.float64)
    return np.asarray(spacing(with_affine(volume, old_mm)))[0]


def monai_resize(volume: NDArray[Any], shape: Shape, mode: str) -> NDArray[Any]:
    corners = False if mode == "trilinear" else None
    resize = monai_transforms.Resize(shape, mode=mode, align_corners=corners, dtype=torch.float64)
    return np.asarray(resize(torch.from_numpy(volume)[None]))[0]


def without_ties(resampling: Resampling) -> tuple[NDArray[np.intp], ...]:
    """Indices of new voxels whose centres are not halfway between two old ones, for each axis."""
    places = [
        first + step * np.arange(side)
        for first, step, side in zip(resampling.first, resampling.step, resampling.shape, strict=True)
    ]
    return np.ix_(*(np.flatnonzero(np.abs(place % 1 - 0.5) > 1e-6) for place in places))


@pytest.mark.parametrize(("shape", "old_mm", "new_mm"), SPACINGS, ids=str)
def test_another_spacing_gives_the_images_of_monai(shape: Shape, old_mm: Triple, new_mm: Triple) -> None:
    resampling = Resampling.to_spacing(shape, old_mm, new_mm)
    expected = monai_spacing(noise(shape), old_mm, new_mm, "bilinear")
    found = resampling.linear(noise(shape))
    assert found.dtype == np.float32
    assert found.shape == resampling.shape == expected.shape
    assert resampling.spacing_mm == new_mm
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)  # of values around 100


@pytest.mark.parametrize(("shape", "old_mm", "new_mm"), SPACINGS, ids=str)
def test_another_spacing_gives_the_masks_of_monai_but_for_ties(shape: Shape, old_mm: Triple, new_mm: Triple) -> None:
    resampling = Resampling.to_spacing(shape, old_mm, new_mm)
    expected = monai_spacing(labels(shape), old_mm, new_mm, "nearest")
    found = resampling.nearest(labels(shape))
    assert (found.dtype, found.shape) == (np.uint8, expected.shape)
    decided = without_ties(resampling)
    assert found[decided].size > 0
    np.testing.assert_array_equal(found[decided], expected[decided])


@pytest.mark.parametrize(("old", "new"), SHAPES, ids=str)
def test_another_shape_gives_the_images_of_monai(old: Shape, new: Shape) -> None:
    found = Resampling.to_shape(old, (1.0, 2.0, 0.5), new).linear(noise(old))
    assert (found.dtype, found.shape) == (np.float32, new)
    np.testing.assert_allclose(found, monai_resize(noise(old), new, "trilinear"), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("old", "new"), SHAPES, ids=str)
def test_another_shape_gives_the_masks_of_monai_but_for_ties(old: Shape, new: Shape) -> None:
    resampling = Resampling.to_shape(old, (1.0, 2.0, 0.5), new)
    found, expected = resampling.nearest(labels(old)), monai_resize(labels(old), new, "nearest-exact")
    np.testing.assert_array_equal(found[without_ties(resampling)], expected[without_ties(resampling)])
    assert resampling.spacing_mm == pytest.approx(
        [side * mm / fewer for side, mm, fewer in zip(old, (1.0, 2.0, 0.5), new, strict=True)]
    )


def test_of_two_voxels_equally_near_that_of_the_even_index_is_taken() -> None:
    resampling = Resampling.to_spacing((8, 1, 1), (1.0, 1.0, 1.0), (0.5, 1.0, 1.0))
    taken = resampling.nearest(np.arange(8)[:, None, None])[:, 0, 0]
    assert taken.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7]


def ramp(places: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    x, y, z = np.meshgrid(*places, indexing="ij")
    return 3.0 + 0.5 * x - 2.0 * y + 0.25 * z


def centres(first_mm: float, spacing_mm: float, num: int) -> NDArray[np.float64]:
    return first_mm + spacing_mm * np.arange(num)


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", ">i2", ">f4"])
def test_a_ramp_stays_the_same_ramp(kind: str) -> None:
    """In millimetres: the first centre stays where it is, and linear interpolation of a linear function is exact."""
    old_mm, new_mm = (2.0, 4.0, 8.0), (1.5, 2.5, 3.5)
    volume = ramp([centres(0.0, step, num) for step, num in zip(old_mm, (9, 8, 7), strict=True)]).astype(kind)
    resampling = Resampling.to_spacing((9, 8, 7), old_mm, new_mm)
    found = resampling.linear(np.asfortranarray(volume))
    places = [centres(0.0, step, num) for step, num in zip(new_mm, found.shape, strict=True)]
    inside = tuple(
        slice(int(np.sum(place <= step * (num - 1))))
        for place, step, num in zip(places, old_mm, (9, 8, 7), strict=True)
    )
    np.testing.assert_allclose(found[inside], ramp(places)[inside], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("new_mm", [1.1, 0.7, 0.3, 2.3])
def test_zeros_stay_zero_where_centres_lie_on_one_another(new_mm: float) -> None:
    """Every tenth new voxel does, but 1.1 * 30 is not quite 33 in binary numbers."""
    volume = np.zeros((240, 1, 1), np.int16)
    volume[::2] = 900
    found = Resampling.to_spacing((240, 1, 1), (1.0,) * 3, (new_mm, 1.0, 1.0)).linear(volume)[:, 0, 0]
    for place in range(0, len(found), 10):
        old = round(new_mm * place)
        assert found[place] == pytest.approx(volume[old, 0, 0], abs=1e-9)
        assert (found[place] == 0) == (volume[old, 0, 0] == 0)


def test_a_ramp_in_another_number_of_voxels_keeps_the_outer_edges() -> None:
    old, new, old_mm = (9, 8, 7), (5, 13, 7), (2.0, 4.0, 8.0)
    new_mm = [side * mm / num for side, mm, num in zip(old, old_mm, new, strict=True)]
    volume = ramp([centres(mm / 2, mm, num) for mm, num in zip(old_mm, old, strict=True)])
    found = Resampling.to_shape(old, old_mm, new).linear(volume)
    expected = ramp([centres(mm / 2, mm, num) for mm, num in zip(new_mm, new, strict=True)])
    np.testing.assert_allclose(found[:, 1:-1], expected[:, 1:-1], rtol=1e-6, atol=1e-6)  # the border is repeated


sides = st.integers(1, 300)
lengths = st.floats(0.3, 6.0)


@given(st.tuples(sides, sides, sides), st.tuples(lengths, lengths, lengths), st.floats(-1e-7, 1e-7))
@settings(max_examples=50, deadline=None)
def test_the_same_spacing_but_for_the_rounding_of_headers_changes_nothing(
    shape: Shape, spacing_mm: Triple, off: float
) -> None:
    wanted = (spacing_mm[0] * (1 + off), spacing_mm[1] * (1 - off), spacing_mm[2])
    volume = np.empty((2, 3, 4), np.int16)
    resampling = Resampling.to_spacing(shape, spacing_mm, wanted)
    assert (resampling.changes_nothing, resampling.shape, resampling.spacing_mm) == (True, shape, wanted)
    assert resampling.linear(volume) is resampling.nearest(volume) is volume
    assert Resampling.to_shape(shape, spacing_mm, shape).changes_nothing


def test_a_difference_of_a_voxel_at_the_far_end_is_none_of_rounding() -> None:
    assert Resampling.to_spacing((240, 240, 155), (1.0000001,) * 3, (1.0,) * 3).changes_nothing
    resampling = Resampling.to_spacing((240, 240, 155), (1.005,) * 3, (1.0,) * 3)
    assert not resampling.changes_nothing
    assert resampling.shape == (241, 241, 156)


@given(st.tuples(sides, sides, sides), st.tuples(lengths, lengths, lengths), st.tuples(lengths, lengths, lengths))
@settings(max_examples=100, deadline=None)
def test_the_last_voxel_lies_within_half_a_new_one_of_the_old(shape: Shape, old_mm: Triple, new_mm: Triple) -> None:
    resampling = Resampling.to_spacing(shape, old_mm, new_mm)
    for side, old, new, fewer in zip(shape, old_mm, new_mm, resampling.shape, strict=True):
        assert abs((side - 1) * old - (fewer - 1) * new) <= 0.5 * new * (1 + 1e-9) + 0.01 * old


@pytest.mark.parametrize(
    ("old_mm", "new_mm"), [((1.0, 1.0, 1.0), (1.5, 1.25, 2.0)), ((0.8, 0.8, 3.0), (1.0, 1.0, 1.0))], ids=str
)
def test_a_ball_keeps_its_volume_within_a_few_percent(old_mm: Triple, new_mm: Triple) -> None:
    """Radius of 18 mm; counted voxels of a ball of that size err by less than 1 % on either grid."""
    shape = tuple(math.ceil(50.0 / step) for step in old_mm)
    places = np.meshgrid(*(centres(0.0, step, num) for step, num in zip(old_mm, shape, strict=True)), indexing="ij")
    ball = (sum((place - 24.3) ** 2 for place in places) <= 18.0**2).astype(np.uint8)
    exact_mm3 = 4 / 3 * math.pi * 18.0**3
    assert ball.sum() * math.prod(old_mm) == pytest.approx(exact_mm3, rel=0.01)
    resampling = Resampling.to_spacing((shape[0], shape[1], shape[2]), old_mm, new_mm)
    assert resampling.nearest(ball).sum() * math.prod(new_mm) == pytest.approx(exact_mm3, rel=0.02)
    shares = resampling.linear(ball.astype(np.float32))
    assert shares.sum() * math.prod(new_mm) == pytest.approx(exact_mm3, rel=0.02)
    fitted = Resampling.to_shape((shape[0], shape[1], shape[2]), old_mm, (32, 36, 28))
    volume_mm3 = fitted.nearest(ball).sum() * math.prod(fitted.spacing_mm)
    assert volume_mm3 == pytest.approx(exact_mm3, rel=0.04)  # 17 slices become 28: some are taken twice


@pytest.mark.parametrize("layout", ["C", "F", "turned"])
@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.float32, np.float64])
@pytest.mark.parametrize(("shape", "new"), [((12, 13, 14), (7, 9, 20)), ((9, 20, 7), (16, 16, 16))], ids=str)
def test_values_are_those_of_scipy_to_the_last_digit(shape: Shape, new: Shape, kind: Any, layout: str) -> None:
    """A content off the borders in any memory order, resampled by both geometries."""
    volume = np.zeros(shape, kind)
    volume[2:6, 3:, 1:5] = (noise(shape)[2:6, 3:, 1:5]).clip(0, 200).astype(kind)
    turned = np.asfortranarray(volume.transpose(1, 0, 2))[::-1, :, ::-1][::-1, :, ::-1].transpose(1, 0, 2)
    reversed_ = np.ascontiguousarray(volume[::-1, :, ::-1])[::-1, :, ::-1]
    for laid in [turned, reversed_] if layout == "turned" else [np.asarray(volume, order=layout)]:
        np.testing.assert_array_equal(laid, volume)
        for resampling in (
            Resampling.to_shape(shape, (1.0, 1.0, 1.0), new),
            Resampling.to_spacing(shape, (1.0, 1.0, 1.0), (0.7, 1.3, 2.1)),
        ):
            expected = affine_transform(
                volume,
                np.array(resampling.step),
                offset=resampling.first,
                output_shape=resampling.shape,
                output=np.float32,
                order=1,
                mode="nearest",
            )
            found = resampling.linear(laid)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-7)
            assert np.count_nonzero(found) == np.count_nonzero(np.abs(expected) > 1e-8)


def test_an_empty_volume_stays_empty() -> None:
    resampling = Resampling.to_spacing((4, 5, 6), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    assert not resampling.linear(np.zeros((4, 5, 6), np.int16)).any()
