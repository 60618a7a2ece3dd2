"""The tabular VAE: documented sizes, what is hidden, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig

from menvae.composition.experiment import Experiment
from menvae.errors import UserError
from menvae.models.tabular_vae import TabularVAE
from menvae.types import Batch

Compose = Callable[..., DictConfig]


def built(compose_train: Compose, *overrides: str) -> TabularVAE:
    model, _ = Experiment.from_config(compose_train(*overrides)).build(100, 139)
    assert isinstance(model, TabularVAE)
    return model


@pytest.mark.parametrize(
    ("name", "num_parameters"), [("lithology_vae", 6426), ("lithology_semisup", 16165), ("lithology_hybrid", 16165)]
)
def test_documented_numbers_of_parameters(compose_train: Compose, name: str, num_parameters: int) -> None:
    model = built(compose_train, f"experiment={name}")
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


def test_layers_are_linear_relu_batchnorm(compose_train: Compose) -> None:
    model = built(compose_train, "experiment=lithology_vae")
    kinds = [type(layer).__name__ for layer in model.encoder.layers]
    assert kinds == ["Linear", "ReLU", "BatchNorm1d"] * 2
    assert [type(layer).__name__ for layer in model.decoder.layers] == kinds


def test_hidden_values_do_not_reach_the_encoder(compose_train: Compose) -> None:
    model = built(compose_train, "experiment=lithology_hybrid").train()
    batch = Batch(torch.randn(2000, 6), ("",) * 2000)
    torch.manual_seed(5)
    output = model(batch)
    hidden = output.extras["hidden"].bool()
    assert hidden.float().mean() == pytest.approx(0.1, abs=0.01)
    torch.manual_seed(5)
    again = model(Batch(batch.inputs.masked_fill(hidden, 1e6), batch.subject_id))
    assert torch.equal(again.posterior.mean, output.posterior.mean)
    torch.manual_seed(5)
    zeroed = model.encode(batch.inputs.masked_fill(hidden, 0.0))
    torch.testing.assert_close(zeroed.mean, output.posterior.mean)


def test_nothing_is_hidden_in_evaluation(compose_train: Compose) -> None:
    model = built(compose_train, "experiment=lithology_hybrid").eval()
    assert not model(Batch(torch.randn(20, 6), ("",) * 20)).extras["hidden"].any()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["experiment=lithology_hybrid", "model.input_mask=0"], "model.input_mask: 0 is not allowed"),
        (["experiment=lithology_vae", "model.classifier.dropout=7"], "model.classifier.dropout: 7 is not allowed"),
        (["experiment=lithology_vae", "encoder=resnet"], "encoder=resnet needs volumes"),
        (["experiment=lithology_vae", "decoder=sbd"], "decoder=sbd needs volumes"),
        (["encoder=mlp"], "encoder=mlp needs rows of a table, but data.roi_size="),
        (["experiment=lithology_vae", "loss=dcor"], "partition 'vol' does not exist"),
        (
            ["experiment=lithology_semisup", "data=table", "data.path=a.csv", "data.columns=[a]"],
            "loss.terms.cross_entropy requires 'labels' of every subject, which data=table does not provide",
        ),
    ],
)
def test_what_does_not_fit_is_refused(compose_train: Compose, overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        Experiment.from_config(compose_train(*overrides))
    assert words in str(caught.value)


def test_a_semivae_takes_rows_where_its_parts_do(compose_train: Compose) -> None:
    experiment = Experiment.from_config(
        compose_train(
            "experiment=lithology_vae",
            "model=semivae",
            "model.z_dim=8",
            "model.partitions={vol:2,loc:2,shape:2}",
            "model.supervision={vol:[],loc:[],shape:[]}",
        )
    )
    model, _ = experiment.build(10)
    assert model(Batch(torch.randn(4, 6), ("",) * 4)).reconstruction.shape == (4, 6)


def test_beta_of_the_hybrid_is_the_documented_one(compose_train: Compose) -> None:
    experiment = Experiment.from_config(compose_train("experiment=lithology_hybrid"))
    weights = experiment.build_objective(1).weight_curves(experiment.positions(41))["kl"]
    assert weights[0] == pytest.approx(1e-6)
    assert weights[15] == pytest.approx(1e-6 + 0.5 * (0.5 - 1e-6))
    assert weights[30] == weights[40] == 0.5
