"""Terms that look at covariances of posterior means: dip and cross_partition; and manifold."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from menvae.errors import UserError
from menvae.registry import build
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput, Posterior

MakeBatch = Callable[..., Batch]
MakeOutput = Callable[..., ModelOutput]

COLUMNS = {"vol": slice(0, 2), "loc": slice(2, 3), "residual": slice(3, 6)}


@pytest.mark.parametrize("kind", ["i", "ii"])
@pytest.mark.parametrize("partitions", [None, ["residual"], ["residual", "vol"]])
def test_dip_in_loops(context: TermContext, batch_of: MakeBatch, kind: str, partitions: list[str] | None) -> None:
    """Kumar et al. 2018: sum_{a != b} C_ab^2 and sum_a (C_aa - 1)^2."""
    mean, logvar = torch.randn(5, 6), torch.randn(5, 6)
    made = ModelOutput(Posterior(mean, logvar), mean, torch.zeros(5, 4, 2, 2, 2))
    values = build("term", {"name": "dip", "kind": kind, "partitions": partitions}, context)(batch_of(), made)
    chosen = np.r_[tuple(COLUMNS[name] for name in partitions or COLUMNS)]
    m, v = mean.double().numpy()[:, chosen], logvar.double().numpy()[:, chosen]
    od = d = 0.0
    for a in range(len(chosen)):
        for b in range(len(chosen)):
            entry = sum((m[i, a] - m[:, a].mean()) * (m[i, b] - m[:, b].mean()) for i in range(5)) / 5
            if a == b:
                entry += sum(np.exp(v[i, a]) for i in range(5)) / 5 if kind == "ii" else 0.0
                d += (entry - 1.0) ** 2
            else:
                od += entry**2
    found = {name: value.item() for name, value in values.items()}
    assert found == pytest.approx({"od": od, "d": d, "cov_penalty": od + d}, rel=1e-5)


def test_dip_of_the_prior_is_0(context: TermContext, batch_of: MakeBatch, output_of: MakeOutput) -> None:
    values = build("term", {"name": "dip"}, context)(batch_of(), output_of(torch.zeros(4, 6)))
    assert values["cov_penalty"].item() == 0.0


def test_dip_of_a_small_batch_of_independent_latents(
    context: TermContext, batch_of: MakeBatch, output_of: MakeOutput
) -> None:
    """E[od] = P (P - 1) (M - 1) / M^2 for unit variance: what the docstring warns of."""
    term = build("term", {"name": "dip", "kind": "i"}, context)
    found = np.mean([term(batch_of(), output_of(torch.randn(4, 6)))["od"].item() for _ in range(2000)])
    assert found == pytest.approx(6 * 5 * 3 / 16, rel=0.1)


PAIRS = (("vol", "loc"), ("vol", "residual"), ("loc", "residual"))


@pytest.mark.parametrize("statistic", ["covariance", "correlation"])
@pytest.mark.parametrize("pairs", [PAIRS, (("vol", "residual"),)])
def test_cross_partition_is_the_sum_over_blocks(
    context: TermContext,
    batch_of: MakeBatch,
    output_of: MakeOutput,
    statistic: str,
    pairs: tuple[tuple[str, str], ...],
) -> None:
    mean = torch.randn(8, 6)
    mean[:, 4] += mean[:, 0]
    settings = {"statistic": statistic, "partitions": None if len(pairs) == 3 else ["residual", "vol"]}
    value = build("term", {"name": "cross_partition", **settings}, context)(batch_of(), output_of(mean))
    table = mean.double().numpy()
    matrix = np.corrcoef(table, rowvar=False) if statistic == "correlation" else np.cov(table, rowvar=False, ddof=0)
    expected = sum((matrix[COLUMNS[a], COLUMNS[b]] ** 2).sum() for a, b in pairs)
    assert value["cross_partition"].item() == pytest.approx(expected, rel=1e-4)


def test_legacy_penalty_correlates_the_means_of_partitions(
    context: TermContext, batch_of: MakeBatch, output_of: MakeOutput
) -> None:
    mean = torch.randn(8, 6)
    mean[:, 4] += mean[:, 0]
    term = build("term", {"name": "cross_partition", "statistic": "mean_correlation"}, context)
    columns = np.stack([mean.double().numpy()[:, columns].mean(axis=1) for columns in COLUMNS.values()])
    matrix = np.corrcoef(columns)
    expected = matrix[0, 1] ** 2 + matrix[0, 2] ** 2 + matrix[1, 2] ** 2
    assert term(batch_of(), output_of(mean))["cross_partition"].item() == pytest.approx(expected, rel=1e-4)


def test_expectation_of_a_squared_covariance_in_a_small_batch(
    context: TermContext, batch_of: MakeBatch, output_of: MakeOutput
) -> None:
    """Two columns that are equal have the covariance 1; squared, 3 subjects of given scatter show (2 / 3)^2 of it."""
    term = build("term", {"name": "cross_partition", "partitions": ["vol", "loc"]}, context)
    rows = torch.zeros(3, 6)
    rows[:, 0] = rows[:, 2] = torch.tensor([-1.0, 0.0, 1.0])  # unbiased variance 1
    assert term(batch_of(), output_of(rows))["cross_partition"].item() == pytest.approx(4 / 9)
    assert term.effect_of_batch(3) == {"cross_partition": pytest.approx(4 / 9)}
    assert build("term", {"name": "cross_partition", "statistic": "correlation"}, context).effect_of_batch(3) == {}


def test_correlation_does_not_depend_on_scale(context: TermContext, batch_of: MakeBatch, output_of: MakeOutput) -> None:
    mean = torch.randn(8, 6)
    term = build("term", {"name": "cross_partition", "statistic": "correlation"}, context)
    plain, scaled = (
        term(batch_of(), output_of(factor * mean + 3.0))["cross_partition"].item() for factor in (1.0, 0.01)
    )
    assert scaled == pytest.approx(plain, rel=1e-3)


def test_dependence_that_is_not_linear_is_not_seen(
    context: TermContext, batch_of: MakeBatch, output_of: MakeOutput
) -> None:
    mean = torch.zeros(5, 6)
    mean[:, 0] = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    mean[:, 2] = mean[:, 0].square()
    value = build("term", {"name": "cross_partition"}, context)(batch_of(), output_of(mean))["cross_partition"]
    assert value.item() == pytest.approx(0.0, abs=1e-9)


def test_partitions_that_make_no_pair_are_refused(context: TermContext) -> None:
    for partitions in (["vol"], [], ["vol", "vol"]):
        with pytest.raises(UserError, match="two or more different"):
            build("term", {"name": "cross_partition", "partitions": partitions}, context)


def test_manifold_by_hand(context: TermContext, batch_of: MakeBatch, output_of: MakeOutput) -> None:
    z = torch.tensor([[1.0, 2.0, 3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0, 0.0, 4.0]])
    values = [
        build("term", {"name": "manifold", "partitions": partitions}, context)(batch_of(), output_of(z))
        for partitions in (None, ["residual"])
    ]
    assert values[0]["manifold"].item() == pytest.approx(0.5 * (14 + 21) / 12)
    assert values[1]["manifold"].item() == pytest.approx(0.5 * 20 / 6)


@pytest.mark.parametrize("training", [True, False])
def test_manifold_of_the_prior_is_a_half_in_training_and_in_evaluation(
    context: TermContext, batch_of: MakeBatch, training: bool
) -> None:
    """E[z^2] / 2 of N(0, 1), though evaluation decodes the mean, which is 0."""
    posterior = Posterior(torch.zeros(5000, 6), torch.zeros(5000, 6))
    latent = posterior.sample() if training else posterior.mean
    made = ModelOutput(posterior, latent, torch.zeros(5000, 4, 2, 2, 2))
    term = build("term", {"name": "manifold"}, context).train(training)
    value = term(batch_of(), made)["manifold"].item()
    assert value == pytest.approx(0.5, abs=0.02 if training else 1e-6)


def test_manifold_in_evaluation_by_hand(context: TermContext, batch_of: MakeBatch) -> None:
    """Means 1, 2, 0 and variances 4, 1, 9 in the residual: (1 + 4 + 0 + 4 + 1 + 9) / 3 / 2."""
    mean = torch.tensor([[7.0, 7.0, 7.0, 1.0, 2.0, 0.0]])
    logvar = torch.tensor([[3.0, 3.0, 3.0, 4.0, 1.0, 9.0]]).log()
    made = ModelOutput(Posterior(mean, logvar), mean, torch.zeros(1, 4, 2, 2, 2))
    term = build("term", {"name": "manifold", "partitions": ["residual"]}, context).eval()
    assert term(batch_of(), made)["manifold"].item() == pytest.approx(19.0 / 6.0)
