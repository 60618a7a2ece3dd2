"""Contract of every metric; values from another implementation and by hand."""

from typing import ClassVar

import numpy as np
import pytest
import scipy.stats
import torch

from menvae.conformance import MetricConformance
from menvae.latent import LatentLayout
from menvae.metrics import MetricContext, SplitRecord, measure
from menvae.registry import build


def effective_rank(example, metric):
    """Compute the metric with SciPy's entropy of the eigenvalues of the covariance."""
    eigenvalues = torch.linalg.eigvalsh(torch.cov(example.output.posterior.mean.double().T))
    return {"diag/effective_dimensions": float(np.exp(scipy.stats.entropy(eigenvalues.clamp(min=0.0).numpy())))}


class TestEffectiveDimensions(MetricConformance):
    names = ("effective_dimensions",)
    references: ClassVar = {"effective_dimensions": effective_rank}


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], 2.0),
        ([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]], 1.0),
        ([[1.0, 2.0], [1.0, 2.0]], None),
    ],
    ids=["a cross", "a line", "a point"],
)
def test_by_hand(mean, expected):
    metric = build("metric", {"name": "effective_dimensions"}, MetricContext(LatentLayout({"a": 2}), ("t1c",)))
    record = SplitRecord(tuple(map(str, range(len(mean)))), {"mean": np.array(mean)})
    found = measure([metric], record)["diag/effective_dimensions"]
    assert found == (None if expected is None else pytest.approx(expected))
