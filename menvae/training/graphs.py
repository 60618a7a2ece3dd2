"""CUDA graphs: replays the forward and the backward pass of a model instead of launching its kernels one by one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from menvae.errors import UserError
from menvae.training.passes import random_state, set_random_state
from menvae.training.precision import autocast
from menvae.types import Batch, ModelOutput


class ReplayedModel(nn.Module):
    """A model on a GPU whose training passes are replayed from CUDA graphs (`torch.cuda.make_graphed_callables`).

    A training step launches some two thousand kernels; for a small box or a fast GPU the host takes longer to launch
    them than the GPU to run them. The graphs are captured at the first full batch. Batches of other sizes, such as the
    last of an epoch, and evaluation run the model itself.

    The tensors of an output are overwritten by the next batch: copy what has to live longer.
    """

    def __init__(self, model: nn.Module, batch_size: int, precision: str) -> None:
        """Wrap a model that is on a GPU.

        Args:
            model: a batch -> its output; its forward pass must not wait for the GPU.
            batch_size: rows of a full batch.
            precision: of the forward pass (see `menvae.training.settings.TrainerSettings`).
        """
        super().__init__()
        # gradients are accumulated on the stream of the capture, which torch takes for a mistake
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream", UserWarning)
        self.model, self.batch_size, self.precision = model, batch_size, precision
        self._captured: _Flat | None = None

    def forward(self, batch: Batch) -> ModelOutput:
        """Return the model's output."""
        if not (self.model.training and torch.is_grad_enabled() and len(batch) == self.batch_size):
            output: ModelOutput = self.model(batch)
            return output
        if self._captured is None:
            self._captured = self._capture(batch)
        return self._captured.replay(batch)

    def _capture(self, batch: Batch) -> _Flat:
        """Capture both passes; buffers and the state of random numbers stay as they are.

        Raises:
            UserError: the model cannot be captured.
        """
        flat = _Flat(self.model, batch, self.precision)
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        state = random_state(batch.inputs.device)
        try:
            with torch.autocast("cuda", enabled=False):
                torch.cuda.make_graphed_callables(flat, tuple(inputs_of(batch)), allow_unused_input=True)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                "trainer.cuda_graphs: true is not allowed; this model cannot be captured "
                f"({reason}); use trainer.cuda_graphs=false trainer.tune=off"
            ) from error
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        set_random_state(state)
        return flat


class _Flat(nn.Module):
    """The model as a function of tensors, which is what a graph takes and returns."""

    def __init__(self, model: nn.Module, example: Batch, precision: str) -> None:
        super().__init__()
        self.model, self.example, self.precision = model, example, precision
        self.output: ModelOutput | None = None

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors of a batch -> tensors of the output."""
        with autocast(tensors[0].device, self.precision, cached=False):  # cached casts would outlive the capture
            self.output = self.model(with_inputs(self.example, tensors))
        return tuple(self.output.tensors().values())

    def replay(self, batch: Batch) -> ModelOutput:
        """Return the output for a batch of the captured shapes."""
        found: tuple[Tensor, ...] = self(*inputs_of(batch))
        assert self.output is not None
        return self.output.with_tensors(dict(zip(self.output.tensors(), found, strict=True)))


def inputs_of(batch: Batch) -> list[Tensor]:
    """Return the tensors of a batch, in the order of its fields."""
    found: list[Tensor] = []
    batch.each(lambda value: found.append(value) or value)  # type: ignore[func-returns-value]
    return found


def with_inputs(batch: Batch, tensors: Sequence[Tensor]) -> Batch:
    """Return a batch with other tensors; the inverse of `inputs_of`."""
    rest = iter(tensors)
    return batch.each(lambda value: next(rest))
