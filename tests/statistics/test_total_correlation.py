"""Against exact mixtures, the formulas of Chen et al. 2018 in loops, and the total correlation of a Gaussian."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor

from menvae.statistics import total_correlation
from menvae.statistics.total_correlation import (
    LogDensities,
    Weights,
    log_densities,
    log_densities_by_broadcasting,
    weights,
)

FUNCTIONS = (log_densities, log_densities_by_broadcasting)


def example(num_rows: int, num_dims: int, mean: float = 0.0, logvar: float | None = None) -> tuple[Tensor, ...]:
    """Return z, mean and logvar in double precision; z is drawn from the posteriors."""
    means = torch.randn(num_rows, num_dims, dtype=torch.float64) + mean
    logvars = torch.randn_like(means) - 1.0 if logvar is None else torch.full_like(means, logvar)
    return means + (0.5 * logvars).exp() * torch.randn_like(means), means, logvars


def pairwise(z: Tensor, mean: Tensor, logvar: Tensor) -> np.ndarray:
    """Log q(z_ik|j) by scipy [R, M, Z]."""
    scale = np.exp(0.5 * logvar.numpy())
    return norm.logpdf(z.numpy()[:, None], loc=mean.numpy()[None], scale=scale[None])


@pytest.fixture(params=[1, 40, 2**20], ids=["a dimension at a time", "some", "all"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(total_correlation.CHUNK_ENTRIES, "cpu", request.param)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("estimator", "num_subjects"), [("mws", 1), ("mss", 5)])
def test_all_subjects_at_equal_weights_are_the_exact_mixture(function, estimator: str, num_subjects: int) -> None:  # type: ignore[no-untyped-def]
    z, mean, logvar = example(5, 3)
    densities = pairwise(z, mean, logvar)
    found = function(z, mean, logvar, weights(estimator, 5, num_subjects))  # type: ignore[arg-type]
    np.testing.assert_allclose(found.own, [densities[i, i].sum() for i in range(5)], rtol=1e-12)
    np.testing.assert_allclose(found.joint, np.log(np.exp(densities.sum(axis=2)).mean(axis=1)), rtol=1e-10)
    np.testing.assert_allclose(found.per_dimension, np.log(np.exp(densities).mean(axis=1)), rtol=1e-10)


@pytest.mark.usefixtures("_chunks")
def test_minibatch_weighted_sampling_in_loops() -> None:
    m, n, d = 4, 10, 3
    z, mean, logvar = example(m, d)
    found = log_densities(z, mean, logvar, weights("mws", m, n))
    for i in range(m):
        density = [[norm.pdf(z[i, k], mean[j, k], math.exp(0.5 * logvar[j, k])) for k in range(d)] for j in range(m)]
        assert found.joint[i].item() == pytest.approx(math.log(sum(map(math.prod, density)) / (n * m)))
        for k in range(d):
            expected = math.log(sum(density[j][k] for j in range(m)) / (n * m))
            assert found.per_dimension[i, k].item() == pytest.approx(expected)


@pytest.mark.usefixtures("_chunks")
def test_minibatch_stratified_sampling_is_the_average_over_the_subject_that_is_picked() -> None:
    """Weights of appendix C.2, where M is the number of other subjects."""
    num_rows, n, i = 5, 12, 2
    m = num_rows - 1
    z, mean, logvar = example(num_rows, 3)
    densities = np.exp(pairwise(z, mean, logvar).sum(axis=2))[i]
    others = [j for j in range(num_rows) if j != i]
    estimates = []
    for picked in others:
        rest = sum(densities[j] for j in others if j != picked)
        estimates.append(densities[i] / n + rest / m + (n - m) / (n * m) * densities[picked])
    found = log_densities(z, mean, logvar, weights("mss", num_rows, n)).joint[i]
    assert found.exp().item() == pytest.approx(np.mean(estimates))


def test_minibatch_stratified_sampling_is_unbiased_and_weighted_sampling_is_not() -> None:
    """Over all batches of 3 that subject 0 may be in, of 7 subjects."""
    z, mean, logvar = example(7, 2)
    exact = np.exp(pairwise(z, mean, logvar).sum(axis=2)).mean(axis=1)[0]
    average = {}
    for estimator in ("mss", "mws"):
        estimates = []
        for others in itertools.combinations(range(1, 7), 2):
            batch = [0, *others]
            log_weights = weights(estimator, 3, 7)  # type: ignore[arg-type]
            found = log_densities(z[batch], mean[batch], logvar[batch], log_weights)
            estimates.append(found.joint[0].exp().item())
        average[estimator] = np.mean(estimates)
    assert average["mss"] == pytest.approx(exact, rel=1e-9)
    assert exact / 7 < average["mws"] < exact / 3


@pytest.mark.parametrize(("spread", "factor"), [(0.0, 50), (1e3, 10)])
def test_constant_of_weighted_sampling(spread: float, factor: int) -> None:
    """(d - 1) log N where posteriors overlap, (d - 1) log M where they do not."""
    m, n, d = 10, 50, 4
    mean = spread * torch.arange(float(m), dtype=torch.float64)[:, None].expand(m, d)
    z, logvar = mean + 0.1, torch.zeros_like(mean)
    tc = {}
    for estimator in ("mws", "mss"):
        found = log_densities(z, mean, logvar, weights(estimator, m, n))  # type: ignore[arg-type]
        tc[estimator] = found.joint - found.per_dimension.sum(dim=1)
    np.testing.assert_allclose(tc["mws"] - tc["mss"], (d - 1) * math.log(factor), rtol=1e-9)


def total_correlation_of(densities: LogDensities) -> float:
    return (densities.joint - densities.per_dimension.sum(dim=1)).mean().item()


def test_total_correlation_of_a_gaussian_and_the_bias_of_its_estimates() -> None:
    """Means drawn so that the aggregate posterior is a Gaussian of correlation rho: TC = -log(1 - rho^2) / 2."""
    rho, variance, n = 0.8, 0.1, 3000
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    noise = torch.randn(n, 2, dtype=torch.float64)
    mean = noise @ torch.linalg.cholesky(covariance - variance * torch.eye(2, dtype=torch.float64)).T
    logvar = torch.full_like(mean, math.log(variance))
    z = mean + math.sqrt(variance) * torch.randn_like(mean)
    exact = -0.5 * math.log(1.0 - rho**2)
    assert exact == pytest.approx(0.5108, abs=1e-4)
    assert total_correlation_of(log_densities(z, mean, logvar, weights("mss", n, n))) == pytest.approx(exact, abs=0.03)

    def averaged(estimator: str, m: int) -> float:
        batches = [slice(start, start + m) for start in range(0, n, m)]
        chosen = weights(estimator, m, n)  # type: ignore[arg-type]
        return float(np.mean([total_correlation_of(log_densities(z[b], mean[b], logvar[b], chosen)) for b in batches]))

    stratified, weighted = averaged("mss", 30), averaged("mws", 30)
    assert stratified == pytest.approx(exact, abs=0.6)  # log of few terms: off by tenths of a nat at M = 30
    assert math.log(30) + exact - 0.6 < weighted < math.log(n) + exact + 0.6  # here 6 to 8 nats


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize(("first", "num_rows"), [(0, 7), (2, 3)])
def test_gradient_is_the_derivative(first: int, num_rows: int) -> None:
    z, mean, logvar = (tensor.requires_grad_() for tensor in example(7, 5))
    z = z[first : first + num_rows].detach().requires_grad_()
    log_weights = weights("mss", 7, 20)

    def densities(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(log_densities(*tensors, log_weights, first))

    assert torch.autograd.gradcheck(densities, (z, mean, logvar))


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_latents_of_one_rank_are_rows_of_the_whole_batch(function) -> None:  # type: ignore[no-untyped-def]
    """Rows 2 to 4 of 7, whose own posteriors have a weight of their own."""
    z, mean, logvar = example(7, 3)
    log_weights = weights("mss", 7, 20)
    found = function(z[2:5], mean, logvar, log_weights, 2)
    weighted = pairwise(z, mean, logvar)[2:5]
    chosen = np.full((3, 7), log_weights.other)
    chosen[[0, 1, 2], [2, 3, 4]] = log_weights.own
    np.testing.assert_allclose(found.own, [weighted[i, 2 + i].sum() for i in range(3)], rtol=1e-12)
    np.testing.assert_allclose(found.joint, logsumexp(weighted.sum(axis=2) + chosen, axis=1), rtol=1e-10)
    np.testing.assert_allclose(found.per_dimension, logsumexp(weighted + chosen[:, :, None], axis=1), rtol=1e-10)


def test_only_what_fits_is_differentiable_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 x 5 x 3 numbers at once; with room for fewer the dimensions are gone through, with a gradient by hand."""
    z, mean, logvar = (tensor.requires_grad_() for tensor in example(5, 3))
    monkeypatch.setitem(total_correlation.CHUNK_ENTRIES, "cpu", 75)
    assert torch.autograd.gradgradcheck(lambda *given: log_densities(*given, weights("mss", 5, 9)), (z, mean, logvar))
    monkeypatch.setitem(total_correlation.CHUNK_ENTRIES, "cpu", 74)
    joint = log_densities(z, mean, logvar, weights("mss", 5, 9)).joint.square().sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(joint, z, create_graph=True)


