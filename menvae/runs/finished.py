"""Load a finished run: its model, data, targets and metrics.

Everything is checked: the data found now must be those that the run was trained on, in the same splits, with the
same targets, and the checkpoint must be one of the run's own architecture.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import yaml  # type: ignore[import-untyped, unused-ignore]
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from torch import Tensor

from menvae.composition.experiment import Experiment
from menvae.data.batches.splits import Split
from menvae.data.source import Data
from menvae.data.targets.normalizer import TargetNormalizer
from menvae.errors import UserError, about, nearest
from menvae.files import original_cell
from menvae.gates import gate_values
from menvae.layers import set_memory_format
from menvae.models import Model
from menvae.objective import Objective
from menvae.runs.directory import ENDED, RUNS
from menvae.runs.finding import DOWNLOADED, find_run
from menvae.runs.identity import is_outside, outside_keys
from menvae.runs.reading import flat, read_mapping
from menvae.runs.start import meaning_of_weights
from menvae.runs.tuning import as_trained
from menvae.tracking.local import LocalLog
from menvae.training import checkpoint
from menvae.training.place import Place
from menvae.training.precision import autocast
from menvae.training.settings import TrainerSettings
from menvae.types import Batch, EpochLoader, ModelOutput, Posterior

CheckpointName = Literal["best", "last"]

_TOLERANCE = 1e-6
"""Relative difference allowed between fitted targets, which may differ in the last digit between machines."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended, as returned by `load_run`. Model and data are loaded on first use.

    Attributes:
        path: the run directory.
        status: ``finished``, ``collapsed`` (ended by the collapse watch) or ``pruned`` (ended by a study).
        checkpoint: checkpoint file.
        epoch: epoch of the checkpoint, counted from 1.
        device: device of the model.
        experiment: the checked configuration.
    """

    path: Path
    status: str
    checkpoint: Path
    epoch: int
    device: torch.device
    experiment: Experiment = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the run directory, ``<name>_<hash>``."""
        return self.path.name

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration, as plain values."""
        return self.experiment.config

    @cached_property
    def model(self) -> Model:
        """The model with the weights of the checkpoint, in evaluation mode.

        The data are loaded only if their source has labels, for the number of classes.

        Raises:
            UserError: the checkpoint does not fit the architecture or the targets of the run.
        """
        return self._built[0]

    @property
    def objective(self) -> Objective:
        """The objective of the run, with the buffers of the checkpoint. Raises the same errors as `model`."""
        return self._built[1]

    @cached_property
    def data(self) -> Data:
        """The data of the run, split as in ``splits.csv``, in order and without augmentation.

        Batches hold voxels as the cache stores them; `menvae.types.Batch.to` converts them to model inputs, which
        `outputs` does itself. Subjects that are not in the cache are prepared. ``data.test`` is None if the test split
        is empty.

        Raises:
            UserError: data, splits or targets differ from those that the run was trained on.
        """
        data = self.experiment.load_data(Place(self.device, 0, 1), in_order=True)
        self._check_data(data)
        return data

    @cached_property
    def targets(self) -> TargetNormalizer | None:
        """The fitted normalizer of the targets, from ``targets.json``; None if the run has no such targets."""
        known = self._described
        return TargetNormalizer.from_dict(known) if "statistics" in known else None

    @cached_property
    def splits(self) -> Mapping[str, str]:
        """Subject -> split, read from ``splits.csv``."""
        return _splits_in(self._file("splits.csv"))

    @property
    def visits_seen(self) -> frozenset[str]:
        """Visits that trained or chose this run, or one that is here and it started from (``trainer.init_from``)."""
        seen = {subject for subject, split in self.splits.items() if split != "test"}
        wish, read = self.config["trainer"].get("init_from"), {self.path.resolve()}
        while wish is not None:
            start = Path(str(wish)).expanduser().resolve()
            folder = start if start.is_dir() else start.parent.parent
            if folder in read or not (folder / "splits.csv").is_file():
                break
            read.add(folder)
            seen |= {subject for subject, split in _splits_in(folder / "splits.csv").items() if split != "test"}
            wish = (yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")).get("trainer") or {}).get(
                "init_from"
            )
        return frozenset(seen)

    @cached_property
    def metrics(self) -> Mapping[str, float | None]:
        """Metrics logged in `epoch`; for the best checkpoint also ``gate/<name>``, measured after training."""
        rows = {row["epoch"]: row for row in LocalLog(self.path).metrics()}
        logged = {key: value for key, value in rows.get(self.epoch, {}).items() if key != "epoch"}
        table = read_mapping(self.path / "gates.json")
        return {**logged, **gate_values(table)} if table and self.checkpoint.stem == "best" else logged

    @property
    def loaders(self) -> dict[str, EpochLoader]:
        """Split -> its loader, without empty splits; raises the errors of `data`."""
        loaders = {"train": self.data.train, "val": self.data.val, "test": self.data.test}
        return {name: loader for name, loader in loaders.items() if loader is not None}

    def training_inputs(self) -> Iterator[Batch]:
        """Yield the training batches that the evaluation at the end of the run averaged, in evaluation mode.

        Unlike those of `data`, they are in the order of training, and augmented if training was.
        """
        self.model.eval()
        for stored in self.experiment.load_data(Place(self.device, 0, 1), self.data.prepared).train.epoch(0):
            yield stored.to(self.device, self._memory_format)

    @torch.no_grad()
    def output(self, stored: Batch) -> tuple[Batch, ModelOutput]:
        """Return a batch of stored values on the device, and the output of the model, in the precision of the run."""
        batch = stored.to(self.device, self._memory_format)
        with autocast(self.device, self._trainer.precision):
            output: ModelOutput = self.model(batch)
        return batch, output

    def outputs(self, split: Split = "val") -> Iterator[tuple[Batch, ModelOutput]]:
        """Yield the batches of a split with the outputs of the model, in the precision of the run.

        Args:
            split: ``train``, ``val`` or ``test``.

        Raises:
            UserError: the split is empty, or `model` or `data` cannot be loaded.
        """
        loader = self.loaders.get(split)
        if loader is None:
            raise UserError(f"split: run '{self.name}' has no subject in '{split}'; {nearest(split, self.loaders)}")
        self.model.eval()
        for stored in loader.epoch(0):
            yield self.output(stored)

    @torch.inference_mode()
    def posterior(self, batch: Batch) -> Posterior:
        """Return q(z|x) of a batch of stored values, in the precision of the run; raises the errors of `model`."""
        there = batch.to(self.device, self._memory_format)
        with autocast(self.device, self._trainer.precision):
            return self.model.encode(there.inputs, there.available)

    @torch.inference_mode()
    def predict(self, z: Tensor) -> dict[str, Tensor]:
        """Z [B, Z] -> {partition: predicted z-scored targets [B, F]}, in the precision of the run."""
        with autocast(self.device, self._trainer.precision):
            return self.model.predict(z)

    @cached_property
    @torch.inference_mode(mode=False)  # gradients may pass through weights that are loaded under inference mode
    def _built(self) -> tuple[Model, Objective]:
        num_classes = len(self.data.classes) if "labels" in self.experiment.source.gives else 0
        num_training = sum(split == "train" for split in self.splits.values())
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):  # building seeds
            model, objective = self.experiment.build(num_training, num_classes)
        model.to(self.device)
        set_memory_format(model, self._memory_format)
        content = checkpoint.load(self.checkpoint, self.device)
        for key, mine in {**meaning_of_weights(self.experiment), "targets": self._described.get("hash")}.items():
            theirs = content["identity"].get(key)
            if theirs != mine:
                raise UserError(
                    f"checkpoint '{self.checkpoint}' was trained with {key} {theirs}, run '{self.name}' has {mine}"
                )
        checkpoint.load_weights(content, self.checkpoint, model, objective.to(self.device))
        return model.eval(), objective.eval()

    @cached_property
    def _trainer(self) -> TrainerSettings:
        return as_trained(self.experiment.settings["trainer"], self.path)

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last_3d if self._trainer.channels_last else torch.contiguous_format

    @cached_property
    def _described(self) -> Mapping[str, Any]:
        """Content of ``targets.json``."""
        return read_mapping(self._file("targets.json"))

    def _file(self, name: str) -> Path:
        if not (self.path / name).is_file():
            raise UserError(f"run '{self.name}' has no {name} in '{self.path}'")
        return self.path / name

    def _check_data(self, data: Data) -> None:
        known, place = self._described, self.experiment.source.location
        found = f"the data found now{f' in {place!r}' if place else ''}"
        if known.get("data_hash") != data.data_hash:
            raise UserError(
                f"run '{self.name}' was trained on other data: {found} have the hash {data.data_hash}, targets.json "
                f"has {known.get('data_hash')}; restore them, or pass their location, such as "
                "overrides=['data.root=/new/place']"
            )
        moved = [name for name, split in data.splits.items() if self.splits.get(name) != split]
        if moved or len(data.splits) != len(self.splits):
            which = f", such as '{moved[0]}'" if moved else ""
            raise UserError(
                f"run '{self.name}': the split of {len(moved)} of {len(data.splits)} subjects differs from that in "
                f"splits.csv{which}; use the version of menvae that trained the run"
            )
        if known.get("hash") != data.targets_hash and (differs := _first_difference(known, data.description)):
            raise UserError(f"run '{self.name}': the targets fitted now differ from targets.json: {differs}")


def _splits_in(path: Path) -> dict[str, str]:
    """Return subject -> split of a ``splits.csv``."""
    with path.open(newline="", encoding="utf-8") as file:
        return {original_cell(row["subject_id"]): row["split"] for row in csv.DictReader(file)}


def load_run(
    run: str | Path,
    *,
    checkpoint: CheckpointName = "best",
    output_dir: str | Path | None = None,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
    device: str | torch.device = "cpu",
) -> FinishedRun:
    """Load a finished run: the configuration now, model and data on first use.

    Args:
        run: path of a run directory, name of a run in ``output_dir/runs``, or MLflow run id. If only MLflow has the
            run, it is downloaded into ``output_dir/downloaded``.
        checkpoint: ``best`` (lowest validation objective without collapse) or ``last``.
        output_dir: output directory with the cache of prepared data. None: the one that contains the run directory;
            for names and ids, ``outputs``.
        tracking_uri: MLflow store that contains the run id. None: ``mlflow.db`` in ``output_dir``.
        overrides: overrides of keys that do not change the result, such as ``data.root=/new/place``.
        device: device of the model.

    Raises:
        UserError: the run or checkpoint does not exist, the run is not finished, an override would change the result,
            or a required plugin is not installed.
    """
    path = find_run(run, Path(output_dir or "outputs").expanduser(), tracking_uri)
    status = read_mapping(path / "status.json") or read_mapping(path / "summary.json")  # of which MLflow has the latter
    if status.get("state") not in ENDED:
        raise UserError(
            f"run '{path.name}' is {status.get('state', 'new')}, not finished; repeat its command to resume it"
        )
    weights = path / "checkpoints" / f"{checkpoint}.ckpt"
    if not weights.is_file():
        there = sorted(file.stem for file in weights.parent.glob("*.ckpt"))
        raise UserError(f"checkpoint: run '{path.name}' has no '{checkpoint}'; {nearest(checkpoint, there)}")
    key = "best_epoch" if checkpoint == "best" else "epochs"
    epoch = status.get(key)
    if not isinstance(epoch, int):
        raise UserError(f"run '{path.name}': its status.json is damaged: '{key}' is {str(epoch)[:60]!r}")
    return FinishedRun(
        path=path,
        status=str(status["state"]),
        checkpoint=weights,
        epoch=epoch,
        device=torch.device(device),
        experiment=_experiment(path, output_dir, overrides),
    )


def _experiment(path: Path, output_dir: str | Path | None, overrides: Sequence[str]) -> Experiment:
    """Return the checked configuration of a run, with overrides and the current output directory."""
    try:
        config = OmegaConf.create(yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")))
        source = str(config["data"]["name"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{path / 'config.yaml'}' is not the configuration of a run: {error}") from error
    if output_dir is not None:
        config["output_dir"] = str(output_dir)
    elif path.parent.name in (RUNS, DOWNLOADED):
        config["output_dir"] = str(path.parent.parent)
    installation = f"run '{path.name}' cannot be loaded by this installation"
    with about(installation):
        allowed = outside_keys(source)
    for key, value in _parsed(overrides, allowed):
        OmegaConf.update(config, key, value, force_add=True)
    with about(installation):
        return Experiment.from_config(config)


def _parsed(overrides: Sequence[str], allowed: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield key and value of each override; raise `UserError` for one that would change the result of the run."""
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise UserError(f"overrides: '{text}' cannot be read; write <key>=<value>") from error
        key = override.key_or_group
        if override.type is not OverrideType.CHANGE or override.is_sweep_override() or not is_outside(key, allowed):
            raise UserError(
                f"overrides: '{text}' would change the result of the run; allowed are values of {', '.join(allowed)}"
            )
        yield key, override.value()


def _first_difference(known: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe the first difference beyond `_TOLERANCE` between two descriptions of targets; empty if there is none."""
    before, after = dict(_leaves(known)), dict(_leaves(now))
    for key in sorted((before.keys() | after.keys()) - {"hash", "data_hash"}):
        old, new = before.get(key), after.get(key)
        numbers = all(isinstance(value, int | float) for value in (old, new))
        if not (math.isclose(old, new, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) if numbers else old == new):  # type: ignore[arg-type]
            return f"{key} is {new}, and {old} in the file"
    return ""


def _leaves(description: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in flat(description):
        if isinstance(value, list | tuple):
            yield from ((f"{key}.{place}", item) for place, item in enumerate(value))
        else:
            yield key, value
