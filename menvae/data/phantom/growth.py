"""Growth curves and visit schedules of phantom patients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from menvae.data.phantom.distributions import CURVE_STREAM, SCHEDULE_STREAM, draw_value, random_streams
from menvae.data.phantom.head import ED, phantom_subject, write_subject
from menvae.data.phantom.tumour import PhantomVisit
from menvae.statistics.gompertz import Gompertz

MEASURED = ("tumour_voxels_mm3", "total_voxels_mm3")
"""Names of the volumes of the mask of a visit, which `make_visit` returns."""


def phantom_growth(seed: int, index: int) -> Gompertz:
    """Draw the growth curve of a patient's tumour; depends only on (seed, index).

    Args:
        seed: seed of the cohort, 0 or more.
        index: index of the patient, 0 or more.

    >>> curve = phantom_growth(seed=0, index=3)
    >>> 0 < curve.first_mm3 < curve.volume_mm3(2.0) < curve.capacity_mm3
    True
    """
    (rng,) = random_streams(seed, index, CURVE_STREAM, count=1)
    rate, capacity_ml = draw_value(rng, "growth_rate"), draw_value(rng, "growth_capacity")
    capacity_mm3 = 1000.0 * capacity_ml
    return Gompertz(capacity_mm3 * draw_value(rng, "growth_first_share"), capacity_mm3, rate)


def phantom_schedule(seed: int, index: int, num_visits: tuple[int, int], interval_days: tuple[int, int]) -> list[int]:
    """Draw the days of a patient's visits, the first at 0; all bounds are inclusive.

    Intervals do not depend on the number of visits, so a longer follow-up starts like a shorter one.

    >>> phantom_schedule(seed=0, index=3, num_visits=(3, 3), interval_days=(100, 100))
    [0, 100, 200]
    """
    count, intervals = random_streams(seed, index, SCHEDULE_STREAM)
    num = int(count.integers(num_visits[0], num_visits[1], endpoint=True))
    gaps = [int(intervals.integers(*interval_days, endpoint=True)) for _ in range(num - 1)]
    return [sum(gaps[:visit]) for visit in range(num)]


def make_visit(
    task: tuple[int, int, tuple[float, float, float], PhantomVisit, Path],
) -> tuple[str, dict[str, float]]:
    """Generate a visit unless its files exist; a task of a worker process, which thus imports no torch.

    Args:
        task: seed of the cohort, index of the patient, voxel size in mm, visit, folder of the visit.

    Returns:
        The identifier of the visit and the volumes of its mask in mm^3, see `MEASURED`.
    """
    seed, index, spacing_mm, visit, folder = task
    if folder.is_dir():
        mask = _written_mask(folder)
    else:
        subject = phantom_subject(seed, index, spacing_mm, visit)
        write_subject(subject, folder.parent)
        mask = subject.mask
    voxel_mm3 = math.prod(spacing_mm)
    total_mm3 = np.count_nonzero(mask) * voxel_mm3
    return folder.name, dict(
        zip(MEASURED, (total_mm3 - np.count_nonzero(mask == ED) * voxel_mm3, total_mm3), strict=True)
    )


def _written_mask(folder: Path) -> NDArray[np.uint8]:
    import nibabel

    image: Any = nibabel.load(folder / f"{folder.name}-seg.nii.gz")  # type: ignore[attr-defined, unused-ignore]
    return np.asarray(image.dataobj)
