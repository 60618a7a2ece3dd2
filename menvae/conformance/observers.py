"""Conformance suite of observers."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from menvae.conformance.pictures import LinearModel
from menvae.conformance.suite import Case, PartConformance, seeded
from menvae.latent import LatentLayout
from menvae.metrics import MetricContext, build_metrics
from menvae.observers import ObserverContext
from menvae.observers.collapse_watch import WatchSettings
from menvae.pictures import PictureSettings, VolumeFacts
from menvae.studies import Trial
from menvae.types import Batch, ModelOutput, Observation, Observer, Posterior


class ObserverConformance(PartConformance):
    """Context -> an observer, or None.

    Attributes:
        size: (D, H, W) of the volumes of the example.
        max_epochs: length of the run; the example uses the first two epochs.
    """

    group = "observer"
    size: ClassVar[tuple[int, int, int]] = (8, 9, 10)
    max_epochs: ClassVar[int] = 2

    def context(self, folder: Path) -> ObserverContext:
        """Return the context of a run on volumes that is a trial of a study without storage."""
        supervision = {"vol": ["vol_total"]}
        layout, channels = LatentLayout({"vol": 2, "residual": 3}), ("t1c", "t1n")
        torch.manual_seed(0)
        return ObserverContext(
            model=LinearModel(layout, supervision, (len(channels), *self.size)),
            metrics=build_metrics({}, MetricContext(layout, channels, self.size, supervision)),
            channels=channels,
            max_epochs=self.max_epochs,
            settings={"watch": WatchSettings(), "pictures": PictureSettings(every_epochs=1)},
            folder=folder,
            is_main=True,
            volumes=VolumeFacts(channels, (1.0, 1.0, 1.0)),
            trial=Trial(str(folder / "no_study.log"), "away", 0, "val_epoch/loss", "none", 0, 0),
        )

    def build(self, case: Case, context: ObserverContext) -> Observer:
        """Return the observer; skip the test if it does not apply."""
        observer = case.bound()(context)
        if observer is None:
            pytest.skip("the observer does not apply to this run")
        assert isinstance(observer, Observer)
        return observer

    def batches(self, context: ObserverContext, epoch: int) -> list[tuple[Batch, ModelOutput]]:
        """Return two batches of three subjects with the outputs of the model."""
        model, generator = context.model, seeded(epoch)
        found = []
        for number in range(2):
            mean = torch.randn(3, model.layout.z_dim, generator=generator)
            inputs = torch.randn(3, len(context.channels), *self.size, generator=generator)
            subjects = tuple(f"subject_{number}{row}" for row in "abc")
            targets, observed = {"vol": torch.randn(3, 1, generator=generator)}, {"vol": torch.ones(3, 1).bool()}
            batch = Batch(inputs, subjects, targets=targets, observed=observed)
            with torch.no_grad():
                drawn = model.decode(mean)
            found.append((batch, ModelOutput(Posterior(mean, 0 * mean - 2.0), mean, drawn, {"vol": mean[:, :1]})))
        return found

    def train(self, observer: Observer, context: ObserverContext, epoch: int) -> None:
        """Call the observer for the steps of an epoch, counted from 1."""
        observer.on_epoch_start(epoch - 1)
        for batch, output in self.batches(context, epoch):
            observer.on_train_step(batch, output)

    @torch.no_grad()
    def validate(self, observer: Observer, context: ObserverContext, epoch: int) -> Observation:
        """Call the observer for a validation."""
        observer.on_validation_start(epoch)
        for batch, output in self.batches(context, 100):
            observer.on_validation_batch(batch, output)
        return observer.on_validation_end(epoch, {"val_epoch/loss": 1.0})

    def test_observes_every_epoch(self, case: Case, tmp_path: Path) -> None:
        context = self.context(tmp_path)
        observer = self.build(case, context)
        for epoch in (1, 2):
            self.train(observer, context, epoch)
            observation = self.validate(observer, context, epoch)
            assert isinstance(observation, Observation)
            for name, value in observation.metrics.items():
                assert isinstance(name, str)
                assert value is None or isinstance(value, float), name
        observer.on_training_end(2, iter(self.batches(context, 100)))

    def test_takes_no_part_in_training(self, case: Case, tmp_path: Path) -> None:
        context = self.context(tmp_path)
        observer = self.build(case, context)
        weights = {name: value.clone() for name, value in context.model.state_dict().items()}
        training, random = context.model.training, torch.get_rng_state()
        self.train(observer, context, 1)
        self.validate(observer, context, 1)
        assert torch.equal(torch.get_rng_state(), random), "an observer must not use the global random generator"
        assert context.model.training == training
        for name, value in context.model.state_dict().items():
            assert torch.equal(value, weights[name]), name
        assert all(parameter.grad is None for parameter in context.model.parameters())

    def test_does_not_change_a_batch(self, case: Case, tmp_path: Path) -> None:
        context = self.context(tmp_path)
        observer = self.build(case, context)
        ((batch, output), *_), ((same, equal), *_) = (self.batches(context, 1) for _ in range(2))
        observer.on_epoch_start(0)
        observer.on_train_step(batch, output)
        observer.on_validation_start(1)
        with torch.no_grad():
            observer.on_validation_batch(batch, output)
        assert torch.equal(batch.inputs, same.inputs)
        assert torch.equal(output.reconstruction, equal.reconstruction)
        assert torch.equal(output.posterior.mean, equal.posterior.mean)

    def test_goes_on_within_an_epoch_from_a_checkpoint(self, case: Case, tmp_path: Path) -> None:
        context = self.context(tmp_path)
        whole, before, after = (self.build(case, context) for _ in range(3))
        self.train(whole, context, 1)
        (first, second) = self.batches(context, 1)
        before.on_epoch_start(0)
        before.on_train_step(*first)
        after.on_epoch_start(0)
        if state := stored(before.epoch_state()):
            after.load_epoch_state(state)
        after.on_train_step(*second)
        assert self.validate(after, context, 1) == self.validate(whole, context, 1)

    def test_a_run_on_a_table_or_another_rank_is_watched_or_not(self, case: Case, tmp_path: Path) -> None:
        context = self.context(tmp_path)
        for other in (replace(context, volumes=None), replace(context, is_main=False), replace(context, trial=None)):
            observer = case.bound()(other)
            assert observer is None or isinstance(observer, Observer)


def stored(state: dict[str, object]) -> dict[str, Tensor | object]:
    """Return a state as loaded from a checkpoint, which accepts only tensors and plain values."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Tensor | object] = torch.load(file, weights_only=True)
    return loaded
