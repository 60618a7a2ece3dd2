"""The objective on a whole split: terms of the joint distribution do not depend on batches or on training rows."""

from __future__ import annotations

import pytest
import torch

from menvae.latent import LatentLayout
from menvae.objective import Objective
from menvae.registry import build
from menvae.statistics.distance_correlation import u_distance_correlations_sqr
from menvae.terms import Term, TermContext
from menvae.training.validation import SplitObjective
from menvae.types import Batch, ModelOutput, Posterior, Progress

LAYOUT = LatentLayout({"vol": 2, "loc": 2, "residual": 2})
END = Progress(1.0, 1.0)


def output_of(mean: torch.Tensor) -> ModelOutput:
    return ModelOutput(Posterior(mean, torch.zeros_like(mean)), mean, torch.zeros(len(mean), 3))


def batch_of(first: int, num: int) -> Batch:
    return Batch(torch.ones(num, 3), tuple(f"s{row:03d}" for row in range(first, first + num)))


def objective(**weights: float) -> Objective:
    context = TermContext(LAYOUT, num_input_values=3, num_training_subjects=50)
    terms: dict[str, Term] = {
        name: build("term", {"name": name}, context) for name in ("mse", "dcor", "cross_partition")
    }
    found = Objective(terms, {"recon": 1.0, "dcor": 2.0, "cross_partition": 0.5, **weights}, {})
    generator = torch.Generator().manual_seed(7)
    for _ in range(40):  # a memory full of independent training rows, which must not count
        found.commit(output_of(torch.randn(8, 6, generator=generator)))
    return found.eval()


def values(means: torch.Tensor, sizes: list[int], found: Objective) -> dict[str, float]:
    whole, first = SplitObjective(found, END), 0
    for rows in torch.split(means, sizes):
        whole.add(batch_of(first, len(rows)), output_of(rows))
        first += len(rows)
    return whole.values()


def test_copied_partitions_have_the_dcor_of_copies() -> None:
    copies = torch.randn(24, 2, generator=torch.Generator().manual_seed(0)).repeat(1, 3)
    found = values(copies, [8, 8, 8], objective())
    assert found["dcor"] == pytest.approx(3.0, abs=1e-5)  # 1 for each of three pairs
    assert found["dcor_rows"] == 24.0


@pytest.mark.parametrize("sizes", [[24], [1] * 24, [10, 10, 4]])
def test_batches_do_not_matter(sizes: list[int]) -> None:
    means = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
    means[:, 2:4] += means[:, :2]
    found = values(means, sizes, objective())
    correlations = u_distance_correlations_sqr(list(LAYOUT.split(means).values()))
    covariance = torch.cov(means.T, correction=0)
    linear = sum(
        covariance[slice(*LAYOUT.bounds(a)), slice(*LAYOUT.bounds(b))].square().sum()
        for a, b in (("vol", "loc"), ("vol", "residual"), ("loc", "residual"))
    )
    assert found["dcor"] == pytest.approx(float(correlations.triu(1).sum()), abs=1e-5)
    assert found["cross_partition"] == pytest.approx(float(linear), rel=1e-5)
    assert found["recon"] == pytest.approx(1.0)
    assert found["loss"] == pytest.approx(1.0 + 2.0 * found["dcor"] + 0.5 * found["cross_partition"], rel=1e-5)
    assert found["loss_at_final_weights"] == pytest.approx(found["loss"], rel=1e-6)


def test_a_subject_that_appears_twice_counts_once_in_terms_of_the_split() -> None:
    means = torch.randn(12, 6, generator=torch.Generator().manual_seed(2))
    once = values(means, [12], objective())
    whole = SplitObjective(objective(), END)
    whole.add(batch_of(0, 12), output_of(means))
    whole.add(batch_of(0, 4), output_of(means[:4]))
    assert whole.values()["dcor"] == pytest.approx(once["dcor"], abs=1e-7)


def test_an_objective_of_the_split_alone_has_a_loss() -> None:
    context = TermContext(LAYOUT, num_input_values=3, num_training_subjects=50)
    alone = Objective({"dcor": build("term", {"name": "dcor"}, context)}, {"dcor": 2.0}, {}).eval()
    found = values(torch.randn(9, 6, generator=torch.Generator().manual_seed(3)), [5, 4], alone)
    assert found["loss"] == pytest.approx(2.0 * found["dcor"])
