"""How a run computes on this device: chosen by timing steps, checked, logged, and kept for its later evaluations."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path

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
from menvae.training.tuning import WORTH, Choice, StepTimer, Tuned, alternatives, tuned
from menvae.types import Batch

_log = logging.getLogger(__name__)

TUNING = "tuning"
"""Key of ``environment.json``."""


class Tuner:
    """Chooses precision, memory format, threads and the like of a run on this device."""

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

    def chosen(self, run_dir: Path) -> TrainerSettings:
        """Return the settings to train with; apply threads, folding and cuDNN's setting on every rank.

        What is chosen goes to the log and to the run's ``environment.json``, from which a resumed run takes its
        precision. Warnings name a precision slower than fp32, one whose results are off, and versions known to be bad.

        Args:
            run_dir: the run directory.

        Raises:
            UserError: ``trainer.cuda_graphs`` with something that cannot be captured.
        """
        _check_graphs(self.asked, self.here)
        outcome = self._outcome(run_dir) if self.here.is_main else None
        choice = collectives.from_rank_zero(None if outcome is None else outcome.choice)
        assert choice is not None, "the main rank has chosen"
        choice.apply()
        fold_upsampling(self.model, choice.folded)
        if outcome is not None:
            self._warn(choice)
            path = run_dir / "environment.json"
            if path.is_file():
                now = {"num_threads": torch.get_num_threads(), TUNING: outcome.as_dict()}
                write_json(path, {**read_mapping(path), **now})
        return replace(
            self.asked,
            precision=choice.precision,  # type: ignore[arg-type]
            channels_last=choice.channels_last,
            cuda_graphs=choice.cuda_graphs,
        )

    def _outcome(self, run_dir: Path) -> Tuned:
        """Choose on the main rank."""
        asked, device = self.asked, self.here.device
        precision: str = as_trained(asked, run_dir).precision
        if precision == "auto":
            precision = "bf16" if slowdown(device, "bf16") < WORTH else "fp32"
            _log.info("trainer.precision=auto: %s", precision)
        start = Choice(precision, asked.channels_last, cuda_graphs=asked.cuda_graphs)
        if not is_tuned(asked.tune, device):
            return Tuned(start, {}, 0.0)
        outcome = self._tuned(start)
        _log.info("%s", outcome.words())
        return outcome

    def _tuned(self, start: Choice) -> Tuned:
        config, asked = self.experiment.config, self.asked
        end = self.experiment.settings["curriculum"].progress(asked.max_epochs, asked.max_epochs)
        about = {
            "model": config["model"]["name"],
            "parts": {key: config[key] for key in ("encoder", "decoder", "auxiliary_decoder")},
            "terms": sorted(self.objective.active_terms),
            "update": config["update"]["name"],
            "asked": [asked.activation_checkpointing, asked.compile, asked.auto_batch, self.here.num_ranks],
        }
        graphs = self.here.num_ranks == 1 and not (asked.activation_checkpointing or asked.compile or asked.cuda_graphs)
        others = alternatives(self.here.device, start, graphs=graphs, compiled=asked.compile)
        memory = self.experiment.output_dir / "cache" / "tuning"
        return tuned(StepTimer(self.model, self.objective, self._batch, end), start, others, memory, about)

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
            elif (off := self._deviation(choice)) > LARGEST_DEVIATION:
                sentences.append(
                    f"trainer.precision={choice.precision}: reconstructions of the first batch differ from those in "
                    f"fp32 by {off:.0%} of their norm; use trainer.precision=fp32"
                )
        for sentence in sentences:
            _log.warning("%s", sentence)

    def _deviation(self, choice: Choice) -> float:
        try:
            return deviation(self.model, self._batch, choice.precision)
        except torch.OutOfMemoryError:  # fp32 takes twice the memory
            return 0.0

    @cached_property
    def _batch(self) -> Batch:
        """The first training batch, on the device; of one that may not fit into memory, two rows."""
        memory_format = torch.channels_last_3d if self.asked.channels_last else torch.contiguous_format
        batch = next(iter(self.data.train.epoch(0)))
        if self.asked.auto_batch:
            batch = batch.rows(range(min(2, len(batch))))
        return batch.to(self.here.device, memory_format)


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
    """Return voxels times the channels from which the image is drawn, those of the finest grid; 0 for a table."""
    weights = [value for value in model.parameters() if value.ndim == 5]
    if not weights:
        return 0
    fewest = min(weight.shape[0] for weight in weights)  # modalities
    return torch.Size(size).numel() * max(weight.shape[1] for weight in weights if weight.shape[0] == fewest)


def as_trained(asked: TrainerSettings, run_dir: Path) -> TrainerSettings:
    """Return the settings that a run was trained with, of which its evaluation needs precision and memory format."""
    found = read_mapping(run_dir / "environment.json").get(TUNING)
    if not isinstance(found, dict) or found.get("precision") not in ("fp32", "bf16", "fp16"):
        return asked
    return replace(asked, precision=found["precision"], channels_last=bool(found.get("channels_last")))
