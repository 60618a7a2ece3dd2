"""The unit that a term declares is that of its values: two reductions of one quantity differ by a known factor."""

from __future__ import annotations

import pytest
import torch

from menvae.conformance.terms import Example
from menvae.latent import LatentLayout
from menvae.registry import build
from menvae.terms import TermContext

LAYOUT = LatentLayout({"vol": 3, "residual": 4})
NUM_ROWS, NUM_VOXELS = 6, 2 * 4**3  # of the example, channels counted


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("kl", {"nats_per_subject": 1, "nats_per_dimension": 7, "nats_per_voxel": NUM_VOXELS}),
        ("tcvae", {"nats_per_batch": 1, "nats_per_subject": NUM_ROWS, "nats_per_voxel": NUM_ROWS * NUM_VOXELS}),
        (
            "mse",
            {
                "squared_error_per_batch": 1,
                "squared_error_per_subject": NUM_ROWS,
                "mean_squared_error": NUM_ROWS * NUM_VOXELS,
            },
        ),
    ],
)
def test_reductions_have_the_unit_that_they_declare(name: str, counts: dict[str, int]) -> None:
    example = Example.make(LAYOUT, num_rows=NUM_ROWS)
    wholes = {}
    for reduction in ("sum", "mean", "batch_sum" if name == "mse" else "per_voxel"):
        context = TermContext(LAYOUT, NUM_VOXELS, num_training_subjects=20)
        term = build("term", {"name": name, "reduction": reduction}, context)
        values = term(example.batch, example.output)
        wholes[term.unit] = counts[term.unit] * torch.stack([values[scalar] for scalar in term.scalars])
    assert set(wholes) == set(counts)
    first, *others = wholes.values()
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-4)
