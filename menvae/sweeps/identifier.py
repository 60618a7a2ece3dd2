"""The name of the run that a composed configuration describes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch

from menvae.composition.canonical import source_class
from menvae.composition.experiment import Experiment
from menvae.composition.once import Once
from menvae.composition.structure import Checker
from menvae.console import logs
from menvae.data.source import Data
from menvae.errors import UserError
from menvae.runs.identity import as_typed
from menvae.runs.start import check_data_of_start, check_start, run_name
from menvae.sweeps.plan import ProvisionalName
from menvae.training.place import Place


@dataclass(frozen=True)
class _Hashes:
    """The hashes of `menvae.data.source.Data`."""

    data: str
    targets: str


class Identifier:
    """Maps a composed configuration to the name of its run.

    It checks each structure once (`menvae.composition.structure`), and prepares and divides the data once for all runs
    that have the same.

    Args:
        num_ranks: number of ranks of each run; None: ``trainer.devices``.
        prepares: whether to prepare cohorts that the cache lacks, here instead of in every job.
    """

    def __init__(self, num_ranks: int | None, *, prepares: bool = True) -> None:
        self._num_ranks, self._prepares = num_ranks, prepares
        self._check, self._once = Checker(), Once()
        self._prepared: dict[str, object] = {}
        self._hashes: dict[str, _Hashes | UserError | None] = {}

    def __call__(self, config: Mapping[str, Any]) -> str:
        """Return the name of the run; raises `UserError` for an invalid configuration or invalid data."""
        experiment = self.experiment(config)
        asked: int | None = experiment.settings["trainer"].devices
        if self._num_ranks is not None and asked not in (None, self._num_ranks):
            raise UserError(f"trainer.devices={asked}, but the launcher starts {self._num_ranks} processes per run")
        num_ranks = self._num_ranks or asked or 1
        check_start(experiment, self._once)
        hashes = self._hashes_of_data(experiment, num_ranks)
        if hashes is None:
            unseen = _content(experiment, "data")  # stands in for the data hash: any of its keys may change the data
            return ProvisionalName(run_name(experiment, unseen, "", num_ranks))
        return run_name(experiment, hashes.data, hashes.targets, num_ranks)

    def experiment(self, config: Mapping[str, Any]) -> Experiment:
        """Return the checked experiment of a configuration, without advice; raises `UserError`."""
        return self._check(config)

    def data(self, experiment: Experiment) -> Data | None:
        """Return the data of an experiment for a single process, or None if they are not prepared."""
        cohort = _content(experiment, "output_dir") + _content_of_cohort(experiment)
        known = cohort in self._prepared
        here = Place(torch.device("cpu"), 0, 1)
        with logs.only_errors(known):  # messages about a cohort appear once
            if self._prepares or known:
                data: Data | None = experiment.load_data(here, self._prepared.get(cohort))
            else:
                data = experiment.find_data(here)
        if data is not None:
            self._prepared[cohort] = data.prepared
        return data

    def _hashes_of_data(self, experiment: Experiment, num_ranks: int) -> _Hashes | None:
        """Return the hashes of the data of an experiment, or None if they are not prepared; raises `UserError`."""
        if experiment.settings["trainer"].extend is not None:  # its parent has a say
            return self._loaded(experiment, num_ranks)
        key = _content_of_data(experiment)
        if key not in self._hashes:
            try:
                self._hashes[key] = self._loaded(experiment, num_ranks)
            except UserError as error:
                self._hashes[key] = error.with_traceback(None)
        found = self._hashes[key]
        if isinstance(found, UserError):
            raise copy(found)  # each has a traceback of its own
        return found

    def _loaded(self, experiment: Experiment, num_ranks: int) -> _Hashes | None:
        data = self.data(experiment)
        if data is None:
            return None
        check_data_of_start(experiment, data, num_ranks)
        return _Hashes(data.data_hash, data.targets_hash)


def _content(experiment: Experiment, *sections: str) -> str:
    return json.dumps([as_typed(experiment.config[section]) for section in sections], sort_keys=True)


def _content_of_cohort(experiment: Experiment) -> str:
    """Return a text that is equal for sources that prepare the same cohort: they may divide it differently."""
    data = experiment.config["data"]
    split_keys = source_class(data["name"]).own_split_keys()
    return json.dumps(as_typed({key: data[key] for key in data if key not in split_keys}), sort_keys=True)


def _content_of_data(experiment: Experiment) -> str:
    """Return a text that is equal for experiments that load equal data: of everything that their request says.

    The seed of a run only orders batches in the sources of menvae; those of plugins may do more with it.
    """
    trainer = experiment.settings["trainer"]
    is_of_menvae = source_class(experiment.config["data"]["name"]).is_of_menvae()
    seed = None if is_of_menvae else experiment.config["seed"]
    sections = _content(experiment, "data", "output_dir", "targets", "augmentation")
    return f"{sections} {experiment.supervision!r} {trainer.batch_size} {trainer.num_workers} {seed}"
