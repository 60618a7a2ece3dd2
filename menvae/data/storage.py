"""Prepared subjects on disk: voxels as they were stored by the scanner, and the numbers that make z-scores of them.

Two formats, both without pickle:

- ``arrays``: ``.npy``, memory-mapped when read. Images whose values are whole numbers of 16 bits, which is every
  unresampled BraTS file, are int16; others are float32. Nothing is lost in either.
- ``compressed``: Blosc2 (byte shuffle, LZ4HC), read whole. Always int16: exact for whole numbers of 16 bits; others are
  rounded to multiples of a step for each channel, the largest magnitude / 32767. No value moves by more than a step,
  and none becomes 0 or stops being 0, because 0 is background. `StoredSubject.loss` says how much that is in a z-score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

CacheFormat = Literal["arrays", "compressed"]

Normalisation = Literal["zscore", "minmax"]
"""What training sees of the values of a subject's channel that are not 0: ``zscore`` has mean 0, standard deviation 1
and no bounds; ``minmax`` goes from -1 to 1. Background is 0 in both: the mean, or the middle, of all else."""

_MOST = 32767
_NUMBERS = ("mean", "sd", "low", "high", "step", "loss")


@dataclass(frozen=True)
class StoredSubject:
    """What a cache entry holds for training; the z-score of a stored value x that is not 0 is (x - mean) / sd.

    Attributes:
        image: int16 or float32 [C, D, H, W]; 0 is background, and stays 0 as a z-score.
        mask: uint8 [D, H, W], codes of `menvae.data.subjects.REGION_CODES`.
        mean: of each channel's stored values that are not 0.
        sd: their standard deviation (population form); 1 for a constant.
        low: the least of them; 0 where there is none.
        high: the largest of them; 0 where there is none.
        step: intensity of one stored unit, for each channel; 1 unless values were rounded.
        loss: how much rounding may have moved a z-score, for each channel; 0 if nothing was rounded.
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
        """Return the subject with ``mean`` and ``sd`` such that (x - mean) / sd is the normalisation asked for.

        A constant channel has half a range of 1 rather than 0, as it has a standard deviation of 1.
        """
        if normalisation == "zscore":
            return self
        ends = list(zip(self.low, self.high, strict=True))
        middle = tuple((low + high) / 2 for low, high in ends)
        return replace(self, mean=middle, sd=tuple((high - low) / 2 or 1.0 for low, high in ends))


def stored(channels: Sequence[NDArray[Any]], mask: NDArray[np.uint8], cache_format: CacheFormat) -> StoredSubject:
    """Choose how a subject is stored.

    Args:
        channels: C volumes [D, H, W] of any real type.
        mask: codes [D, H, W].
        cache_format: see the module.
    """
    steps = [1.0] * len(channels)
    kind: Any = np.int16
    if not all(_is_whole(channel) for channel in channels):
        if cache_format == "arrays":
            kind = np.float32
        else:
            steps = [float(np.abs(channel).max()) / _MOST or 1.0 for channel in channels]
    rounded = steps != [1.0] * len(channels)
    image = np.stack(
        [
            _rounded(channel, step) if rounded else channel.astype(kind, copy=False)
            for channel, step in zip(channels, steps, strict=True)
        ]
    )
    moments = [_moments(channel) for channel in image]
    mean, sd = (tuple(values) for values in zip(*moments, strict=True))
    low, high = (tuple(values) for values in zip(*map(_extremes, image), strict=True))
    loss = tuple(1.0 / deviation if rounded else 0.0 for deviation in sd)
    return StoredSubject(image, mask, mean, sd, low, high, tuple(steps), loss)


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


def _moments(channel: NDArray[Any]) -> tuple[float, float]:
    """Return mean and standard deviation of the values that are not 0, in double precision."""
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
    return mean, float(np.sqrt(variance)) or 1.0


def _extremes(channel: NDArray[Any]) -> tuple[float, float]:
    """Return the least and the largest value that is not 0."""
    values = channel[channel != 0]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def write_subject(folder: Path, subject: StoredSubject, cache_format: CacheFormat) -> dict[str, Any]:
    """Write the arrays of an entry into its folder; return what `read_subject` must be told to read them."""
    for name, array in (("image", subject.image), ("mask", subject.mask)):
        if cache_format == "arrays":
            np.save(folder / f"{name}.npy", array)
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
