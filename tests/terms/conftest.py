"""Examples for the tests of terms."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from menvae.latent import LatentLayout
from menvae.terms import TermContext
from menvae.types import Batch, ModelOutput, Posterior

LAYOUT = LatentLayout({"vol": 2, "loc": 1, "residual": 3})


@pytest.fixture
def context() -> TermContext:
    """Four channels of 2^3 voxels."""
    return TermContext(LAYOUT, num_input_values=32, num_training_subjects=10)


@pytest.fixture
def output_of() -> Callable[..., ModelOutput]:
    """Return a function that makes an output around what a test cares for."""

    def make(
        mean: Tensor | None = None,
        reconstruction: Tensor | None = None,
        predictions: dict[str, Tensor] | None = None,
        **extras: Tensor,
    ) -> ModelOutput:
        mean = torch.zeros(2, LAYOUT.z_dim) if mean is None else mean
        reconstruction = torch.zeros(len(mean), 4, 2, 2, 2) if reconstruction is None else reconstruction
        return ModelOutput(Posterior(mean, torch.zeros_like(mean)), mean, reconstruction, predictions or {}, extras)

    return make


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """Return a function that makes a batch around what a test cares for."""

    def make(inputs: Tensor | None = None, **targets: tuple[Tensor, Tensor]) -> Batch:
        inputs = torch.zeros(2, 4, 2, 2, 2) if inputs is None else inputs
        return Batch(
            inputs,
            tuple(str(row) for row in range(len(inputs))),
            {name: values for name, (values, _) in targets.items()},
            {name: observed for name, (_, observed) in targets.items()},
        )

    return make
