"""Subjects with nearly the same images, such as a patient who is in a cohort twice, exported or denoised anew.

Preparation keeps a sketch of every image: means of its z-scores over the blocks of a coarse grid. Sketches are compared
after subtracting the mean sketch of the cohort, because all heads are alike. Copies with noise of a tenth of the
standard deviation, or with other intensities, then correlate above .99; the most similar pair of 720 phantoms reaches
.73 over four modalities, and .92 in a single one. A few subjects of another scanner or preparation than the rest share
what differs, and correlate as highly: likeness is a reason to look, not a proof. Images that were moved by a voxel are
not found.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from menvae.data.cache.cohort import PreparedSubject
from menvae.data.cache.storage import StoredSubject

LEAST_CORRELATION = 0.95
FEWEST_SUBJECTS = 20
"""The mean of fewer sketches is not what all heads have in common."""

_BLOCKS = 8
_STEP = 1.0 / 40.0
_LEAST_SD = 0.05
"""Of a block, as a share of the largest; keeps blocks outside all heads from counting as much as others."""
_ROWS_AT_ONCE = 512

Floats32 = NDArray[np.float32]


def sketch(subject: StoredSubject) -> str:
    """Return the mean z-score of each block of each channel in steps of 1/40, as int8 in base64."""
    means = [
        _block_means(np.where(channel != 0, (channel.astype(np.float32) - mean) / sd, np.float32(0.0)))
        for channel, mean, sd in zip(subject.image, subject.mean, subject.sd, strict=True)
    ]
    rounded = np.clip(np.rint(np.stack(means) / _STEP), -127, 127).astype(np.int8)
    return base64.b64encode(rounded.tobytes()).decode()


def pairs_alike(subjects: Sequence[PreparedSubject]) -> Iterator[tuple[PreparedSubject, PreparedSubject]]:
    """Yield the pairs of subjects whose sketches correlate by at least `LEAST_CORRELATION`.

    The correlation is the mean over the modalities that both have, and `FEWEST_SUBJECTS` subjects. Fewer subjects with
    a sketch are not compared; entries of earlier versions have none.

    Args:
        subjects: all subjects of a cohort.
    """
    known = [subject for subject in subjects if subject.sketch]
    if len(known) < FEWEST_SUBJECTS:
        return
    num_channels = len(known[0].arrays["mean"])
    sketches_NCB = np.stack([_decoded(subject.sketch, num_channels) for subject in known])
    has_NC = np.array([[place not in one.missing_channels for place in range(num_channels)] for one in known])
    unit_NCB = np.stack([_centred(sketches_NCB[:, c], has_NC[:, c]) for c in range(num_channels)], axis=1)
    counts_NC = (has_NC & (has_NC.sum(axis=0) >= FEWEST_SUBJECTS)).astype(np.float32)
    flat = unit_NCB.reshape(len(known), -1)
    for start in range(0, len(known), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        correlations = flat[rows] @ flat.T / np.maximum(counts_NC[rows] @ counts_NC.T, 1.0)
        for row, other in np.argwhere(correlations >= LEAST_CORRELATION).tolist():
            if start + row < other:
                yield known[start + row], known[other]


def _block_means(volume: Floats32) -> Floats32:
    """Average a volume [D, H, W] over at most `_BLOCKS` blocks along each axis; return them in one row."""
    for axis, side in enumerate(volume.shape):
        num = min(_BLOCKS, side)
        starts = np.arange(num) * side // num
        sizes = np.diff(starts, append=side).astype(np.float32)
        sums = np.add.reduceat(volume, starts, axis=axis)
        volume = sums / sizes.reshape([-1 if place == axis else 1 for place in range(3)])
    return volume.ravel()


def _decoded(text: str, num_channels: int) -> Floats32:
    return np.frombuffer(base64.b64decode(text), np.int8).reshape(num_channels, -1).astype(np.float32) * _STEP


def _centred(sketches_NB: Floats32, has_N: NDArray[np.bool_]) -> Floats32:
    """Return the rows without their mean, in standard deviations and of unit length; 0 where a channel is missing."""
    found = np.zeros_like(sketches_NB)
    if has_N.sum() < FEWEST_SUBJECTS:
        return found
    own = sketches_NB[has_N]
    sd_B = own.std(axis=0)
    scaled = (own - own.mean(axis=0)) / np.maximum(sd_B, max(_LEAST_SD * float(sd_B.max()), 1e-6))
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    found[has_N] = np.divide(scaled, lengths, out=np.zeros_like(scaled), where=lengths > 0.0)
    return found
