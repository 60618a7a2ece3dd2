"""What the cache keeps of voxels: all of whole numbers, and of others no less than it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from menvae.data.cache.storage import CacheFormat, StoredSubject, read_subject, stored, write_subject

SHAPE = (4, 5, 6)
FORMATS: tuple[CacheFormat, ...] = ("arrays", "compressed")
NO_MASK = np.zeros(SHAPE, np.uint8)


def channel(kind: str = "float32", seed: int = 0, scale: float = 300.0) -> NDArray[Any]:
    """Values of both signs, a third of them 0."""
    random = np.random.default_rng(seed)
    return np.where(random.random(SHAPE) < 1 / 3, 0, random.normal(scale / 3, scale, SHAPE)).astype(kind)


def again(folder: Path, subject: StoredSubject, cache_format: CacheFormat) -> StoredSubject:
    """Write it, keep the description as JSON, and read it."""
    folder.mkdir()
    description = json.loads(json.dumps(write_subject(folder, subject, cache_format)))
    return read_subject(folder, description)


def z_scores(values: NDArray[Any]) -> NDArray[np.float64]:
    """By definition, in double precision."""
    values = values.astype(np.float64)
    content = values[values != 0]
    return np.where(values != 0, (values - content.mean()) / content.std(), 0.0)


def stored_z_scores(subject: StoredSubject, index: int) -> NDArray[np.float64]:
    values = subject.image[index].astype(np.float64)
    return np.where(values != 0, (values - subject.mean[index]) / subject.sd[index], 0.0)


@pytest.mark.parametrize("cache_format", FORMATS)
def test_whole_numbers_come_back_as_they_were(cache_format: CacheFormat, tmp_path: Path) -> None:
    extremes = channel("int16")
    extremes[0, 0, :2] = -32768, 32767
    channels = [channel("int16"), extremes, channel("int16", 2).astype(">i2"), np.rint(channel("float64", 3))]
    mask = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    found = again(tmp_path / "entry", stored(channels, mask, cache_format), cache_format)
    assert (found.image.dtype, found.mask.dtype) == (np.int16, np.uint8)
    np.testing.assert_array_equal(found.image, np.stack(channels))
    np.testing.assert_array_equal(found.mask, mask)
    assert (found.step, found.loss) == ((1.0,) * 4, (0.0,) * 4)


def test_both_formats_keep_the_same_bytes_and_numbers_of_whole_numbers(tmp_path: Path) -> None:
    first, second = (again(tmp_path / name, stored([channel("int16")], NO_MASK, name), name) for name in FORMATS)
    assert first.image.tobytes() == second.image.tobytes()
    assert (first.mean, first.sd) == (second.mean, second.sd)


def test_numbers_that_are_not_whole_are_exact_in_arrays(tmp_path: Path) -> None:
    channels = [channel("float32"), channel("int16", 1)]
    found = again(tmp_path / "entry", stored(channels, NO_MASK, "arrays"), "arrays")
    assert found.image.dtype == np.float32
    np.testing.assert_array_equal(found.image, np.stack(channels).astype(np.float32))
    assert (found.step, found.loss) == ((1.0, 1.0), (0.0, 0.0))


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32"])
def test_whole_numbers_beyond_16_bits_are_not_wrapped(kind: str, tmp_path: Path) -> None:
    values = np.abs(channel("float64")).astype(kind)
    values[0, 0, 0] = 40000
    found = stored([values], NO_MASK, "arrays")
    np.testing.assert_array_equal(found.image[0], values)
    rounded = stored([values], NO_MASK, "compressed")
    assert rounded.step == (40000 / 32767,)
    np.testing.assert_allclose(rounded.image[0] * rounded.step[0], values, atol=rounded.step[0])


def assert_rounded_as_stated(values: NDArray[Any]) -> None:
    found = stored([values], NO_MASK, "compressed")
    (step,), (loss,) = found.step, found.loss
    assert found.image.dtype == np.int16
    assert step == pytest.approx(np.abs(values.astype(np.float64)).max() / 32767, rel=1e-6)
    np.testing.assert_array_equal(found.image[0] == 0, values == 0)
    assert np.all(np.sign(found.image[0]) == np.sign(values))
    apart = np.abs(found.image[0] * step - values.astype(np.float64))
    assert apart.max() <= step * (1 + 1e-6)
    large = np.abs(values) >= step
    assert np.all(apart[large] <= step * 0.51), "rounded to the nearest, but for those that would become 0"
    content = values[values != 0].astype(np.float64)
    if content.std() > 1e-6 * np.abs(content).max():
        assert loss == pytest.approx(step / content.std(), rel=1e-6)
        moved = np.abs(stored_z_scores(found, 0) - z_scores(values))
        assert moved.max() <= loss * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-6, 0.3, 300.0, 1e6])
def test_rounded_numbers_and_their_z_scores_move_no_further_than_stated(scale: float, tmp_path: Path) -> None:
    for seed in range(5):
        assert_rounded_as_stated(channel("float32", seed, scale))


floats = st.floats(-1e4, 1e4, width=32, allow_subnormal=False).filter(lambda value: value == 0 or abs(value) > 1e-20)


@given(arrays(np.float32, SHAPE, elements=floats, fill=st.sampled_from([np.float32(0.25), np.float32(1e-9)])))
@settings(max_examples=60, deadline=None)
def test_rounding_keeps_what_it_states_of_any_numbers(values: NDArray[np.float32]) -> None:
    if np.any(values != np.rint(values)):
        assert_rounded_as_stated(values)


def test_many_values_that_vanish_beside_one_that_is_large_move_no_further_than_stated() -> None:
    values = np.full(SHAPE, 0.01, np.float32)  # all would become 0, so all are moved in one direction
    values[0, 0, 0], values[0, 0, 1:4] = 32767.0, 0
    assert_rounded_as_stated(values)
    assert stored([values], NO_MASK, "compressed").image[0, 1, 1, 1] == 1


def test_a_step_of_exactly_one_rounds_to_the_nearest() -> None:
    values = channel("float32")
    values[0, 0, :3] = 32767.0, 0.4, -7.8
    found = stored([values], NO_MASK, "compressed")
    assert found.step == (1.0,)
    assert found.image[0, 0, 0, :3].tolist() == [32767, 1, -8]
    assert_rounded_as_stated(values)


def test_a_whole_channel_beside_one_that_is_not_is_exact() -> None:
    whole = channel("int16")
    whole[0, 0, 0] = -32768
    found = stored([whole, channel("float32", 1), channel("uint8", 2, 5.0)], NO_MASK, "compressed")
    np.testing.assert_array_equal(found.image[0], whole)
    np.testing.assert_array_equal(found.image[2], channel("uint8", 2, 5.0))
    assert [step == 1.0 for step in found.step] == [loss == 0.0 for loss in found.loss] == [True, False, True]


@pytest.mark.parametrize("cache_format", FORMATS)
@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        (channel("int16"), 1e-12),
        (channel("float32"), 1e-12),
        (np.where(NO_MASK == 0, channel("int16"), 0) // 100 + 32000, 1e-6),  # sd is 1e-4 of the mean
        ((1e6 + channel("float64", scale=1.0)), 1e-6),  # and 1e-6 of it: too few digits are left of a difference
    ],
    ids=["whole", "float", "large mean", "huge mean"],
)
def test_mean_and_sd_are_those_of_numpy(values: NDArray[Any], tolerance: float, cache_format: CacheFormat) -> None:
    found = stored([values], NO_MASK, cache_format)
    kept = values if cache_format == "compressed" else values.astype(found.image.dtype)
    content = kept[kept != 0].astype(np.float64)
    assert found.mean[0] * found.step[0] == pytest.approx(content.mean(), rel=1e-12)
    assert found.sd[0] * found.step[0] == pytest.approx(content.std(), rel=tolerance)


@pytest.mark.parametrize("cache_format", FORMATS)
def test_constant_and_empty_channels_have_z_scores_of_0(cache_format: CacheFormat) -> None:
    constant, fraction = (np.full(SHAPE, value, np.float32) for value in (7.0, 0.1))
    constant[0], fraction[0] = 0, 0
    found = stored([np.zeros(SHAPE, np.int16), constant], NO_MASK, cache_format)
    assert (found.mean, found.sd) == ((0.0, 7.0), (1.0, 1.0))
    found = stored([np.zeros(SHAPE, np.float32), fraction], NO_MASK, cache_format)
    for index in range(2):
        assert np.abs(stored_z_scores(found, index)).max() <= 1e-6


def test_mapped_arrays_are_private(tmp_path: Path) -> None:
    subject = stored([channel("int16")], NO_MASK, "arrays")
    found = again(tmp_path / "entry", subject, "arrays")
    before = {path.name: path.read_bytes() for path in (tmp_path / "entry").iterdir()}
    found.image[:], found.mask[:] = 9, 9
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "entry").iterdir()}
    np.testing.assert_array_equal(np.load(tmp_path / "entry" / "image.npy"), subject.image)


def test_arrays_are_files_of_numpy_without_pickle(tmp_path: Path) -> None:
    turned = np.asfortranarray(np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8))
    subject = stored([channel("float32")], turned, "arrays")
    again(tmp_path / "entry", subject, "arrays")
    for name, wanted in (("image", subject.image), ("mask", turned)):
        np.testing.assert_array_equal(np.load(tmp_path / "entry" / f"{name}.npy", allow_pickle=False), wanted)


@pytest.mark.parametrize("cache_format", FORMATS)
def test_an_entry_that_is_gone_is_an_error_of_the_file(cache_format: CacheFormat, tmp_path: Path) -> None:
    description = write_subject(tmp_path, stored([channel()], NO_MASK, cache_format), cache_format)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError):
        read_subject(tmp_path, description)
