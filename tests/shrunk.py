"""Experiments shrunk in size and not in structure, which a test trains for a few steps in its own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from menvae.apps import light_hydra
from menvae.apps.configuration_files import DecimalFiles
from menvae.composition.experiment import Experiment
from menvae.registry import configuration_folder
from menvae.training.place import Place
from menvae.training.trainer import Ingredients, Trainer
from menvae.updates import Update

CONF = configuration_folder("menvae") or Path()

TINY = (
    *("data=phantom", "data.num_subjects=13", "data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]"),
    *("data.val_fraction=0.3", "data.test_fraction=0.1", "encoder.base_filters=8", "decoder.base_filters=16"),
    *("trainer.max_epochs=1", "trainer.batch_size=4"),
)
"""8 subjects to train on, that is two steps an epoch."""
TINY_VISITS = (
    *("data.num_patients=6", "data.visits=[2,2]", "data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]"),
    *TINY[-6:],
)
"""Two visits of 3 patients to train on."""
TINY_TABLE = (
    *("data.num_rows=100", "data.num_holes=10", "data.num_classes=5"),
    *("trainer.max_epochs=1", "trainer.batch_size=40"),
)
"""8 of 10 holes to train on, that is 80 rows."""
TINY_FEATURES = ("data.num_rows=100", "data.columns=['feature_{0..19}']", *TINY_TABLE[-2:])
"""80 rows to train on."""


def composed(*overrides: str, config: str = "train") -> DictConfig:
    """Compose a configuration as the command of its name does."""
    with _as_commands_compose(), initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config, list(overrides))


@contextmanager
def _as_commands_compose() -> Iterator[None]:
    """Read and collect files as menvae makes Hydra do it, which takes half the time; Hydra is itself again afterwards.

    That the result is that of Hydra, is the subject of the tests of `light_hydra`, which compare the two.
    """
    Plugins.instance()  # registers Hydra's own sources first
    with (
        mock.patch.object(defaults_list, "_create_interpolation_map", light_hydra._choices_if_needed),
        mock.patch.dict(SourcesRegistry.instance().types, file=DecimalFiles),
    ):
        yield


def names(folder: str) -> list[str]:
    """Return the options of a folder of ``conf/``."""
    return sorted(path.stem for path in (CONF / folder).glob("*.yaml"))


def tiny_rows(configuration: DictConfig) -> tuple[str, ...]:
    """Return what shrinks the rows of a table."""
    return TINY_TABLE if "num_holes" in configuration.data else TINY_FEATURES


def of_rows(configuration: DictConfig) -> bool:
    """Return whether the data are rows of a table, which have no box."""
    return "roi_size" not in configuration.data


class Losses:
    """A recorder that keeps what the trainer reports."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.metrics: dict[str, float | None] = {}

    def step(self, epoch: int, step: int, losses: Callable[[], Mapping[str, float]]) -> None:
        self.steps.append(dict(losses()))

    def epoch_end(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        self.metrics = dict(metrics)


def trainer_of(experiment: Experiment, folder: Path, update: Update | None = None) -> Trainer:
    """Return what a run trains with, without observers; ``update`` replaces the configured one."""
    here = Place(torch.device("cpu"), 0, 1)
    data = experiment.load_data(here)
    model, objective = experiment.build(data.num_training_subjects, len(data.classes))
    ingredients = Ingredients(
        model=model,
        objective=objective,
        optimizer=experiment.parts["optimizer"](model.parameters()),
        update=update or experiment.parts["update"](),
        learning_rate=experiment.parts["learning_rate"](),
        curriculum=experiment.settings["curriculum"],
        train=data.train,
        val=data.val,
    )
    seed = experiment.config["seed"]
    return Trainer(
        ingredients, experiment.settings["trainer"], here, seed=seed, checkpoints=folder, identity={}, observers=[]
    )
