"""Cohorts that one process opens once, for the runs of all points that it forks."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import OmegaConf

from menvae.composition.experiment import Experiment
from menvae.console import logs
from menvae.training.place import Place

_log = logging.getLogger(__name__)


class OpenedCohorts:
    """The cohorts of the points of a sweep, each opened once."""

    def __init__(self) -> None:
        self._prepared: dict[str, object] = {}

    def open(self, config: Mapping[str, Any]) -> object:
        """Return `menvae.data.source.Data.prepared` for the data of a run; None unless they are valid and prepared.

        Nothing is prepared here, and errors are left to the run itself, which reports them.

        Args:
            config: composed configuration of the run.
        """
        key = json.dumps([config.get("data"), config.get("output_dir")], sort_keys=True, default=str)
        if key not in self._prepared:
            self._prepared[key] = None
            with logs.only_errors():  # the launching process has said what there is to say about a cohort
                try:
                    experiment = Experiment.from_config(OmegaConf.create(dict(config)))
                    data = experiment.find_data(Place(torch.device("cpu"), 0, 1))
                    self._prepared[key] = None if data is None else data.prepared
                except Exception as error:  # noqa: BLE001 - one point that cannot run must not end the others
                    _log.debug("a cohort cannot be opened: %s", error)
        return self._prepared[key]
