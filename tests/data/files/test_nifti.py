"""NIfTI files: every way to write a volume is read as nibabel reads it, and what is not whole is told."""

from __future__ import annotations

import gzip
import struct
import zlib
from itertools import permutations, product
from typing import Any, Literal

import nibabel
import numpy as np
import pytest
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from menvae.data.files.nifti import CutShortError, read_volume
from menvae.data.files.stored_volume import StoredVolume

AFFINE = np.array([[-1.5, 0, 0, 8], [0, -0.5, 0, 7], [0, 0, 3, -9], [0, 0, 0, 1.0]])
KINDS = {1: (nibabel.Nifti1Image, nibabel.Nifti1Header), 2: (nibabel.Nifti2Image, nibabel.Nifti2Header)}
SCALING = {1: (112, "ff"), 2: (176, "dd")}  # where the standard puts scl_slope and scl_inter


def voxels(dtype: str = "int16", shape: tuple[int, ...] = (5, 4, 3)) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def written(
    stored: NDArray[Any],
    affine: NDArray[np.float64] | None = AFFINE,
    form: int = 1,
    order: Literal["<", ">"] = "<",
    scaling: tuple[float, float] | None = None,
    extension: int = 0,
) -> bytes:
    image_type, header_type = KINDS[form]
    header = header_type(endianness=order)
    header.set_data_dtype(stored.dtype)
    if extension:
        header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * extension))
    content = bytearray(image_type(stored, affine, header).to_bytes())
    if scaling is not None:
        start, types = SCALING[form]
        struct.pack_into(order + types, content, start, *scaling)
    return bytes(content)


def nibabel_image(content: bytes, form: int = 1) -> Any:
    return KINDS[form][0].from_bytes(content)


def assert_as_nibabel(found: StoredVolume, image: Any) -> None:
    np.testing.assert_array_equal(found.values, np.asanyarray(image.dataobj))
    np.testing.assert_array_equal(found.affine, image.affine)
    canonical = nibabel.as_closest_canonical(image)
    np.testing.assert_array_equal(found.values_ras(), np.asanyarray(canonical.dataobj))
    assert found.spacing_mm == pytest.approx(np.linalg.norm(canonical.affine[:3, :3], axis=0))


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64"])
@pytest.mark.parametrize("scaling", [None, (0.25, -3.0), (0.1, 7.3), (0.0, 5.0)], ids=str)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", [1, 2])
def test_values_are_those_of_nibabel(
    form: int, order: Literal["<", ">"], scaling: tuple[float, float] | None, dtype: str
) -> None:
    content = written(voxels(dtype), form=form, order=order, scaling=scaling)
    assert struct.unpack_from(f"{order}i", content)[0] == {1: 348, 2: 540}[form]
    for packed in (False, True):
        found = read_volume(gzip.compress(content) if packed else content, is_packed=packed)
        assert_as_nibabel(found, nibabel_image(content, form))
        assert found.is_oriented
    by_hand = voxels(dtype).astype(np.float64) * (scaling[0] or 1.0) + scaling[1] * bool(scaling[0]) if scaling else 0
    np.testing.assert_allclose(found.values, by_hand if scaling else voxels(dtype), rtol=1e-7)


@pytest.mark.parametrize("num_bytes", [10, 5000, 3 * 2**20])
def test_voxels_begin_after_the_extensions_of_the_header(num_bytes: int) -> None:
    content = written(voxels(), extension=num_bytes)
    assert len(content) > num_bytes + voxels().nbytes
    np.testing.assert_array_equal(read_volume(gzip.compress(content), is_packed=True).voxels, voxels())


def members(*parts: bytes) -> bytes:
    return b"".join(gzip.compress(part) for part in parts)


def ways_to_pack(content: bytes) -> dict[str, bytes]:
    half = len(content) // 2
    assert half * 2 == len(content)
    blocks = [content[start : start + 50] for start in range(0, len(content), 50)]
    return {
        "two of equal size": members(content[:half], content[half:]),
        "a small one first": members(content[:20], content[20:]),
        "a small one last": members(content[:-20], content[-20:]),
        "header alone": members(content[:352], content[352:]),
        "as bgzip, an empty one last": members(*blocks, b""),
        "one, and an empty one": members(content, b""),
        "an empty one first": members(b"", content),
        "padded with zeros": gzip.compress(content) + bytes(512),
    }


