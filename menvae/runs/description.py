"""Description of a run before training: files in its directory, parameters and tags for trackers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import NoneType
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from menvae.composition.experiment import Experiment
from menvae.data.source import Data
from menvae.data.targets.correlation import entangled_words, target_correlation
from menvae.files import read_json, write_json, write_table, write_text
from menvae.masking import masked
from menvae.pictures import PictureContext, Schedules, VolumeFacts, draw_pictures
from menvae.runs.directory import RunDirectory
from menvae.runs.environment import code_hash, describe_environment
from menvae.runs.extension import describe_parent
from menvae.runs.job import STANDS_FOR, Job
from menvae.runs.reading import flat, read_mapping
from menvae.runs.tuning import TUNING
from menvae.schedules import Schedule
from menvae.tracking.tracker import DatasetInput
from menvae.training.place import Place

_log = logging.getLogger(__name__)


def datasets_of(experiment: Experiment, data: Data) -> list[DatasetInput]:
    """Return the data sets of the run, for its trackers."""
    part = experiment.parts["data"]
    source = experiment.source.location or str(experiment.output_dir / "cache")
    return [DatasetInput(part.part.name, data.data_hash[:36], source, "training")]


def describe(experiment: Experiment, data: Data, here: Place, directory: RunDirectory) -> Callable[[], object]:
    """Write configuration, environment, targets and splits, and log advice.

    Returns:
        A function that draws the pictures due before training; training need not wait for it.
    """
    write_text(directory.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(masked(experiment.config))))
    environment = describe_environment(str(here.device), here.num_ranks, torch.get_num_threads())
    before = read_mapping(directory.path / "environment.json")
    chosen = {key: value for key, value in before.items() if key == TUNING}  # a resumed run keeps its precision
    write_json(directory.path / "environment.json", {**environment, **describe_parent(experiment), **chosen})
    write_json(directory.path / "targets.json", {"data_hash": data.data_hash, **data.description})
    write_table(directory.path / "splits.csv", data.split_columns, data.split_rows)
    for sentence in experiment.left_out:
        _log.info("%s", sentence)
    for sentence in experiment.advice:
        _log.warning("%s", sentence)
    context = _plan(experiment, data)
    return partial(draw_pictures, experiment.pictures, context, "before_training", directory.pictures)


def _plan(experiment: Experiment, data: Data) -> PictureContext:
    """Return the context of the pictures before training; warn about targets that no loss can separate."""
    context = PictureContext(
        layout=experiment.layout, supervision=experiment.supervision, schedules=_schedules(experiment)
    )
    if data.volumes is not None:
        context = replace(context, volumes=VolumeFacts(data.volumes.modalities, data.volumes.cohort.spacing_mm))
    if data.targets is None:
        return context
    training = [data.targets.raw[subject_id] for subject_id in data.targets.training]
    found = target_correlation(training, data.targets.normalizer, experiment.supervision)
    if entangled := entangled_words(found):
        _log.warning("%s", entangled)
    return replace(context, correlation=found)


def _schedules(experiment: Experiment) -> Schedules:
    positions = experiment.positions(501)
    epochs = np.linspace(0.0, experiment.settings["trainer"].max_epochs, len(positions))
    weights = experiment.build_objective(num_training_subjects=1).weight_curves(positions)
    factor: Schedule = experiment.parts["learning_rate"]()
    peak = experiment.parts["optimizer"].settings["learning_rate"]
    rates = np.array([peak * factor(position) for position in positions])
    return Schedules({f"lambda_{name}": (epochs, curve) for name, curve in weights.items()}, (epochs, rates))


def params_of(experiment: Experiment, here: Place) -> dict[str, Any]:
    """Return {dotted key: value} of the configuration, without passwords, and the number of ranks."""
    return {**dict(flat(masked(experiment.config))), "num_ranks": here.num_ranks}


def tags_of(experiment: Experiment, data: Data, directory: RunDirectory, job: Job | None) -> dict[str, str]:
    """Return the tags that identify a run.

    They are its name, hashes of data, targets and code, the run that it extends, and the runs that it stands for.
    """
    git = read_json(directory.path / "environment.json", {"git": (dict, NoneType)}).get("git")
    parent = describe_parent(experiment).get("extends")
    return {
        "menvae.run": directory.path.name,
        "menvae.data_hash": data.data_hash,
        "menvae.targets_hash": data.targets_hash,
        "menvae.code_hash": code_hash(),
        "menvae.outside_identity": " ".join(sorted(experiment.source.outside_identity)),
        "menvae.git_commit": git["commit"] + (" (modified)" if git["modified"] else "") if git else "unknown",
        **({} if parent is None else {"menvae.extends": parent["run"]}),
        **({STANDS_FOR: " ".join(job.stands_for)} if job is not None and job.stands_for else {}),
    }
