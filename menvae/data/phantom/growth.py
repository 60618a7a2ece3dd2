"""Growth curves and visit schedules of phantom patients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from menvae.data.phantom.distributions import (
    CURVE_STREAM,
    KIND_STREAM,
    READER_STREAM,
    SCHEDULE_STREAM,
    draw_value,
    random_streams,
)
from menvae.data.phantom.head import ED, phantom_subject, write_subject
from menvae.data.phantom.tumour import PhantomVisit
from menvae.statistics.gompertz import Gompertz

MEASURED = ("tumour_voxels_mm3", "total_voxels_mm3")
"""Names of the volumes of the mask of a visit, which `make_visit` returns."""


Kind = Literal["grow", "stand_still", "shrink"]
KINDS: Final[tuple[Kind, ...]] = ("grow", "stand_still", "shrink")


def phantom_kind(seed: int, index: int, shares: Mapping[Kind, float]) -> Kind:
    """Draw what a patient's tumour does.

    Args:
        seed: seed of the cohort, 0 or more.
        index: index of the patient, 0 or more.
        shares: of the patients, which sum to 1; kinds that are left out have none.

    >>> [phantom_kind(0, index, {"grow": 0.5, "shrink": 0.5}) for index in range(4)]
    ['grow', 'shrink', 'grow', 'shrink']
    """
    kind, _ = random_streams(seed, index, KIND_STREAM)
    drawn, grow = kind.random(), shares.get("grow", 0.0)
    if drawn < grow:
        return "grow"
    return "stand_still" if drawn < grow + shares.get("stand_still", 0.0) else "shrink"


def phantom_growth(seed: int, index: int, kind: Kind = "grow") -> Gompertz:
    """Draw the growth curve of a patient's tumour; depends only on the arguments.

    The kind is in the capacity: above the first volume, equal to it, or below it. First volume and rate are the same
    for all kinds.

    Args:
        seed: seed of the cohort, 0 or more.
        index: index of the patient, 0 or more.
        kind: what the tumour does.

    >>> curve = phantom_growth(seed=0, index=3)
    >>> 0 < curve.first_mm3 < curve.volume_mm3(2.0) < curve.capacity_mm3
    True
    >>> smaller = phantom_growth(seed=0, index=3, kind="shrink")
    >>> curve.first_mm3 == smaller.first_mm3 > smaller.volume_mm3(2.0) > smaller.capacity_mm3 > 0
    True
    """
    (rng,) = random_streams(seed, index, CURVE_STREAM, count=1)
    rate, capacity_ml = draw_value(rng, "growth_rate"), draw_value(rng, "growth_capacity")
    capacity_mm3 = 1000.0 * capacity_ml
    curve = Gompertz(capacity_mm3 * draw_value(rng, "growth_first_share"), capacity_mm3, rate)
    if kind == "grow":
        return curve
    _, limit = random_streams(seed, index, KIND_STREAM)
    share = 1.0 if kind == "stand_still" else draw_value(limit, "shrink_capacity_share")
    return replace(curve, capacity_mm3=share * curve.first_mm3)


def phantom_schedule(
    seed: int, index: int, num_visits: tuple[int, int], interval_days: tuple[int, int], two_visits: float = 0.0
) -> list[int]:
    """Draw the days of a patient's visits, the first at 0; all bounds are inclusive.

    Intervals do not depend on the number of visits, so a longer follow-up starts like a shorter one.

    Args:
        seed: seed of the cohort, 0 or more.
        index: index of the patient, 0 or more.
        num_visits: minimum and maximum of patients without exactly two visits.
        interval_days: minimum and maximum from one visit to the next.
        two_visits: probability of exactly two visits.

    >>> phantom_schedule(seed=0, index=3, num_visits=(3, 3), interval_days=(100, 100))
    [0, 100, 200]
    """
    count, intervals, two = random_streams(seed, index, SCHEDULE_STREAM, count=3)
    num = 2 if two.random() < two_visits else int(count.integers(num_visits[0], num_visits[1], endpoint=True))
    gaps = [int(intervals.integers(*interval_days, endpoint=True)) for _ in range(num - 1)]
    return [sum(gaps[:visit]) for visit in range(num)]


def read_volume_mm3(seed: int, index: int, visit: int, volume_mm3: float) -> float:
    """Draw the volume that another reader would measure at a visit; the error depends on the size of the tumour.

    He draws the boundary of a ball a little farther out or in: the logarithm of the volume changes by three times the
    distance over the radius.

    Args:
        seed: seed of the cohort, 0 or more.
        index: index of the patient, 0 or more.
        visit: number of the visit, 0 for the first.
        volume_mm3: true volume.
    """
    (rng,) = random_streams(seed, index, READER_STREAM, visit, count=1)
    radius_mm = (0.75 * volume_mm3 / math.pi) ** (1 / 3)
    return volume_mm3 * math.exp(3.0 * draw_value(rng, "reader_boundary") / radius_mm)


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
