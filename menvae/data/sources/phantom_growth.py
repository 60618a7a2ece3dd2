"""A cohort of phantoms over time: visits of patients at irregular times, whose tumours follow known curves.

The truth is written beside the files, as ``growth.csv``, one row a visit:

================== =================================================================================================
patient_id         such as phantom-00003, which is also the folder of the patient's visits
subject_id         such as phantom-00003-000, the visit
days               since the patient's first visit
volume_mm3         of the curve: enhancing tumour and necrotic core
a_per_year         rate of the curve
capacity_mm3       volume at which the curve ends
tumour_voxels_mm3  of the mask: enhancing tumour and necrotic core
total_voxels_mm3   of the mask: all labels, oedema too
================== =================================================================================================

How near the masks come, over 1341 visits of 300 patients with voxels of 4 mm: the tumour is within 5 % of its curve at
every visit of 85 % of the patients, within 10 % of 98 %, and never shrinks.

Whether there is oedema and a necrotic core is drawn once a patient. Oedema is a constant multiple i of the tumour, so
the volume of all labels, which is what ``vol_total`` measures, is (1 + i) V: a Gompertz curve too, with the same a and
the capacity (1 + i) K. Where i is large the brain has no room for it at later visits: of the 128 patients with oedema,
nine in ten keep (1 + i) within 10 % over their visits. A core of few voxels may come and go with the grid.

The folder has the layout of real cohorts with visits, and ``growth.csv`` is a table of dates: with it as ``data.dates``
and the folder as ``data.root``, ``data=brats`` reads the same cohort.
"""

from __future__ import annotations

import csv
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from menvae.data.cache.trajectories import DAYS_PER_YEAR
from menvae.data.files.subjects import SubjectFiles
from menvae.data.phantom.distributions import GROWTH_VERSION
from menvae.data.phantom.growth import phantom_growth, phantom_schedule
from menvae.data.phantom.head import ED, phantom_subject, write_subject
from menvae.data.phantom.tumour import PhantomVisit
from menvae.data.sources.phantom import ProceduralSource
from menvae.data.workers import ShowProgress, run_tasks
from menvae.errors import UserError
from menvae.registry import Field, register
from menvae.statistics.gompertz import Gompertz

_COLUMNS = ("patient_id", "subject_id", "days", "volume_mm3", "a_per_year", "capacity_mm3")
_MEASURED = ("tumour_voxels_mm3", "total_voxels_mm3")

Whole = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class _Visit:
    """One visit to be made: whose, which, when, and on which curve."""

    index: int
    number: int
    days: int
    curve: Gompertz

    @property
    def patient_id(self) -> str:
        return f"phantom-{self.index:05d}"

    @property
    def subject_id(self) -> str:
        return f"{self.patient_id}-{self.number:03d}"

    @property
    def volume_mm3(self) -> float:
        return self.curve.volume_mm3(self.days / DAYS_PER_YEAR)


