"""The objectives of the tables, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from omegaconf import DictConfig

from menvae.composition.experiment import Experiment
from menvae.latent import LatentLayout
from menvae.registry import build
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput, Posterior, Progress

CONTEXT = TermContext(LatentLayout({"residual": 2}), num_input_values=3, num_training_subjects=4)
INPUTS = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
HIDDEN = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
LOGITS = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
BATCH = Batch(INPUTS, ("a", "b"), labels=torch.tensor([0, -1]))


def output() -> ModelOutput:
    posterior = Posterior(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 2))
    reconstruction = INPUTS + torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0]])
    return ModelOutput(posterior, posterior.mean, reconstruction, {}, {"hidden": HIDDEN, "logits": LOGITS})


def value(name: str, batch: Batch = BATCH, **settings: str) -> float:
    term = build("term", {"name": name, **settings}, CONTEXT)
    return float(term(batch, output())[term.scalars[0]])


def test_masked_error_is_the_mean_of_the_hidden_values() -> None:
    assert value("masked_mse") == pytest.approx((2.0**2 + 3.0**2) / 2.0)


def test_nothing_hidden_is_no_error() -> None:
    term = build("term", {"name": "masked_mse"}, CONTEXT)
    shown = ModelOutput(*(getattr(output(), name) for name in ("posterior", "latent", "reconstruction")))
    shown = ModelOutput(shown.posterior, shown.latent, shown.reconstruction, {}, {"hidden": torch.zeros(2, 3)})
    assert term(BATCH, shown)["masked"] == 0.0


def test_a_missing_value_is_no_hidden_one() -> None:
    there = torch.tensor([[True, True, True], [False, True, True]])
    missing = replace(BATCH, inputs=INPUTS.masked_fill(~there, math.nan), available=there)
    assert value("masked_mse", missing) == pytest.approx(2.0**2)


def test_cross_entropy_of_the_labelled_rows() -> None:
    assert value("cross_entropy") == pytest.approx(math.log(4.0 / 3.0))
    assert value("cross_entropy", reduction="sum") == pytest.approx(math.log(4.0 / 3.0) / 2.0)
    both = Batch(INPUTS, ("a", "b"), labels=torch.tensor([0, 1]))
    expected = (math.log(4.0 / 3.0) + math.log(2.0)) / 2.0
    assert value("cross_entropy", both) == pytest.approx(expected)
    assert value("cross_entropy", both, reduction="sum") == pytest.approx(expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_no_label_is_no_loss_and_no_gradient(reduction: str) -> None:
    made = output()
    logits = LOGITS.clone().requires_grad_()
    unlabelled = Batch(INPUTS, ("a", "b"), labels=torch.tensor([-1, -1]))
    made = ModelOutput(made.posterior, made.latent, made.reconstruction, {}, {"logits": logits})
    term = build("term", {"name": "cross_entropy", "reduction": reduction}, CONTEXT)
    loss = term(unlabelled, made)["cross_entropy"]
    loss.backward()
    assert loss == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_labels_of_some_rows_move_those_rows_alone() -> None:
    logits = LOGITS.clone().requires_grad_()
    made = output()
    made = ModelOutput(made.posterior, made.latent, made.reconstruction, {}, {"logits": logits})
    build("term", {"name": "cross_entropy"}, CONTEXT)(BATCH, made)["cross_entropy"].backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, 0.25], [0.0, 0.0]]))


def test_kl_averaged_over_dimensions() -> None:
    assert value("kl", reduction="mean") == pytest.approx((0.5 + 2.0) / 2.0 / 2.0)  # 0.5 mu^2, over 2 rows and 2 dims


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lithology_vae", 15.0 / 2.0 + 2.5 / 2.0),
        ("lithology_semisup", 15.0 / 2.0 + 2.5 / 2.0 + 0.1 * math.log(4.0 / 3.0) / 2.0),
        ("lithology_hybrid", 15.0 / 6.0 + 0.5 * 6.5 + 0.5 * 2.5 / 4.0 + 0.5 * math.log(4.0 / 3.0)),
    ],
)
def test_objectives_are_the_documented_sums(
    compose_train: Callable[..., DictConfig], name: str, expected: float
) -> None:
    """At the end of the schedules; the sums over the batch of the reports are divided by its 2 rows."""
    experiment = Experiment.from_config(compose_train(f"experiment={name}"))
    report = experiment.loss.build(CONTEXT)(BATCH, output(), Progress(40.0, 40.0))
    assert float(report.total) == pytest.approx(expected)