@pytest.mark.parametrize("way", ways_to_pack(bytes(400)))
@pytest.mark.parametrize("shape", [(3, 2, 1), (30, 20, 10)], ids=["tiny", "small"])
def test_several_gzip_members_are_one_file(way: str, shape: tuple[int, int, int]) -> None:
    stored = voxels(shape=shape)
    found = read_volume(ways_to_pack(written(stored))[way], is_packed=True)
    np.testing.assert_array_equal(found.voxels, stored)


def orientations() -> list[tuple[str, ...]]:
    return [codes for axes in permutations(["LR", "PA", "IS"]) for codes in product(*axes)]


def test_all_48_orientations_are_brought_to_ras() -> None:
    assert len(set(orientations())) == 48
    image = nibabel.Nifti1Image(voxels(), AFFINE)
    for codes in orientations():
        wanted = nibabel.orientations.axcodes2ornt(codes)
        turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(AFFINE), wanted))
        assert nibabel.aff2axcodes(turned.affine) == codes
        found = read_volume(turned.to_bytes(), is_packed=False)
        assert_as_nibabel(found, turned)
        np.testing.assert_array_equal(found.values_ras(), voxels()[::-1, ::-1])
        assert found.spacing_mm == (1.5, 0.5, 3.0)


def test_an_oblique_volume_keeps_the_axes_that_are_nearest() -> None:
    turn = np.radians(20)
    oblique = AFFINE.copy()
    oblique[:2, :2] = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ AFFINE[:2, :2]
    content = written(voxels(), oblique)
    assert_as_nibabel(read_volume(content, is_packed=False), nibabel_image(content))


def test_a_header_may_say_nothing_of_orientation() -> None:
    assert not read_volume(written(voxels(), None), is_packed=False).is_oriented


def test_a_fourth_axis_of_length_one_is_no_axis() -> None:
    found = read_volume(written(voxels(shape=(5, 4, 3, 1))), is_packed=False)
    np.testing.assert_array_equal(found.values_ras(), voxels(shape=(5, 4, 3, 1))[::-1, ::-1, :, 0])


def test_voxels_are_not_copied() -> None:
    content = written(voxels())
    assert np.shares_memory(read_volume(content, is_packed=False).values_ras(), np.frombuffer(content, np.uint8)), (
        "one volume in memory is enough"
    )


@pytest.mark.parametrize("form", [1, 2])
@pytest.mark.parametrize("kept", [0, 1, 100])
def test_a_file_with_too_few_voxels_is_cut_short(form: int, kept: int) -> None:
    content = written(voxels(), form=form)
    cut = content[: len(content) - voxels().nbytes + kept]
    for packed, broken in ((False, cut), (True, gzip.compress(cut)), (True, members(cut[:200], cut[200:]))):
        with pytest.raises(CutShortError, match=f"only {kept} of 120 bytes of voxel data"):
            read_volume(broken, is_packed=packed)


def test_a_header_that_is_cut_short_is_no_header() -> None:
    for content in (written(voxels())[:300], b"", written(voxels(), form=2)[:400]):
        for packed in (False, True):
            with pytest.raises(WrapStructError):
                read_volume(gzip.compress(content) if packed else content, is_packed=packed)


def test_a_stream_that_breaks_off_anywhere_is_an_end_of_file() -> None:
    whole = gzip.compress(written(voxels()))
    two = members(written(voxels())[:236], written(voxels())[236:])
    for packed in (whole, two):
        for length in range(12, len(packed), 3):
            with pytest.raises((EOFError, CutShortError, WrapStructError)) as told:
                read_volume(packed[:length], is_packed=True)
            if packed is whole:
                assert told.type is EOFError


def test_any_flipped_bit_of_a_stream_is_noticed() -> None:
    content = written(voxels())
    packed = gzip.compress(content, mtime=0)
    for place in (*range(10, len(packed) - 8, 5), *range(len(packed) - 8, len(packed))):
        damaged = bytearray(packed)
        damaged[place] ^= 0x10
        with pytest.raises((gzip.BadGzipFile, zlib.error, EOFError)):
            read_volume(bytes(damaged), is_packed=True)


def test_what_is_no_nifti_file_is_refused() -> None:
    with pytest.raises(nibabel.spatialimages.HeaderDataError):
        read_volume(b"x" * 1000, is_packed=False)
