"""One optimiser step: precision, gradient scaling, clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from menvae import collectives
from menvae.errors import TrainingDivergedError
from menvae.models import Model
from menvae.objective import Objective
from menvae.training.passes import Passes
from menvae.types import Batch, LossReport, ModelOutput, Progress
from menvae.updates import Side

_SMALLEST_LOSS_SCALE = 1e-4
"""Smallest fp16 loss scale, as in fairseq: the 30th overflow in a row from the initial 65536 is an error."""

_ROUNDING = 1e-4
"""Share of the largest norm within which float32 may round the factor of a gradient to less than 1."""


@dataclass(frozen=True)
class Optimisation:
    """Everything that the steps of a run share.

    Attributes:
        model: model to optimise.
        passes: how outputs and gradients are computed: for the whole batch at once, or for micro-batches.
        objective: objective to minimise.
        optimizer: optimizer of the model's parameters.
        scaler: loss scaler for fp16, otherwise disabled.
        device: device of the model.
        gradient_clip: largest L2 norm of the gradient; None: no clipping.
    """

    model: Model
    passes: Passes
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    gradient_clip: float | None

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the model; walking its modules at every step costs as much as a layer of a table."""
        return list(self.model.parameters())


@dataclass(frozen=True)
class StepTaken:
    """What a step of the loop leaves.

    Attributes:
        output: output of the model.
        report: losses, on the device.
        logged: `LossReport.logged` as numbers.
        gradient_norm: L2 norm of the gradient before clipping.
        stop_asked: whether any rank received a stop request; None: the ranks were not asked.
    """

    output: ModelOutput
    report: LossReport
    logged: Mapping[str, float]
    gradient_norm: float
    stop_asked: bool | None

    def losses(self) -> dict[str, float]:
        """Return the total as ``loss`` and every raw scalar."""
        return {name: self.logged[name] for name in ("loss", *self.report.scalars)}


@dataclass
class TrainingStep:
    """One batch as seen by an update (see `menvae.updates.Stepper`).

    The losses and the gradient norm are read from the device together, once an optimiser step: this is the only point
    where the process waits for the device, and both the check for values that are not finite and the log use it.

    Attributes:
        shared: what all steps share.
        batch: batch on the device.
        progress: position in training.
        step: number of earlier steps.
        epoch: epoch, counted from 1, for messages.
        is_stop_asked: whether this process has received a stop request, at the time of the call.
        stop_asked: whether any of several ranks has, as of the last step that was taken.
    """

    shared: Optimisation
    batch: Batch
    progress: Progress
    step: int
    epoch: int
    is_stop_asked: Callable[[], bool] = lambda: False
    stop_asked: bool = False
    _unread: list[LossReport] = field(default_factory=list)
    _read: list[tuple[LossReport, dict[str, float]]] = field(default_factory=list)

    def evaluate(self) -> tuple[ModelOutput, LossReport]:
        """Return the model's output and the losses of the batch, which `descend` or `logged` checks."""
        output = self.shared.passes.forward(self.batch)
        report: LossReport = self.shared.objective(self.batch, output, self.progress)
        self._unread.append(report)
        return output, report

    def logged(self, report: LossReport) -> dict[str, float]:
        """Return the values of `LossReport.logged`, without a wait if a step has read them.

        Raises:
            TrainingDivergedError: a term is not finite on at least one rank.
        """
        if self._unread:
            self._read_values()
        for known, values in self._read:
            if known is report:
                return values
        return {name: float(value) for name, value in report.logged().items()}  # an update has made its own report

    def descend(self, total: Tensor, only: Side | None = None) -> float:
        """Take one optimiser step and return the gradient's L2 norm before clipping.

        Args:
            total: loss, a scalar.
            only: side whose parameters change; None: both.

        Raises:
            TrainingDivergedError: a term is not finite on at least one rank, or a gradient is not, and a smaller fp16
                loss scale cannot prevent it.
        """
        parameters, optimizer, scaler = self.shared.parameters, self.shared.optimizer, self.shared.scaler
        for parameter in parameters:
            parameter.grad = None
        self.shared.passes.backward(scaler.scale(total))
        if only is not None:
            self._drop_gradients_except(only)
        scaler.unscale_(optimizer)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        (value,) = self._read_values(norm)  # equal on all ranks, as DDP averages gradients
        if not math.isfinite(value) and not self._may_skip():
            self._diverged("gradient of", list(self._broken_gradients()) or ["all parameters together"])
        limit = self.shared.gradient_clip
        if limit is not None and not value + 1e-6 < (1.0 - _ROUNDING) * limit:  # below, torch's factor is exactly 1
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        scaler.step(optimizer)  # skipped if an fp16 gradient overflowed; update() then halves the scale
        scaler.update()
        return value

    def _read_values(self, *others: Tensor) -> list[float]:
        """Wait for the device once, to read the losses of all reports that are not read yet, and other scalars.

        Returns:
            The other scalars.

        Raises:
            TrainingDivergedError: a term is not finite on at least one rank.
        """
        logged = [report.logged() for report in self._unread]
        values = torch.stack([value for one in logged for value in one.values()] + list(others))
        is_any_broken = False
        if collectives.num_ranks() == 1:
            numbers = iter(values.tolist())
        else:
            stop, broken_somewhere, *rest = torch.cat([self._votes().to(values.dtype), values]).tolist()
            self.stop_asked, is_any_broken, numbers = bool(stop), bool(broken_somewhere), iter(rest)
        broken: list[str] = []
        for report, one in zip(self._unread, logged, strict=True):
            read = dict(zip(one, numbers, strict=False))
            broken += [name for name in report.scalars if not math.isfinite(read[name])]
            self._read.append((report, read))
        self._unread.clear()
        if broken or is_any_broken:
            self._diverged("term", broken)
        return list(numbers)

    def _votes(self) -> Tensor:
        """Return whether any rank was asked to stop, and whether a term is not finite on any, as 0 or 1 each [2]."""
        raw = [scalar.raw.detach() for report in self._unread for scalar in report.scalars.values()]
        is_broken = ~torch.isfinite(torch.stack(raw)).all() if raw else torch.zeros((), device=self.shared.device)
        stop = torch.full((), float(self.is_stop_asked()), device=self.shared.device)
        return collectives.largest_over_ranks(torch.stack([stop, is_broken.to(stop.dtype)]))

    def _may_skip(self) -> bool:
        """Return whether a non-finite gradient may be an overflow that a smaller loss scale prevents."""
        scaler = self.shared.scaler
        return scaler.is_enabled() and scaler.get_scale() * scaler.get_backoff_factor() >= _SMALLEST_LOSS_SCALE

    def _drop_gradients_except(self, side: Side) -> None:
        """Remove the other side's gradients: optimisers skip such parameters, including moments and weight decay."""
        encoder = {id(parameter) for parameter in self.shared.model.encoder_parameters()}
        for parameter in self.shared.model.parameters():
            if (id(parameter) in encoder) != (side == "encoder"):
                parameter.grad = None

    def _broken_gradients(self) -> Iterator[str]:
        for name, parameter in self.shared.model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                yield name

    def _diverged(self, what: str, names: Sequence[str]) -> None:
        by_rank = collectives.gather_objects(list(names))
        rank, first = next((index, found) for index, found in enumerate(by_rank) if found)
        more = f" (and {len(first) - 1} more)" if len(first) > 1 else ""
        raise TrainingDivergedError(
            f"{what} '{first[0]}'{more} is not finite on rank {rank} in epoch {self.epoch}; "
            "the last checkpoint predates it; try a smaller optimizer.learning_rate or trainer.precision=fp32"
        )
