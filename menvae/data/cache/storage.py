"""Prepared subjects on disk: raw voxel values, and the statistics that normalise them.

Two formats, both without pickle:

- ``arrays``: ``.npy``, memory-mapped when read. Images with only 16-bit integer values, such as every unresampled BraTS
  file, are int16; others are float32. The only loss is that of float32.
- ``compressed``: Blosc2 (byte shuffle, LZ4HC), read into memory. Always int16: channels of 16-bit integers are exact;
  others are rounded to multiples of a step, the largest magnitude of the channel / 32767. No value changes by more than
  a step, and zero and non-zero values remain so, because 0 is background. Mean and standard deviation are computed
  before rounding, so no z-score changes by more than `StoredSubject.loss`, the step in z-scores.

The description of an entry contains size and checksum of its two files. A process checks a file when it reads it for
the first time, and again when the file has changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from menvae.data.digests import checksum
from menvae.files import DamagedFileError

CacheFormat = Literal["arrays", "compressed"]

Normalisation = Literal["zscore", "minmax"]
"""Normalisation of the non-zero values of a subject's channel: ``zscore`` has mean 0, standard deviation 1 and no
bounds; ``minmax`` spans -1 to 1. Background is 0 in both: the mean, or the midrange, of the other values."""

_MOST = 32767
_NUMBERS = ("mean", "sd", "low", "high", "step", "loss")
_SUFFIXES = {"arrays": ".npy", "compressed": ".b2"}
_checked: dict[Path, tuple[int, ...]] = {}
"""File -> its state when this process checked it."""


@dataclass(frozen=True)
class StoredSubject:
    """Arrays and statistics of a cache entry; the z-score of a non-zero stored value x is (x - mean) / sd.

    Attributes:
        image: int16 or float32 [C, D, H, W]; 0 is background, and stays 0 as a z-score.
        mask: uint8 [D, H, W], codes of `menvae.data.files.subjects.REGION_CODES`.
        mean: mean of each channel's non-zero values before rounding, in stored units.
        sd: their standard deviation (population form); 1 for a constant channel.
        low: smallest non-zero stored value of each channel; 0 if there is none.
        high: largest non-zero stored value of each channel; 0 if there is none.
        step: intensity of one stored unit per channel; 1 unless values were rounded.
        loss: largest change of a z-score by rounding, per channel; 0 without rounding.
    """

    image: NDArray[Any]
    mask: NDArray[np.uint8]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    step: tuple[float, ...]
    loss: tuple[float, ...]

    def scaled(self, normalisation: Normalisation) -> StoredSubject:
        """Return the subject with ``mean`` and ``sd`` such that (x - mean) / sd is the given normalisation.

        With ``minmax``, a constant channel gets an ``sd`` (half range) of 1 instead of 0.
        """
        if normalisation == "zscore":
            return self
        ends = list(zip(self.low, self.high, strict=True))
        middle = tuple((low + high) / 2 for low, high in ends)
        return replace(self, mean=middle, sd=tuple((high - low) / 2 or 1.0 for low, high in ends))


def stored(channels: Sequence[NDArray[Any]], mask: NDArray[np.uint8], cache_format: CacheFormat) -> StoredSubject:
    """Convert a subject to its storage format.

    Args:
        channels: C volumes [D, H, W] of any real type.
        mask: region codes [D, H, W].
        cache_format: see the module docstring.
    """
    whole = [_is_whole(channel) for channel in channels]
    if all(whole) or cache_format == "arrays":
        kind = np.int16 if all(whole) else np.float32
        image = np.stack([channel.astype(kind, copy=False) for channel in channels])
        moments = [_moments(channel, 1.0) for channel in image]
        return _described(image, mask, moments, (1.0,) * len(image), (0.0,) * len(image))
    steps = tuple(
        1.0 if is_whole else max(float(channel.max()), -float(channel.min())) / _MOST
        for channel, is_whole in zip(channels, whole, strict=True)
    )
    image = np.stack([_rounded(channel, step) for channel, step in zip(channels, steps, strict=True)])
    moments = [_moments(channel, step) for channel, step in zip(channels, steps, strict=True)]
    loss = tuple(0.0 if is_whole else 1.0 / sd for (_, sd), is_whole in zip(moments, whole, strict=True))
    return _described(image, mask, moments, steps, loss)


def _described(
    image: NDArray[Any],
    mask: NDArray[np.uint8],
    moments: Sequence[tuple[float, float]],
    steps: tuple[float, ...],
    loss: tuple[float, ...],
) -> StoredSubject:
    mean, sd = (tuple(values) for values in zip(*moments, strict=True))
    low, high = (tuple(values) for values in zip(*map(_extremes, image), strict=True))
    return StoredSubject(image, mask, mean, sd, low, high, steps, loss)


def _is_whole(channel: NDArray[Any]) -> bool:
    """Whether int16 represents all values exactly."""
    if np.can_cast(channel.dtype, np.int16):
        return True
    if channel.min() < -_MOST - 1 or channel.max() > _MOST:
        return False
    return channel.dtype.kind in "iu" or bool(np.equal(channel, np.rint(channel)).all())


def _rounded(channel: NDArray[Any], step: float) -> NDArray[np.int16]:
    units = np.rint(channel / step)
    vanished = (units == 0) & (channel != 0)
    units[vanished] = np.sign(channel[vanished])
    return units.astype(np.int16)


def _moments(channel: NDArray[Any], unit: float) -> tuple[float, float]:
    """Return mean and standard deviation of the non-zero values, divided by ``unit``, in double precision."""
    num = int(np.count_nonzero(channel))
    if num == 0:
        return 0.0, 1.0
    total = squares = 0.0
    for plane in channel:  # a plane in double precision fits into the CPU cache, a volume does not
        flat = plane.ravel().astype(np.float64)
        total += float(flat.sum())
        squares += float(np.square(flat, out=flat).sum())
    mean = total / num
    variance = squares / num - mean**2
    if variance < 1e-8 * mean**2:  # cancellation left too few digits
        variance = float(np.square(channel[channel != 0].astype(np.float64) - mean).mean())
    return mean / unit, float(np.sqrt(variance)) / unit or 1.0


def _extremes(channel: NDArray[Any]) -> tuple[float, float]:
    """Return the smallest and the largest non-zero value; (0, 0) if there is none."""
    values = channel[channel != 0]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def write_subject(folder: Path, subject: StoredSubject, cache_format: CacheFormat) -> dict[str, Any]:
    """Write the arrays of an entry into its folder; return the description that `read_subject` needs."""
    files = {}
    for name, array in (("image", subject.image), ("mask", subject.mask)):
        path = folder / f"{name}{_SUFFIXES[cache_format]}"
        found = _save(path, array) if cache_format == "arrays" else _compress(path, array)
        files[path.name] = {"bytes": path.stat().st_size, "checksum": found}
    numbers = {name: getattr(subject, name) for name in _NUMBERS}
    shape = subject.image.shape
    return {"format": cache_format, "dtype": str(subject.image.dtype), "shape": shape, "files": files, **numbers}


def read_subject(folder: Path, description: Mapping[str, Any]) -> StoredSubject:
    """Read what `write_subject` wrote; ``.npy`` arrays are memory-mapped copy-on-write, so writing changes no file.

    Raises:
        FileNotFoundError: a file does not exist.
        DamagedFileError: a file has another content. Without ``files`` in the description, as in entries of earlier
            versions, only its size and form are checked.
    """
    try:
        shape, suffix = tuple(description["shape"]), _SUFFIXES[description["format"]]
        read = _map if description["format"] == "arrays" else _decompress
        files = description.get("files", {})
        image, mask = (
            read(folder / name, np.dtype(dtype), of_shape, files.get(name))
            for name, dtype, of_shape in (
                (f"image{suffix}", description["dtype"], shape),
                (f"mask{suffix}", "uint8", shape[1:]),
            )
        )
        return StoredSubject(image, mask, *(tuple(description[name]) for name in _NUMBERS))
    except DamagedFileError:
        raise
    except (KeyError, TypeError, ValueError) as error:  # of an earlier version, whose description has no digest
        raise DamagedFileError(f"'{folder}' has a damaged description: {error}") from None


def check_sizes(folder: Path, description: Mapping[str, Any]) -> None:
    """Check that the files of an entry exist and have their size, without reading them.

    Raises:
        FileNotFoundError: a file does not exist.
        DamagedFileError: a file has another size.
    """
    suffix, files = _SUFFIXES[description["format"]], description.get("files", {})
    for name in (f"image{suffix}", f"mask{suffix}"):
        found = (folder / name).stat().st_size
        wanted = files[name]["bytes"] if files else found
        if found != wanted:
            raise DamagedFileError(f"'{folder / name}' is damaged: it has {found} instead of {wanted} bytes")


def _check(path: Path, content: bytes | memoryview, wanted: Mapping[str, int] | None) -> None:
    """Check the content of a file, unless this process has checked it and it has not changed since.

    Args:
        path: the file.
        content: its content; of ``.npy`` files only the array.
        wanted: its entry in ``files`` of the description, or None.
    """
    if wanted is None:
        return
    status = path.stat()
    state = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if _checked.get(path) == state:
        return
    if status.st_size != wanted["bytes"] or checksum(content) != wanted["checksum"]:
        raise DamagedFileError(f"'{path}' is damaged: its checksum is wrong")
    _checked[path] = state


def _save(path: Path, array: NDArray[Any]) -> int:
    """Save like `numpy.save`, but raise errors with their reason, such as a full disk; return the checksum."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))  # type: ignore[no-untyped-call, unused-ignore]
        file.write(array.data)
    return checksum(array.data)


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], wanted: Mapping[str, int] | None) -> NDArray[Any]:
    """Map the array at the end of a ``.npy`` file; its header states what is known."""
    header = path.stat().st_size - math.prod(shape) * dtype.itemsize
    if header <= 0 or header % 64:  # its length in version 1.0 of the format
        raise DamagedFileError(f"'{path}' is damaged: its size does not fit its shape {shape}")
    array = np.memmap(path, dtype, "c", offset=header, shape=shape)
    _check(path, array.data, wanted)
    return array


def _compress(path: Path, array: NDArray[Any]) -> int:
    """Write a compressed array; return the checksum."""
    import blosc2  # takes a third of a second; only this format needs it

    packed = blosc2.compress2(
        array,
        typesize=array.itemsize,
        codec=blosc2.Codec.LZ4HC,  # slow to compress, fastest to decompress
        clevel=5,
        filters=[blosc2.Filter.SHUFFLE],
        nthreads=1,
    )
    path.write_bytes(packed)
    return checksum(packed)


def _decompress(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], wanted: Mapping[str, int] | None
) -> NDArray[Any]:
    import blosc2

    target = np.empty(shape, dtype)  # before the file is read, or the heap gives its pages back for every sample
    packed = path.read_bytes()
    _check(path, packed, wanted)
    try:
        num_bytes = blosc2.get_cbuffer_sizes(packed)[0]
        if num_bytes == target.nbytes:
            blosc2.decompress2(packed, dst=target, nthreads=1)
            return target
    except (ValueError, RuntimeError):
        pass
    raise DamagedFileError(f"'{path}' is damaged: it cannot be decompressed")
