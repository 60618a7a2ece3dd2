"""Searches whose trials pause at rungs, beside searches of full runs: best value found, and epochs trained.

The tabular VAE (``experiment=lithology_vae``, 27 epochs), searched for the lowest validation loss over learning rate,
weight decay, batch size and the size of its latent space, by real ``menvae-train -m`` commands, in turns for each seed:

- random: 40 full runs at random;
- tpe: 40 full runs that the tree-structured Parzen estimator proposes;
- random, halving: the 40 points of ``random``, which pause after 3 and 9 epochs; a third goes on each time;
- tpe, halving: 40 trials in batches of 10 with the same pauses;
- tpe, hyperband: 24 trials in batches of 12, in brackets that begin after 3, 9 and 27 epochs.

Printed for each seed are the best value, the epochs that were trained (an epoch that a trial goes on from counts once),
and both relative to ``random``; of the full searches also the best value of so many trials as have a third of the
epochs. Claimed are medians over the seeds, and at most a third of the epochs for every seed.

    python tests/benchmarks/halving.py --json halving.json        # five seeds: an hour or two on two cores
    python tests/benchmarks/halving.py --seeds 1 --rows 2000      # a look
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from interleaved import Claim, at_most, judged, noted

from menvae.studies import open_storage

HERE = Path(__file__).resolve().parents[2]
TRAIN = "from menvae.apps.train import main; main()"
TRIALS, EPOCHS = 40, 27
HALVING = ("hydra.sweeper.min_epochs=3", "hydra.sweeper.reduction_factor=3")
SEARCHES: Mapping[str, Sequence[str]] = {
    "random": ("sampler=random", f"n_trials={TRIALS}", "batch=10"),
    "tpe": ("sampler=tpe", f"n_trials={TRIALS}", "batch=10"),
    "random, halving": ("sampler=random", f"n_trials={TRIALS}", f"batch={TRIALS}", "pruner=halving"),
    "tpe, halving": ("sampler=tpe", f"n_trials={TRIALS}", "batch=10", "pruner=halving"),
    "tpe, hyperband": ("sampler=tpe", "n_trials=24", "batch=12", "pruner=hyperband"),
}
FULL = ("random", "tpe")
SPACE = (
    "optimizer.learning_rate=tag(log,interval(1e-4,2e-2))",
    "optimizer.weight_decay=tag(log,interval(1e-6,1e-1))",
    "trainer.batch_size=choice(64,128,256,512)",
    "model.z_dim=choice(3,4,6,8,10,12)",
)
MOST_EPOCHS = 1 / 3
SAME_VALUE = 1.0


@dataclass(frozen=True)
class Found:
    """Result of one search.

    Attributes:
        best: lowest validation loss of a trial that was trained to its end.
        epochs: trained epochs of all runs.
        in_budget: the best value of so many first trials as have a third of the epochs; None if trials pause.
        seconds: duration of the command.
    """

    best: float
    epochs: int
    in_budget: float | None
    seconds: float


def search(name: str, seed: int, output_dir: Path, rows: int) -> Found:
    """Run one search in a new output directory."""
    import optuna

    arguments = [
        *("-m", "experiment=lithology_vae", "hydra/sweeper=optuna", f"hydra.sweeper.seed={seed}", f"seed={seed}"),
        *(f"hydra.sweeper.{setting}" for setting in SEARCHES[name]),
        *(HALVING if name not in FULL else ()),
        *(f"hydra.launcher.points_per_gpu={len(os.sched_getaffinity(0))}", *SPACE),
        *("+sweep.objectives={val_epoch/loss: minimize}", "sweep.name=search", f"output_dir={output_dir}"),
        *(f"trainer.max_epochs={EPOCHS}", f"data.num_rows={rows}", "tracking.enabled=false"),
        *(f"+pictures.parts.{path.stem}=null" for path in sorted((HERE / "conf" / "picture").glob("*.yaml"))),
    ]
    paths = os.pathsep.join([str(HERE), str(HERE / "launchers"), os.environ.get("PYTHONPATH", "")])
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tempfile.gettempdir(),  # which python -c puts before the checkout
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    journal = output_dir / "sweeps" / "search" / "study" / "journal.log"
    study = optuna.load_study(study_name="search", storage=open_storage(str(journal)))
    logs = output_dir.glob("runs/*/metrics.jsonl")
    epochs = sum(log.read_bytes().count(b"\n") for log in logs)
    in_budget = None
    if name in FULL:
        first = study.get_trials()[: int(TRIALS * MOST_EPOCHS)]
        in_budget = min(trial.value for trial in first if trial.value is not None)
    return Found(study.best_value, epochs, in_budget, seconds)


def show(seed: int, found: Mapping[str, Found]) -> None:
    """Print a row for each search of a seed."""
    base = found["random"]
    for name, one in found.items():
        line = f"seed {seed}  {name:16} best {one.best:8.4f} (x {one.best / base.best:.4f})"
        line += f"  {one.epochs:5d} epochs (x {one.epochs / base.epochs:.3f})  {one.seconds:5.0f} s"
        if one.in_budget is not None:
            line += f"  best of a third of the trials {one.in_budget:8.4f} (x {one.in_budget / base.best:.4f})"
        print(line, flush=True)


def claims_of(by_seed: Sequence[Mapping[str, Found]]) -> list[Claim]:
    """Return what is claimed of the searches whose trials pause, and print what the others reach."""
    claims: list[Claim] = []
    for name in SEARCHES:
        values = [found[name].best / found["random"].best for found in by_seed]
        epochs = [found[name].epochs / found["random"].epochs for found in by_seed]
        if name in FULL:
            thirds = [(found[name].in_budget or 0.0) / found["random"].best for found in by_seed]
            noted(f"{name}, best / best of random, median", statistics.median(values))
            noted(f"{name}, best of a third of its trials / best of random, median", statistics.median(thirds))
            continue
        claims.append(at_most(f"{name}, best / best of random, median", statistics.median(values), SAME_VALUE))
        claims.append(at_most(f"{name}, epochs / epochs of random, largest", max(epochs), MOST_EPOCHS))
    return claims


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--rows", type=int, default=6000, help="rows of the table")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    by_seed: list[dict[str, Found]] = []
    for seed in range(options.seeds):
        found: dict[str, Found] = {}
        for name in SEARCHES:
            with tempfile.TemporaryDirectory() as folder:
                found[name] = search(name, seed, Path(folder), options.rows)
        by_seed.append(found)
        show(seed, found)
    if options.json:
        figures = [{name: asdict(one) for name, one in found.items()} for found in by_seed]
        content = {"machine": platform.platform(), "rows": options.rows, "seeds": figures}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return judged(claims_of(by_seed))


if __name__ == "__main__":
    sys.exit(main())
