"""Contract of every term; values by hand; two ranks equal one process."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import distributed, multiprocessing

from menvae.conformance import TermConformance
from menvae.latent import LatentLayout
from menvae.registry import build
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput, Posterior


class TestGradientDifference(TermConformance):
    names = ("gradient_difference",)
    variants: ClassVar = {"gradient_difference": [{}, {"exponent": 1.5}, {"exponent": 2.0}]}


def value_of(batch, reconstruction, **settings):
    z = torch.zeros(len(batch), 1)
    term = build("term", {"name": "gradient_difference", **settings}, TermContext(LatentLayout({"a": 1}), 128, 9))
    return term(batch, ModelOutput(Posterior(z, z), z, reconstruction))["gradient_difference"]


def batch_of(inputs, available=None):
    return Batch(inputs, tuple(str(row) for row in range(len(inputs))), available=available)


def ramp(slope, axis):
    """Return a volume [1, 1, 3, 4, 5] that rises by ``slope`` per voxel along one axis."""
    sides = [5 if place == axis else 1 for place in range(5)]
    return (slope * torch.arange(5.0)).reshape(sides).expand(1, 1, 5, 5, 5)[:, :, :3, :4, :]


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_ramps_by_hand(axis, exponent):
    batch = batch_of(ramp(3.0, axis))
    assert value_of(batch, ramp(1.0, axis), exponent=exponent).item() == pytest.approx(2.0**exponent / 3)
    across = 2 if axis != 2 else 3  # the two volumes never change along the same axis
    expected = (3.0**exponent + 1.0) / 3
    assert value_of(batch, ramp(1.0, across), exponent=exponent).item() == pytest.approx(expected)


def test_a_constant_and_the_sign_do_not_matter():
    inputs = torch.randn(2, 2, 4, 4, 4)
    assert value_of(batch_of(inputs), 5.0 - inputs).item() == pytest.approx(0.0, abs=1e-6)


def test_a_missing_modality_has_no_say():
    inputs, drawn = torch.randn(2, 2, 4, 4, 4), torch.randn(2, 2, 4, 4, 4)
    alone = [value_of(batch_of(inputs[row : row + 1, :1]), drawn[row : row + 1, :1]) for row in (0, 1)]
    alone.append(value_of(batch_of(inputs[:1, 1:]), drawn[:1, 1:]))
    inputs[1, 1] = torch.nan
    drawn.requires_grad_()
    value = value_of(batch_of(inputs, torch.tensor([[True, True], [True, False]])), drawn)
    torch.testing.assert_close(value, torch.stack(alone).mean())
    value.backward()
    assert drawn.grad is not None
    assert drawn.grad.isfinite().all()
    assert [bool(gradient.any()) for gradient in drawn.grad.flatten(0, 1)] == [True, True, True, False]


def example():
    """Return a batch of four rows with unevenly distributed modalities, and a reconstruction."""
    generator = torch.Generator().manual_seed(0)
    inputs, drawn = (torch.randn(4, 2, 4, 4, 4, generator=generator) for _ in range(2))
    return batch_of(inputs, torch.tensor([[True, False], [True, False], [True, True], [True, True]])), drawn


def be_a_rank(rank, folder):
    """Write value and gradient of this rank's half of the batch; DDP divides gradients by the number of ranks."""
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    batch, drawn = example()
    rows = slice(2 * rank, 2 * rank + 2)
    mine = replace(batch_of(batch.inputs[rows]), available=batch.available[rows])
    reconstruction = drawn[rows].clone().requires_grad_()
    value = value_of(mine, reconstruction)
    value.backward()
    torch.save((value.detach(), reconstruction.grad / 2), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_are_one(tmp_path):
    multiprocessing.spawn(be_a_rank, (tmp_path,), nprocs=2)
    batch, drawn = example()
    expected = value_of(batch, drawn.requires_grad_())
    expected.backward()
    values, gradients = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)), strict=True)
    torch.testing.assert_close(torch.stack(values), expected.detach().expand(2))
    torch.testing.assert_close(torch.cat(gradients), drawn.grad)
