"""The points of a sweep that share a structure get the names and the sentences of checks of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from menvae.composition.experiment import Experiment
from menvae.composition.once import Once
from menvae.composition.structure import Checker, structure_of
from menvae.data.sources.lithology import LithologySource
from menvae.data.tables.table_file import Table
from menvae.errors import UserError
from menvae.models import Model
from menvae.objective import Objective
from menvae.registry import register, unregister
from menvae.runs.start import check_start, identify
from menvae.sweeps.identifier import Identifier
from menvae.training.place import Place

Compose = Callable[..., DictConfig]
Values = Mapping[str, Any]

TABLE = ("experiment=lithology_vae", "data.num_rows=300", "data.num_classes=5", "data.num_holes=12")
VOLUMES = ("data.roi_size=[32,32,32]",)
ABSENT = object()
"""Stands for a key that is removed."""

OF_ALL: list[Values] = [
    {},
    {"seed": 7},
    {"seed": 7, "optimizer.learning_rate": 3e-4},
    {"optimizer.learning_rate": 3e-4, "learning_rate.name": "constant"},
    {"loss.lambda_kl": 0.25},
    {"loss.lambda_kl": 5},
    {"loss.lambda_kl": 5.0},
    {"loss.lambda_kl": 5, "seed": 7},
    {"loss.lambda_kl": 0},
    {"loss.lambda_kl": 0, "loss.lambda_recon": 0},
    {"trainer.max_epochs": 3, "trainer.gradient_clip": 0.5, "trainer.validate_every_epochs": 2},
    {"trainer.batch_size": 16},
    {"trainer.activation_checkpointing": True},
    {"curriculum.reference_epochs": 7.0},
    {"watch.grace": 0.5},
    {"name": "other"},
    {"trainer.devices": 2},
    {"sweep.name": "mine"},
    {"tracking.enabled": False},
    {"model.z_dim": 12},
    {"gates.max_dcor": None},
    {"gates.mean_z_ratio.above": 2.5},
    # what is refused, by a section itself or because parts do not fit together
    {"seed": -1},
    {"seed": True},
    {"seed": "seven"},
    {"seed": 2**70},
    {"seed": 7, "seeds": 8},
    {"name": "a/b"},
    {"sweep.name": "a/b"},
    {"optimizer.learning_rate": -1.0},
    {"optimizer.learning_rat": 1.0},
    {"optimizer.name": "sgd_of_somebody"},
    {"learning_rate": 3},
    {"loss.lambda_kl": -1.0},
    {"loss.lambda_kl": float("nan")},
    {"loss.lambda_kl": float("inf")},
    {"loss.lambda_kl": "much"},
    {"loss.lambda_kl": True},
    {"loss.lambda_kll": 1.0},
    {"loss.lambda_kl": ABSENT},
    {"loss.terms.kl.free_bits": -1.0},
    {"loss.terms": 3},
    {"trainer.batch_size": 0},
    {"trainer.compile": True, "trainer.auto_batch": True},
    {"trainer.compile": True, "trainer.auto_batch": True, "seed": 7},
    {"trainer.init_from": "/nowhere/at/all"},
    {"trainer.extend": "/nowhere/at/all"},
    {"model.partitions": {"all": 3}},
    {"model.partitions": {"all": 3}, "seed": 7, "loss.lambda_kl": 5},
    {"gates.mine": {"metric": "sem/nothing", "above": 0.5}},
    {"gates.mine": {"metric": "sem/nothing", "above": 0.5}, "loss.lambda_kl": 0.25},
    {"gates.mean_z_ratio": {"metric": "diag/mean_z_ratio", "below": 2.0}},
    {"data.fold": -1},
    {"data.val_fraction": 1.5},
    {"encoder": ABSENT},
    {"encoder.name": "nosuch"},
    {"output_dir": ""},
]
OF_TABLE: list[Values] = [
    *({"data.fold": fold, "seed": seed} for fold, seed in product((0, 1, 4), (7, 8))),
    {"data.fold": 1, "data.num_folds": 3, "loss.lambda_kl": 5},
    {"data.split_seed": 9},
    {"data.val_fraction": 0.3},
    {"data.labelled_fraction": 0.5},
    {"data.seed": 5},
    {"data.target_columns": ["red"]},
    {"data.fold": 7},
    {"data.num_folds": 40, "data.fold": 0},
    {"data.val_fraction": 0.9},
    {"data.val_fraction": 0.9, "seed": 7},
    {"trainer.batch_size": 1},
    {"trainer.batch_size": 1, "seed": 7},
    {"augmentation.flip": 0.5},
    {"data.columns": ["red", "red"]},
    {"data.num_holes": 200},
]
OF_VOLUMES: list[Values] = [
    {},
    {"seed": 7, "trainer.max_epochs": 3},
    {"data.fold": 1, "loss.lambda_dcor": 0.5},
    {"data.fold": 2, "loss.lambda_dcor": 2.5},
    {"data.fold": 2, "loss.lambda_dcor": 0},
    {"data.num_subjects": 9},
    {"data.pairs": True},
    {"augmentation.contrast": 0.1},
    {"augmentation.contrast": 0.1, "data.normalisation": "minmax"},
    {"data.normalisation": "minmax", "decoder.activation": "tanh"},
    {"decoder.activation": "tanh"},
    {"decoder.activation": "tanh", "loss.lambda_dcor": 0.5, "data.fold": 1},
    {"model.supervision.vol": []},
    {"model.supervision.vol": ["nosuch"]},
    {"model.supervision.vol": ["nosuch"], "seed": 7},
    {"data.fold": 9},
]


def _changed(base: Mapping[str, Any], values: Values) -> dict[str, Any]:
    config = cast("dict[str, Any]", copy.deepcopy(dict(base)))
    for key, value in values.items():
        *sections, last = key.split(".")
        node = config
        for section in sections:
            node = node.setdefault(section, {})
        if value is ABSENT:
            del node[last]
        else:
            node[last] = value
    return config


def _plain(config: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(config, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items() if key != "hydra"}


def _answer(check: Callable[[dict[str, Any]], str], config: dict[str, Any]) -> str:
    """Return the name of a run, or the kind of error and its sentence."""
    try:
        return check(config)
    except UserError as error:
        return f"{type(error).__name__}: {error}"


def _alone(config: dict[str, Any]) -> str:
    """Check a configuration as its own process does."""
    experiment = Experiment.from_config(OmegaConf.create(config))
    num_ranks = experiment.settings["trainer"].devices or 1
    check_start(experiment)
    data = experiment.find_data(Place(torch.device("cpu"), 0, 1))
    return "valid, but without data" if data is None else identify(experiment, data, num_ranks)


def test_points_of_a_table_as_if_each_were_checked_alone(compose_train: Compose, tmp_path: Path) -> None:
    base = _plain(compose_train(*TABLE, f"output_dir={tmp_path}"))
    configs = [_changed(base, values) for values in [*OF_ALL, *OF_TABLE]]
    identify_quickly = Identifier(None, prepares=False)
    expected = [_answer(_alone, config) for config in configs]
    assert [_answer(identify_quickly, config) for config in configs] == expected
    assert [_answer(identify_quickly, config) for config in configs] == expected, "what is remembered is right too"
    assert len({text for text in expected if text.startswith(("lithology_vae_", "other_"))}) > 20
    assert sum("Error: " in text for text in expected) > 30


def test_points_of_volumes_as_if_each_were_checked_alone(compose_train: Compose, tmp_path: Path) -> None:
    base = _plain(compose_train(*VOLUMES, f"output_dir={tmp_path}"))
    identifier = Identifier(None, prepares=False)

    def quickly(config: dict[str, Any]) -> str:
        identifier(config)
        return "valid, but without data"

    for values in OF_VOLUMES:
        config = _changed(base, values)
        assert _answer(quickly, config) == _answer(_alone, config), values


@pytest.mark.parametrize(
    "overrides",
    [
        ("experiment=semivae_run6", *VOLUMES),
        ("experiment=exp3_physics", *VOLUMES),
        ("experiment=semivae_aggressive", *VOLUMES),
        ("experiment=semivae_cycle", *VOLUMES),
        ("experiment=semivae_experts", *VOLUMES),
        ("experiment=lithology_hybrid",),
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_structure_has_all_that_the_check_of_its_parts_reads(
    compose_train: Compose, overrides: tuple[str, ...]
) -> None:
    """What it lacks raises where it is read."""
    config = _plain(compose_train(*overrides))
    whole = Experiment.of_sections(config, Once())
    structure = structure_of(whole)
    assert "seed" not in structure.config
    assert "optimizer" not in structure.parts
    assert set(structure.loss.weights.values()) <= {0.0, 1.0}
    of_structure, of_whole = (_shape(*experiment.check_fit({})) for experiment in (structure, whole))
    assert of_structure == of_whole


def _shape(model: Model, objective: Objective) -> tuple[object, ...]:
    sizes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return sizes, objective.requires, objective.scalars, list(objective.active_terms)


def test_parts_are_fitted_once_for_each_structure(compose_train: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    base = _plain(compose_train(*TABLE))
    fitted: list[Experiment] = []
    check_fit = Experiment.check_fit
    monkeypatch.setattr(Experiment, "check_fit", lambda self, known: [fitted.append(self), check_fit(self, known)][1])
    check = Checker()
    for seed, weight, fold, rate in product((1, 2), (0.5, 2.0, 3), (None, 0, 3), (1e-3, 1e-2)):
        values = {"seed": seed, "loss.lambda_kl": weight, "data.fold": fold, "optimizer.learning_rate": rate}
        assert check(_changed(base, values)).config["seed"] == seed
    assert len(fitted) == 1
    for values in ({"loss.lambda_kl": 0}, {"model.z_dim": 8}, {"loss.terms.kl.free_bits": 0.2}):
        check(_changed(base, values))
    assert len(fitted) == 4


def test_a_table_is_drawn_once_and_divided_once_for_each_fold(
    compose_train: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _plain(compose_train(*TABLE, f"output_dir={tmp_path}"))
    drawn, loaded = [], []
    table, load = LithologySource.table, LithologySource.load

    def counted_table(self: LithologySource) -> Table:
        drawn.append(self)
        return table(self)

    def counted_load(self: LithologySource, request: Any) -> Any:
        loaded.append(self.fold)
        return load(self, request)

    monkeypatch.setattr(LithologySource, "table", counted_table)
    monkeypatch.setattr(LithologySource, "load", counted_load)
    identify_quickly = Identifier(None)
    names = {
        identify_quickly(_changed(base, {"seed": seed, "data.fold": fold}))
        for seed, fold in product(range(4), range(3))
    }
    assert len(names) == 12
    assert (len(drawn), sorted(loaded)) == (1, [0, 1, 2])


def test_a_source_of_a_plugin_is_asked_for_every_seed_and_fold(compose_train: Compose, tmp_path: Path) -> None:
    """It inherits the keys that divide a table, but may do more with them."""
    asked: list[tuple[int | None, int]] = []

    class Elsewhere(LithologySource):
        __module__ = "somewhere.else"

        def load(self, request: Any) -> Any:
            asked.append((self.fold, request.seed))
            return super().load(request)

    register("data", "elsewhere")(Elsewhere)
    try:
        base = _plain(compose_train(*TABLE, f"output_dir={tmp_path}"))
        base["data"]["name"] = "elsewhere"
        identify_quickly = Identifier(None)
        for _, seed, fold in product(range(2), (1, 2), (0, 1)):
            identify_quickly(_changed(base, {"seed": seed, "data.fold": fold}))
    finally:
        unregister("data", "elsewhere")
    assert sorted(asked) == [(0, 1), (0, 2), (1, 1), (1, 2)]
