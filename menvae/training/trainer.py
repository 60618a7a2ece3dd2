"""The training loop, readable from top to bottom."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from menvae import collectives
from menvae.errors import RunInterruptedError, UserError
from menvae.interruption import StopRequest
from menvae.models import Model
from menvae.objective import Objective
from menvae.schedules import Schedule
from menvae.training import checkpoint
from menvae.training.curriculum import Curriculum
from menvae.training.determinism import seed_step
from menvae.training.graphs import ReplayedModel
from menvae.training.optimizer_state import load_optimizer
from menvae.training.passes import MicroBatches, Passes, WholeBatch
from menvae.training.phases import PhaseClock, TimedPasses
from menvae.training.place import Place
from menvae.training.precision import autocast
from menvae.training.settings import TrainerSettings
from menvae.training.state import BegunEpoch, TrainingState
from menvae.training.step import Optimisation, StepTaken, TrainingStep
from menvae.training.system import SystemMetrics
from menvae.training.validation import SplitObjective
from menvae.types import Batch, EpochLoader, ModelOutput, Observer, Progress
from menvae.uncompiled import tell_compiler
from menvae.updates import Update

_UNTIMED_STEPS = 2
_FEWEST_STEPS = 3


class Recorder(Protocol):
    """Logs steps and epochs."""

    def step(self, epoch: int, step: int, losses: Callable[[], Mapping[str, float]]) -> None:
        """Log an optimiser step; calling ``losses`` synchronises with the device."""

    def epoch_end(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        """Log an epoch, before its checkpoint is written."""


class Watcher(Protocol):
    """Watches steps from between them, such as `menvae.training.profiling.RunProfiler`."""

    def watched(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Yield the batches of an epoch unchanged."""


@dataclass(frozen=True)
class Ingredients:
    """Model, data, objective and optimisation of a run."""

    model: Model
    objective: Objective
    optimizer: torch.optim.Optimizer
    update: Update
    learning_rate: Schedule
    curriculum: Curriculum
    train: EpochLoader
    val: EpochLoader


