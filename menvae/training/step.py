"""One optimiser step: precision, gradient scaling, clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from menvae import collectives
from menvae.errors import TrainingDivergedError
from menvae.models import Model
from menvae.objective import Objective
from menvae.training.passes import Passes
from menvae.types import Batch, LossReport, ModelOutput, Progress
from menvae.updates import Side

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SMALLEST_LOSS_SCALE = 1e-4
"""Smallest fp16 loss scale, as in fairseq: the 30th overflow in a row from the initial 65536 is an error."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of ``precision`` (see `menvae.training.settings.TrainerSettings`)."""
    dtype = _AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


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
        precision: precision of the forward pass: ``fp32``, ``bf16`` or ``fp16``.
        gradient_clip: largest L2 norm of the gradient; None: no clipping.
    """

    model: Model
    passes: Passes
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: str
    gradient_clip: float | None

    def autocast(self) -> torch.autocast:
        """Return the autocast context of ``precision``."""
        return autocast(self.device, self.precision)


@dataclass(frozen=True)
class TrainingStep:
    """One batch as seen by an update (see `menvae.updates.Stepper`).

    Attributes:
        shared: what all steps share.
        batch: batch on the device.
        progress: position in training.
        step: number of earlier steps.
        epoch: epoch, counted from 1, for messages.
    """

    shared: Optimisation
    batch: Batch
    progress: Progress
    step: int
    epoch: int

    def evaluate(self) -> tuple[ModelOutput, LossReport]:
        """Return the model's output and the losses of the batch.

        Raises:
            TrainingDivergedError: a term is not finite on at least one rank.
        """
        output = self.shared.passes.forward(self.batch)
        report: LossReport = self.shared.objective(self.batch, output, self.progress)
        broken = [name for name, scalar in report.scalars.items() if not torch.isfinite(scalar.raw.detach())]
        if collectives.any_rank(bool(broken), self.shared.device):
            self._diverged("term", broken)
        return output, report

    def descend(self, total: Tensor, only: Side | None = None) -> float:
        """Take one optimiser step and return the gradient's L2 norm before clipping.

        Args:
            total: loss, a scalar.
            only: side whose parameters change; None: both.

        Raises:
            TrainingDivergedError: a gradient is not finite, and a smaller fp16 loss scale cannot prevent it.
        """
        model, optimizer, scaler = self.shared.model, self.shared.optimizer, self.shared.scaler
        optimizer.zero_grad(set_to_none=True)
        self.shared.passes.backward(scaler.scale(total))
        if only is not None:
            self._drop_gradients_except(only)
        scaler.unscale_(optimizer)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        value = norm.item()  # equal on all ranks, as DDP averages gradients
        if not math.isfinite(value) and not self._may_skip():
            self._diverged("gradient of", list(self._broken_gradients()) or ["all parameters together"])
        if self.shared.gradient_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), self.shared.gradient_clip, norm)
        scaler.step(optimizer)  # skipped if an fp16 gradient overflowed; update() then halves the scale
        scaler.update()
        return value

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