@pytest.mark.parametrize("centre", [0.0, 20.0])
def test_float32_is_exact_to_rounding_at_the_floor_of_the_log_variance(
    centre: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expanded square is off by more than 10 nats here."""
    singles = [tensor.float() for tensor in example(24, 128, mean=centre, logvar=-6.0)]
    log_weights = weights("mws", 24, 100)
    results = []
    for function, dtype in ((log_densities_by_broadcasting, torch.float64), (log_densities, torch.float32)):
        monkeypatch.setitem(total_correlation.CHUNK_ENTRIES, "cpu", 10_000)
        leaves = [tensor.to(dtype).requires_grad_() for tensor in singles]
        found = function(*leaves, log_weights)
        (found.own.sum() + 2.0 * found.joint.sum() - 3.0 * found.per_dimension.sum()).backward()
        results.append([*(values.detach().double() for values in found), *(leaf.grad.double() for leaf in leaves)])  # type: ignore[union-attr]
    for ours, reference in zip(results[1], results[0], strict=True):
        assert (ours - reference).abs().max() <= 1e-5 * reference.abs().max()
    z, mean, logvar = singles
    precision = (-logvar).exp()
    expanded = (z**2) @ precision.T - 2.0 * z @ (mean * precision).T + (mean**2 * precision + logvar).sum(dim=1)
    own = -0.5 * (expanded.diagonal() + 128 * math.log(2 * math.pi))
    error = (own.double() - results[0][0]).abs().max().item()
    assert error > 1.0 if centre else error < 0.1


@pytest.mark.usefixtures("_chunks")
def test_autocast_does_not_matter() -> None:
    z, mean, logvar = (tensor.float() for tensor in example(6, 9))
    alone = log_densities(z, mean, logvar, Weights(0.0, 0.0))
    with torch.autocast("cpu", torch.bfloat16):
        found = log_densities(z, mean, logvar, Weights(0.0, 0.0))
    for ours, reference in zip(found, alone, strict=True):
        assert torch.equal(ours, reference)


@pytest.mark.usefixtures("_chunks")
def test_latent_far_from_all_means_has_a_finite_density() -> None:
    z, mean, logvar = example(3, 4)
    found = log_densities(1e4 + z, mean, logvar, weights("mss", 3, 9))
    reference = pairwise(1e4 + z, mean, logvar) + np.log(1 / 9 * np.eye(3) + 8 / 18 * (1 - np.eye(3)))[:, :, None]
    np.testing.assert_allclose(found.per_dimension, logsumexp(reference, axis=1), rtol=1e-10)


def test_one_row_is_its_own_aggregate() -> None:
    z, mean, logvar = example(1, 4)
    for estimator in ("mws", "mss"):
        found = log_densities(z, mean, logvar, weights(estimator, 1, 8))  # type: ignore[arg-type]
        assert (found.own - found.joint).item() == pytest.approx(math.log(8))
