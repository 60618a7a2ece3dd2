"""Metrics of subjects that lack modalities: what is missing has no say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade import metrics_for
from torch import Tensor, nn

from menvae.evaluation.metrics import SplitRecorder
from menvae.latent import LatentLayout
from menvae.metrics import measure
from menvae.models import Model
from menvae.types import Batch, ModelOutput, Posterior

NAMES = ("t1c", "t1n", "t2f")
AVAILABLE = torch.tensor([[True, True, False], [True, False, False], [True, True, False], [False, True, False]])


class Linear(Model):
    """Draws an image that is linear in z, whatever the input."""

    def __init__(self) -> None:
        super().__init__()
        self.layout, self.supervision = LatentLayout({"residual": 4}), {}
        self.basis = nn.Parameter(torch.randn(4, 3 * 512, generator=torch.Generator().manual_seed(0)))

    def decode(self, z: Tensor) -> Tensor:
        return (z @ self.basis).reshape(-1, 3, 8, 8, 8)


def example(available: Tensor | None) -> tuple[Batch, ModelOutput]:
    generator = torch.Generator().manual_seed(1)
    inputs, mean = torch.randn(4, 3, 8, 8, 8, generator=generator), torch.randn(4, 4, generator=generator)
    batch = Batch(inputs, ("a", "b", "c", "d"), available=available)
    posterior = Posterior(mean, torch.full_like(mean, -4.0))
    return batch, ModelOutput(posterior, mean, Linear().decode(mean))


@torch.no_grad()
def metrics_of(available: Tensor | None, garbage: float | None = None) -> dict[str, float | None]:
    model = Linear()
    batch, output = example(available)
    metrics = metrics_for(model, batch, NAMES)
    recorder = SplitRecorder(model, metrics)
    recorder.on_train_step(batch, output)
    recorder.on_validation_start(1)
    if garbage is not None:
        assert available is not None
        batch = replace(batch, inputs=batch.inputs.masked_fill(~available[..., None, None, None], garbage))
    recorder.on_validation_batch(batch, output)
    return measure(metrics, recorder.record())


def check_equal(found: dict[str, float | None], expected: dict[str, float | None]) -> None:
    def numbers(metrics: dict[str, float | None]) -> dict[str, float]:
        return {name: value for name, value in metrics.items() if value is not None}

    assert [name for name in found if found[name] is None] == [name for name in expected if expected[name] is None]
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("garbage", [0.0, 1e6, float("nan")])
def test_missing_modalities_count_nowhere(garbage: float) -> None:
    found, reference = metrics_of(AVAILABLE, garbage), metrics_of(AVAILABLE)
    check_equal(found, reference)
    batch, output = example(None)
    squares = (batch.inputs - output.reconstruction.detach()).square().flatten(2).mean(dim=2).double().numpy()
    expected = np.mean([squares[row][AVAILABLE[row].numpy()].mean() for row in range(4)])
    assert found["diag/recon_mu_mse"] == pytest.approx(expected, rel=1e-5)
    ratio = found["diag/recon_z0_mse"] / found["diag/recon_mu_mse"]  # type: ignore[operator]
    assert found["diag/z0_ratio"] == pytest.approx(ratio)


def test_similarity_is_the_mean_over_subjects_that_have_the_modality() -> None:
    batch, output = example(None)
    whole = SplitRecorder(Linear(), metrics_for(Linear(), batch, NAMES))
    with torch.no_grad():
        whole.on_validation_batch(batch, output)
    each, found = whole.record().arrays, metrics_of(AVAILABLE, 0.0)
    for kind in ("ssim", "psnr"):
        for channel, name in enumerate(NAMES[:2]):
            rows = AVAILABLE[:, channel].numpy()
            assert found[f"val_epoch/{kind}_{name}"] == pytest.approx(each[kind][rows, channel].mean(), rel=1e-6)
        assert found[f"val_epoch/{kind}_t2f"] is None


def test_where_nothing_is_missing_nothing_changes() -> None:
    everything = metrics_of(torch.ones_like(AVAILABLE))
    check_equal(everything, metrics_of(None))
