from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from menvae.errors import UserError
from menvae.registry import build
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput

MakeOutput = Callable[..., ModelOutput]
MakeBatch = Callable[..., Batch]

TARGETS = torch.tensor([[1.0, 0.0], [2.0, 5.0]])
OBSERVED = torch.tensor([[True, False], [True, True]])


@pytest.fixture
def predicted() -> Tensor:
    return torch.tensor([[3.0, 100.0], [2.0, 2.0]], requires_grad=True)


def test_mean_over_what_was_observed(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch, predicted: Tensor
) -> None:
    term = build("term", {"name": "semantic", "partition": "vol"}, context)
    values = term(batch_of(vol=(TARGETS, OBSERVED)), output_of(predictions={"vol": predicted}))
    assert list(values) == ["vol"]
    assert values["vol"].item() == pytest.approx((4.0 + 0.0 + 9.0) / 3)
    values["vol"].backward()
    assert predicted.grad is not None
    assert predicted.grad[0, 1].item() == 0.0
    torch.testing.assert_close(predicted.grad, torch.tensor([[4.0, 0.0], [0.0, -6.0]]) / 3)


def test_a_single_observed_target_is_the_mean(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch, predicted: Tensor
) -> None:
    term = build("term", {"name": "semantic", "partition": "vol"}, context)
    one = torch.tensor([[False, False], [False, True]])
    values = term(batch_of(vol=(TARGETS, one)), output_of(predictions={"vol": predicted}))
    assert values["vol"].item() == pytest.approx(9.0)


def test_nothing_observed_gives_0_and_no_gradient(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch, predicted: Tensor
) -> None:
    term = build("term", {"name": "semantic", "partition": "vol"}, context)
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    value = term(batch_of(vol=(TARGETS, nothing)), output_of(predictions={"vol": predicted}))["vol"]
    value.backward()
    assert value.item() == 0.0
    assert predicted.grad is not None
    assert not predicted.grad.any()


def test_names_follow_the_partition(context: TermContext) -> None:
    term = build("term", {"name": "semantic", "partition": "loc"}, context)
    assert term.scalars == ("loc",)
    assert term.requires == {"predictions.loc"}
    with pytest.raises(
        UserError, match=r"partition 'lox' does not exist.*~loss\.terms\.lox ~loss\.lambda_lox ~loss\.schedules\.lox"
    ):
        build("term", {"name": "semantic", "partition": "lox"}, context)
