"""``trainer.profile``: measures some steps of a run, and writes what it finds into the run directory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from menvae.files import write_json
from menvae.training.phases import PhaseClock, StepProfile, TimedPasses
from menvae.types import Batch

if TYPE_CHECKING:
    from menvae.training.trainer import Trainer

_log = logging.getLogger(__name__)

PROFILE = "profile.json"
TRACE = "profile_trace.json"
_WARM_UP_STEPS = 2
_CLOCK_STEPS = 5
_OPERATOR_STEPS = 2
_MOST_OPERATORS = 12


class RunProfiler:
    """Profiles the first steps after a warm-up that fit into one epoch: first the phases, then the operators.

    `torch.profiler` slows a step, so that the steps with a clock come before those with the profiler.
    """

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        """Args: trainer: the trainer. folder: the run directory."""
        self._trainer, self._folder = trainer, folder
        self._is_done = False

    def watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of an epoch, and measure their steps; only the first call does."""
        iterator = iter(batches)
        if not self._is_done:
            self._is_done = True
            yield from self._profiled(iterator)
        yield from iterator

    def _profiled(self, iterator: Iterator[Batch]) -> Iterator[Batch]:
        yield from islice(iterator, _WARM_UP_STEPS)
        trainer = self._trainer
        clock, passes = PhaseClock(trainer.place.device), trainer.optimisation.passes
        handles = clock.attach(trainer.objective, trainer.optimizer)
        trainer.use_passes(TimedPasses(passes, clock))
        try:
            yield from clock.watched(islice(iterator, _CLOCK_STEPS))
        finally:
            trainer.use_passes(passes)
            for handle in handles:
                handle.remove()
        operators: dict[str, float] = {}
        if clock.totals:
            yield from self._with_operators(iterator, operators)
            self._write(StepProfile.of(clock, operators))
        else:
            _log.warning("trainer.profile: an epoch of at most %d steps has none to measure", _WARM_UP_STEPS)

    def _with_operators(self, iterator: Iterator[Batch], found: dict[str, float]) -> Iterator[Batch]:
        """Yield some batches under `torch.profiler`, and store the most expensive operators in ``found``."""
        from torch.profiler import ProfilerActivity, profile

        on_gpu = self._trainer.place.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        steps = 0
        with profile(activities=activities, acc_events=True) as profiler:
            for batch in islice(iterator, _OPERATOR_STEPS):
                yield batch
                steps += 1
        if not steps:
            return

        def seconds(event: Any) -> float:
            return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6 / steps

        events = sorted(profiler.key_averages(), key=seconds, reverse=True)
        found |= {event.key: seconds(event) for event in events[:_MOST_OPERATORS]}
        if self._trainer.place.is_main:
            profiler.export_chrome_trace(str(self._folder / TRACE))

    def _write(self, profile: StepProfile) -> None:
        if self._trainer.place.is_main:
            write_json(self._folder / PROFILE, asdict(profile))
            shares = {phase: value / profile.seconds_per_step for phase, value in profile.seconds.items()}
            words = ", ".join(f"{phase} {share:.0%}" for phase, share in shares.items())
            _log.info("profile of %d steps of %.4g s: %s", profile.steps, profile.seconds_per_step, words)
