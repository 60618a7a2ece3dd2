"""A step of the tabular VAE: menvae's trainer beside a hand-written loop and the trainer of pythae, in turns.

All train the same 6-64-32-10 VAE (Linear, ReLU, BatchNorm) on the same rows in batches of 256 with Adam at 1e-3, in one
thread. Counted is process-CPU time of an epoch, divided by its steps: batches, forward, loss, backward, optimiser and
what each trainer records. menvae's rows include seeds, the check for values that are not finite, the gradient norm and
all running means; its validation, which measures much more than the loss, is counted in a row of its own, beside that
of pythae, which is the loss alone. ``plain`` indexes its batches from one tensor and uses `torch.optim.Adam` as it
comes; ``plain, DataLoader`` is what most tutorials show; ``plain, fused`` has the fastest optimiser there is.

pythae is optional, and menvae does not depend on it:

    pip install --no-deps --target /tmp/pythae pythae==0.1.2
    PYTHONPATH=/tmp/pythae python tests/benchmarks/tabular.py
    python tests/benchmarks/tabular.py --rows 60000 --repeats 9
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from interleaved import at_least, at_most, judged, show, take_turns
from shrunk import composed
from torch import Tensor, nn

from menvae.composition.experiment import Experiment
from menvae.interruption import StopRequest
from menvae.runs.assembly import AssembledRun
from menvae.runs.embeddings import embed
from menvae.training.determinism import make_deterministic
from menvae.training.place import Place
from menvae.training.state import BegunEpoch

BATCH, Z = 256, 10
LEAST_OF_PYTHAE, LEAST_OF_PLAIN = 2.0, 1.0
ROWS_TO_EMBED, EMBED_SECONDS = 238_506, 2.0


def layers(*widths: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    for before, after in pairwise(widths):
        modules += [nn.Linear(before, after), nn.ReLU(), nn.BatchNorm1d(after)]
    return nn.Sequential(*modules)


class PlainVAE(nn.Module):
    """What a paper's repository contains."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = layers(6, 64, 32), layers(Z, 32, 64)
        self.mean, self.logvar, self.output = nn.Linear(32, Z), nn.Linear(32, Z), nn.Linear(64, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x)
        mean, logvar = self.mean(hidden), self.logvar(hidden)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return self.output(self.decoder(z)), mean, logvar


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> float:
    output, mean, logvar = model(x)
    error = (output - x).square().sum(dim=1).mean()
    kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(dim=1).mean()
    loss = error + kl
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def plain_epoch(rows: Tensor, *, fused: bool = False) -> Callable[[], float]:
    model = PlainVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused or None)

    def epoch() -> float:
        return sum(plain_step(model, optimizer, rows[chosen]) for chosen in torch.randperm(len(rows)).split(BATCH))

    return epoch


def plain_epoch_of_loader(rows: Tensor) -> Callable[[], float]:
    model = PlainVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=BATCH, shuffle=True)
    return lambda: sum(plain_step(model, optimizer, x) for (x,) in loader)


def pythae_epochs(train: Tensor, val: Tensor, folder: str) -> tuple[Callable[[], float], Callable[[], float]]:
    """pythae's trainer for one epoch, without and with its evaluation."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.mean, self.logvar = layers(6, 64, 32), nn.Linear(32, Z), nn.Linear(32, Z)

        def forward(self, x: Tensor) -> Any:
            hidden = self.layers(x)
            return ModelOutput(embedding=self.mean(hidden), log_covariance=self.logvar(hidden))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.output = layers(Z, 32, 64), nn.Linear(64, 6)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.output(self.layers(z)))

    logging.disable(logging.INFO)
    sets = [BaseDataset(rows, torch.ones(len(rows))) for rows in (train, val)]
    config = BaseTrainerConfig(
        output_dir=folder,
        num_epochs=1,
        learning_rate=1e-3,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        optimizer_cls="Adam",
    )
    model = VAE(VAEConfig(input_dim=(6,), latent_dim=Z, reconstruction_loss="mse"), Encoder(), Decoder())
    trainer = BaseTrainer(model=model, train_dataset=sets[0], eval_dataset=sets[1], training_config=config)
    trainer.prepare_training()

    def train_only() -> float:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            return float(trainer.train_step(1))

    def with_evaluation() -> float:
        with contextlib.redirect_stderr(io.StringIO()):
            return float(trainer.train_step(1)) + float(trainer.eval_step(1))

    return train_only, with_evaluation


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30_000, help="rows of the table")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_deterministic(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["experiment=lithology_vae", f"data.num_rows={options.rows}", f"output_dir={folder}"]
        experiment, here = Experiment.from_config(composed(*overrides)), Place(torch.device("cpu"), 0, 1)
        data = experiment.load_data(here)
        trainer = AssembledRun(experiment, data, here, Path(folder), StopRequest()).trainer
        train, val = (torch.cat([batch.inputs for batch in loader.epoch(0)]) for loader in (data.train, data.val))
        steps = data.train.steps_per_epoch

        def menvae_epoch() -> None:
            trainer._train_epoch(0)
            trainer.state.step, trainer._begun = 0, BegunEpoch()

        def menvae_whole_epoch() -> None:
            trainer._fit_epoch(1)
            trainer.save("last.ckpt", trainer.state, with_optimizer=True)

        epochs: dict[str, Callable[[], object]] = {
            "plain": plain_epoch(train),
            "plain, DataLoader": plain_epoch_of_loader(train),
            "plain, fused": plain_epoch(train, fused=True),
            "menvae": menvae_epoch,
            "menvae, validated and saved": menvae_whole_epoch,
        }
        if importlib.util.find_spec("pythae") is None:
            print("pythae is not installed, so it is left out; the docstring of this file says how")
        else:
            epochs["pythae"], epochs["pythae, evaluated"] = pythae_epochs(train, val, folder)
        found = take_turns(epochs, options.repeats)
        embedded = Experiment.from_config(composed(*overrides, f"data.num_rows={ROWS_TO_EMBED}")).load_data(here)
        assert embedded.embedded is not None
        rows = embedded.embedded.rows
        seconds = take_turns({"embed": lambda: embed(trainer.model, rows.epoch(0), here.device)}, 3)["embed"]
    of_step = {name: [value / steps for value in values] for name, values in found.items()}
    print(
        f"a step of {BATCH} rows, {steps} steps an epoch; torch {torch.__version__}, {platform.processor()}, 1 thread"
    )
    ratios = show(of_step, "menvae")
    claims = [at_least("a step, plain / menvae", ratios["plain"], LEAST_OF_PLAIN)]
    if "pythae" in ratios:
        whole = ratios["pythae, evaluated"] / ratios["menvae, validated and saved"]
        claims += [at_least("a step, pythae / menvae", ratios["pythae"], LEAST_OF_PYTHAE)]
        claims += [at_least("a step with validation, pythae / menvae", whole, LEAST_OF_PYTHAE)]
    claims += [at_most(f"{ROWS_TO_EMBED} rows embedded, seconds", min(seconds) / 1000.0, EMBED_SECONDS)]
    return judged(claims)


if __name__ == "__main__":
    sys.exit(main())
