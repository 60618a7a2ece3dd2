from collections.abc import Callable

import pytest
import torch

from menvae.errors import UserError
from menvae.registry import build
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput

MakeOutput = Callable[..., ModelOutput]
MakeBatch = Callable[..., Batch]

MEAN = torch.tensor([[1.0, 2.0, 9.0, 9.0, 9.0, 9.0], [0.0, -1.0, 9.0, 9.0, 9.0, 9.0]])
RECOVERED = torch.tensor([[1.0, 0.0], [3.0, -1.0]])


def test_mean_squared_distance_from_the_coordinates(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch
) -> None:
    term = build("term", {"name": "cycle", "partition": "vol"}, context)
    mean, recovered = MEAN.clone().requires_grad_(), RECOVERED.clone().requires_grad_()
    values = term(batch_of(), output_of(mean, **{"cycle.vol": recovered}))
    assert list(values) == ["cycle_vol"]
    assert values["cycle_vol"].item() == pytest.approx((0.0 + 4.0 + 9.0 + 0.0) / 4)
    values["cycle_vol"].backward()
    expected = torch.zeros_like(MEAN)
    expected[:, :2] = torch.tensor([[0.0, 2.0], [-3.0, 0.0]]) * 2 / 4
    torch.testing.assert_close(mean.grad, expected)
    torch.testing.assert_close(recovered.grad, -expected[:, :2])


def test_encoder_may_be_left_alone(context: TermContext, output_of: MakeOutput, batch_of: MakeBatch) -> None:
    term = build("term", {"name": "cycle", "partition": "vol", "train_encoder": False}, context)
    mean, recovered = MEAN.clone().requires_grad_(), RECOVERED.clone().requires_grad_()
    term(batch_of(), output_of(mean, **{"cycle.vol": recovered}))["cycle_vol"].backward()
    assert mean.grad is None
    assert recovered.grad is not None


def test_names_follow_the_partition(context: TermContext) -> None:
    term = build("term", {"name": "cycle", "partition": "loc"}, context)
    assert (term.scalars, term.requires) == (("cycle_loc",), {"cycle.loc"})
    with pytest.raises(UserError, match="partition 'lox' does not exist"):
        build("term", {"name": "cycle", "partition": "lox"}, context)
