"""A longitudinal cohort of phantoms: patients with irregular visits, whose tumours grow, stand still or shrink.

All follow Gompertz curves; a tumour that stands still has reached its capacity, and one that shrinks is above it.

``growth.csv``, next to the files, holds the ground truth, one row per visit:

================== =================================================================================================
patient_id         patient, such as phantom-00003; also the folder of the patient's visits
subject_id         visit, such as phantom-00003-000
days               days since the patient's first visit
kind               what the tumour does: grow, stand_still or shrink
volume_mm3         volume of the curve: enhancing tumour and necrotic core
a_per_year         rate of the curve
capacity_mm3       asymptotic volume of the curve: above its first volume, the same (stand_still), or below it (shrink)
measured_mm3       volume of the curve with the error of another reader at each visit
tumour_voxels_mm3  volume in the mask: enhancing tumour and necrotic core
total_voxels_mm3   volume in the mask: all labels, including oedema
================== =================================================================================================

Accuracy of the masks, over 961 visits of 300 patients with 4 mm voxels: the tumour is within 5 % of its curve at every
visit for 86 % of the patients, within 10 % for 97 %, and never moves against its curve. Where the curve stands still,
all masks of the patient are the same. A tumour always keeps 30 % of its first volume, at least 0.5 mL.

Oedema and necrotic core are drawn once per patient. Oedema is a constant multiple i of the tumour, so the volume of all
labels, measured by ``vol_total``, is (1 + i) V: also a Gompertz curve, with the same a and the capacity (1 + i) K. If i
is large, the brain has no room for the oedema of a large tumour: of the 151 patients with oedema, nine in ten keep
(1 + i) within 10 % over their visits. A core of few voxels may appear and disappear with the grid.

Volumes of real masks carry the error of whoever drew them, and masks of phantoms do not. ``measured_mm3`` has one that
falls with the size of the tumour, see `menvae.data.phantom.read_volume_mm3`.

The folder has the layout of real longitudinal cohorts, and ``growth.csv`` is a table of dates: with the folder as
``data.root`` and the table as ``data.dates``, ``data=brats`` reads the same cohort.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from menvae.data.cache.trajectories import DAYS_PER_YEAR
from menvae.data.files.subjects import SubjectFiles
from menvae.data.phantom.distributions import FOLLOW_UP_VERSION, GROWTH_VERSION
from menvae.data.phantom.growth import (
    KINDS,
    MEASURED,
    Kind,
    make_visit,
    phantom_growth,
    phantom_kind,
    phantom_schedule,
    read_volume_mm3,
)
from menvae.data.phantom.head import phantom_factors
from menvae.data.phantom.tumour import PhantomVisit
from menvae.data.sources.phantom import ProceduralSource, without_groups
from menvae.data.workers import ShowProgress, run_tasks
from menvae.errors import UserError
from menvae.files import csv_text
from menvae.registry import Field, register
from menvae.statistics.gompertz import Gompertz

_COLUMNS = ("patient_id", "subject_id", "days", "kind", "volume_mm3", "a_per_year", "capacity_mm3", "measured_mm3")

Whole = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True)
class _Visit:
    """One visit to generate: patient index, visit number, day, what the tumour does, and growth curve."""

    index: int
    number: int
    days: int
    kind: Kind
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

    @property
    def as_drawn(self) -> PhantomVisit:
        return PhantomVisit(self.number, self.volume_mm3, self.curve.first_mm3)


@register("data", "phantom_growth", reference="menvae.data.phantom.head, its tables of distributions")
@dataclass(frozen=True, kw_only=True)
class PhantomGrowthSource(ProceduralSource):
    """Procedural patients with several visits, whose tumours grow, stand still or shrink along Gompertz curves.

    A first visit depends only on the seed and the patient's index; a later one also on its number, ``interval_days``
    and what the tumour does. All visits of a patient share the head and every property of the tumour except its size;
    each visit has a different scanner.

    Attributes:
        num_patients: number of patients.
        shares: of the patients whose tumours grow, stand still and shrink. 59, 27 and 14 % of 235 untreated patients
            (Strand et al. 2023, Growth dynamics of untreated meningiomas, Neuro-Oncology Advances 5).
        visits: minimum and maximum number of visits of the other patients.
        two_visits: probability that a patient has two visits, whatever ``visits`` is.
        interval_days: minimum and maximum days from one visit to the next.
    """

    num_patients: Annotated[int, Field(ge=2)] = 40
    shares: dict[Kind, Probability] = field(default_factory=lambda: {"grow": 0.59, "stand_still": 0.27, "shrink": 0.14})
    visits: tuple[Whole, Whole] = (3, 6)
    two_visits: Probability = 0.55
    interval_days: tuple[Whole, Whole] = (120, 720)

    def __post_init__(self) -> None:
        """Validate the keys without reading any data."""
        super().__post_init__()
        for name, (least, most) in (("visits", self.visits), ("interval_days", self.interval_days)):
            if least > most:
                raise UserError(f"data.{name}: [{least}, {most}] is not allowed; give the minimum, then the maximum")
        total = math.fsum(self.shares.values())
        if abs(total - 1.0) > 1e-9:
            raise UserError(f"data.shares: a sum of {total:g} is not allowed; give shares of 0 to 1 that sum to 1")

    @property
    def curves(self) -> dict[str, Gompertz]:
        """Patient -> ground-truth curve of the volume of enhancing tumour and necrotic core."""
        return {visit.patient_id: visit.curve for visit in self._visits()}

    def factors(self, subject_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return what generated each visit."""
        visits = {visit.subject_id: visit for visit in self._visits()}
        chosen = {name: visits[name] for name in subject_ids}
        found = {name: phantom_factors(self.seed, visit.index, visit.as_drawn) for name, visit in chosen.items()}
        return {name: without_groups(factors) for name, factors in found.items()}

    def subjects(self, cache: Path, show: ShowProgress, num_workers: int | None = None) -> list[SubjectFiles]:
        """Generate missing visits and ``growth.csv`` in ``<cache>/phantom_growth/<version>.../``; return all visits."""
        root, visits = self._root(cache), self._visits()
        if not _is_made(root, visits):
            root.mkdir(parents=True, exist_ok=True)
            tasks = [(self.seed, visit.index, self._voxel_mm, visit.as_drawn, _folder(root, visit)) for visit in visits]
            made = dict(show(run_tasks(make_visit, tasks, num_workers=num_workers), "making phantoms", len(tasks)))
            rows = [_truth(self.seed, visit) | made[visit.subject_id] for visit in visits]
            _write_truth(root / "growth.csv", rows)
        return self._all_files(root, visits)

    def found_subjects(self, cache: Path) -> list[SubjectFiles] | None:
        """Return all visits, or None unless the files of all of them exist."""
        root, visits = self._root(cache), self._visits()
        return self._all_files(root, visits) if _is_made(root, visits) else None

    def _root(self, cache: Path) -> Path:
        # each cohort size has its own folder, so that growth.csv matches its folder
        (fewest, most), (shortest, longest) = self.visits, self.interval_days
        cohort = f"{self.num_patients}patients_{fewest}-{most}visits_{shortest}-{longest}days"
        shares = [float(self.shares.get(kind, 0.0)) for kind in KINDS]
        if shares[0] < 1.0 or self.two_visits > 0.0:  # cohorts from before there were these keys are found again
            cohort += f"_{FOLLOW_UP_VERSION}_{'-'.join(map(str, shares))}kinds_{self.two_visits}two"
        return cache / "phantom_growth" / f"{self._folder_name(GROWTH_VERSION)}_{cohort}"

    def _all_files(self, root: Path, visits: Sequence[_Visit]) -> list[SubjectFiles]:
        return [
            replace(self._files(_folder(root, visit)), patient_id=visit.patient_id, days=float(visit.days))
            for visit in visits
        ]

    def _visits(self) -> list[_Visit]:
        return [visit for index in range(self.num_patients) for visit in self._visits_of(index)]

    def _visits_of(self, index: int) -> list[_Visit]:
        kind = phantom_kind(self.seed, index, self.shares)
        curve = phantom_growth(self.seed, index, kind)
        days = phantom_schedule(self.seed, index, self.visits, self.interval_days, self.two_visits)
        return [_Visit(index, number, day, kind, curve) for number, day in enumerate(days)]


def _folder(root: Path, visit: _Visit) -> Path:
    return root / visit.patient_id / visit.subject_id


def _is_made(root: Path, visits: Sequence[_Visit]) -> bool:
    return (root / "growth.csv").is_file() and all(_folder(root, visit).is_dir() for visit in visits)


def _truth(seed: int, visit: _Visit) -> dict[str, str | float]:
    curve, volume_mm3 = visit.curve, visit.volume_mm3
    measured_mm3 = read_volume_mm3(seed, visit.index, visit.number, volume_mm3)
    names, volumes = (visit.patient_id, visit.subject_id), (curve.capacity_mm3, measured_mm3)
    values = (*names, visit.days, visit.kind, volume_mm3, curve.rate_per_year, *volumes)
    return dict(zip(_COLUMNS, values, strict=True))


def _write_truth(path: Path, rows: list[Mapping[str, str | float]]) -> None:
    """Write the table atomically."""
    descriptor, name = tempfile.mkstemp(prefix=".growth-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            columns = [*_COLUMNS, *MEASURED]
            file.write(csv_text([columns, *([row[column] for column in columns] for row in rows)]))
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
