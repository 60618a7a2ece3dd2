"""Where the gradient of supervision goes, with the terms that are used in training."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.models import Blueprint, Model
from menvae.registry import bind, build
from menvae.terms import TermContext
from menvae.types import Batch

SIZE = (16, 16, 16)
SIZES = {"vol": 3, "loc": 2, "shape": 3, "residual": 4}
SUPERVISION = {"vol": ["vol_total", "vol_et"], "loc": ["loc_x"], "shape": ["solidity_total"]}
CONTEXT = TermContext(LatentLayout(SIZES), 16**3, 10)
ENCODERS: dict[str, dict[str, Any]] = {
    "resnet": {"name": "resnet", "base_filters": 8},
    "branched": {"name": "branched", "base_filters": 8, "attention": "channel", "multi_scale": ["shape"]},
    "hierarchical": {"name": "branched", "base_filters": 8, "hierarchical": True},
}
Gradients = dict[str, Tensor]


def model_with(encoder: str, isolation: str) -> Model:
    torch.manual_seed(0)
    parts = {
        "encoder": bind("encoder", ENCODERS[encoder]),
        "decoder": bind("decoder", {"name": "sbd"}),
        "auxiliary_decoder": bind("decoder", {"name": "auxiliary"}),
    }
    settings = {"z_dim": 12, "partitions": SIZES, "supervision": SUPERVISION, "isolation": isolation}
    needs = frozenset({"reconstruction", *(f"predictions.{name}" for name in SUPERVISION)})
    model: Model = bind("model", {"name": "semivae", **settings})(Blueprint(1, SIZE, parts, needs))
    return model.eval()


def gradients(model: Model, term: dict[str, Any]) -> tuple[float, Gradients]:
    generator = torch.Generator().manual_seed(1)
    batch = Batch(
        torch.randn(4, 1, *SIZE, generator=generator),
        tuple("abcd"),
        {name: torch.randn(4, len(features), generator=generator) for name, features in SUPERVISION.items()},
        {name: torch.ones(4, len(features), dtype=torch.bool) for name, features in SUPERVISION.items()},
    )
    model.zero_grad()
    (value,) = build("term", term, CONTEXT)(batch, model(batch)).values()
    value.backward()
    return value.item(), {
        name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.encoder.named_parameters()
    }


def semantic(partition: str) -> dict[str, Any]:
    return {"name": "semantic", "partition": partition}


def reaches_trunk(found: Gradients) -> bool:
    return any(bool(x.any()) for name, x in found.items() if name.startswith("trunk."))


def partitions_reached(found: Gradients) -> set[str]:
    """Return the partitions whose own parameters of the encoder get a gradient."""
    reached = set()
    for partition in SIZES:
        rows = slice(*CONTEXT.layout.bounds(partition))
        own = [x for name, x in found.items() if name.startswith(f"branches.{partition}.")]
        own += [x[rows] for name, x in found.items() if name.startswith("head.")]
        assert own
        if any(bool(x.any()) for x in own):
            reached.add(partition)
    return reached


@pytest.mark.parametrize("encoder", ["resnet", "branched"])
@pytest.mark.parametrize("partition", ["vol", "shape"])
def test_none_trains_all_that_the_coordinates_come_from(encoder: str, partition: str) -> None:
    _, found = gradients(model_with(encoder, "none"), semantic(partition))
    assert reaches_trunk(found)
    assert partitions_reached(found) == {partition}


def test_none_trains_the_partitions_that_others_are_conditioned_on() -> None:
    model = model_with("hierarchical", "none")
    assert partitions_reached(gradients(model, semantic("vol"))[1]) == {"vol"}
    assert partitions_reached(gradients(model, semantic("shape"))[1]) == {"vol", "loc", "shape"}


@pytest.mark.parametrize("partition", ["vol", "loc", "shape"])
def test_latent_stops_at_the_conditions(partition: str) -> None:
    _, found = gradients(model_with("hierarchical", "latent"), semantic(partition))
    assert reaches_trunk(found)
    assert partitions_reached(found) == {partition}


@pytest.mark.parametrize("encoder", ["resnet", "branched", "hierarchical"])
@pytest.mark.parametrize("partition", ["vol", "shape"])
def test_trunk_trains_the_branch_alone(encoder: str, partition: str) -> None:
    _, found = gradients(model_with(encoder, "trunk"), semantic(partition))
    assert not reaches_trunk(found)
    assert partitions_reached(found) == {partition}


@pytest.mark.parametrize(
    ("encoder", "isolation"),
    [*((encoder, isolation) for encoder in ENCODERS for isolation in ("none", "trunk")), ("hierarchical", "latent")],
)
def test_reconstruction_trains_the_encoder_whatever_the_isolation(encoder: str, isolation: str) -> None:
    _, found = gradients(model_with(encoder, isolation), {"name": "mse"})
    assert reaches_trunk(found)
    assert partitions_reached(found) == set(SIZES)


@pytest.mark.parametrize("encoder", ["resnet", "branched", "hierarchical"])
def test_isolation_changes_no_value_and_nothing_of_the_reconstruction(encoder: str) -> None:
    plain = gradients(model_with(encoder, "none"), semantic("shape"))[0]
    assert gradients(model_with(encoder, "trunk"), semantic("shape"))[0] == pytest.approx(plain, rel=1e-5)
    expected = gradients(model_with(encoder, "none"), {"name": "mse"})[1]
    for name, gradient in gradients(model_with(encoder, "trunk"), {"name": "mse"})[1].items():
        assert torch.equal(gradient, expected[name])


def test_trunk_is_evaluated_once() -> None:
    model = model_with("branched", "trunk")
    calls: list[nn.Module] = []
    model.encoder.trunk.register_forward_hook(lambda module, *_: calls.append(module))
    gradients(model, semantic("vol"))
    assert len(calls) == 1


@pytest.mark.parametrize("encoder", ["resnet", "branched"])
def test_latent_is_refused_where_slicing_does_it(encoder: str) -> None:
    with pytest.raises(
        UserError, match=rf"model\.isolation: 'latent' needs .* encoder={encoder} are already"
    ) as caught:
        model_with(encoder, "latent")
    assert "\n" not in str(caught.value)
