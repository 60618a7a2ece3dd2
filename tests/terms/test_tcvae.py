import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from menvae.latent import LatentLayout
from menvae.registry import build
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput, Posterior

MakeBatch = Callable[..., Batch]


def output(mean: Tensor, logvar: Tensor, latent: Tensor | None = None) -> ModelOutput:
    return ModelOutput(Posterior(mean, logvar), mean if latent is None else latent, torch.zeros(len(mean), 4, 2, 2, 2))


def chen(z: Tensor, mean: Tensor, logvar: Tensor, n: int) -> dict[str, float]:
    """Sums over the batch of the formulas of the specification, in loops."""
    m, d = z.shape
    totals = dict.fromkeys(("mi", "tc", "dwkl"), 0.0)
    for i in range(m):
        density = [[norm.pdf(z[i, k], mean[j, k], math.exp(logvar[j, k] / 2)) for k in range(d)] for j in range(m)]
        joint = math.log(sum(math.prod(row) for row in density)) - math.log(n * m)
        product = sum(math.log(sum(density[j][k] for j in range(m))) - math.log(n * m) for k in range(d))
        totals["mi"] += math.log(math.prod(density[i])) - joint
        totals["tc"] += joint - product
        totals["dwkl"] += product - float(norm.logpdf(z[i]).sum())
    return totals


@pytest.mark.parametrize(("reduction", "scale"), [("sum", 1.0), ("mean", 1 / 5), ("per_voxel", 1 / 5 / 32)])
def test_formulas_of_the_specification_in_loops(
    context: TermContext, batch_of: MakeBatch, reduction: str, scale: float
) -> None:
    mean, logvar, z = torch.randn(5, 6), torch.randn(5, 6), torch.randn(5, 6)
    term = build("term", {"name": "tcvae", "reduction": reduction}, context)
    values = term(batch_of(), output(mean, logvar, z))
    expected = chen(z, mean, logvar, n=10)
    assert {name: value.item() for name, value in values.items()} == pytest.approx(
        {name: scale * value for name, value in expected.items()}, rel=1e-4
    )


def test_only_the_chosen_partitions_count(context: TermContext, batch_of: MakeBatch) -> None:
    mean, logvar, z = torch.randn(4, 6), torch.randn(4, 6), torch.randn(4, 6).requires_grad_()
    values = build("term", {"name": "tcvae", "partitions": ["residual"]}, context)(batch_of(), output(mean, logvar, z))
    expected = chen(z[:, 3:].detach(), mean[:, 3:], logvar[:, 3:], n=10)
    assert values["tc"].item() == pytest.approx(expected["tc"], rel=1e-4)
    values["tc"].backward()
    assert z.grad is not None
    assert z.grad.any(dim=0).tolist() == [False, False, False, True, True, True]


def test_sum_of_the_three_is_the_kl_of_the_samples(context: TermContext, batch_of: MakeBatch) -> None:
    """Log q(z|x) - log p(z), whatever the estimator; its expectation is the analytic KL."""
    mean, logvar = torch.randn(400, 6), 0.3 * torch.randn(400, 6) - 1.0
    z = mean + (0.5 * logvar).exp() * torch.randn(400, 6)
    for estimator in ("mws", "mss"):
        term = build("term", {"name": "tcvae", "estimator": estimator, "reduction": "mean"}, context)
        total = sum(value.item() for value in term(batch_of(), output(mean, logvar, z)).values())
        exact = norm.logpdf(z, mean, (0.5 * logvar).exp()).sum() - norm.logpdf(z).sum()
        assert total == pytest.approx(exact / 400, rel=1e-4)
        assert total == pytest.approx(Posterior(mean, logvar).kl().sum(dim=1).mean().item(), abs=0.4)


def test_evaluation_estimates_at_a_sample_that_is_always_the_same(context: TermContext, batch_of: MakeBatch) -> None:
    """At the mean, which is decoded then, the sum would be off by half a nat a dimension."""
    mean, logvar = torch.randn(400, 6), 0.3 * torch.randn(400, 6) - 1.0
    term = build("term", {"name": "tcvae", "reduction": "mean"}, context).eval()
    values, again = (term(batch_of(), output(mean, logvar)) for _ in range(2))
    assert values == again
    exact = Posterior(mean, logvar).kl().sum(dim=1).mean().item()
    assert sum(value.item() for value in values.values()) == pytest.approx(exact, abs=0.4)


@pytest.mark.parametrize("estimator", ["mws", "mss"])
@pytest.mark.parametrize("num_rows", [1, 4])
def test_size_of_the_reports_is_finite(batch_of: MakeBatch, estimator: str, num_rows: int) -> None:
    """M = 4, d = 128, N = 1000, with gradient; the sign is the estimator's business."""
    context = TermContext(LatentLayout({"residual": 128}), 4 * 128**3, 1000)
    mean, logvar = torch.randn(num_rows, 128).requires_grad_(), torch.full((num_rows, 128), -6.0).requires_grad_()
    made = output(mean, logvar, mean + math.exp(-3.0) * torch.randn(num_rows, 128))
    values = build("term", {"name": "tcvae", "estimator": estimator}, context)(batch_of(), made)
    recon = build("term", {"name": "mse", "reduction": "batch_sum"}, context)(
        batch_of(torch.ones(num_rows, 4, 2, 2, 2)), made
    )
    assert all(torch.isfinite(value) for value in (*values.values(), *recon.values()))
    torch.stack(list(values.values())).sum().backward()
    assert mean.grad is not None
    assert logvar.grad is not None
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(logvar.grad).all()


@pytest.mark.parametrize("scalar", ["mi", "tc", "dwkl"])
def test_gradient_of_each_scalar_is_its_derivative(
    context: TermContext, batch_of: MakeBatch, scalar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = build("term", {"name": "tcvae", "estimator": "mss"}, context)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    leaves = [torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *tensors: term(batch_of(), output(*tensors))[scalar], leaves)


def test_batch_larger_than_the_cohort(batch_of: MakeBatch) -> None:
    context = TermContext(LatentLayout({"residual": 6}), 32, num_training_subjects=1)
    for estimator in ("mws", "mss"):
        values = build("term", {"name": "tcvae", "estimator": estimator}, context)(
            batch_of(), output(torch.randn(4, 6), torch.zeros(4, 6), torch.randn(4, 6))
        )
        assert np.isfinite([value.item() for value in values.values()]).all()


@pytest.mark.parametrize("training", [True, False])
def test_a_latent_that_was_drawn_is_used_as_it_is(context: TermContext, batch_of: MakeBatch, training: bool) -> None:
    """In evaluation, too, where a model decodes a sample; and in training where it decodes the mean."""
    mean, logvar = torch.randn(5, 6), torch.randn(5, 6)
    term = build("term", {"name": "tcvae", "reduction": "sum"}, context).train(training)
    latent = mean if training else torch.randn(5, 6)
    values = term(batch_of(), output(mean, logvar, latent))
    assert {name: value.item() for name, value in values.items()} == pytest.approx(
        chen(latent, mean, logvar, n=10), rel=1e-4
    )
