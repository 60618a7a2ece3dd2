"""Metrics that only the end of a run computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from menvae.conformance.metrics import VOLUMES, SplitExample, _Blank
from menvae.data.sources.phantom import PhantomSource
from menvae.evaluation.final import evaluate_model
from menvae.evaluation.metrics import SplitRecorder
from menvae.metrics import build_metrics


class Zeros:
    """Reads zeros."""

    targets = tuple(name for names in VOLUMES.supervision.values() for name in names)

    def read(self, images: torch.Tensor, available: torch.Tensor | None = None) -> torch.Tensor:
        """Return zeros [N, F]."""
        return torch.zeros(len(images), len(self.targets))


@torch.no_grad()
def test_validations_skip_what_the_end_computes() -> None:
    metrics = build_metrics({}, VOLUMES)
    final = {key for metric in metrics if metric.when == "final" for key in metric.names()}
    assert "disent/mig" in final
    example = SplitExample.make(VOLUMES, 1.0)
    recorder = SplitRecorder(_Blank(VOLUMES), metrics)
    recorder.on_validation_start(1)
    recorder.on_validation_batch(example.batch, example.output)
    each_epoch = set(recorder.on_validation_end(1, {}).metrics)
    assert not each_epoch & final
    batch = replace(example.batch, mask=torch.ones(len(example), 1, *VOLUMES.size, dtype=torch.uint8))
    judged = {"val": lambda: [(batch, example.output)]}
    evaluation = evaluate_model(Encoded(VOLUMES), [batch], judged, metrics, Zeros(), Known())
    at_end = set(evaluation.metrics)
    assert final <= at_end
    assert each_epoch <= at_end


class Known(PhantomSource):
    """A source whose factors are those of the context of the example."""

    factor_groups = VOLUMES.factors

    def factors(self, subject_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        names = [name for group in self.factor_groups.values() for name in group]
        return {subject: {name: float(row) for name in names} for row, subject in enumerate(subject_ids)}


class Encoded(_Blank):
    """A model whose latents do not matter."""

    def encode(self, inputs: torch.Tensor, available: torch.Tensor | None) -> object:
        return SplitExample.make(VOLUMES, 1.0, len(inputs)).output.posterior

    def predict(self, mean: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: mean[:, : len(targets)] for name, targets in VOLUMES.supervision.items()}
