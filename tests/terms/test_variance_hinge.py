"""Values of the variance hinge in closed form; the conformance suite has the rest."""

from __future__ import annotations

import math

import pytest
import torch

from menvae.latent import LatentLayout
from menvae.registry import build
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput, Posterior


def hinge(rows: torch.Tensor, **settings: object) -> float:
    context = TermContext(LatentLayout({"vol": 2, "residual": 1}), num_input_values=1, num_training_subjects=4)
    term = build("term", {"name": "variance_hinge", **settings}, context)
    output = ModelOutput(Posterior(rows, torch.zeros_like(rows)), rows, torch.zeros(len(rows), 1))
    batch = Batch(torch.zeros(len(rows), 1), tuple(map(str, range(len(rows)))))
    value: float = term(batch, output)["variance_hinge"].item()
    return value


ROWS = torch.tensor([[0.0, 0.0, 3.0], [0.5, 0.0, -3.0]])
"""Standard deviations sqrt(1 / 8), 0 and sqrt(18)."""


def test_value_is_the_mean_lack_of_deviation() -> None:
    of_first, of_constant = 1.0 - math.sqrt(0.125), 1.0
    assert hinge(ROWS) == pytest.approx((of_first + of_constant + 0.0) / 3.0, abs=5e-3)


def test_only_the_chosen_partitions_count() -> None:
    assert hinge(ROWS, partitions=["residual"], target=5.0) == pytest.approx(5.0 - math.sqrt(18.0), abs=1e-3)


def test_a_constant_latent_has_a_finite_gradient() -> None:
    rows = torch.zeros(4, 3, requires_grad=True)
    context = TermContext(LatentLayout({"residual": 3}), num_input_values=1, num_training_subjects=4)
    term = build("term", {"name": "variance_hinge"}, context)
    output = ModelOutput(Posterior(rows, torch.zeros_like(rows)), rows, torch.zeros(4, 1))
    term(Batch(torch.zeros(4, 1), tuple("abcd")), output)["variance_hinge"].backward()
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()
