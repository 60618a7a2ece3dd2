"""What decodes and reads after training does so in the batch size and the precision of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from handmade import LinearDecoder, split
from torch import Tensor

from menvae.evaluation.final import WALK_STEPS, evaluate_model, traversals
from menvae.evaluation.interventions import swaps, with_interventions
from menvae.evaluation.metrics import NUM_DRAWS, Reference, SplitRecorder
from menvae.metrics import MetricContext, SplitRecord
from menvae.metrics.interventions import Interventions
from menvae.training.settings import TrainerSettings
from menvae.types import Posterior

SIZES = {"vol": 2, "residual": 4}
SUPERVISION = {"vol": ["radius"]}


class Watched(LinearDecoder):
    """Remembers how many images it decodes at once, and in which precision it decodes and predicts."""

    def __init__(self, weight: float = 1.0) -> None:
        """Args: weight: of the head."""
        super().__init__(SIZES, (1, 3, 4, 5), SUPERVISION)
        self.head = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.constant_(self.head.weight, weight)
        self.sizes: list[int] = []
        self.types: set[torch.dtype] = set()

    def encode(self, inputs: Tensor, available: Tensor | None = None) -> Posterior:
        mean = inputs[:, 0, 0, 0, :1].expand(-1, 6)
        return Posterior(mean, torch.zeros_like(mean))

    def decode(self, z: Tensor) -> Tensor:
        images = (z @ self.basis).reshape(-1, *self.shape)
        self.sizes.append(len(z))
        self.types.add(images.dtype)
        return images

    def predict(self, z: Tensor) -> Mapping[str, Tensor]:
        return {"vol": self.head(z[:, :2])}


class Sum:
    """Reads the sum of an image by a layer, and remembers in which precision."""

    targets = ("radius",)

    def __init__(self) -> None:
        self.types: list[torch.dtype] = []

    def read(self, images: Tensor, available: Tensor | None = None) -> Tensor:
        assert images.dtype == torch.float32
        found = torch.nn.functional.linear(images.flatten(1), torch.ones(1, images[0].numel()))
        self.types.append(found.dtype)
        return found


def record(num: int = 7) -> SplitRecord:
    mean = np.random.default_rng(0).normal(size=(num, 6))
    arrays = {"mean": mean, "targets.vol": mean[:, :1], "observed.vol": np.ones((num, 1))}
    return SplitRecord(tuple(f"s{row}" for row in range(num)), arrays)


def test_no_more_images_than_a_batch_are_decoded_at_once() -> None:
    found = {}
    for batch_size in (2, 100):
        model, trainer = Watched(), TrainerSettings(batch_size=batch_size)
        swapped = swaps(model, record(), trainer)
        assert swapped is not None
        moved = with_interventions(record(), model, Sum(), trainer).arrays["moved.vol"]
        walks = traversals(model, record().arrays["mean"], WALK_STEPS, trainer)
        assert max(model.sizes) == min(batch_size, 13)
        assert sum(model.sizes) == 3 * 4 + 7 * 3 + 13 * 2
        found[batch_size] = (swapped.volumes, moved, walks)
    for small, large in zip(found[2], found[100], strict=True):
        np.testing.assert_allclose(small, large, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("precision", "expected"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_precision_is_that_of_the_run(precision: str, expected: torch.dtype) -> None:
    model, reader = Watched(), Sum()
    metrics = [Interventions(MetricContext(model.layout, ("a",), (3, 4, 5), SUPERVISION))]
    mean = record().arrays["mean"]
    whole = split(model, mean, targets={"vol": mean[:, :1]}, observed={"vol": np.ones((7, 1), dtype=np.bool_)})
    model.types.clear()
    trainer = TrainerSettings(precision=precision, batch_size=2)  # type: ignore[arg-type]
    judged = evaluate_model(model, [whole[0]], {"val": lambda: [whole]}, metrics, reader, trainer=trainer)
    assert "moved.vol" in judged.val.arrays
    assert traversals(model, mean, WALK_STEPS, trainer).dtype == np.float32
    assert model.types == {expected}
    assert len(reader.types) == 1 + 3 * 4
    assert set(reader.types) == {expected}


def test_small_spreads_of_predictions_are_no_rounding() -> None:
    """The prediction is 64, where steps of bfloat16 are 0.5, with a standard deviation of 0.01 sqrt(2)."""
    model, recorder = Watched(weight=32.0), SplitRecorder(Watched(weight=32.0))
    recorder.compare_with(Reference(torch.zeros(6), torch.zeros(1, 3, 4, 5), {}))
    logvar = np.full((5, 6), 2.0 * math.log(0.01 / 32.0))
    batch, output = split(model, np.ones((5, 6)), logvar=logvar)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        recorder.record_predictions(batch, output.posterior)
    spread = recorder.record().arrays["spread.vol"]
    assert spread.mean() == pytest.approx(2.0 * 0.01**2, rel=5.0 * math.sqrt(2.0 / (5 * NUM_DRAWS)))
