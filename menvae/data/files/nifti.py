"""NIfTI files as arrays: one inflation of the whole file, no copy of its voxels.

Files are small beside memory, so a file is read once and unpacked in one piece by libdeflate, which takes half the time
of zlib; what libdeflate refuses (several gzip members, as bgzip writes them) zlib unpacks, or says what is wrong.
"""

from __future__ import annotations

import gzip
import logging
from typing import Any

import deflate
import numpy as np

from menvae.data.files.stored_volume import StoredVolume

_UNHEARD = logging.Logger("of nibabel")
_UNHEARD.addHandler(logging.NullHandler())
_NIFTI2_SIZES = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540, the size of its header, in both byte orders


class CutShortError(ValueError):
    """A file holds fewer bytes of voxels than its header announces."""


def unpack(content: bytes) -> bytes | bytearray:
    """Return what a gzip file holds; of several members perhaps only the first, or nothing.

    Raises:
        EOFError: it is cut short.
        gzip.BadGzipFile, zlib.error: it is damaged.
    """
    try:
        unpacked: bytearray = deflate.gzip_decompress(content)
    except deflate.DeflateError:
        return gzip.decompress(content)
    return unpacked


def read_volume(content: bytes, *, is_packed: bool) -> StoredVolume:
    """Read a NIfTI-1 or NIfTI-2 file.

    Args:
        content: all its bytes.
        is_packed: whether they are compressed with gzip.

    Raises:
        EOFError, gzip.BadGzipFile, zlib.error: as `unpack`.
        CutShortError: there are fewer voxels than announced.
        nibabel.spatialimages.HeaderDataError, nibabel.wrapstruct.WrapStructError, ValueError, ArithmeticError: it is no
            NIfTI file, or a damaged one.
    """
    unpacked = unpack(content) if is_packed else content
    volume = _parse(unpacked)
    if volume is None and is_packed:
        unpacked = gzip.decompress(content)  # all members: libdeflate unpacks one, into as much room as the last needs
        volume = _parse(unpacked)
    if volume is None:
        header = _header(unpacked)
        there = max(len(unpacked) - header.get_data_offset(), 0)
        raise CutShortError(f"it holds {there} of {_num_bytes(header)} bytes of voxels")
    return volume


def _header(unpacked: bytes | bytearray) -> Any:
    """Return the header without its extensions, which may be longer than the voxels."""
    form = _form(unpacked)
    header: Any = form(bytes(unpacked[: form.sizeof_hdr]), check=False)  # type: ignore[no-untyped-call, unused-ignore]
    header.check_fix(logger=_UNHEARD)  # what cannot be mended is raised, and told by the checks
    return header


def _form(unpacked: bytes | bytearray) -> Any:
    import nibabel

    return nibabel.Nifti2Header if bytes(unpacked[:4]) in _NIFTI2_SIZES else nibabel.Nifti1Header


def _num_bytes(header: Any) -> int:
    return int(header.get_data_dtype().itemsize * np.prod(header.get_data_shape(), dtype=object))


def _parse(unpacked: bytes | bytearray) -> StoredVolume | None:
    """Return the volume, or None where bytes are missing."""
    if len(unpacked) < _form(unpacked).sizeof_hdr:
        return None
    header = _header(unpacked)
    start, shape, dtype = header.get_data_offset(), header.get_data_shape(), header.get_data_dtype()
    if len(unpacked) - start < _num_bytes(header):
        return None
    voxels = np.frombuffer(unpacked, dtype, int(np.prod(shape, dtype=object)), start)
    slope, intercept = header.get_slope_inter()
    return StoredVolume(
        voxels.reshape(shape, order="F"),
        np.asarray(header.get_best_affine(), np.float64),
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
        bool(header["qform_code"] or header["sform_code"]),
    )
