"""The collapse watch: a decoder blind to z trips it, one that uses z does not."""

from __future__ import annotations

import pytest
import torch
from handmade import metrics_for
from torch import Tensor, nn

from menvae.evaluation.metrics import SplitRecorder
from menvae.latent import LatentLayout
from menvae.models import Model
from menvae.observers.collapse_watch import CollapseWatch, WatchSettings
from menvae.types import Batch, ModelOutput, Observation, Posterior

LAYOUT = LatentLayout({"vol": 2, "residual": 6})
KL = {"val_epoch/kl_raw": 40.0, "sched/expected_kl_floor": 0.0}


class Toy(Model):
    """The image is linear in 8 factors that the encoder knows; the decoder uses them or draws a template."""

    def __init__(self, *, blind: bool) -> None:
        super().__init__()
        self.layout, self.supervision, self.blind = LAYOUT, {}, blind
        self.basis = nn.Parameter(torch.randn(8, 512, generator=torch.Generator().manual_seed(0)))

    def encode(self, inputs: Tensor) -> Posterior:
        mean = inputs.flatten(1) @ torch.linalg.pinv(self.basis)
        return Posterior(mean, torch.full_like(mean, -4.0))

    def decode(self, z: Tensor) -> Tensor:
        return ((0.0 * z if self.blind else z) @ self.basis).reshape(-1, 1, 8, 8, 8)

    def forward(self, batch: Batch) -> ModelOutput:
        posterior = self.encode(batch.inputs)
        return ModelOutput(posterior, posterior.mean, self.decode(posterior.mean))


@torch.no_grad()
def observe(*, blind: bool, settings: WatchSettings, epoch: int = 10, batch_size: int = 4) -> tuple[dict, Observation]:
    model = Toy(blind=blind)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 8, generator=generator) @ model.basis + 0.5 * torch.randn(12, 512, generator=generator)
    images = images.reshape(12, 1, 8, 8, 8)
    batches = [
        Batch(rows, tuple(f"{start}-{row}" for row in range(len(rows))))
        for start, rows in enumerate(images.split(batch_size))
    ]
    recorder = SplitRecorder(model, metrics_for(model, batches[0], ["t1c"]))
    for batch in batches:
        recorder.on_train_step(batch, model(batch))
    recorder.on_validation_start(epoch)
    for batch in batches:
        recorder.on_validation_batch(batch, model(batch))
    metrics = {**KL, **recorder.on_validation_end(epoch, {}).metrics}
    return metrics, CollapseWatch(settings, max_epochs=10).on_validation_end(epoch, metrics)


@torch.no_grad()
def test_mean_latent_is_that_of_the_last_epoch() -> None:
    """So that a resumed run, which saw no epoch before, compares with the same z."""
    model = Toy(blind=False)
    recorder = SplitRecorder(model)
    for epoch in range(3):
        recorder.on_epoch_start(epoch)
        batch = Batch(torch.full((2, 1, 8, 8, 8), float(epoch)), ("a", "b"))
        recorder.on_train_step(batch, model(batch))
    recorder.on_validation_start(3)
    expected = model.encode(torch.full((1, 1, 8, 8, 8), 2.0)).mean[0]
    assert recorder.mean_training_z is not None
    torch.testing.assert_close(recorder.mean_training_z, expected)


@pytest.mark.parametrize("batch_size", [1, 4, 12])
def test_blind_decoder_stops_the_run(batch_size: int) -> None:
    metrics, verdict = observe(blind=True, settings=WatchSettings(collapse="stop"), batch_size=batch_size)
    assert metrics["diag/mean_z_ratio"] == pytest.approx(1.0)
    assert verdict.collapsed
    assert "posterior collapse in epoch 10" in verdict.stop


@pytest.mark.parametrize("batch_size", [1, 4, 12])
def test_healthy_decoder_is_left_alone(batch_size: int) -> None:
    metrics, verdict = observe(blind=False, settings=WatchSettings(collapse="stop"), batch_size=batch_size)
    assert metrics["diag/mean_z_ratio"] > 1.5
    assert metrics["diag/shuffled_ratio"] > 1.3
    assert not verdict.collapsed
    assert not verdict.stop


def test_warns_without_stopping_and_only_after_the_grace() -> None:
    _, warned = observe(blind=True, settings=WatchSettings(collapse="warn"))
    assert warned.collapsed
    assert not warned.stop
    _, early = observe(blind=True, settings=WatchSettings(collapse="stop", grace=0.5), epoch=5)
    assert early.collapsed
    assert not early.stop


def test_kl_at_its_floor_is_a_collapse() -> None:
    watch = CollapseWatch(WatchSettings(collapse="stop"), max_epochs=10)
    healthy = {"diag/mean_z_ratio": 2.0, "diag/shuffled_ratio": 2.0, "sched/expected_kl_floor": 16.8}
    assert watch.on_validation_end(9, {**healthy, "val_epoch/kl_raw": 16.7}).stop
    assert not watch.on_validation_end(9, {**healthy, "val_epoch/kl_raw": 30.0}).stop
    assert watch.on_validation_end(9, {"val_epoch/kl_raw": 1.0}).stop
    assert watch.on_validation_end(9, {**healthy, "diag/kl_all_nats": 1.0}).stop  # an objective without a KL term
    assert not watch.on_validation_end(9, {"val_epoch/kl_raw": 30.0, "diag/kl_all_nats": 1.0}).stop


def test_what_cannot_be_measured_is_no_sign() -> None:
    watch = CollapseWatch(WatchSettings(collapse="stop"), max_epochs=10)
    assert not watch.on_validation_end(9, {"diag/mean_z_ratio": None, "diag/shuffled_ratio": None}).collapsed
