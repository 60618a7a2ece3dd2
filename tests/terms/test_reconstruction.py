import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from menvae.registry import build
from menvae.terms import TermContext
from menvae.terms.reconstruction import mean_squared_error, mean_squared_errors
from menvae.types import Batch, ModelOutput

MakeOutput = Callable[..., ModelOutput]
MakeBatch = Callable[..., Batch]


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 6.5 / 2), ("sum", 32 * 6.5 / 2), ("batch_sum", 32 * 6.5)])
def test_mse_reductions_by_hand(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch, reduction: str, expected: float
) -> None:
    reconstruction = torch.zeros(2, 4, 2, 2, 2)
    reconstruction[0] = 2.0  # error 4 everywhere in subject 0; in subject 1 it is 1 in one half and 4 in the other
    reconstruction[1, :2], reconstruction[1, 2:] = 1.0, -2.0
    term = build("term", {"name": "mse", "reduction": reduction}, context)
    assert term(batch_of(), output_of(reconstruction=reconstruction))["recon"].item() == pytest.approx(expected)


@pytest.mark.parametrize(("reduction", "expected"), [("mean", 13 / 5), ("sum", 8 * 13 / 2), ("batch_sum", 8 * 13)])
def test_sums_are_over_the_modalities_that_there_are(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch, reduction: str, expected: float
) -> None:
    reconstruction = torch.ones(2, 4, 2, 2, 2)
    reconstruction[1, 0] = 3.0  # 4 modalities with error 1, 1 with error 9 and 3 that are missing; 8 voxels each
    reconstruction[1, 1:] = 7.0
    available = torch.tensor([[True, True, True, True], [True, False, False, False]])
    batch = replace(batch_of(), available=available)
    term = build("term", {"name": "mse", "reduction": reduction}, context)
    assert term(batch, output_of(reconstruction=reconstruction))["recon"].item() == pytest.approx(expected)


def test_calibrated_by_hand(context: TermContext, output_of: MakeOutput, batch_of: MakeBatch) -> None:
    values = build("term", {"name": "calibrated"}, context)(
        batch_of(), output_of(reconstruction=torch.full((2, 4, 2, 2, 2), 0.5))
    )
    assert values["mse"].item() == pytest.approx(0.25)
    assert values["recon"].item() == pytest.approx(0.5 * (math.log(2 * math.pi * 0.25) + 1.0), abs=1e-6)


def test_calibrated_has_one_variance_for_all_modalities_that_differ(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch
) -> None:
    reconstruction = torch.full((2, 4, 2, 2, 2), 0.5)
    reconstruction[:, 3] = 3.0
    values = build("term", {"name": "calibrated"}, context)(batch_of(), output_of(reconstruction=reconstruction))
    mean = (3 * 0.25 + 9.0) / 4
    assert values["recon"].item() == pytest.approx(0.5 * (math.log(2 * math.pi * mean) + 1.0), abs=1e-6)


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


@pytest.mark.parametrize(
    ("tumour_weight", "expected"), [(1.0, 28 / 16), (2.0, (2 * 4 * 4 + 12) / 20), (5.0, (5 * 4 * 4 + 12) / 32)]
)
def test_tumour_weight_by_hand(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch, tumour_weight: float, expected: float
) -> None:
    """4 of 16 voxels are tumour, with error 4; the error elsewhere is 1; all channels alike."""
    mask = torch.zeros(2, 1, 2, 2, 2, dtype=torch.uint8)
    mask[0, 0, 0], mask[1] = torch.tensor([[1, 2], [3, 3]], dtype=torch.uint8), 0
    reconstruction = torch.where(mask > 0, 2.0, -1.0).expand(2, 4, 2, 2, 2).clone().requires_grad_()
    batch = replace(batch_of(), mask=mask)
    term = build("term", {"name": "mse", "tumour_weight": tumour_weight}, context)
    value = term(batch, output_of(reconstruction=reconstruction))["recon"]
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert reconstruction.grad is not None
    inside, outside = reconstruction.grad[0, 0, 0, 0, 0], reconstruction.grad[1, 0, 0, 0, 0]
    assert (inside / outside).item() == pytest.approx(-2.0 * tumour_weight)
    likelihood = build("term", {"name": "calibrated", "tumour_weight": tumour_weight}, context)
    values = likelihood(batch, output_of(reconstruction=reconstruction))
    assert values["mse"].item() == pytest.approx(expected)
    assert values["recon"].item() == pytest.approx(0.5 * (math.log(2 * math.pi * expected) + 1.0))


