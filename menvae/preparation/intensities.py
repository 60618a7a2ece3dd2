"""Intensity statistics of prepared subjects per channel, kept in the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from menvae.data.cache.cohort import PreparedSubject
from menvae.data.digests import digest_of, write_whole
from menvae.data.workers import ShowProgress, run_tasks, unseen

INTENSITIES_VERSION: Final = 1
"""Increment when the measurement changes; this invalidates all cached measurements."""

LARGEST_PLATEAU: Final = 0.2
"""If one value fills a larger share of the non-zero voxels, it is a background or the image is nearly constant."""

_LARGEST_SAMPLE: Final = 200_000
_TASKS_WORTH_PROCESSES: Final = 8


@dataclass(frozen=True)
class ChannelIntensities:
    """Statistics of one channel of a subject in the training box.

    Attributes:
        coverage: share of the voxels with signal in any channel where this channel has signal; 0 without any signal.
            Signal is non-zero and not on a plateau above `LARGEST_PLATEAU`.
        plateau: share of the non-zero voxels with the most common of two values: the 10th percentile and the median.
        plateau_value: that value, as stored.
    """

    coverage: float
    plateau: float
    plateau_value: float


def measure_intensities(image: NDArray[Any]) -> list[ChannelIntensities]:
    """Measure the channels of a subject.

    The plateau is estimated from at most 200,000 evenly spaced voxels. A constant non-zero background fills most of a
    box, and is the lowest value if it is negative.

    Args:
        image: stored values [C, D, H, W]; 0 is background.

    >>> image = np.zeros((2, 1, 1, 10), np.float32)
    >>> image[0, 0, 0, 1:], image[1, 0, 0] = np.arange(9.0), [-1, -1, -1, -1, -1, 5, 6, 7, 8, 9]
    >>> [(one.coverage, one.plateau, one.plateau_value) for one in measure_intensities(image)]
    [(1.0, 0.125, 1.0), (0.625, 0.5, -1.0)]
    """
    plateaus = [_plateau(channel[channel != 0]) for channel in image]
    signals = [
        (channel != 0) & (channel != value) if share > LARGEST_PLATEAU else channel != 0
        for channel, (share, value) in zip(image, plateaus, strict=True)
    ]
    with_signal = int(np.count_nonzero(np.logical_or.reduce(signals)))
    return [
        ChannelIntensities(int(np.count_nonzero(signal)) / with_signal if with_signal else 0.0, share, value)
        for signal, (share, value) in zip(signals, plateaus, strict=True)
    ]


def _plateau(values: NDArray[Any]) -> tuple[float, float]:
    """Return the share and the value of the plateau among non-zero values."""
    if not len(values):
        return 0.0, 0.0
    sample = values[:: -(-len(values) // _LARGEST_SAMPLE)]
    places = [len(sample) // 10, len(sample) // 2]
    candidates = np.unique(np.partition(sample, places)[places])
    counts = [int(np.count_nonzero(sample == value)) for value in candidates]
    most = int(np.argmax(counts))
    return counts[most] / len(sample), float(candidates[most])


def cohort_intensities(
    subjects: Sequence[PreparedSubject], cache: Path, num_workers: int | None = None, show: ShowProgress = unseen
) -> dict[str, list[ChannelIntensities]]:
    """Return {subject: statistics of its channels}, reading only subjects that were not measured before.

    Args:
        subjects: cache entries.
        cache: cache folder.
        num_workers: worker processes; None uses one per core.
        show: progress display.
    """
    found = {subject.subject_id: _recall(_memo(subject, cache)) for subject in subjects}
    tasks = [(subject, _memo(subject, cache)) for subject in subjects if found[subject.subject_id] is None]
    if len(tasks) < _TASKS_WORTH_PROCESSES:  # starting processes would take longer
        found.update(map(_measure, tasks))
    else:
        found.update(show(run_tasks(_measure, tasks, num_workers=num_workers), "measuring intensities", len(tasks)))
    return {name: channels or [] for name, channels in found.items()}


def _measure(task: tuple[PreparedSubject, Path]) -> tuple[str, list[ChannelIntensities]]:
    subject, memo = task
    channels = measure_intensities(subject.load().image)
    write_whole(memo, json.dumps([asdict(channel) for channel in channels]).encode())
    return subject.subject_id, channels


def _memo(subject: PreparedSubject, cache: Path) -> Path:
    return cache / "intensities" / digest_of([subject.key, INTENSITIES_VERSION])


def _recall(memo: Path) -> list[ChannelIntensities] | None:
    try:
        return [ChannelIntensities(**channel) for channel in json.loads(memo.read_text())]
    except (FileNotFoundError, ValueError, TypeError):  # missing or damaged
        return None
