"""Run by torchrun with 2 ranks, and once alone: trains with every registered term, and writes what has become of it.

exact.py OUTPUT
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from menvae import collectives
from menvae.apps.outcome import leave
from menvae.composition.experiment import Experiment  # noqa: F401 - imports every part, so that the registry has them
from menvae.data.batches.order import EpochBatches
from menvae.latent import LatentLayout
from menvae.layers import BatchNorm1d
from menvae.models import Model
from menvae.objective import Objective
from menvae.registry import build, parts_of
from menvae.statistics.running import RunningMean, RunningRegression
from menvae.terms import Term, TermContext
from menvae.training.curriculum import Curriculum
from menvae.training.place import Place, place
from menvae.training.settings import TrainerSettings
from menvae.training.trainer import Ingredients, Trainer
from menvae.types import Batch, ModelOutput, Posterior

NUM, BATCH, STEPS = 46, 10, 20
"""Subjects, subjects a step of all ranks, and steps: 5 an epoch, of which the last has 6 subjects."""
LAYOUT = LatentLayout({"vol": 2, "loc": 2, "residual": 2})
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "semantic": {"partition": "vol"},
    "cycle": {"partition": "vol"},
    "dcor": {"buffer_size": 24},
    "hsic": {"buffer_size": 24},
    "contrastive": {"partitions": None},
}
"""What parts do not have by default, and memories that forget rows within the 20 steps."""


class NoiselessModel(Model):
    """Inputs [B, 2, 2, 2, 2] -> what a term asks for, without draws, which are each rank's own."""

    def __init__(self, needs: frozenset[str]) -> None:
        super().__init__()
        self.layout, self.supervision, size = LAYOUT, {}, LAYOUT.z_dim
        self.encoder = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), BatchNorm1d(8), nn.Linear(8, 2 * size))
        self.decoder = nn.Sequential(nn.Linear(size, 8), nn.ReLU(), BatchNorm1d(8), nn.Linear(8, 16))
        outputs = {"auxiliary_reconstruction": (2, 2), "logits": (size, 3), "segmentation": (size, 4 * 8)}
        outputs |= {f"predictions_{name}": (2, 3) for name in LAYOUT} | {f"cycle_{name}": (3, 2) for name in LAYOUT}
        wanted = {name.replace(".", "_") for name in needs}
        wanted |= {name.replace("cycle", "predictions") for name in wanted}
        self.parts = nn.ModuleDict({name: nn.Linear(*sizes) for name, sizes in outputs.items() if name in wanted})
        self.average = RunningMean(2, 2, 2, 2, memory=100)
        self.regression = RunningRegression(2, 2, memory=100)

    def forward(self, batch: Batch) -> ModelOutput:
        mean, logvar = self.encoder(batch.inputs.flatten(1)).chunk(2, dim=1)
        z = mean + 0.1 * logvar
        predictions: dict[str, Tensor] = {}
        extras = {"hidden": (batch.inputs > 0.5).float()}
        for key, part in self.parts.items():
            what, _, name = key.partition("_")
            if what == "predictions":
                predictions[name] = part(LAYOUT.select(mean, name))
            elif what == "cycle":
                extras[f"cycle.{name}"] = part(predictions[name].detach())
            elif what == "logits":
                extras[key] = part(mean)
            elif what == "segmentation":
                extras[key] = part(mean).reshape(-1, 4, 2, 2, 2)
            else:
                extras[key] = part(LAYOUT.select(mean, "residual")).reshape(-1, 2, 1, 1, 1)
        reconstruction = self.decoder(z).reshape(batch.inputs.shape)
        to_commit = {"inputs": batch.inputs} if self.training else {}
        return ModelOutput(Posterior(mean, logvar), z, reconstruction, predictions, extras, to_commit)

    def commit(self, output: ModelOutput) -> None:
        inputs = output.to_commit["inputs"]
        self.average.update(inputs)
        self.regression.update(inputs[:, :, 0, 0, 0], inputs[:, :, 1, 1, 1])


