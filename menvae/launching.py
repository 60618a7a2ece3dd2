"""The composition root of sweeps: composed jobs become points, and a campaign that a launcher's runner carries out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from menvae.data.prepare import Cohort
from menvae.errors import UserError
from menvae.experiment import Data, Experiment
from menvae.interruption import stop_requests
from menvae.registry import validated
from menvae.run import identify
from menvae.sweeps.campaign import Campaign, Runner
from menvae.sweeps.identity import is_outside
from menvae.sweeps.plan import plan_points
from menvae.sweeps.sweep import Sweep, SweepSettings, sweep_name
from menvae.tracking import logs
from menvae.tracking.environment import code_hash
from menvae.tracking.mlflow import TrackingSettings
from menvae.training.launch import Place

_log = logging.getLogger(__name__)

Job = tuple[Sequence[str], Mapping[str, Any]]
"""Overrides of a point, and its composed configuration."""


class Identifier:
    """Composed configuration -> name of its run. Cohorts are prepared here, once, rather than by every job."""

    def __init__(self, num_ranks: int | None) -> None:
        """Args: num_ranks: processes that will train together; None: as ``trainer.devices`` says."""
        self._num_ranks = num_ranks
        self._cohorts: dict[str, Cohort] = {}

    def __call__(self, config: Mapping[str, Any]) -> str:
        """Return the name; raises `UserError` for a configuration or data that are wrong."""
        experiment = Experiment.from_config(OmegaConf.create(dict(config)))
        asked: int | None = experiment.settings["trainer"].devices
        if self._num_ranks is not None and asked not in (None, self._num_ranks):
            raise UserError(f"trainer.devices={asked}, but the launcher starts {self._num_ranks} processes for a run")
        key = json.dumps([config["data"], config["output_dir"]], sort_keys=True)
        known = key in self._cohorts
        with logs.only_errors(known):  # what is to be said about a cohort is said once
            data = Data.load(experiment, Place(torch.device("cpu"), 0, 1), self._cohorts.get(key))
        self._cohorts[key] = data.cohort
        return identify(experiment, data, self._num_ranks or asked or 1)


def launch_points(
    jobs: Sequence[Job],
    swept: Mapping[str, str],
    fixed: Sequence[str],
    num_ranks: int | None,
    make_runner: Callable[[Sweep, Mapping[str, Any]], Runner],
    *,
    wait: bool = True,
) -> list[int]:
    """Run what is left to do of some points of a sweep.

    Args:
        jobs: the points.
        swept: {key: its values as typed}.
        fixed: the other overrides, which all points share.
        num_ranks: see `Identifier`.
        make_runner: makes what runs the jobs, from the sweep and a composed configuration of it.
        wait: whether to wait for the end.

    Returns:
        One exit code a point; none without ``wait``.

    Raises:
        UserError: the sweep's own settings are wrong, or another process launches it.
        RunInterruptedError: this process was asked to stop.
    """
    logs.configure(None)
    with stop_requests() as stop:
        config = jobs[0][1]
        settings = validated(SweepSettings, config["sweep"], "sweep")
        tracking = validated(TrackingSettings, config["tracking"], "tracking")
        telling = [text for text in fixed if not is_outside(text.partition("=")[0].lstrip("+~"))]
        name = settings.name or sweep_name(config["name"], list(swept), telling)
        sweep = Sweep(Path(config["output_dir"]).expanduser().resolve() / "sweeps" / name)
        shared = {text.partition("=")[0] for text in fixed}
        own = [([text for text in job[0] if text.partition("=")[0] not in shared], _absolute(job[1])) for job in jobs]
        _log.info("sweep %s", sweep.path)
        sweep.describe([*fixed, *(f"{key}={values}" for key, values in swept.items())], list(swept))
        planned = plan_points(sweep, own, Identifier(num_ranks), settings, code_hash())
        campaign = Campaign(sweep, make_runner(sweep, config), tracking, wait)
        with stop.deferred():
            tags = {f"menvae.sweep.{key}": values for key, values in swept.items()}
            return campaign.carry_out(planned, stop, tags)


def _absolute(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that means the same wherever its job starts."""
    return {**config, "output_dir": str(Path(config["output_dir"]).expanduser().resolve())}