class Trainer:
    """Trains a model on an objective, validates, writes checkpoints, and notifies observers and a recorder."""

    def __init__(
        self,
        ingredients: Ingredients,
        settings: TrainerSettings,
        place: Place,
        *,
        seed: int,
        checkpoints: Path,
        identity: Mapping[str, str],
        observers: Sequence[Observer],
        stop: StopRequest | None = None,
    ) -> None:
        """Move the objective to the device and prepare training.

        Args:
            ingredients: model, data, objective and optimisation.
            settings: keys of ``trainer.*``.
            place: device and rank of this process; the model must already be on the device.
            seed: seed of the run.
            checkpoints: folder of ``last.ckpt`` and ``best.ckpt``.
            identity: stored in checkpoints; a checkpoint with a different identity is rejected.
            observers: observers in calling order.
            stop: stop request, checked before every step and validation batch.
        """
        self.ingredients, self.settings, self.place, self.seed = ingredients, settings, place, seed
        self.checkpoints, self.identity = checkpoints, dict(identity)
        self.observers = list(observers)
        self.stop = stop or StopRequest()
        self.system = SystemMetrics(place.device)
        self.recorder: Recorder | None = None
        self.profiler: Watcher | None = None
        self.state = TrainingState()
        self._begun = BegunEpoch()
        self.memory_format = torch.channels_last_3d if settings.channels_last else torch.contiguous_format
        self.model = ingredients.model
        self.objective = ingredients.objective.to(place.device)
        self.optimizer = ingredients.optimizer
        if settings.compile:
            tell_compiler()
            self.model.compile()
        self.parallel: nn.Module = self.model
        if settings.cuda_graphs:
            self.parallel = ReplayedModel(self.model, settings.batch_size, settings.precision)
        if place.num_ranks > 1:
            # whatever the strides of 1x1x1 kernels are, those of their gradients differ for some number of threads
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
            with warnings.catch_warnings():  # torch 2.13 has another name for it, which torch 2.10 lacks
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
                self.parallel = DistributedDataParallel(
                    self.model,
                    device_ids=[place.device] if place.device.type == "cuda" else None,
                    broadcast_buffers=False,  # menvae.layers.BatchNorm1d keeps them equal on all ranks
                    find_unused_parameters="reconstruction" not in self.objective.requires,
                )
        self.peak_learning_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=settings.precision == "fp16")
        self.autocast = partial(autocast, place.device, settings.precision)
        self.optimisation = Optimisation(
            self.model,
            WholeBatch(self.parallel, self.autocast),
            self.objective,
            self.optimizer,
            self.scaler,
            place.device,
            settings.gradient_clip,
        )

    def use_passes(self, passes: Passes) -> None:
        """Compute outputs and gradients of the following steps in another way."""
        self.optimisation = replace(self.optimisation, passes=passes)

    def use_micro_batches(self, num_rows: int) -> None:
        """Compute the gradient of each batch from micro-batches of ``num_rows``; raises as `MicroBatches`."""
        self.model.train()
        in_turns = self.parallel if self.place.num_ranks > 1 else self.model  # a graph has the rows of a whole batch
        self.use_passes(MicroBatches(self.model, in_turns, self.autocast, num_rows))

    @property
    def has_ended(self) -> bool:
        """Whether training is over: after the last epoch, or because an observer requested a stop."""
        return self.state.epoch >= self.settings.max_epochs or bool(self.state.stopped)

    def fit(self, recorder: Recorder | None, pause_after: int | None = None) -> TrainingState:
        """Train from the current state to the last epoch, to a pause, or until an observer requests a stop.

        Args:
            recorder: logs every step and epoch; None on all but the main rank.
            pause_after: number of epochs after which to return, with a checkpoint to go on from; None: no pause.

        Raises:
            TrainingDivergedError: a loss or gradient is not finite on any rank; raised on all ranks.
            RunInterruptedError: a rank received a stop request; the checkpoint is written.
        """
        self.recorder = recorder
        with self.stop.deferred():
            while not self.has_ended and (pause_after is None or self.state.epoch < pause_after):
                self._fit_epoch(self.state.epoch + 1)
                self.save("last.ckpt", self.state, with_optimizer=True)
        if self.has_ended and self.state.best_epoch == 0:
            self.save("best.ckpt", self.state, with_optimizer=False)
        return self.state

    def _fit_epoch(self, epoch: int) -> None:
        """Train, validate and record an epoch, counted from 1, or the rest of an interrupted one."""
        metrics = self._train_epoch(epoch - 1)
        started = time.perf_counter()
        if epoch % self.settings.validate_every_epochs == 0 or epoch == self.settings.max_epochs:
            metrics |= self._validate(epoch, metrics)
        timings = {
            "time/train_s": self._begun.seconds,
            "time/validate_s": time.perf_counter() - started,
            **self.system.sample(),
        }
        self.state.epoch, self.state.step, self._begun = epoch, 0, BegunEpoch()
        if self.recorder is not None:
            self.recorder.epoch_end(epoch, metrics, timings)

    def _train_epoch(self, epoch: int) -> dict[str, float | None]:
        self.model.train()
        self.objective.train()
        loader, means = self.ingredients.train, self._begun.means
        for observer in self.observers:
            observer.on_epoch_start(epoch)
        for observer in self.observers:
            if state := self._begun.observers.get(type(observer).__name__):
                observer.load_epoch_state(state)
        started = time.perf_counter() - self._begun.seconds
        stop_asked: bool | None = None
        batches = loader.epoch(epoch, self.state.step)
        if self.profiler is not None:
            batches = self.profiler.watched(batches)
        for step, batch in enumerate(batches, start=self.state.step):
            self._stop_if_asked(stop_asked)
            batch = batch.to(self.place.device, self.memory_format)
            taken = self._train_step(batch, epoch, step)
            for observer in self.observers:
                observer.on_train_step(batch, taken.output)
            means.add(taken.logged, len(batch))
            if math.isfinite(taken.gradient_norm):
                means.add({"grad_norm": taken.gradient_norm}, len(batch))
            else:
                self._begun.num_skipped_steps += 1
            stop_asked = taken.stop_asked
            self.state.step, self._begun.seconds = step + 1, time.perf_counter() - started
            if self.recorder is not None:
                self.recorder.step(epoch + 1, step + 1, taken.losses)
            del batch, taken  # else they take memory during the next step
        averages = means.averages()
        metrics: dict[str, float | None] = {
            "diag/grad_norm": averages.pop("grad_norm", None)
        }  # None: every step overflowed
        if self.scaler.is_enabled():
            metrics |= {"diag/skipped_steps": self._begun.num_skipped_steps, "diag/loss_scale": self.scaler.get_scale()}
        finished = self._progress(epoch + 1)
        metrics = {**{f"train_epoch/{name}": value for name, value in averages.items()}, **metrics}
        metrics |= self.objective.schedule_metrics(finished)
        return metrics | {"sched/learning_rate": self.peak_learning_rates[0] * self.ingredients.learning_rate(finished)}

    def _train_step(self, batch: Batch, epoch: int, step: int) -> StepTaken:
        steps_per_epoch = self.ingredients.train.steps_per_epoch
        progress = self._progress(epoch + step / steps_per_epoch)
        steps_done = epoch * steps_per_epoch + step
        seed_step(self.seed, steps_done, self.place.rank, self.place.device)
        factor = self.ingredients.learning_rate(progress)
        for group, peak in zip(self.optimizer.param_groups, self.peak_learning_rates, strict=True):
            group["lr"] = peak * factor
        stepper = TrainingStep(
            self.optimisation, batch, progress, steps_done, epoch + 1, lambda: bool(self.stop.reason)
        )
        output, report, gradient_norm = self.ingredients.update(stepper)
        logged = stepper.logged(report)
        self.objective.commit(output)  # also for a step that fp16 skips, as its outputs are finite
        self.model.commit(output)
        # a rank alone looks again before its next step, so that no step follows a request
        stop_asked = stepper.stop_asked if self.place.num_ranks > 1 else None
        return StepTaken(output, report, logged, gradient_norm, stop_asked)

    def seconds_per_step(self, num_steps: int) -> float:
        """Train for some steps and return the seconds of the fastest; do not use the trainer afterwards."""
        self.model.train()
        self.objective.train()
        seconds = []
        for step, batch in enumerate(self.ingredients.train.epoch(0)):
            started = time.perf_counter()
            self._train_step(batch.to(self.place.device, self.memory_format), 0, step)
            if self.place.device.type == "cuda":
                torch.cuda.synchronize(self.place.device)
            seconds.append(time.perf_counter() - started)
            if step == num_steps:
                break
        return min(seconds)

    def timed_steps(self, seconds: float, clock: PhaseClock | None = None) -> list[float]:
        """Train for some time and return the seconds of each step with its loading; do not use the trainer afterwards.

        The first two steps are not timed; at least three are.

        Args:
            seconds: how long.
            clock: takes the time of the phases of these steps.
        """
        self.model.train()
        self.objective.train()
        batches = (batch for epoch in itertools.count() for batch in self.ingredients.train.epoch(epoch))
        for batch in itertools.islice(batches, _UNTIMED_STEPS):
            self._train_step(batch.to(self.place.device, self.memory_format), 0, 0)
        if clock is not None:
            clock.attach(self.objective, self.optimizer)
            self.use_passes(TimedPasses(self.optimisation.passes, clock))
        durations: list[float] = []
        started = time.perf_counter()
        end = started + seconds
        for batch in batches if clock is None else clock.watched(batches):
            self._train_step(batch.to(self.place.device, self.memory_format), 0, 0)
            now = time.perf_counter()
            durations.append(now - started)
            started = now
            if now >= end and len(durations) >= _FEWEST_STEPS:
                break
        return durations

    @torch.no_grad()
    def _validate(self, epoch: int, so_far: Mapping[str, float | None]) -> dict[str, float | None]:
        self.model.eval()
        self.objective.eval()
        progress = self._progress(epoch)
        whole = SplitObjective(self.objective, progress)
        for observer in self.observers:
            observer.on_validation_start(epoch)
        for batch in self.ingredients.val.epoch(0):
            self._stop_if_asked()
            batch = batch.to(self.place.device, self.memory_format)
            with self.autocast():
                output = self.model(batch)
                for observer in self.observers:
                    observer.on_validation_batch(batch, output)
            whole.add(batch, output)
        metrics: dict[str, float | None] = {f"val_epoch/{key}": value for key, value in whole.values().items()}
        collapsed = False
        for observer in self.observers:
            observation = observer.on_validation_end(epoch, {**so_far, **metrics})
            metrics |= observation.metrics
            collapsed |= observation.collapsed
            if observation.stop and not self.state.stopped:
                self.state.stopped, self.state.pruned = observation.stop, observation.pruned
        value = metrics["val_epoch/loss_at_final_weights"]
        if value is not None and value < self.state.best_value and not collapsed:
            self.state.best_value, self.state.best_epoch = value, epoch
            self.save("best.ckpt", replace(self.state, epoch=epoch, step=0), with_optimizer=False)
        return metrics

    def _progress(self, epoch: float) -> Progress:
        return self.ingredients.curriculum.progress(epoch, self.settings.max_epochs)

    def _stop_if_asked(self, by_any: bool | None = None) -> None:
        """Write a checkpoint and end on all ranks if any of them received a stop request.

        Args:
            by_any: whether any rank received one, where a step has asked them all; None: ask them here.
        """
        if by_any is None:
            by_any = collectives.any_rank(bool(self.stop.reason), self.place.device)
        if not by_any:
            return
        reason = next(filter(None, collectives.gather_objects(self.stop.reason)))
        self._begun.observers = {type(observer).__name__: observer.epoch_state() for observer in self.observers}
        begun: dict[str, Any] = {"num_steps": self.ingredients.train.steps_per_epoch}
        begun |= {"by_rank": collectives.gather_objects(self._begun.as_dict())}
        self.save("last.ckpt", self.state, with_optimizer=True, begun_epoch=begun)
        collectives.barrier()  # a rank that leaves earlier would break the connections of the others
        where = f"epoch {self.state.epoch + 1} after step {self.state.step} of {begun['num_steps']}"
        raise RunInterruptedError(reason, where)

    def save(self, name: str, state: TrainingState, *, with_optimizer: bool, **more: Any) -> None:
        """Write a checkpoint on the main rank."""
        if not self.place.is_main:
            return
        content: dict[str, Any] = {
            "identity": self.identity,
            "state": asdict(state),
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            **more,
        }
        if with_optimizer:
            content["optimizer"] = self.optimizer.state_dict()
            content["scaler"] = self.scaler.state_dict()
        checkpoint.save(self.checkpoints / name, content)

    def restore(self, path: Path) -> None:
        """Restore weights, buffers, optimiser state and position from a checkpoint.

        From a checkpoint outside ``checkpoints``, the best epoch and value are dropped, as they belong to another run.

        Raises:
            UserError: the checkpoint cannot be read, has another identity, weights that do not fit, too many epochs or
                an unfinished epoch of another length, or lacks the optimiser state that further training needs.
        """
        content = checkpoint.load(path, self.place.device)
        checkpoint.check_identity(content, self.identity, f"checkpoint '{path}'")
        checkpoint.load_weights(content, path, self.model, self.objective)
        self.state = TrainingState(**content["state"])
        if self.state.epoch > self.settings.max_epochs:
            raise UserError(
                f"checkpoint '{path}' has completed {self.state.epoch} epochs; trainer.max_epochs must not be smaller"
            )
        finished = self.state.stopped or self.state.epoch == self.settings.max_epochs
        if "optimizer" in content:
            with checkpoint.damage_reported(path):
                load_optimizer(self.optimizer, content["optimizer"])
                if content.get("scaler"):  # empty unless that run used fp16
                    self.scaler.load_state_dict(content["scaler"])
        elif not finished:
            raise UserError(
                f"checkpoint '{path}' has no optimiser state, so training cannot resume from it exactly; "
                "train the original run with trainer.keep_optimizer=true"
            )
        begun = content.get("begun_epoch")
        if begun is not None:
            with checkpoint.damage_reported(path):
                num_steps, mine = begun["num_steps"], begun["by_rank"][self.place.rank]
                self._begun = BegunEpoch.from_dict(mine)
            if num_steps != self.ingredients.train.steps_per_epoch:
                raise UserError(
                    f"checkpoint '{path}' was written in the middle of an epoch of {num_steps} steps, but "
                    f"this run has {self.ingredients.train.steps_per_epoch} per epoch; let the original run finish "
                    "the epoch first"
                )
        if path.parent.resolve() != self.checkpoints.resolve():
            self.state = TrainingState(epoch=self.state.epoch, step=self.state.step)
            more = {} if begun is None else {"begun_epoch": begun}
            self.save("last.ckpt", self.state, with_optimizer=True, **more)

    def begin_with(self, path: Path, must_agree: Collection[str]) -> None:
        """Load only the weights of another run.

        Args:
            path: checkpoint of the other run.
            must_agree: identity keys whose values must be equal for the weights to be meaningful.

        Raises:
            UserError: the checkpoint cannot be read, or its identity or weights do not fit; the message names the
                first difference.
        """
        content = checkpoint.load(path, self.place.device)
        expected = {key: self.identity[key] for key in must_agree}
        checkpoint.check_identity(content, expected, f"trainer.init_from: '{path}'")
        theirs, mine = content["model"], self.model.state_dict()
        wrong = [f"it lacks '{name}'" for name in mine if name not in theirs]
        wrong += [f"its '{name}' does not exist in this model" for name in theirs if name not in mine]
        wrong += [
            f"its '{name}' has shape {list(theirs[name].shape)}, that of this model {list(value.shape)}"
            for name, value in mine.items()
            if name in theirs and theirs[name].shape != value.shape
        ]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise UserError(f"trainer.init_from: '{path}' does not fit this model: {wrong[0]}{more}")
        try:
            self.model.load_state_dict(theirs)
        except RuntimeError as error:  # from a module that checks more than names and shapes
            detail = str(error).splitlines()[-1].strip()
            raise UserError(f"trainer.init_from: '{path}' does not fit this model: {detail}") from error

    def load_best(self) -> None:
        """Load the weights of ``best.ckpt``, written by the main rank."""
        collectives.barrier()
        path = self.checkpoints / "best.ckpt"
        checkpoint.load_weights(checkpoint.load(path, self.place.device), path, self.model, self.objective)

    def inputs(self, loader: EpochLoader) -> Iterator[Batch]:
        """Yield the batches of a loader on the device, with the model in evaluation mode."""
        self.model.eval()
        for batch in loader.epoch(0):
            yield batch.to(self.place.device, self.memory_format)

    @torch.no_grad()
    def outputs(self, loader: EpochLoader) -> Iterator[tuple[Batch, ModelOutput]]:
        """Yield batches with the outputs of the model in evaluation mode and the configured precision."""
        for batch in self.inputs(loader):
            with self.autocast():
                output = self.model(batch)
            yield batch, output
