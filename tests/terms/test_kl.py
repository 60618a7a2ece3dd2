import math
from collections.abc import Callable

import pytest
import torch

from menvae.errors import UserError
from menvae.registry import build
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput, Progress

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
        ({"free_bits": {"vol": 0.3, "residual": 0.15}}, 0.3 + 0.3 + 2.0 + 0.2 + 0.15 + 1.5, 4.25, 4.45),
        (
            {"partitions": ["residual", "vol"], "free_bits": {"vol": 0.2}, "clamping": "per_sample"},
            1.8 + ((0.2 + 0.5) + (0.3 + 0.2)) / 2,
            2.25,
            2.4,
        ),
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


def test_floor_of_each_partition_is_told(context: TermContext) -> None:
    settings = {"free_bits": {"vol": 0.1, "loc": 0.1, "residual": 0.25}}
    term = build("term", {"name": "kl", **settings}, context)
    assert term.constants()["expected_kl_floor"] == pytest.approx(2 * 0.1 + 0.1 + 3 * 0.25)
    with pytest.raises(UserError, match=r"free_bits.vol: the term has no partition 'vol'"):
        build("term", {"name": "kl", "partitions": ["residual"], **settings}, context)


def test_second_kl_has_names_of_its_own(
    context: TermContext, output_of: Callable[..., ModelOutput], batch_of: Callable[..., Batch]
) -> None:
    settings = {"scalar": "kl_supervised", "partitions": ["vol", "loc"], "free_bits": 0.1}
    term = build("term", {"name": "kl", **settings}, context)
    values = term(batch_of(), output_of((2.0 * KL).sqrt()))
    assert term.scalars == ("kl_supervised",)
    assert {name: value.item() for name, value in values.items()} == pytest.approx(
        {"kl_supervised": 2.45, "kl_supervised_raw": 2.45, "kl_supervised_constrained": 2.45}
    )
    assert term.constants() == {"expected_kl_supervised_floor": pytest.approx(0.3)}
    with pytest.raises(UserError, match="scalar"):
        build("term", {"name": "kl", "scalar": "recon"}, context)


@pytest.mark.parametrize(
    ("epoch", "capacity", "direction"), [(0.0, 0.0, 1.0), (5.0, 3.0, 1.0), (10.0, 6.0, -1.0), (99.0, 6.0, -1.0)]
)
def test_capacity_by_hand(
    context: TermContext,
    output_of: Callable[..., ModelOutput],
    batch_of: Callable[..., Batch],
    epoch: float,
    capacity: float,
    direction: float,
) -> None:
    """|KL - C| at a KL of 4.25 nats; the gradient pushes the KL towards C."""
    term = build("term", {"name": "kl", "max_capacity_nats": 6.0, "capacity_length": 10.0}, context)
    term.at(Progress(epoch, 100.0))
    mean = (2.0 * KL).sqrt().requires_grad_()
    values = term(batch_of(), output_of(mean))
    assert values["kl"].item() == pytest.approx(abs(4.25 - capacity), abs=1e-5)
    assert values["kl_raw"].item() == pytest.approx(4.25)
    assert values["kl_capacity"].item() == capacity
    values["kl"].backward()
    torch.testing.assert_close(mean.grad, direction * mean.detach() / 2)


def test_floor_of_partitions_that_are_not_named_is_0(context: TermContext) -> None:
    term = build("term", {"name": "kl", "free_bits": {"vol": 0.1}}, context)
    assert term.constants()["expected_kl_floor"] == pytest.approx(2 * 0.1)


def test_settings_are_no_state_and_the_capacity_begins_at_0(
    context: TermContext, output_of: Callable[..., ModelOutput], batch_of: Callable[..., Batch]
) -> None:
    term = build("term", {"name": "kl", "free_bits": 0.1, "max_capacity_nats": 6.0}, context)
    assert term.state_dict() == {}
    assert term(batch_of(), output_of((2.0 * KL).sqrt()))["kl_capacity"].item() == 0.0
