"""What losses that compare subjects cost: variants interleaved in one run, and whether they agree.

Distance correlation of 4 partitions, forward and backward, gradient on the 2 newest of 256 rows:

- naive: two distance matrices and their centring for each of 6 pairs, on all rows
- once: `u_distance_correlations_sqr`, one distance matrix a partition, gradient by autograd
- term: the term ``dcor``, with the diagnostic given the age
- commit: what remembering the new rows takes the term

Times are process-CPU milliseconds of one thread. The exit status is 1 when a wanted ratio is missed, or when values
differ from those of the dcor package (gradients: from those of naive) by more than 1e-9.

    python tests/benchmarks/losses.py --repeats 7
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from itertools import combinations, pairwise

import torch
from interleaved import Claim, judged, show, take_turns
from torch import Tensor

from menvae.latent import LatentLayout
from menvae.registry import build
from menvae.statistics.distance_correlation import bordered_u_distance_correlations_sqr, u_distance_correlations_sqr
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput, Posterior

LAYOUT = LatentLayout({"vol": 24, "loc": 8, "shape": 12, "residual": 84})
BOUNDS = list(pairwise([0, 24, 32, 44, 128]))
NUM_ROWS, NUM_NEW = 256, 2
LEAST_RATIO = 10.0
MOST_DIFFERENCE = 1e-9


def output_of(rows: Tensor) -> ModelOutput:
    """An output whose posterior means are ``rows``."""
    return ModelOutput(Posterior(rows, torch.zeros_like(rows)), rows, rows)


def batch_of(num_rows: int) -> Batch:
    """A batch of which the terms measured here look at nothing."""
    return Batch(torch.zeros(num_rows, 1), tuple(str(row) for row in range(num_rows)))


def with_gradient(value: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient by ``rows``."""
    leaf = rows.clone().requires_grad_()
    found = value(leaf)
    found.backward()
    assert leaf.grad is not None
    return found.detach(), leaf.grad


def _safe_distances(rows: Tensor) -> Tensor:
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def _u_centred(matrix: Tensor) -> Tensor:
    n = len(matrix)
    rows, columns = matrix.sum(dim=1, keepdim=True), matrix.sum(dim=0, keepdim=True)
    centred = matrix - rows / (n - 2) - columns / (n - 2) + matrix.sum() / ((n - 1) * (n - 2))
    return centred.masked_fill(torch.eye(n, dtype=torch.bool), 0.0)


def naive(rows: Tensor) -> Tensor:
    """Sum over pairs, each from the start."""
    total = torch.zeros((), dtype=torch.float64)
    for (a, b), (c, d) in combinations(BOUNDS, 2):
        left, right = (_u_centred(_safe_distances(block.double())) for block in (rows[:, a:b], rows[:, c:d]))
        total = total + (left * right).sum() / ((left * left).sum() * (right * right).sum()).sqrt()
    return total


def dcor_claims(repeats: int) -> list[Claim]:
    """Distance correlation with a memory, against the naive form."""
    import dcor

    generator = torch.Generator().manual_seed(0)
    remembered, newest = torch.randn(NUM_ROWS, 128, generator=generator), torch.randn(NUM_NEW, 128, generator=generator)
    term: Term = build("term", {"name": "dcor", "buffer_size": NUM_ROWS}, TermContext(LAYOUT, 1, 1))
    for rows in remembered.split(NUM_NEW):
        term.commit(output_of(rows))
    # the last batch committed is the newest, and its first row the newest of it
    others = torch.cat(list(reversed(remembered.split(NUM_NEW))))[: NUM_ROWS - NUM_NEW]
    batch = batch_of(NUM_NEW)

    def by_term(rows: Tensor) -> Tensor:
        return term(batch, output_of(rows))["dcor"]

    def in_double(rows: Tensor) -> Tensor:
        joined = term.memory.joined(rows)  # what the term does, before it rounds to float32
        found = bordered_u_distance_correlations_sqr(joined.border_and_ages, joined.inner_and_ages, joined.slots)
        return found[:-1, :-1].triu(diagonal=1).sum()

    def once(rows: Tensor) -> Tensor:
        joined = torch.cat([rows, others])
        return u_distance_correlations_sqr([joined[:, a:b] for a, b in BOUNDS]).triu(diagonal=1).sum()

    value, gradient = with_gradient(in_double, newest.double())
    _, expected_gradient = with_gradient(lambda rows: naive(torch.cat([rows, others.double()])), newest.double())
    table = torch.cat([newest, others]).double().numpy()
    expected = sum(
        dcor.u_distance_correlation_sqr(table[:, a:b].copy(), table[:, c:d].copy())
        for (a, b), (c, d) in combinations(BOUNDS, 2)
    )
    differences = {
        "value differs from that of the dcor package": abs(value.item() - expected),
        "gradient differs from that of naive": (gradient - expected_gradient).abs().max().item(),
    }

    variants: dict[str, Callable[[], object]] = {
        "naive": lambda: with_gradient(lambda rows: naive(torch.cat([rows, others])), newest),
        "once": lambda: with_gradient(once, newest),
        "term": lambda: with_gradient(by_term, newest),
        "commit": lambda: term.commit(output_of(newest)),
    }
    calls = {"naive": 5, "once": 10, "term": 50, "commit": 50}
    print(f"distance correlation, {NUM_ROWS} rows of which {NUM_NEW} are new, {len(BOUNDS)} partitions")
    ratios = show(take_turns(variants, repeats, calls), "term")
    ratio = ratios["naive"] / (ratios["term"] + ratios["commit"])
    claims = [(f"naive / (term + commit) {ratio:.1f}, wanted {LEAST_RATIO:.0f}", ratio >= LEAST_RATIO)]
    claims += [(f"{words} by {found:.1e}", found <= MOST_DIFFERENCE) for words, found in differences.items()]
    return claims


def main() -> int:
    """Measure and judge; 0 when ratios and differences are as wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"median of {repeats}, one thread of {os.cpu_count()} cores")
    return judged(dcor_claims(repeats))


if __name__ == "__main__":
    sys.exit(main())
