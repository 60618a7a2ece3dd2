"""NIfTI files as arrays, decompressed in one piece and without copying voxels.

Files are small compared to memory, so libdeflate decompresses a whole file at once, in half the time of zlib. What
libdeflate rejects (several gzip members, as written by bgzip), zlib decompresses or reports as an error.
"""

from __future__ import annotations

import gzip
import logging
from typing import Any

import deflate
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from menvae.data.files.stored_volume import StoredVolume

_SILENT_LOGGER = logging.Logger("nibabel header checks")
_SILENT_LOGGER.addHandler(logging.NullHandler())
_NIFTI2_SIZES = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # header size of 540 bytes in both byte orders
_LENGTHS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}  # codes of xyzt_units; 0 and 2 are mm


class CutShortError(ValueError):
    """A file contains fewer bytes of voxel data than its header declares."""


def unpack(content: bytes) -> bytes | bytearray:
    """Decompress a gzip file; with several members, the result may hold only the first, or nothing.

    Raises:
        EOFError: if the file is truncated.
        gzip.BadGzipFile, zlib.error: if the file is damaged.
    """
    try:
        unpacked: bytearray = deflate.gzip_decompress(content)
    except deflate.DeflateError:
        return gzip.decompress(content)
    return unpacked


def read_volume(content: bytes, *, is_packed: bool) -> StoredVolume:
    """Read a NIfTI-1 or NIfTI-2 file.

    Args:
        content: all bytes of the file.
        is_packed: whether they are compressed with gzip.

    Raises:
        EOFError, gzip.BadGzipFile, zlib.error: as for `unpack`.
        CutShortError: if there are fewer voxels than the header declares.
        nibabel.spatialimages.HeaderDataError, nibabel.wrapstruct.WrapStructError, ValueError, ArithmeticError: if it is
            not a NIfTI file, or a damaged one.
    """
    unpacked = unpack(content) if is_packed else content
    volume = _parse(unpacked)
    if volume is None and is_packed:
        unpacked = gzip.decompress(content)  # all members; libdeflate decompresses one, and sizes it by the last
        volume = _parse(unpacked)
    if volume is None:
        header = _header(unpacked)
        there = max(len(unpacked) - header.get_data_offset(), 0)
        raise CutShortError(f"only {there} of {_num_bytes(header)} bytes of voxel data")
    return volume


def _header(unpacked: bytes | bytearray) -> Any:
    """Return the header without extensions, which may be longer than the voxel data."""
    form = _form(unpacked)
    header: Any = form(bytes(unpacked[: form.sizeof_hdr]), check=False)  # type: ignore[no-untyped-call, unused-ignore]
    header.check_fix(logger=_SILENT_LOGGER)  # raises on unfixable errors, which the checks report
    return header


def _form(unpacked: bytes | bytearray) -> Any:
    import nibabel

    return nibabel.Nifti2Header if bytes(unpacked[:4]) in _NIFTI2_SIZES else nibabel.Nifti1Header


def _num_bytes(header: Any) -> int:
    return int(header.get_data_dtype().itemsize * np.prod(header.get_data_shape(), dtype=object))


def _parse(unpacked: bytes | bytearray) -> StoredVolume | None:
    """Return the volume, or None if bytes are missing."""
    if len(unpacked) < _form(unpacked).sizeof_hdr:
        return None
    header = _header(unpacked)
    start, shape, dtype = header.get_data_offset(), header.get_data_shape(), header.get_data_dtype()
    if len(unpacked) - start < _num_bytes(header):
        return None
    voxels = np.frombuffer(unpacked, dtype, int(np.prod(shape, dtype=object)), start)
    slope, intercept = header.get_slope_inter()
    unit, to_mm = _LENGTHS.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    return StoredVolume(
        voxels.reshape(shape, order="F"),
        _scaled(header.get_best_affine(), to_mm),
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
        bool(header["qform_code"] or header["sform_code"]),
        unit,
        _second_affine(header, to_mm),
    )


def _scaled(affine: NDArray[Any], to_mm: float) -> NDArray[np.float64]:
    scaled = np.array(affine, np.float64)
    scaled[:3] *= to_mm
    return scaled


def _second_affine(header: Any, to_mm: float) -> NDArray[np.float64] | None:
    """Return the qform where the sform takes precedence over it; None if there is only one, or it is damaged."""
    if not (header["qform_code"] and header["sform_code"]):
        return None
    try:
        return _scaled(header.get_qform(), to_mm)
    except (HeaderDataError, ValueError):
        return None
