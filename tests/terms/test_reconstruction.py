import math
from collections.abc import Callable

import pytest
import torch

from menvae.registry import build
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput

MakeOutput = Callable[..., ModelOutput]
MakeBatch = Callable[..., Batch]


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 6.5 / 2), ("sum", 32 * 6.5 / 2)])
def test_mse_reductions_by_hand(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch, reduction: str, expected: float
) -> None:
    reconstruction = torch.zeros(2, 4, 2, 2, 2)
    reconstruction[0] = 2.0  # error 4 everywhere in subject 0; in subject 1 it is 1 in one half and 4 in the other
    reconstruction[1, :2], reconstruction[1, 2:] = 1.0, -2.0
    term = build("term", {"name": "mse", "reduction": reduction}, context)
    assert term(batch_of(), output_of(reconstruction=reconstruction))["recon"].item() == pytest.approx(expected)


def test_calibrated_by_hand(context: TermContext, output_of: MakeOutput, batch_of: MakeBatch) -> None:
    values = build("term", {"name": "calibrated"}, context)(
        batch_of(), output_of(reconstruction=torch.full((2, 4, 2, 2, 2), 0.5))
    )
    assert values["mse"].item() == pytest.approx(0.25)
    assert values["recon"].item() == pytest.approx(0.5 * (math.log(2 * math.pi * 0.25) + 1.0), abs=1e-6)


def test_calibrated_per_modality_by_hand(context: TermContext, output_of: MakeOutput, batch_of: MakeBatch) -> None:
    reconstruction = torch.full((2, 4, 2, 2, 2), 0.5)
    reconstruction[:, 3] = 3.0
    reconstruction.requires_grad_()
    term = build("term", {"name": "calibrated", "per_modality": True}, context)
    values = term(batch_of(), output_of(reconstruction=reconstruction))
    by_channel = [0.5 * (math.log(2 * math.pi * error) + 1.0) for error in (0.25, 0.25, 0.25, 9.0)]
    assert values["recon"].item() == pytest.approx(sum(by_channel) / 4, abs=1e-6)
    assert values["mse"].item() == pytest.approx((3 * 0.25 + 9.0) / 4)
    values["recon"].backward()
    assert reconstruction.grad is not None
    pull = (reconstruction.grad * reconstruction).sum(dim=(0, 2, 3, 4))
    torch.testing.assert_close(pull, torch.full((4,), 0.25))  # scaling any channel by 1 + e costs e / 4 nats


def test_calibrated_gradient_is_that_of_the_error_over_twice_itself(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch
) -> None:
    reconstruction = torch.full((2, 4, 2, 2, 2), 0.5, requires_grad=True)
    build("term", {"name": "calibrated"}, context)(batch_of(), output_of(reconstruction=reconstruction))[
        "recon"
    ].backward()
    assert reconstruction.grad is not None
    expected = torch.full_like(reconstruction, (2 * 0.5 / 64) / (2 * 0.25))
    torch.testing.assert_close(reconstruction.grad, expected)


def test_auxiliary_target_is_the_mean_of_each_cell(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch
) -> None:
    inputs = torch.randn(2, 4, 4, 8, 4)
    cells = inputs.reshape(2, 4, 2, 2, 2, 4, 2, 2).mean(dim=(3, 5, 7))
    term = build("term", {"name": "aux_recon"}, context)
    perfect = output_of(auxiliary_reconstruction=cells)
    assert term(batch_of(inputs), perfect)["aux_recon"].item() == pytest.approx(0.0, abs=1e-12)
    shifted = output_of(auxiliary_reconstruction=cells + 3.0)
    assert term(batch_of(inputs), shifted)["aux_recon"].item() == pytest.approx(9.0, rel=1e-5)


def test_auxiliary_target_where_sizes_do_not_divide(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch
) -> None:
    inputs = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 1, 5, 2, 2)
    expected = torch.tensor([1.0, 3.0]).reshape(1, 1, 2, 1, 1)  # cells 0..2.5 and 2.5..5 take voxels 0-2 and 2-4
    term = build("term", {"name": "aux_recon"}, context)
    value = term(batch_of(inputs), output_of(auxiliary_reconstruction=expected.expand(1, 1, 2, 2, 2)))["aux_recon"]
    assert value.item() == pytest.approx(0.0, abs=1e-12)