@pytest.mark.parametrize("name", ["mse", "calibrated"])
def test_only_a_weighted_error_needs_a_mask(context: TermContext, name: str) -> None:
    assert build("term", {"name": name}, context).batch_requires == frozenset()
    assert build("term", {"name": name, "tumour_weight": 5.0}, context).batch_requires == {"mask"}


@pytest.mark.parametrize("name", ["mse", "calibrated"])
def test_tumour_weight_does_not_matter_where_the_error_is_the_same(
    context: TermContext, output_of: MakeOutput, batch_of: MakeBatch, name: str
) -> None:
    batch = replace(batch_of(), mask=torch.randint(0, 4, (2, 1, 2, 2, 2)))
    made = output_of(reconstruction=torch.full((2, 4, 2, 2, 2), 0.5))
    found = [
        build("term", {"name": name, "tumour_weight": w}, context)(batch, made)["recon"].item() for w in (1.0, 5.0)
    ]
    assert found[0] == pytest.approx(found[1])


def test_a_missing_modality_has_no_say_in_the_error() -> None:
    inputs, drawn = torch.randn(3, 2, 4, 4, 4), torch.randn(3, 2, 4, 4, 4, requires_grad=True)
    available = torch.tensor([[True, True], [True, False], [True, False]])
    mask = (torch.rand(3, 1, 4, 4, 4) > 0.5).to(torch.uint8)
    inputs[1:, 1] = torch.nan
    batch = Batch(inputs, ("a", "b", "c"), mask=mask, available=available)
    weights = np.where(mask.numpy() > 0, 5.0, 1.0)
    squares = (drawn.detach() - inputs).square().numpy()
    first = (weights * squares[:, :1]).sum(), weights.sum()
    second = (weights[0] * squares[0, 1]).sum(), weights[0].sum()
    found = mean_squared_error(batch, drawn, inputs, 5.0)
    assert found.item() == pytest.approx((first[0] + second[0]) / (first[1] + second[1]), rel=1e-5)
    by_channel = mean_squared_errors(batch, drawn, inputs, 5.0)
    np.testing.assert_allclose(by_channel.detach(), [first[0] / first[1], second[0] / second[1]], rtol=1e-5)
    found.backward()
    assert drawn.grad is not None
    assert not drawn.grad[1:, 1].any()
    assert torch.isfinite(drawn.grad).all()


def test_error_of_each_channel_without_a_weight() -> None:
    """A channel that no subject has counts as if its error were 1: it adds a constant, and no gradient."""
    inputs, drawn = torch.randn(3, 3, 2, 2, 2), torch.randn(3, 3, 2, 2, 2, requires_grad=True)
    available = torch.tensor([[True, True, False], [True, False, False], [True, True, False]])
    batch = Batch(inputs, ("a", "b", "c"), available=available)
    squares = (drawn.detach() - inputs).square().numpy()
    found = mean_squared_errors(batch, drawn, inputs)
    expected = [squares[:, 0].mean(), squares[[0, 2], 1].mean(), 1.0]
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5)
    found.sum().backward()
    assert drawn.grad is not None
    assert not drawn.grad[:, 2].any()
    everything = mean_squared_errors(Batch(inputs, ("a", "b", "c")), drawn, inputs)
    np.testing.assert_allclose(everything.detach(), squares.mean(axis=(0, 2, 3, 4)), rtol=1e-5)


def test_error_of_a_column_that_one_subject_has() -> None:
    batch = Batch(torch.zeros(2, 2), ("a", "b"), available=torch.tensor([[True, True], [True, False]]))
    found = mean_squared_errors(batch, torch.tensor([[1.0, 2.0], [3.0, 7.0]]), batch.inputs)
    assert found.tolist() == [(1.0 + 9.0) / 2, 4.0]