class Loader:
    """Subjects in the order of real runs."""

    def __init__(self, here: Place, *, shuffle: bool = True) -> None:
        size = BATCH // here.num_ranks
        self.batches = EpochBatches(NUM, size, shuffle=shuffle, seed=1, rank=here.rank, num_ranks=here.num_ranks)
        self.steps_per_epoch = self.batches.steps_per_epoch
        generator = torch.Generator().manual_seed(0)
        targets, observed = (torch.randn(NUM, 3, generator=generator) for _ in range(2))
        self.everyone = Batch(
            torch.randn(NUM, 2, 2, 2, 2, generator=generator) * torch.linspace(0.5, 2.0, NUM).reshape(-1, 1, 1, 1, 1),
            tuple(f"subject {row}" for row in range(NUM)),
            dict.fromkeys(LAYOUT, targets),
            dict.fromkeys(LAYOUT, observed > -0.3),
            torch.randint(0, 4, (NUM, 1, 2, 2, 2), generator=generator),
            torch.randint(-1, 3, (NUM,), generator=generator),
            patient_id=tuple(f"patient {row % 17}" for row in range(NUM)),
        )

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        self.batches.start(epoch, first_step)
        for draws in self.batches:
            yield self.everyone.rows([draw.number for draw in draws])


class Rows:
    """A recorder of the means of each epoch."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def step(self, epoch: int, step: int, losses: Any) -> None:
        pass

    def epoch_end(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        self.metrics |= {f"{epoch}/{name}": value for name, value in metrics.items() if value is not None}


def trained(name: str, here: Place) -> dict[str, Tensor]:
    """Return weights, buffers and metrics after 20 steps with a reconstruction and one more term."""
    torch.manual_seed(0)
    context = TermContext(LAYOUT, 16, NUM)
    term: Term = build("term", {"name": name, **SETTINGS.get(name, {})}, context)
    terms = {"recon": build("term", {"name": "mse"}, context)} if "recon" not in term.scalars else {}
    terms["own"] = term
    for need in term.requires:
        if need.startswith("cycle."):  # it detaches the predictions, whose head thus needs a term of its own
            terms["semantic"] = build("term", {"name": "semantic", "partition": need.removeprefix("cycle.")}, context)
    model = NoiselessModel(term.requires)
    weights = {scalar: 0.5 for one in terms.values() for scalar in one.scalars}
    loader = Loader(here)
    ingredients = Ingredients(
        model=model,
        objective=Objective(terms, weights, {}),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9),
        update=build("update", {"name": "joint"}),
        learning_rate=build("schedule", {"name": "constant"}),
        curriculum=Curriculum(reference_epochs=4.0),
        train=loader,
        val=Loader(here, shuffle=False),
    )
    assert loader.steps_per_epoch * 4 == STEPS
    rows = Rows()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainerSettings(max_epochs=4, batch_size=BATCH // here.num_ranks, channels_last=False)
        trainer = Trainer(ingredients, settings, here, seed=1, checkpoints=Path(folder), identity={}, observers=[])
        trainer.fit(rows)
    found = {key: value.detach().clone().double() for key, value in model.state_dict().items()}
    found |= {f"term.{key}": value.clone().double() for key, value in term.state_dict().items()}
    metrics = {key: value for key, value in rows.metrics.items() if "/train_epoch/" in key or "/diag/grad_norm" in key}
    return found | {key: torch.tensor(value, dtype=torch.float64) for key, value in metrics.items()}


def main() -> None:
    with place() as here:
        results = {part.name: trained(part.name, here) for part in parts_of("term") if part.origin == "menvae"}
        collectives.barrier()
        if here.is_main:
            torch.save(results, sys.argv[1])


if __name__ == "__main__":
    main()
    leave(0)
