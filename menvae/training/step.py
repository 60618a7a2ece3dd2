"""One optimiser step: precision, gradient scaling, clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from menvae import collectives
from menvae.errors import TrainingDivergedError
from menvae.models import Model
from menvae.objective import Objective
from menvae.types import Batch, LossReport, ModelOutput, Progress
from menvae.updates import Side

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SMALLEST_LOSS_SCALE = 1e-4
"""Where fp16 gives up, as in fairseq: thirty halvings in a row from the first scale of 65536."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision (see `menvae.training.settings.TrainerSettings`)."""
    dtype = _AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


@dataclass(frozen=True)
class Optimisation:
    """What all steps of a run share.

    Attributes:
        model: its parameters are optimised.
        parallel: the model, or what averages its gradients over ranks.
        objective: what is minimised.
        optimizer: of the model's parameters.
        scaler: of the loss in fp16, else disabled.
        device: of the model.
        precision: of the model's forward pass: ``fp32``, ``bf16`` or ``fp16``.
        gradient_clip: largest L2 norm of the gradient, or None.
    """

    model: Model
    parallel: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: str
    gradient_clip: float | None

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the precision."""
        return autocast(self.device, self.precision)


@dataclass(frozen=True)
class TrainingStep:
    """What an update is given for one batch (see `menvae.updates.Stepper`).

    Attributes:
        shared: what all steps have in common.
        batch: on the device.
        progress: where training stands.
        step: optimiser steps done before this one.
        epoch: counted from 1, for messages.
    """

    shared: Optimisation
    batch: Batch
    progress: Progress
    step: int
    epoch: int

    def evaluate(self) -> tuple[ModelOutput, LossReport]:
        """Return the model's output and the losses of the batch.

        Raises:
            TrainingDivergedError: a term is not finite on some rank.
        """
        with self.shared.autocast():
            output: ModelOutput = self.shared.parallel(self.batch)
        report: LossReport = self.shared.objective(self.batch, output, self.progress)
        broken = [name for name, scalar in report.scalars.items() if not torch.isfinite(scalar.raw.detach())]
        if collectives.any_rank(bool(broken), self.shared.device):
            self._diverged("term", broken)
        return output, report

    def descend(self, total: Tensor, only: Side | None = None) -> float:
        """Take one optimiser step and return the gradient's L2 norm before clipping.

        Args:
            total: the loss, without dimensions.
            only: whose parameters change; None: all.

        Raises:
            TrainingDivergedError: a gradient is not finite, and no smaller loss scale of fp16 can mend it.
        """
        model, optimizer, scaler = self.shared.model, self.shared.optimizer, self.shared.scaler
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if only is not None:
            self._forget_gradients(beside=only)
        scaler.unscale_(optimizer)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        value = norm.item()  # averaged over ranks by DDP, so all ranks see the same
        if not math.isfinite(value) and not self._may_skip():
            self._diverged("gradient of", list(self._broken_gradients()) or ["all parameters together"])
        if self.shared.gradient_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), self.shared.gradient_clip, norm)
        scaler.step(optimizer)  # in fp16, not where a gradient overflowed: the scale is then halved
        scaler.update()
        return value

    def _may_skip(self) -> bool:
        """Whether a gradient that is not finite is an overflow that a smaller scale can mend."""
        scaler = self.shared.scaler
        return scaler.is_enabled() and scaler.get_scale() * scaler.get_backoff_factor() >= _SMALLEST_LOSS_SCALE

    def _forget_gradients(self, beside: Side) -> None:
        """An optimiser leaves parameters without a gradient as they are, their moments and weight decay too."""
        encoder = {id(parameter) for parameter in self.shared.model.encoder_parameters()}
        for parameter in self.shared.model.parameters():
            if (id(parameter) in encoder) != (beside == "encoder"):
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
            "the last checkpoint is from before; try a smaller optimizer.learning_rate or trainer.precision=fp32"
        )
