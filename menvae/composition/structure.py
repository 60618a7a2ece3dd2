"""Checking many configurations, such as the points of a sweep: once for each structure, not for each configuration.

A check has two steps. The first looks at every section of a configuration by itself (`Experiment.of_sections`); equal
sections are checked once. The second, that the parts fit together (`Experiment.check_fit`), builds the objective and
the model. It is made once for each *structure*: an experiment without anything that the second step does not read, and
with one value for all that cannot change its answer:

- seed, name, optimiser, learning rate, update and curriculum, the watch, pictures, observers, trackers, the sweep, and
  all of ``trainer`` but what rebuilds the model are not in it;
- a positive weight of the loss is 1 in it: whether a weight is 0 decides which terms there are, and no more;
- keys of the data that only divide subjects into splits have their defaults in it.

So points that differ in these get the answer, and the sentence, that a check of their own would give.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from menvae.composition.canonical import source_class
from menvae.composition.experiment import KEYS, MODEL_PARTS, CheckedModels, Experiment
from menvae.composition.once import Once
from menvae.configuration import check_known, plain_values
from menvae.errors import UserError
from menvae.registry import Bound
from menvae.training.settings import TrainerSettings

_SETTINGS = ("augmentation", "gates", "targets")
"""Sections that the second step reads."""
_NOT_PLAIN = re.compile(r"\$\{|\?\?\?|\d{19}")
"""What only `plain_values` can judge: interpolations, missing values, and numbers that may exceed 64 bits."""
_MOST_MODELS = 16
"""Models without weights that are kept; each has some megabytes of modules."""


class Checker:
    """Checks configurations as `Experiment.from_config` does, but for advice, which it does not give."""

    def __init__(self) -> None:
        self._once = Once()
        self._models: CheckedModels = {}
        self._problems: dict[str, UserError | None] = {}

    def __call__(self, config: Mapping[str, Any]) -> Experiment:
        """Check a configuration.

        Args:
            config: resolved configuration, plain values; it must not be changed later.

        Raises:
            UserError: the first error found.
        """
        experiment = Experiment.of_sections(_checked_values(config), self._once)
        text = _text_of_structure(experiment)
        if text not in self._problems:
            self._problems[text] = self._problem(structure_of(experiment))
        if (problem := self._problems[text]) is not None:
            raise copy(problem)  # each has a traceback of its own
        return experiment

    def _problem(self, structure: Experiment) -> UserError | None:
        if len(self._models) == _MOST_MODELS:
            self._models.clear()
        try:
            structure.check_fit(self._models)
        except UserError as error:
            return error.with_traceback(None)
        return None


def structure_of(experiment: Experiment) -> Experiment:
    """Return an experiment that has only what decides whether its parts fit together.

    What is left out is absent, so that a check which read it would fail for every configuration.

    Args:
        experiment: one whose sections are checked.
    """
    trainer: TrainerSettings = experiment.settings["trainer"]
    part, settings = experiment.parts["data"].part, _data_of_structure(experiment)
    metrics = {"metrics": experiment.config["metrics"]} if "metrics" in experiment.config else {}
    return replace(
        experiment,
        config=metrics,
        parts={**{key: experiment.parts[key] for key in MODEL_PARTS}, "data": Bound(part, settings)},
        settings={
            **{key: experiment.settings[key] for key in _SETTINGS},
            "trainer": TrainerSettings(
                activation_checkpointing=trainer.activation_checkpointing, compile=trainer.compile
            ),
        },
        loss=replace(experiment.loss, weights=_weights_of_structure(experiment)),
        observers={},
        pictures=(),
        left_out=(),
    )


def _text_of_structure(experiment: Experiment) -> str:
    """Return a text that is equal for experiments whose structures are equal."""
    config, trainer = experiment.config, experiment.settings["trainer"]
    return repr(
        (
            [config[key] for key in MODEL_PARTS],
            [experiment.settings[key] for key in _SETTINGS],
            config.get("metrics"),
            (experiment.parts["data"].part.name, _data_of_structure(experiment)),
            [config["loss"].get(name) for name in ("terms", "schedules")],
            _weights_of_structure(experiment),
            (trainer.activation_checkpointing, trainer.compile),
        )
    )


def _weights_of_structure(experiment: Experiment) -> dict[str, float]:
    return {
        name: 1.0 if 0.0 < weight < math.inf else weight  # all others are 0, or refused with their value
        for name, weight in experiment.loss.weights.items()
    }


def _data_of_structure(experiment: Experiment) -> dict[str, Any]:
    split_keys = source_class(experiment.parts["data"].part.name).own_split_keys()
    return {key: value for key, value in experiment.parts["data"].settings.items() if key not in split_keys}


def _checked_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as `plain_values` does, which is quicker for one that is plain already."""
    if _NOT_PLAIN.search(repr(config)):
        return plain_values(OmegaConf.create(dict(config)), KEYS)
    check_known(config, KEYS)
    return dict(config)
