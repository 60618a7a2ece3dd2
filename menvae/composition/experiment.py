"""The composition root: checks a configuration and builds data, model and objective from it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from menvae.composition.advice import Circumstances, advice
from menvae.composition.canonical import OPTIONAL, canonical
from menvae.composition.compatibility import check_needs, check_reach, check_supervision
from menvae.composition.loss import Loss, section
from menvae.composition.once import Once
from menvae.composition.settings import SweepSettings
from menvae.configuration import check_folder_name, check_present, path_of, plain_values, section_of
from menvae.console.progress import progress_bar
from menvae.data.batches.augmentation import AugmentationSettings
from menvae.data.source import Data, DataRequest, DataSource
from menvae.data.targets.declaration import applicable, check_supervised
from menvae.data.targets.normalizer import TargetSettings
from menvae.data.workers import unseen
from menvae.encoders.pretrained import check_inputs
from menvae.errors import UserError
from menvae.evaluation.gates import unjudged_partitions, unjudged_words
from menvae.gates import GateSettings, check_gates
from menvae.latent import LatentLayout
from menvae.layers import recompute_activations, without_weights
from menvae.metrics import Metric, MetricContext, build_metrics
from menvae.models import Blueprint, Model
from menvae.objective import Objective
from menvae.observers import bound_observers
from menvae.observers.collapse_watch import WatchSettings
from menvae.pictures import Picture, PictureSettings, build_pictures
from menvae.registry import Bound, bind, build, own_keys, validated
from menvae.terms import TermContext
from menvae.tracking.tracker import TrackingSettings
from menvae.tracking.trackers import bind_trackers
from menvae.training.curriculum import Curriculum
from menvae.training.determinism import seed_everything
from menvae.training.place import Place, num_ranks_started
from menvae.training.settings import TrainerSettings
from menvae.types import Progress

_log = logging.getLogger(__name__)

_PARTS = {
    "model": "model",
    "encoder": "encoder",
    "decoder": "decoder",
    "auxiliary_decoder": "decoder",
    "data": "data",
    "optimizer": "optimizer",
    "learning_rate": "schedule",
    "update": "update",
}
"""Configuration key -> registry group."""

_OWN = ("name", "seed", "output_dir", "loss", "gates")
"""Keys that this module checks itself."""

MODEL_PARTS = ("model", "encoder", "decoder", "auxiliary_decoder")
"""Those that a model is built from."""

_SETTINGS = {
    "targets": TargetSettings,
    "augmentation": AugmentationSettings,
    "curriculum": Curriculum,
    "trainer": TrainerSettings,
    "watch": WatchSettings,
    "pictures": PictureSettings,
    "tracking": TrackingSettings,
    "sweep": SweepSettings,
}
"""Configuration key -> dataclass of settings."""

KEYS = frozenset({*_OWN, *OPTIONAL, *_PARTS, *_SETTINGS})
"""Top-level keys of a configuration."""

CheckedModels = MutableMapping[str, Model]
"""Models built for checks, by the blueprint that they were built from."""


@dataclass(frozen=True)
class Experiment:
    """A composed configuration, checked.

    Attributes:
        config: resolved configuration, plain values.
        parts: configuration key -> part that is ready to be built.
        settings: configuration key -> dataclass of settings.
        loss: the checked loss.
        layout: the partitions of z.
        observers: additional observers by key, ready to be built.
        pictures: pictures to draw if the run meets their needs.
        left_out: sentences about ignored keys of other parts.
        advice: sentences about choices that are valid but seldom wise.
    """

    config: Mapping[str, Any]
    parts: Mapping[str, Bound]
    settings: Mapping[str, Any]
    loss: Loss
    layout: LatentLayout
    observers: Mapping[str, Bound]
    pictures: Sequence[Picture]
    left_out: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, composed: DictConfig, known: CheckedModels | None = None) -> Experiment:
        """Check a composed configuration, and that its parts fit together.

        Args:
            composed: the configuration.
            known: cache of models built for earlier checks, updated in place; configurations with the same model, such
                as those that differ only in a weight of the loss, share one.

        Raises:
            UserError: the first error found.
        """
        experiment = cls.of_sections(plain_values(composed, KEYS), Once())
        model, objective = experiment.check_fit({} if known is None else known)
        sentences = [*advice(model, objective, experiment._circumstances(objective)), *experiment._unjudged()]
        return replace(experiment, advice=tuple(sentences))

    @classmethod
    def of_sections(cls, config: Mapping[str, Any], once: Once) -> Experiment:
        """Check each section of a configuration by itself; `check_fit` checks that they fit together.

        Args:
            config: resolved configuration, plain values; it is not changed.
            once: calls what checks a section; configurations with equal sections share what comes of them.

        Returns:
            The experiment without advice.

        Raises:
            UserError: the first error found.
        """
        check_sections(config)
        if isinstance(config["seed"], bool) or not isinstance(config["seed"], int) or config["seed"] < 0:
            raise UserError(f"seed: {config['seed']!r} is not allowed; it should be a whole number, 0 or larger")
        check_folder_name("name", config["name"])
        if not isinstance(config["loss"], Mapping):
            raise UserError(f"loss: {config['loss']!r} is not allowed; choose an objective with loss=<name>")
        config, left_out = _without_keys_of_others(config, once)
        parts = {key: once(bind, group, config[key], key) for key, group in _PARTS.items()}
        settings: dict[str, Any] = {key: once(validated, kind, config[key], key) for key, kind in _SETTINGS.items()}
        settings["gates"] = once(GateSettings.from_config, config["gates"])
        observers = once(bound_observers, config.get("observers") or {})
        pictures = once(build_pictures, settings["pictures"].parts)
        data = config["data"]
        config = canonical(config)
        if settings["sweep"].name is not None:
            check_folder_name("sweep.name", settings["sweep"].name)
        once(bind_trackers, settings["tracking"])
        latent = parts["model"].settings
        layout = once(LatentLayout.from_config, latent["z_dim"], latent["partitions"])
        loss = Loss.from_config(config["loss"], once)
        once(build, "data", data, path="data")  # a source checks its keys together
        return cls(config, parts, settings, loss, layout, observers, pictures, tuple(left_out))

    def check_fit(self, known: CheckedModels) -> tuple[Model, Objective]:
        """Check that the parts fit together; `menvae.composition.structure` says what this depends on.

        Args:
            known: as for `from_config`.

        Returns:
            The model, without weights, and the objective of a single training subject.

        Raises:
            UserError: the first error found.
        """
        model, objective = self._checked(known)
        check_gates(self.settings["gates"].targets, self.build_metrics())
        self._check_targets()
        return model, objective

    @property
    def source(self) -> DataSource:
        """The source of the subjects."""
        source: DataSource = self.parts["data"]()
        return source

    @property
    def output_dir(self) -> Path:
        """Absolute path of the output directory."""
        return path_of(self.config["output_dir"], "output_dir").resolve()

    @property
    def supervision(self) -> Mapping[str, Sequence[str]]:
        """Partition -> names of its targets; empty if the model has no such key."""
        supervision: Mapping[str, Sequence[str]] = self.parts["model"].settings.get("supervision", {})
        return supervision

    def load_data(self, here: Place, prepared: object = None, *, in_order: bool = False) -> Data:
        """Load the data of this rank.

        Args:
            here: this process.
            prepared: `Data.prepared` of the same ``data.*``, if known.
            in_order: whether to load them in order, for evaluation (see `menvae.data.source.DataRequest`).

        Raises:
            UserError: the data are invalid.
        """
        return self.source.load(replace(self.data_request(here, prepared), in_order=in_order))

    def find_data(self, here: Place) -> Data | None:
        """Load the data of this rank, or return None if they are not prepared yet. Raises as `load_data`."""
        return self.source.find(self.data_request(here))

    def data_request(self, here: Place, prepared: object = None) -> DataRequest:
        """Return what this run asks of its source; see `load_data`."""
        trainer: TrainerSettings = self.settings["trainer"]
        return DataRequest(
            cache=self.output_dir / "cache",
            supervision=self.supervision,
            targets=self.settings["targets"],
            augmentation=self.settings["augmentation"],
            batch_size=trainer.batch_size,
            seed=self.config["seed"],
            num_workers=trainer.num_workers,
            pin_memory=here.device.type == "cuda",
            rank=here.rank,
            num_ranks=here.num_ranks,
            show=progress_bar if here.is_main else unseen,
            prepared=prepared,
            learns_classes=self.learns_classes,
        )

    @property
    def learns_classes(self) -> bool:
        """Whether the subjects may have labels, and a term of the loss reads what a classifier makes of them."""
        return "labels" in self.source.gives and "logits" in self.build_objective(num_training_subjects=1).requires

    def build_objective(self, num_training_subjects: int) -> Objective:
        """Build the objective; raises `UserError` for a term that does not fit this latent space."""
        source = self.source
        num_values = len(source.channels) * math.prod(source.size)
        return self.loss.build(TermContext(self.layout, num_values, num_training_subjects))

    def build_metrics(self) -> list[Metric]:
        """Build the metrics that every validation computes; raises `UserError`."""
        source, config = self.source, self.config.get("metrics", {})
        if not isinstance(config, Mapping):
            raise UserError(f"metrics: {config!r} is not allowed; add one with +metric@metrics.<name>=<name>")
        channels, size, factors = tuple(source.channels), tuple(source.size), source.factor_groups
        context = MetricContext(self.layout, channels, size, self.supervision, self.learns_classes, factors)
        return build_metrics(config, context)

    def positions(self, num: int) -> list[Progress]:
        """Return ``num`` equidistant positions from the start of the run to its end."""
        max_epochs: int = self.settings["trainer"].max_epochs
        curriculum: Curriculum = self.settings["curriculum"]
        return [curriculum.progress(float(epoch), max_epochs) for epoch in np.linspace(0.0, max_epochs, num)]

    def _circumstances(self, objective: Objective) -> Circumstances:
        trainer: TrainerSettings = self.settings["trainer"]
        return Circumstances(
            weights=objective.weight_curves(self.positions(501)),
            num_rows=trainer.batch_size * (trainer.devices or num_ranks_started() or 1),
            channels=self.source.channels,
            draws_pairs=self.source.draws_pairs,
            starts_from_weights=trainer.init_from is not None,
            lateral_shift=self.settings["augmentation"].max_shift[0],
        )

    def build(self, num_training_subjects: int, num_classes: int | None = None) -> tuple[Model, Objective]:
        """Build model and objective from the seed, and check that the model provides what the terms require.

        Args:
            num_training_subjects: number of training subjects.
            num_classes: number of classes; None before the data are loaded: 2 with labels, else 0.

        Raises:
            UserError: the parts do not fit together.
        """
        objective = self._fitting_objective(num_training_subjects)
        seed_everything(self.config["seed"])
        if num_classes is None:
            num_classes = self._assumed_classes
        model = self._build_model(self._blueprint(objective.requires, num_classes))
        self._check_model(model, objective)
        return model, objective

    def _checked(self, known: CheckedModels) -> tuple[Model, Objective]:
        """Return model and objective as `build` does, but with a model without weights."""
        objective = self._fitting_objective(num_training_subjects=1)
        blueprint = self._blueprint(objective.requires, self._assumed_classes)
        key = repr(blueprint)
        model = known.get(key)
        if model is None:
            model = known[key] = self._model_without_weights(blueprint)
        self._check_model(model, objective)
        return model, objective

    def _model_without_weights(self, blueprint: Blueprint) -> Model:
        """Build the model `without_weights`, or with weights if a part needs their values."""
        try:
            with without_weights():
                return self._build_model(blueprint)
        except UserError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:  # raised by torch and numpy for tensors without values
            _log.debug("model=%s cannot be built without weights: %s", self.parts["model"].part.name, error)
        seed_everything(0)  # any weights do: `build` draws those of the run
        return self._build_model(blueprint)

    @property
    def _assumed_classes(self) -> int:
        """Number of classes assumed before the data are loaded: 2 with labels, else 0."""
        return 2 if "labels" in self.source.gives else 0

    def _fitting_objective(self, num_training_subjects: int) -> Objective:
        objective = self.build_objective(num_training_subjects)
        check_needs(objective, self.parts, self.supervision, self.layout, self.source.gives)
        return objective

    def _blueprint(self, requires: frozenset[str], num_classes: int) -> Blueprint:
        source, parts = self.source, {key: self.parts[key] for key in MODEL_PARTS}
        return Blueprint(len(source.channels), source.size, parts, requires, num_classes)

    def _build_model(self, blueprint: Blueprint) -> Model:
        model: Model = self.parts["model"](blueprint)
        return model

    def _check_model(self, model: Model, objective: Objective) -> None:
        """Check that a model fits data and objective, and enable activation checkpointing if configured."""
        source = self.source
        changes_intensities = self.settings["augmentation"].changes_intensities
        check_reach(model, self.parts, source, changes_intensities=changes_intensities)
        check_inputs(model, source.identity, source.input_identity)
        check_supervision(objective, self.parts["model"], self.supervision)
        trainer: TrainerSettings = self.settings["trainer"]
        if trainer.activation_checkpointing:
            recompute_activations(model, compiled=trainer.compile)

    def _check_targets(self) -> None:
        """Check that the source has the supervised targets, before a cohort is prepared."""
        source, name = self.source, f"data={self.parts['data'].part.name}"
        check_supervised(self.supervision, source.targets, name)
        applicable(self.settings["targets"], source.targets, name)

    def _unjudged(self) -> list[str]:
        """Report supervised partitions without a gate."""
        judged = [target.metric for target in self.settings["gates"].targets.values()]
        found = unjudged_partitions(judged, self.supervision)
        return [f"gates: {unjudged_words(found)}"] if found else []


def check_sections(config: Mapping[str, Any]) -> None:
    """Check that a configuration has its sections; all further checks may read their keys.

    Args:
        config: resolved configuration, plain values.

    Raises:
        UserError: a section is missing or is no section, for example after ``~model`` or ``trainer=3``.
    """
    check_present(config, (*_OWN, *_PARTS, *_SETTINGS))
    for key, group in _PARTS.items():
        if not isinstance(config[key], Mapping) or not isinstance(config[key].get("name"), str):
            option = key if key == group else f"{group}@{key}"
            raise UserError(f"{key}: {config[key]!r} is not allowed; choose one with {option}=<name>")
    for key in _SETTINGS:
        section_of(config, key)
    path_of(config["output_dir"], "output_dir")


def _without_keys_of_others(config: Mapping[str, Any], once: Once) -> tuple[dict[str, Any], list[str]]:
    """Leave out keys that an experiment set for a part that has since been replaced; return sentences about them."""
    sentences: list[str] = []

    def own(group: str, part: Any, path: str) -> Any:
        if not isinstance(part, Mapping):
            return part
        kept, foreign = once(own_keys, group, part)
        if foreign:
            sentences.append(f"{path}={kept['name']} has no {', '.join(foreign)}: ignored")
        return kept

    loss = dict(config["loss"])
    chosen = {group: section(loss, f"{group}s") for group in ("term", "schedule")}
    found = {**config, **{key: own(group, config[key], key) for key, group in _PARTS.items()}}
    for group, parts in chosen.items():
        if parts:
            loss[f"{group}s"] = {key: own(group, part, f"loss.{group}s.{key}") for key, part in parts.items()}
    return {**found, "loss": loss}, sentences
