import math
from collections.abc import Callable

import pytest
import torch

from menvae.registry import build
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput

KL = torch.tensor([[0.1, 0.5, 3.0, 0.0, 0.2, 1.0], [0.3, 0.0, 1.0, 0.4, 0.0, 2.0]])
"""Wanted KL per subject and dimension; with variance 1 the mean that gives it is sqrt(2 KL)."""


@pytest.mark.parametrize(
    ("settings", "kl", "raw", "constrained"),
    [
        ({}, 4.25, 4.25, 4.25),  # 0.2 + 0.25 + 2.0 + 0.2 + 0.1 + 1.5
        ({"partitions": ["residual"]}, 1.8, 1.8, 1.8),
        ({"partitions": ["residual"], "free_bits": 0.25}, 0.25 + 0.25 + 1.5, 1.8, 2.0),
        (
            {"partitions": ["residual"], "free_bits": 0.25, "clamping": "per_sample"},
            ((0.25 + 0.25 + 1.0) + (0.4 + 0.25 + 2.0)) / 2,
            1.8,
            2.075,
        ),
        ({"partitions": ["residual"], "reduction": "per_voxel"}, 1.8 / 32, 1.8, 1.8),
        ({"partitions": ["residual", "vol"]}, 1.8 + 0.45, 2.25, 2.25),
    ],
)
def test_by_hand(
    context: TermContext,
    output_of: Callable[..., ModelOutput],
    batch_of: Callable[..., Batch],
    settings: dict[str, object],
    kl: float,
    raw: float,
    constrained: float,
) -> None:
    values = build("term", {"name": "kl", **settings}, context)(batch_of(), output_of((2.0 * KL).sqrt()))
    found = {name: value.item() for name, value in values.items()}
    assert found == pytest.approx({"kl": kl, "kl_raw": raw, "kl_constrained": constrained}, abs=1e-5)


def test_partitions_that_are_not_named_get_no_gradient(
    context: TermContext, output_of: Callable[..., ModelOutput], batch_of: Callable[..., Batch]
) -> None:
    mean = torch.ones(2, 6, requires_grad=True)
    build("term", {"name": "kl", "partitions": ["residual"]}, context)(batch_of(), output_of(mean))["kl"].backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [[0.0, 0.0, 0.0, 0.5, 0.5, 0.5]] * 2  # d/dmu of mu^2 / 2, over 2 subjects


def test_floor_is_told(context: TermContext) -> None:
    term = build("term", {"name": "kl", "partitions": ["residual"], "free_bits": 0.2}, context)
    assert math.isclose(term.constants()["expected_kl_floor"], 0.6)
