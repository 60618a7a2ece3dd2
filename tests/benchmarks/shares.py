"""Where the time of a training step goes: the default model at 32^3, batch 8, on a CPU.

A real run is assembled, and the loop of its epochs is watched with the clock of ``trainer.profile`` and of
``menvae-bench``. "Everything else" is all that is not forward pass, loss, backward pass or optimiser: waiting for
batches, copies, seeds, checks, clipping, observers, running means, and what the progress bar is told. The first epoch
is not counted, as it checks the files of the cache. On a machine that does other things too, shares mean little.

    python tests/benchmarks/shares.py
    python tests/benchmarks/shares.py --subjects 60 --epochs 1
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from interleaved import at_most, judged

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from shrunk import composed

from menvae.composition.experiment import Experiment
from menvae.console.progress import TrainingProgress
from menvae.interruption import StopRequest
from menvae.runs.assembly import AssembledRun
from menvae.training.allocation import keep_freed_memory
from menvae.training.determinism import make_deterministic
from menvae.training.phases import PhaseClock, TimedPasses
from menvae.training.place import Place
from menvae.training.state import BegunEpoch
from menvae.training.trainer import Trainer
from menvae.types import Batch

LARGEST_SHARE = 0.03
COMPUTED = ("forward", "loss", "backward", "optimizer")


class Watch:
    """Takes the time of all steps of an epoch (see `menvae.training.trainer.Watcher`)."""

    def __init__(self, trainer: Trainer) -> None:
        self.clock = PhaseClock(trainer.place.device)
        self.clock.attach(trainer.objective, trainer.optimizer)
        trainer.use_passes(TimedPasses(trainer.optimisation.passes, self.clock))

    def watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        return self.clock.watched(batches)


class Shown:
    """What a run tells its progress bar (see `menvae.runs.recorder.RunRecorder`)."""

    def __init__(self, progress: TrainingProgress) -> None:
        self.progress = progress

    def step(self, epoch: int, step: int, losses: Callable[[], Mapping[str, float]]) -> None:
        self.progress.step(epoch, step, losses)

    def epoch_end(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        self.progress.epoch_end(epoch, metrics, sum(timings.values()))


def watched(num_subjects: int, epochs: int) -> PhaseClock:
    """Train, and return the clock of all epochs but the first."""
    device = torch.device("cpu")
    make_deterministic(device)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment.from_config(composed(f"data.num_subjects={num_subjects}", f"output_dir={folder}"))
        here = Place(device, 0, 1)
        data = experiment.load_data(here)
        trainer = AssembledRun(experiment, data, here, Path(folder), StopRequest()).trainer
        steps = data.train.steps_per_epoch
        with TrainingProgress(epochs + 1, steps, 1) as progress:
            trainer.recorder = Shown(progress)
            for epoch in range(epochs + 1):
                if epoch == 1:
                    trainer.profiler = watch = Watch(trainer)
                trainer._train_epoch(epoch)
                trainer.state.step, trainer._begun = 0, BegunEpoch()
    return watch.clock


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=120, help="size of the cohort")
    parser.add_argument("--epochs", type=int, default=5, help="epochs that are counted")
    options = parser.parse_args()
    clock = watched(options.subjects, options.epochs)
    shares = clock.shares()
    print(f"{len(clock.totals)} steps, median {1e3 * statistics.median(clock.totals):.0f} ms; share of each phase:")
    for phase, share in shares.items():
        print(f"  {phase:10}{share:7.2%}  {1e3 * statistics.median(clock.seconds[phase]):8.2f} ms")
    others = 1.0 - sum(shares[phase] for phase in COMPUTED)
    return judged([at_most("default, everything else / a step", others, LARGEST_SHARE)])


if __name__ == "__main__":
    sys.exit(main())
