"""Micro-batches give the gradient of the whole batch, whatever the loss compares, and with the same random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from shrunk import TINY, TINY_TABLE, composed, trainer_of
from torch import Tensor, nn

from menvae.composition.experiment import Experiment
from menvae.errors import UserError
from menvae.training.passes import MicroBatches, NoiseOfRows, WholeBatch
from menvae.training.trainer import Trainer
from menvae.types import ModelOutput, Posterior

COMPARES_SUBJECTS = ("+term@loss.terms.tcvae=tcvae", "+loss.lambda_mi=1", "+loss.lambda_tc=3", "+loss.lambda_dwkl=1")
DROPS = ("model.modality_dropout=0.5",)


def trainer(folder: Path, *overrides: str) -> Trainer:
    experiment = Experiment.from_config(composed(*TINY, f"output_dir={folder}", *overrides))
    return trainer_of(experiment, folder)


def after_a_step(trainer: Trainer, num_rows: int | None) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
    """Return gradients and buffers after the passes of one step, in float64 to tell rounding from mistakes."""
    model, objective = trainer.model.double(), trainer.objective.double()
    model.train()
    objective.train()
    batch = next(iter(trainer.ingredients.train.epoch(0))).to(torch.device("cpu"), trainer.memory_format)
    batch = batch.each(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    if num_rows is None:
        passes: WholeBatch | MicroBatches = WholeBatch(model, trainer.autocast)
    else:
        passes = MicroBatches(model, model, trainer.autocast, num_rows)
    torch.manual_seed(3)
    output = passes.forward(batch)
    report = objective(batch, output, trainer._progress(0.5))
    passes.backward(report.total)
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return gradients, {"total": report.total.detach(), "next": torch.rand(1), **dict(model.named_buffers())}


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (*COMPARES_SUBJECTS, *DROPS),
        ("encoder.spectral_norm=true", "decoder.spectral_norm=true", "trainer.activation_checkpointing=true"),
    ],
    ids=["dcor", "tcvae, dropout", "spectral norm, checkpointing"],
)
def test_equals_the_whole_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_rows: int, overrides: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # the model and its losses compute in float32 by name
    whole, state = after_a_step(trainer(tmp_path, *overrides), None)
    parts, state_of_parts = after_a_step(trainer(tmp_path, *overrides), num_rows)
    assert whole.keys() == parts.keys()
    assert len(whole) > 20
    scale = max(gradient.abs().max().item() for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(
            parts[name], gradient, rtol=1e-6, atol=1e-9 * scale, msg=lambda text, n=name: f"{n}: {text}"
        )
    for name, value in state.items():
        torch.testing.assert_close(state_of_parts[name], value, rtol=1e-9, atol=1e-12)


def test_a_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    weights = []
    for num_rows in (None, 3):
        one = trainer(tmp_path, "trainer.max_epochs=2")
        if num_rows is not None:
            one.use_micro_batches(num_rows)
        one.fit(None)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in one.model.parameters()]))
    assert not torch.equal(
        weights[0], trainer(tmp_path).model.state_dict()["encoder.trunk.stem.0.weight"].flatten()[:1]
    )
    torch.testing.assert_close(weights[1], weights[0], rtol=0.0, atol=2e-4)


def test_refuses_statistics_of_the_batch(tmp_path: Path) -> None:
    config = composed("experiment=lithology_vae", *TINY_TABLE, f"output_dir={tmp_path}")
    one = trainer_of(Experiment.from_config(config), tmp_path)
    with pytest.raises(UserError, match=r"trainer.auto_batch: .* normalises over the whole batch"):
        one.use_micro_batches(7)


VOLUMES = torch.arange(7 * 3 * 8.0).reshape(7, 3, 2, 2, 2)


@pytest.mark.parametrize(
    "like",
    [
        torch.arange(7 * 20.0).reshape(7, 20),
        VOLUMES,
        VOLUMES.contiguous(memory_format=torch.channels_last_3d),
        VOLUMES.transpose(1, 4),
    ],
    ids=["table", "volumes", "channels last", "transposed"],
)
@pytest.mark.parametrize(
    "draw",
    [
        lambda like: torch.empty_like(like).normal_(),
        lambda like: torch.randn(like.shape),
        lambda like: torch.rand_like(like),
        lambda like: nn.functional.dropout(like, 0.3),
        lambda like: torch.bernoulli(like.sigmoid()),
    ],
)
def test_rows_have_the_noise_of_the_whole_batch(draw, like: Tensor) -> None:
    torch.manual_seed(1)
    whole = draw(like)
    assert whole.std() > 0
    found = []
    for rows in (range(3), range(3, 6), range(6, 7)):
        torch.manual_seed(1)
        with NoiseOfRows(rows, 7):
            found.append(draw(like[rows.start : rows.stop]))
    assert torch.equal(torch.cat(found), whole)


def test_tensors_that_are_one_object_stay_one() -> None:
    mean = torch.zeros(2, 3)
    output = ModelOutput(Posterior(mean, mean + 1), mean, mean + 2, {"vol": mean + 3}, {"more": mean + 4})
    named = output.tensors()
    assert list(named) == ["mean", "logvar", "reconstruction", "predictions.vol", "extras.more"]
    other = output.with_tensors({name: tensor * 10 for name, tensor in named.items()})
    assert other.latent is other.posterior.mean
    assert other.extras["more"].unique().tolist() == [40.0]