@register("data", "phantom_growth", reference="menvae.data.phantom.head, its tables of distributions")
@dataclass(frozen=True, kw_only=True)
class PhantomGrowthSource(ProceduralSource):
    """Procedural patients, seen several times while their tumours grow along Gompertz curves.

    A visit depends on the seed, its patient's index, its number and ``interval_days`` alone. Heads, and all of a tumour
    but its size, are those of the patient at every visit; the scanner is another each time.

    Attributes:
        num_patients: size of the cohort.
        visits: least and most visits of a patient.
        interval_days: least and most days from one visit to the next.
    """

    num_patients: Annotated[int, Field(ge=2)] = 40
    visits: tuple[Whole, Whole] = (3, 6)
    interval_days: tuple[Whole, Whole] = (120, 720)

    def __post_init__(self) -> None:
        """Refuse what the keys alone show to be wrong."""
        super().__post_init__()
        for name, (least, most) in (("visits", self.visits), ("interval_days", self.interval_days)):
            if least > most:
                raise UserError(f"data.{name}: [{least}, {most}] is not allowed; it should be the least, then the most")

    @property
    def curves(self) -> dict[str, Gompertz]:
        """Patient -> the curve that the volume of enhancing tumour and necrotic core follows."""
        return {visit.patient_id: visit.curve for visit in self._visits()}

    def subjects(self, cache: Path, show: ShowProgress, num_workers: int | None = None) -> list[SubjectFiles]:
        """Make what ``<cache>/phantom_growth/<version>/`` does not hold yet, and its truth; return all visits."""
        root, visits = self._root(cache), self._visits()
        if not _is_made(root, visits):
            root.mkdir(parents=True, exist_ok=True)
            tasks = [(self.seed, visit, self._voxel_mm, root) for visit in visits]
            made = dict(show(run_tasks(_make, tasks, num_workers=num_workers), "making phantoms", len(tasks)))
            _write_truth(root / "growth.csv", [_truth(visit) | made[visit.subject_id] for visit in visits])
        return self._all_files(root, visits)

    def found_subjects(self, cache: Path) -> list[SubjectFiles] | None:
        """Return all visits if all are made."""
        root, visits = self._root(cache), self._visits()
        return self._all_files(root, visits) if _is_made(root, visits) else None

    def _root(self, cache: Path) -> Path:
        # cohorts of other sizes have folders of their own, so that growth.csv is that of its folder
        (fewest, most), (shortest, longest) = self.visits, self.interval_days
        cohort = f"{self.num_patients}patients_{fewest}-{most}visits_{shortest}-{longest}days"
        return cache / "phantom_growth" / f"{self._folder_name(GROWTH_VERSION)}_{cohort}"

    def _all_files(self, root: Path, visits: Sequence[_Visit]) -> list[SubjectFiles]:
        return [
            replace(self._files(_folder(root, visit)), patient_id=visit.patient_id, days=float(visit.days))
            for visit in visits
        ]

    def _visits(self) -> list[_Visit]:
        return [
            _Visit(index, number, days, phantom_growth(self.seed, index))
            for index in range(self.num_patients)
            for number, days in enumerate(phantom_schedule(self.seed, index, self.visits, self.interval_days))
        ]


def _folder(root: Path, visit: _Visit) -> Path:
    return root / visit.patient_id / visit.subject_id


def _is_made(root: Path, visits: Sequence[_Visit]) -> bool:
    return (root / "growth.csv").is_file() and all(_folder(root, visit).is_dir() for visit in visits)


def _make(task: tuple[int, _Visit, tuple[float, float, float], Path]) -> tuple[str, dict[str, float]]:
    """Make a visit if it is not there; return its identifier and what its mask measures, mm^3."""
    seed, visit, spacing_mm, root = task
    folder = _folder(root, visit)
    if folder.is_dir():
        mask = _written_mask(folder)
    else:
        wanted = PhantomVisit(visit.number, visit.volume_mm3, visit.curve.first_mm3)
        subject = phantom_subject(seed, visit.index, spacing_mm, wanted)
        write_subject(subject, folder.parent)
        mask = subject.mask
    voxel_mm3 = math.prod(spacing_mm)
    total_mm3 = np.count_nonzero(mask) * voxel_mm3
    return visit.subject_id, dict(
        zip(_MEASURED, (total_mm3 - np.count_nonzero(mask == ED) * voxel_mm3, total_mm3), strict=True)
    )


def _written_mask(folder: Path) -> NDArray[np.uint8]:
    import nibabel

    image: Any = nibabel.load(folder / f"{folder.name}-seg.nii.gz")  # type: ignore[attr-defined, unused-ignore]
    return np.asarray(image.dataobj)


def _truth(visit: _Visit) -> dict[str, str | float]:
    curve = visit.curve
    values = (visit.patient_id, visit.subject_id, visit.days, visit.volume_mm3, curve.rate_per_year, curve.capacity_mm3)
    return dict(zip(_COLUMNS, values, strict=True))


def _write_truth(path: Path, rows: list[Mapping[str, str | float]]) -> None:
    """Write a table in one step: a reader finds a whole one or none."""
    descriptor, name = tempfile.mkstemp(prefix=".growth-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*_COLUMNS, *_MEASURED], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
