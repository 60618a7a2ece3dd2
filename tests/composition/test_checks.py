"""Checks of a configuration: a model without weights stands for the one that is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from menvae.composition.experiment import CheckedModels, Experiment
from menvae.layers import without_weights
from menvae.models import Blueprint
from menvae.models.vae import VAE
from menvae.registry import register, unregister

Compose = Callable[..., DictConfig]

SMALL = ("data.roi_size=[32,32,32]",)


def _shapes(model: torch.nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}


def _kinds(model: torch.nn.Module) -> list[str]:
    return [type(module).__qualname__ for module in model.modules()]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("encoder.spectral_norm=true", "decoder=transposed"),
        ("trainer.activation_checkpointing=true",),
        ("experiment=semivae_experts",),
        ("experiment=semivae_hierarchical",),
        ("experiment=semivae_modality_decoders",),
        ("experiment=semivae_attention",),
        ("experiment=lithology_hybrid",),
    ],
)
def test_a_model_without_weights_is_the_model(compose_train: Compose, overrides: tuple[str, ...]) -> None:
    known: CheckedModels = {}
    experiment = Experiment.from_config(compose_train(*overrides), known)
    (checked,) = known.values()
    real, _ = experiment.build(1)
    assert _shapes(checked) == _shapes(real)
    assert any(parameter.is_meta for parameter in checked.parameters())
    assert not any(parameter.is_meta for parameter in real.parameters())
    assert _kinds(checked) == _kinds(real)


def test_points_that_differ_in_a_weight_share_a_model(compose_train: Compose) -> None:
    known: CheckedModels = {}
    for weight in (1, 5, 10):
        Experiment.from_config(compose_train(f"loss.lambda_dcor={weight}"), known)
    for key in ("optimizer.learning_rate=1e-5", "data.num_subjects=80", "schedule@learning_rate=constant", "seed=2"):
        Experiment.from_config(compose_train(key), known)
    assert len(known) == 1
    for number, key in enumerate(("model.partitions.vol=16", "data.roi_size=[48,48,48]", "data.modalities=[t1c]"), 2):
        Experiment.from_config(compose_train(key), known)
        assert len(known) == number


def test_a_check_draws_no_random_numbers(compose_train: Compose) -> None:
    before = torch.random.get_rng_state()
    Experiment.from_config(compose_train(*SMALL))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_that_needs_its_numbers_gets_them(compose_train: Compose) -> None:
    class Needy(VAE):
        """Reads a weight while it is built."""

        def __init__(self, blueprint: Blueprint, *, z_dim: int = 16, partitions: dict[str, Any] | None = None) -> None:
            super().__init__(blueprint, z_dim=z_dim, partitions=partitions or {"residual": None})
            self.first = float(next(self.parameters()).detach().flatten()[0].item())

    register("model", "needy")(Needy)
    try:
        known: CheckedModels = {}
        Experiment.from_config(compose_train("experiment=exp1_baseline", "model.name=needy"), known)
    finally:
        unregister("model", "needy")
    (model,) = known.values()
    assert isinstance(model, Needy)
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_only_weights_lack_numbers() -> None:
    with without_weights():
        layer, grid = torch.nn.Linear(2, 3), torch.linspace(0.0, 1.0, 3)
    assert layer.weight.is_meta
    assert grid.tolist() == [0.0, 0.5, 1.0]
    assert not torch.nn.Linear(2, 3).weight.is_meta


@pytest.mark.parametrize(
    ("name", "learns"), [("lithology_semisup", True), ("table_semivae", False), ("exp1_baseline", False)]
)
def test_classes_are_learnt_if_a_term_reads_them(compose_train: Compose, name: str, learns: bool) -> None:
    assert Experiment.from_config(compose_train(f"experiment={name}")).learns_classes == learns
