"""Another cohort as one split of the evaluation of a finished run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from menvae.console import logs
from menvae.data.digests import digest_of
from menvae.data.source import Data, DataSource, FittedTargets, Visit
from menvae.data.targets.normalizer import RawTargets
from menvae.errors import UserError
from menvae.evaluation.metrics import patients_of
from menvae.runs.cohort import Cohort, CohortRequest, cohort_name, cores_for_workers, open_cohort
from menvae.runs.finished import FinishedRun
from menvae.types import Batch, ModelOutput

_log = logging.getLogger(__name__)

COHORT = "cohort"
"""Name of the split that another cohort is judged as."""


class OtherCohort:
    """A cohort that a run was not trained on.

    Its targets become z-scores by the normalizer of the run, and its classes the indices of the run's classes; targets
    that it does not have are not observed. Training patients of the run are left out, with a warning: visits whose
    patient has the name of one, where patients have names (files, but neither generated subjects nor rows of a table),
    and visits whose inputs are those of a training subject.

    Attributes:
        name: names its files.
        source: where its visits come from.
        raw: subject -> {target: value in its unit, None where not observed}; known after the first pass.
        left_out: visits of training patients; known after the first pass.
    """

    def __init__(self, run: FinishedRun, data: Mapping[str, Any], opened: Cohort) -> None:
        """Keep what is needed to read the cohort.

        Args:
            run: the run that judges it.
            data: ``data.*`` where they differ from those of the run.
            opened: the cohort, for the first pass.
        """
        self.name = cohort_name(run, data)
        self.raw: dict[str, RawTargets] = {}
        self.left_out: list[str] = []
        self._run, self._data, self.source = run, dict(data), opened.source
        self._opened: Cohort | None = opened
        self._contents: dict[str, str] = {}
        self._unknown_classes: set[str] = set()

    def outputs(self) -> Iterator[tuple[Batch, ModelOutput]]:
        """Yield the batches with the outputs of the model.

        Every call reads the cohort again; visits that are not in the cache are then prepared again.

        Raises:
            UserError: a visit is faulty, or all patients are training patients of the run.
        """
        is_first, self.left_out = self._opened is not None, []
        with logs.only_errors(quiet=not is_first):
            cohort = self._opened or open_cohort(self._run, CohortRequest(data=self._data))
        self._opened = None
        with cores_for_workers(cohort, self._run.device), logs.only_errors(quiet=not is_first):
            for stored, visits, _ in cohort.rows:
                batch = self._kept(stored, visits)
                if len(batch):
                    yield self._run.output(batch)
        if is_first:
            self._warn()
        if not self.raw:
            raise UserError(
                f"data: all {len(self.left_out)} visits of cohort '{self.name}' are of training patients of run "
                f"'{self._run.name}', such as '{self.left_out[0]}'; give a cohort that the model has not seen"
                if self.left_out
                else f"data: cohort '{self.name}' has no visit"
            )

    @property
    def as_data(self) -> Data:
        """The data of the run, but with the raw targets of this cohort."""
        own = self._run.data
        targets = own.targets and FittedTargets(own.targets.normalizer, self.raw, own.targets.training)
        return replace(own, targets=targets)

    def describe(self) -> dict[str, Any]:
        """Return the entry ``cohort`` of ``evaluation.json``."""
        contents = digest_of(sorted(self._contents.items()))
        return {"name": self.name, "data": self._data, "inputs_hash": contents, "left_out": self.left_out}

    @cached_property
    def _training(self) -> tuple[frozenset[str], frozenset[str]]:
        """Names of the training patients, and contents of the training inputs."""
        patients, contents = set[str](), set[str]()
        for batch in self._run.data.train.epoch(0):
            patients.update(patients_of(batch))
            contents.update(_contents(batch))
        return frozenset(patients), frozenset(contents)

    def _kept(self, batch: Batch, visits: Sequence[Visit]) -> Batch:
        """Return a batch with targets and labels, without the training patients of the run."""
        patients, inputs = self._training
        names_count = _has_names(self.source) and _has_names(self._run.experiment.source)
        contents = _contents(batch)
        rows = []
        for row, (visit, content) in enumerate(zip(visits, contents, strict=True)):
            if content in inputs or (names_count and visit.patient_id in patients):
                self.left_out.append(visit.subject_id)
            else:
                rows.append(row)
                self._contents[visit.subject_id] = content
        return self._with_targets(batch.rows(rows), [visits[row] for row in rows])

    def _with_targets(self, batch: Batch, visits: Sequence[Visit]) -> Batch:
        normalizer, targets, observed = self._run.targets, {}, {}
        if normalizer is not None:
            self.raw |= {
                visit.subject_id: {name: visit.raw.get(name) for name in normalizer.statistics} for visit in visits
            }
            for partition, names in self._run.experiment.supervision.items():
                scores = [[self._z_score(visit.subject_id, name) for name in names] for visit in visits]
                known = torch.tensor([[score is not None for score in row] for row in scores], dtype=torch.bool)
                values = torch.tensor([[score or 0.0 for score in row] for row in scores], dtype=torch.float32)
                observed[partition], targets[partition] = (
                    each.reshape(len(visits), len(names)) for each in (known, values)
                )
        else:
            self.raw |= {visit.subject_id: {} for visit in visits}
        there = self._training[0]
        patients = tuple(  # equal names are left out by now if they say something: these are other patients
            f"{patient} ({COHORT})" if patient in there else patient for patient in patients_of(batch)
        )
        return replace(batch, targets=targets, observed=observed, labels=self._labels(visits), patient_id=patients)

    def _z_score(self, subject: str, target: str) -> float | None:
        raw, normalizer = self.raw[subject], self._run.targets
        # without a mask, nothing was measured, whatever stands for a feature that a mask does not show
        is_measured = any(value is not None for value in raw.values())
        return normalizer.normalise(raw, target) if normalizer is not None and is_measured else None

    def _labels(self, visits: Sequence[Visit]) -> torch.Tensor | None:
        classes = self._run.data.classes
        if not classes:
            return None
        self._unknown_classes |= {visit.label for visit in visits if visit.label and visit.label not in classes}
        return torch.tensor([classes.index(visit.label) if visit.label in classes else -1 for visit in visits])

    def _warn(self) -> None:
        if self.left_out and self.raw:
            _log.warning(
                "%d of %d visits are left out because the run was trained on their patients, such as '%s'; rename "
                "patients that only have the same name",
                *(len(self.left_out), len(self.left_out) + len(self.raw), self.left_out[0]),
            )
        if self._unknown_classes:
            _log.warning(
                "%d classes are unknown to the model, and their rows count as unlabelled, such as '%s'",
                *(len(self._unknown_classes), min(self._unknown_classes)),
            )


def _has_names(source: DataSource) -> bool:
    """Return whether names of patients identify them; those of generated subjects and rows of tables are numbers."""
    return source.cohort is not None and source.cohort.checks_files


def _contents(batch: Batch) -> list[str]:
    """Return a hash of the stored inputs of each row."""
    return [
        hashlib.blake2b(values.float().contiguous().numpy().data, digest_size=16).hexdigest()
        for values in batch.inputs.cpu()
    ]
