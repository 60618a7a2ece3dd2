"""One optimiser step: precision, gradient scaling, clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from menvae import collectives
from menvae.errors import TrainingDivergedError
from menvae.training.trainer import Trainer
from menvae.types import Batch, LossReport, ModelOutput, Progress
from menvae.updates import Side

_SMALLEST_LOSS_SCALE = 1e-4
"""Where fp16 gives up, as in fairseq: thirty halvings in a row from the first scale of 65536."""


@dataclass(frozen=True)
class TrainingStep:
    """What the trainer lends to an update for one batch (see `menvae.updates.Stepper`)."""

    trainer: Trainer
    batch: Batch
    progress: Progress
    step: int

    def evaluate(self) -> tuple[ModelOutput, LossReport]:
        with self.trainer.autocast():
            output: ModelOutput = self.trainer.parallel(self.batch)
        report: LossReport = self.trainer.objective(self.batch, output, self.progress)
        broken = [name for name, scalar in report.scalars.items() if not torch.isfinite(scalar.raw.detach())]
        if collectives.any_rank(bool(broken), self.trainer.place.device):
            self._diverged("term", broken)
        return output, report

    def descend(self, total: Tensor, only: Side | None = None) -> float:
        model, optimizer, scaler = self.trainer.model, self.trainer.optimizer, self.trainer.scaler
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
        if self.trainer.settings.gradient_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), self.trainer.settings.gradient_clip, norm)
        scaler.step(optimizer)  # in fp16, not where a gradient overflowed: the scale is then halved
        scaler.update()
        return value

    def _may_skip(self) -> bool:
        """Whether a gradient that is not finite is an overflow that a smaller scale can mend."""
        scaler = self.trainer.scaler
        return scaler.is_enabled() and scaler.get_scale() * scaler.get_backoff_factor() >= _SMALLEST_LOSS_SCALE

    def _forget_gradients(self, beside: Side) -> None:
        """An optimiser leaves parameters without a gradient as they are, their moments and weight decay too."""
        encoder = {id(parameter) for parameter in self.trainer.model.encoder_parameters()}
        for parameter in self.trainer.model.parameters():
            if (id(parameter) in encoder) != (beside == "encoder"):
                parameter.grad = None

    def _broken_gradients(self) -> Iterator[str]:
        for name, parameter in self.trainer.model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                yield name

    def _diverged(self, what: str, names: Sequence[str]) -> None:
        by_rank = collectives.gather_objects(list(names))
        rank, first = next((index, found) for index, found in enumerate(by_rank) if found)
        more = f" (and {len(first) - 1} more)" if len(first) > 1 else ""
        raise TrainingDivergedError(
            f"{what} '{first[0]}'{more} is not finite on rank {rank} in epoch {self.trainer.state.epoch + 1}; "
            "the last checkpoint is from before; try a smaller optimizer.learning_rate or trainer.precision=fp32"
        )
