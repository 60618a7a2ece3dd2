"""Prepared subjects on disk: voxels as they were stored by the scanner, and the numbers that make z-scores of them.

Two formats, both without pickle:

- ``arrays``: ``.npy``, memory-mapped when read. Images whose values are whole numbers of 16 bits, which is every
  unresampled BraTS file, are int16; others are float32. Nothing is lost but what float32 cannot hold.
- ``compressed``: Blosc2 (byte shuffle, LZ4HC), read whole. Always int16: channels of whole numbers of 16 bits are
  exact; others are rounded to multiples of a step, the largest magnitude of the channel / 32767. No value moves by more
  than a step, and none becomes 0 or stops being 0, because 0 is background. Mean and standard deviation are those of
  the values before they were rounded, so no z-score moves by more than `StoredSubject.loss`, the step in z-scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

CacheFormat = Literal["arrays", "compressed"]

_MOST = 32767
_NUMBERS = ("mean", "sd", "step", "loss")


@dataclass(frozen=True)
class StoredSubject:
    """What a cache entry holds for training; the z-score of a stored value x that is not 0 is (x - mean) / sd.

    Attributes:
        image: int16 or float32 [C, D, H, W]; 0 is background, and stays 0 as a z-score.
        mask: uint8 [D, H, W], codes of `menvae.data.subjects.REGION_CODES`.
        mean: of each channel's values that are not 0, before they were rounded, in stored units.
        sd: their standard deviation (population form); 1 for a constant.
        step: intensity of one stored unit, for each channel; 1 unless values were rounded.
        loss: the most that rounding may have moved a z-score, for each channel; 0 if nothing was rounded.
    """

    image: NDArray[Any]
    mask: NDArray[np.uint8]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    step: tuple[float, ...]
    loss: tuple[float, ...]


def stored(channels: Sequence[NDArray[Any]], mask: NDArray[np.uint8], cache_format: CacheFormat) -> StoredSubject:
    """Choose how a subject is stored.

    Args:
        channels: C volumes [D, H, W] of any real type.
        mask: codes [D, H, W].
        cache_format: see the module.
    """
    whole = [_is_whole(channel) for channel in channels]
    if all(whole) or cache_format == "arrays":
        kind = np.int16 if all(whole) else np.float32
        image = np.stack([channel.astype(kind, copy=False) for channel in channels])
        mean, sd = zip(*(_moments(channel, 1.0) for channel in image), strict=True)
        return StoredSubject(image, mask, mean, sd, (1.0,) * len(mean), (0.0,) * len(mean))
    steps = tuple(
        1.0 if is_whole else max(float(channel.max()), -float(channel.min())) / _MOST
        for channel, is_whole in zip(channels, whole, strict=True)
    )
    image = np.stack([_rounded(channel, step) for channel, step in zip(channels, steps, strict=True)])
    mean, sd = zip(*(_moments(channel, step) for channel, step in zip(channels, steps, strict=True)), strict=True)
    loss = tuple(0.0 if is_whole else 1.0 / deviation for deviation, is_whole in zip(sd, whole, strict=True))
    return StoredSubject(image, mask, mean, sd, steps, loss)


def _is_whole(channel: NDArray[Any]) -> bool:
    """Whether all values are whole numbers that int16 holds."""
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
    """Return mean and standard deviation of the values that are not 0, in a unit, in double precision."""
    num = int(np.count_nonzero(channel))
    if num == 0:
        return 0.0, 1.0
    total = squares = 0.0
    for plane in channel:  # a plane in double precision stays in the processor's cache, a volume does not
        flat = plane.ravel().astype(np.float64)
        total += float(flat.sum())
        squares += float(np.square(flat, out=flat).sum())
    mean = total / num
    variance = squares / num - mean**2
    if variance < 1e-8 * mean**2:  # too little of the digits is left
        variance = float(np.square(channel[channel != 0].astype(np.float64) - mean).mean())
    return mean / unit, float(np.sqrt(variance)) / unit or 1.0


def write_subject(folder: Path, subject: StoredSubject, cache_format: CacheFormat) -> dict[str, Any]:
    """Write the arrays of an entry into its folder; return what `read_subject` must be told to read them."""
    for name, array in (("image", subject.image), ("mask", subject.mask)):
        if cache_format == "arrays":
            _save(folder / f"{name}.npy", array)
        else:
            _compress(folder / f"{name}.b2", array)
    numbers = {name: getattr(subject, name) for name in _NUMBERS}
    return {"format": cache_format, "dtype": str(subject.image.dtype), "shape": subject.image.shape, **numbers}


def read_subject(folder: Path, description: Mapping[str, Any]) -> StoredSubject:
    """Read what `write_subject` wrote; arrays are mapped, and private: writing to them changes no file.

    Raises:
        OSError: a file is not there.
    """
    if description["format"] == "arrays":
        image, mask = (np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in ("image", "mask"))
    else:
        shape = tuple(description["shape"])
        image = _decompress(folder / "image.b2", np.empty(shape, description["dtype"]))
        mask = _decompress(folder / "mask.b2", np.empty(shape[1:], np.uint8))
    return StoredSubject(image, mask, *(tuple(description[name]) for name in _NUMBERS))


def _save(path: Path, array: NDArray[Any]) -> None:
    """As `numpy.save`, which does not say why it could not write, such as that the disk is full."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))  # type: ignore[no-untyped-call, unused-ignore]
        file.write(array.data)


def _compress(path: Path, array: NDArray[Any]) -> None:
    import blosc2  # a third of a second, and not everybody needs it

    packed = blosc2.compress2(
        array,
        typesize=array.itemsize,
        codec=blosc2.Codec.LZ4HC,  # slow to pack, and the fastest to unpack
        clevel=5,
        filters=[blosc2.Filter.SHUFFLE],
        nthreads=1,
    )
    path.write_bytes(packed)


def _decompress(path: Path, target: NDArray[Any]) -> NDArray[Any]:
    import blosc2

    blosc2.decompress2(path.read_bytes(), dst=target, nthreads=1)
    return target
