"""How a run computes on this device: chosen by timing steps, checked, logged, and kept for its later evaluations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from menvae import collectives
from menvae.composition.experiment import Experiment
from menvae.data.source import Data
from menvae.errors import UserError
from menvae.files import write_json
from menvae.layers import fold_upsampling
from menvae.models import Model
from menvae.objective import Objective
from menvae.runs.reading import read_mapping
from menvae.training.place import Place
from menvae.training.precision import (
    LARGEST_DEVIATION,
    Versions,
    deviation,
    known_faults,
    slow_words,
    slowdown,
)
from menvae.training.settings import TrainerSettings
from menvae.training.tuning import Alternatives, Choice, StepTimer, Tuned, alternatives, tuned
from menvae.types import Batch

_log = logging.getLogger(__name__)


class ComputeSettings:
    """Precision, memory format, threads and the like of a run, on this device."""

    def __init__(self, experiment: Experiment, data: Data, model: Model, objective: Objective, here: Place) -> None:
        """Remember what to tune and check.

        Args:
            experiment: the checked configuration.
            data: its data; the first training batch is loaded if something is to be measured.
            model: on the device, before training.
            objective: on the device.
            here: device and rank.
        """
        self.experiment, self.data, self.model, self.objective, self.here = experiment, data, model, objective, here
        self.asked: TrainerSettings = experiment.settings["trainer"]

    def chosen(self) -> tuple[TrainerSettings, Tuned | None]:
        """Return the settings to train with, and what was measured; apply threads and cuDNN's setting on every rank.

        Warnings go to the log: a precision slower than fp32, one whose results are off, versions known to be bad.

        Raises:
            UserError: ``trainer.cuda_graphs`` with something that cannot be captured.
        """
        asked, device = self.asked, self.here.device
        _check_graphs(asked, self.here)
        precision = asked.precision
        if precision == "auto":
            precision = "bf16" if slowdown(device, "bf16") < 1.0 else "fp32"
        start = Choice(precision, asked.channels_last, cuda_graphs=asked.cuda_graphs)
        outcome = self._tuned(start) if is_tuned(asked.tune, device) else None
        choice = collectives.from_rank_zero(outcome.choice if outcome is not None else start)
        choice.apply()
        fold_upsampling(self.model, choice.folded)
        if self.here.is_main:
            if outcome is not None:
                _log.info("%s", outcome.words())
            elif asked.precision == "auto":
                _log.info("trainer.precision=auto: %s is the faster one on this %s", precision, device.type)
            self._warn(choice)
        settings = replace(
            asked,
            precision=choice.precision,  # type: ignore[arg-type]
            channels_last=choice.channels_last,
            cuda_graphs=choice.cuda_graphs,
        )
        return settings, outcome

    def _tuned(self, start: Choice) -> Tuned | None:
        """Measure on the main rank."""
        if not self.here.is_main:
            return None
        config = self.experiment.config
        progress = self.experiment.settings["curriculum"].progress(self.asked.max_epochs, self.asked.max_epochs)
        timer = StepTimer(self.model, self.objective, self._batch, progress.finished)
        about = {
            "parts": {key: config[key]["name"] for key in ("model", "encoder", "decoder", "auxiliary_decoder")},
            "terms": sorted(self.objective.active_terms),
            "asked": [self.asked.precision, self.asked.activation_checkpointing, self.here.num_ranks],
        }
        memory = self.experiment.output_dir / "cache" / "tuning"
        return tuned(timer, start, lambda: self._alternatives(start), memory, about)

    def _alternatives(self, start: Choice) -> Alternatives:
        asked = self.asked
        graphs = self.here.num_ranks == 1 and not (asked.activation_checkpointing or asked.compile)
        return alternatives(
            self.here.device, start, any_precision=asked.precision == "auto", graphs=graphs and not asked.cuda_graphs
        )

    def _warn(self, choice: Choice) -> None:
        device = self.here.device
        sentences: list[str] = []
        if device.type == "cuda":
            num_values = self.asked.batch_size * _largest_activation(self.model, self.experiment.source.size)
            sentences += known_faults(Versions.installed(), num_values)
        if choice.precision != "fp32":
            slow = slow_words(choice.precision, slowdown(device, choice.precision), device)
            if slow is not None:
                sentences.append(slow)
            elif (off := deviation(self.model, self._batch, choice.precision)) > LARGEST_DEVIATION:
                sentences.append(
                    f"trainer.precision={choice.precision}: reconstructions of the first batch differ from those in "
                    f"fp32 by {off:.0%} of their norm; use trainer.precision=fp32"
                )
        for sentence in sentences:
            _log.warning("%s", sentence)

    @cached_property
    def _batch(self) -> Batch:
        """The first training batch, on the device."""
        memory_format = torch.channels_last_3d if self.asked.channels_last else torch.contiguous_format
        return next(iter(self.data.train.epoch(0))).to(self.here.device, memory_format)


def is_tuned(tune: str, device: torch.device) -> bool:
    """Return whether ``trainer.tune`` asks for measurements on a device.

    >>> [is_tuned(tune, torch.device("cpu")) for tune in ("auto", "gpu", "off")]
    [True, False, False]
    """
    return tune == "auto" or (tune == "gpu" and device.type == "cuda")


def _check_graphs(asked: TrainerSettings, here: Place) -> None:
    if not asked.cuda_graphs:
        return
    for wrong, why in (
        (here.device.type != "cuda", "there is no GPU"),
        (here.num_ranks > 1, "several ranks train together"),
        (asked.activation_checkpointing, "of trainer.activation_checkpointing=true"),
        (asked.compile, "of trainer.compile=true, which may capture graphs itself"),
    ):
        if wrong:
            raise UserError(f"trainer.cuda_graphs: true is not allowed, because {why}")


def _largest_activation(model: Model, size: tuple[int, ...]) -> int:
    """Return voxels times the channels of the narrowest 3D convolution, those of the finest grid; 0 for a table."""
    channels = [value.shape[0] for value in model.parameters() if value.ndim == 5]
    return torch.Size(size).numel() * min(channels) if channels else 0


def keep(outcome: Tuned | None, run_dir: Path) -> None:
    """Add what was chosen to the run's ``environment.json``."""
    if outcome is not None:
        path = run_dir / "environment.json"
        write_json(path, {**read_mapping(path), "tuning": outcome.as_dict()})


def as_trained(asked: TrainerSettings, run_dir: Path) -> TrainerSettings:
    """Return the settings that a run was trained with, of which its evaluation needs precision and memory format."""
    found: Mapping[str, Any] = read_mapping(run_dir / "environment.json").get("tuning") or {}
    precision, channels_last = found.get("precision", asked.precision), found.get("channels_last", asked.channels_last)
    if precision not in ("fp32", "bf16", "fp16"):
        precision = "fp32"
    return replace(asked, precision=precision, channels_last=bool(channels_last))
