"""Run by torchrun with 2 ranks, and once alone: what every metric says of the same split.

record.py OUTPUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from menvae.apps.outcome import leave
from menvae.conformance.metrics import VOLUMES, SplitExample
from menvae.evaluation.metrics import SplitRecorder
from menvae.latent import LatentLayout
from menvae.metrics import build_metrics
from menvae.models import Model
from menvae.training.place import place


class Constant(Model):
    """Draws the same image whatever z is: of whom the z is that replaces another depends on the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layout: LatentLayout = VOLUMES.layout

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.full((len(z), len(VOLUMES.channels), *VOLUMES.size), 0.5)


def main() -> None:
    example = SplitExample.make(VOLUMES, 0.5, num_subjects=13).with_missing(float("nan"))
    with place() as here:
        mine = torch.arange(here.rank, 13 + here.rank, here.num_ranks) % 13  # one subject is on both ranks
        recorder = SplitRecorder(Constant(), build_metrics({}, VOLUMES))
        for part in torch.split(mine, 3):
            some = example.rows(part)
            recorder.on_train_step(some.batch, some.output)
        recorder.on_validation_start(1)
        for part in torch.split(mine, 3):
            some = example.rows(part)
            recorder.on_validation_batch(some.batch, some.output)
        metrics = recorder.on_validation_end(1, {}).metrics
        Path(f"{sys.argv[1]}.{here.rank}").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main()
    leave(0)
