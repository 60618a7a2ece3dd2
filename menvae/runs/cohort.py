"""The cohort to encode or judge: that of the run with its splits, or another one to which nothing was fitted."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf

from menvae.cores import num_cores
from menvae.data.batches.splits import SPLITS
from menvae.data.digests import digest_of
from menvae.data.source import Data, DataSource, StreamRequest, Visit
from menvae.data.workers import ShowProgress, unseen
from menvae.errors import UserError, nearest
from menvae.registry import bind, lookup
from menvae.runs.finished import FinishedRun
from menvae.runs.identity import is_outside, outside_keys
from menvae.runs.reading import flat, read_mapping
from menvae.types import Batch

_log = logging.getLogger(__name__)

SplitChoice = Literal["all", "train", "val", "test"]

NEW = "new"
"""Split of the visits of a cohort that the run was not trained on."""

Rows = tuple[Batch, Sequence[Visit], str]
"""A batch of stored values, the visits of its rows, and their split."""


@dataclass(frozen=True)
class Cohort:
    """Visits to encode or judge.

    Attributes:
        source: where they come from.
        subject_ids: all visits; faulty ones of another cohort may be left out.
        rows: batches in order, to be read once.
        own: the run, which finds its own cohort where it lies now; None for another cohort.
    """

    source: DataSource
    subject_ids: Sequence[str]
    rows: Iterator[Rows]
    own: FinishedRun | None

    @property
    def is_streamed(self) -> bool:
        """Whether processes prepare visits while the model works on others."""
        return self.own is None and self.source.cohort is not None


@dataclass(frozen=True, kw_only=True)
class CohortRequest:
    """Which visits to read, and how.

    Attributes:
        split: split of the run's own cohort; ``all`` for a new one.
        data: ``data.*`` of a new cohort, where they differ from those of the run; empty for its own cohort.
        batch_size: visits per batch; None: that of the training.
        num_workers: processes that prepare visits of a new cohort; None: one per core.
        show: progress display.
    """

    split: SplitChoice = "all"
    data: Mapping[str, Any]
    batch_size: int | None = None
    num_workers: int | None = None
    show: ShowProgress = unseen


def open_cohort(run: FinishedRun, request: CohortRequest) -> Cohort:
    """Open a cohort.

    Raises:
        UserError: the split is empty, the data are invalid, or the model was trained on data of another kind.
    """
    if not request.data:
        return _own(run, request.split)
    source = _other_source(run, request.data)
    if request.split != "all":
        raise UserError(
            f"split: '{request.split}' is not allowed with data.*, because a new cohort has no splits; use split=all"
        )
    size = request.batch_size or int(run.config["trainer"]["batch_size"])
    stream = source.stream(
        StreamRequest(
            cache=run.experiment.output_dir / "cache",
            description=read_mapping(run.path / "targets.json"),
            batch_size=size,
            num_workers=request.num_workers,
            show=request.show,
        )
    )
    same_names = sorted(stream.subject_ids) == sorted(run.splits)
    if same_names and (moved := _moved(run, request.data)):
        return _own(moved, request.split)
    rows = ((batch, visits, NEW) for batch, visits in stream.batches)
    return Cohort(source, stream.subject_ids, rows, own=None)


def _own(run: FinishedRun, split: SplitChoice) -> Cohort:
    data = run.data
    loaders = {"train": data.train, "val": data.val, "test": data.test}
    chosen = [name for name in SPLITS if split in ("all", name) and loaders[name] is not None]
    if not chosen:
        known = ["all", *(name for name, loader in loaders.items() if loader is not None)]
        raise UserError(f"split: run '{run.name}' has no visit in '{split}'; {nearest(split, known)}")
    subjects = [subject for subject, name in data.splits.items() if name in chosen]
    return Cohort(run.experiment.source, subjects, _rows(data, chosen), own=run)


def _rows(data: Data, splits: Sequence[str]) -> Iterator[Rows]:
    loaders = {"train": data.train, "val": data.val, "test": data.test}
    days = {one.subject_id: one.days for one in data.volumes.cohort.subjects} if data.volumes else {}
    for split in splits:
        loader = loaders[split]
        assert loader is not None
        for batch in loader.epoch(0):
            patients = batch.patient_id or ("",) * len(batch)
            yield (
                batch,
                [
                    Visit(name, patient, days.get(name), data.targets.raw[name] if data.targets else {})
                    for name, patient in zip(batch.subject_id, patients, strict=True)
                ],
                split,
            )


def _other_source(run: FinishedRun, keys: Mapping[str, Any]) -> DataSource:
    """Return the source of a new cohort: that of the run with other keys, or one of another name.

    Raises:
        UserError: a key is wrong, or the model cannot read such data.
    """
    trained = run.experiment.source
    own: dict[str, Any] = dict(run.config["data"])
    name = str(keys.get("name", own["name"]))
    if name != own["name"]:
        allowed = lookup("data", name, "data").tunables
        own = {key: value for key, value in own.items() if key in allowed}
        if trained.cohort is not None and "spacing_mm" in allowed:  # of which some sources have no equal word
            spacing_mm = trained.cohort.geometry.spacing_mm
            own["spacing_mm"] = None if spacing_mm is None else list(spacing_mm)
    merged = OmegaConf.to_container(OmegaConf.merge(own, dict(keys), {"name": name}))
    assert isinstance(merged, dict)
    source: DataSource = bind("data", {str(key): _without_removed(value) for key, value in merged.items()}, "data")()
    for key, value in source.identity.items():
        wanted = trained.identity.get(key)
        if value != wanted:
            raise UserError(
                f"{key}: {value} is not allowed; the model of run '{run.name}' was trained with "
                f"{wanted or 'data of another kind'}"
            )
    return source


def _without_removed(value: Any) -> Any:
    """Return a mapping without the entries that null removes, such as a region that the masks do not have."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value


def _moved(run: FinishedRun, keys: Mapping[str, Any]) -> FinishedRun | None:
    """Return the run with its own cohort at another place; None if the data differ."""
    allowed = outside_keys(run.config["data"]["name"])
    if not all(is_outside(f"data.{key}", allowed) for key, _ in flat(keys)):
        return None
    config = OmegaConf.create({**run.config})
    for key, value in keys.items():
        OmegaConf.update(config, f"data.{key}", value, force_add=True)
    moved = replace(run, experiment=type(run.experiment).from_config(config))
    try:
        _ = moved.data
    except UserError as error:
        _log.info("not the cohort of run '%s', although its visits have the same names: %s", run.name, error)
        return None
    return moved


def cohort_name(run: FinishedRun, keys: Mapping[str, Any]) -> str:
    """Return a name for the files of another cohort: its folder or source, and a hash of its keys."""
    source = _other_source(run, keys)
    name = Path(source.location).name if source.location else str(keys.get("name", run.config["data"]["name"]))
    return f"{name}_{digest_of(dict(keys))[:6]}"


@contextmanager
def cores_for_workers(cohort: Cohort, device: torch.device) -> Iterator[None]:
    """Leave half of the cores to the processes that prepare; more threads than cores wait for each other, busily."""
    before = torch.get_num_threads()
    try:
        if cohort.is_streamed and device.type == "cpu":
            torch.set_num_threads(max(1, min(before, num_cores() // 2)))
        yield
    finally:
        torch.set_num_threads(before)
