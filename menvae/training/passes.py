"""Forward and backward passes of a step: over the whole batch at once, or over micro-batches with the same gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from menvae.errors import UserError
from menvae.models import Model
from menvae.types import Batch, ModelOutput

Autocast = Callable[[], AbstractContextManager[Any]]


class Passes(Protocol):
    """How a step computes the model's output and the gradients of the parameters."""

    def forward(self, batch: Batch) -> ModelOutput:
        """Return the output for a batch, which a loss can be differentiated by."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss of the output of the last `forward` to those of the parameters."""


class WholeBatch:
    """One forward and one backward pass."""

    def __init__(self, parallel: nn.Module, autocast: Autocast) -> None:
        """Args: parallel: the model, or its wrapper for several ranks. autocast: returns the context of precision."""
        self.parallel, self.autocast = parallel, autocast

    def forward(self, batch: Batch) -> ModelOutput:
        """See `Passes`."""
        with self.autocast():
            output: ModelOutput = self.parallel(batch)
        return output

    def backward(self, loss: Tensor) -> None:
        """See `Passes`."""
        loss.backward()  # type: ignore[no-untyped-call]


class MicroBatches:
    """The gradient of the whole batch in the activation memory of a micro-batch, for one more forward pass.

    A loss that compares subjects, such as a distance correlation, is not the mean of the losses of parts of the batch.
    So a first pass computes the outputs of all micro-batches without a graph; the loss of the joined outputs is
    differentiated by them; and a second pass computes each micro-batch again, and backpropagates the gradients of its
    outputs (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup").

    Both passes have the random numbers of the whole batch (`NoiseOfRows`), and buffers that a forward pass changes (the
    vectors of a spectral norm) start from the same values in every micro-batch. Results therefore equal those of the
    whole batch up to rounding.
    """

    def __init__(self, model: Model, parallel: nn.Module, autocast: Autocast, num_rows: int) -> None:
        """Prepare passes.

        Args:
            model: the model.
            parallel: the model, or its wrapper that averages gradients over ranks.
            autocast: returns the context of the precision.
            num_rows: rows of a micro-batch; the last of a batch may have fewer.

        Raises:
            UserError: a layer normalises over the batch, whose statistics micro-batches do not have.
        """
        check_rows_are_independent(model)
        self.model, self.parallel, self.autocast, self.num_rows = model, parallel, autocast, num_rows
        self._batch: Batch | None = None
        self._joined: dict[str, Tensor] = {}
        self._random: tuple[Tensor, Tensor | None] | None = None
        self._changing: list[tuple[Tensor, Tensor]] | None = None

    def forward(self, batch: Batch) -> ModelOutput:
        """See `Passes`; the output has no graph of the model."""
        self._batch, self._random = batch, random_state(batch.inputs.device)
        buffers = self._changing_buffers(batch) if self._changing is None else [buffer for buffer, _ in self._changing]
        self._changing = [(buffer, buffer.clone()) for buffer in buffers]
        pieces: dict[str, list[Tensor]] = {}
        last: ModelOutput | None = None
        for rows in self._rows(batch):
            with torch.no_grad():
                last = self._output_of(self.model, batch, rows)
            for name, tensor in last.tensors().items():
                pieces.setdefault(name, []).append(tensor)
        assert last is not None, "a batch has rows"
        joined = {name: torch.cat(parts) for name, parts in pieces.items()}
        self._joined = {name: one.requires_grad_(one.is_floating_point()) for name, one in joined.items()}
        return last.with_tensors(self._joined)

    def backward(self, loss: Tensor) -> None:
        """See `Passes`."""
        assert self._batch is not None, "forward comes first"
        leaves = [name for name, tensor in self._joined.items() if tensor.requires_grad]
        found = torch.autograd.grad(loss, [self._joined[name] for name in leaves], allow_unused=True)
        gradients = {name: gradient for name, gradient in zip(leaves, found, strict=True) if gradient is not None}
        after = random_state(self._batch.inputs.device)
        batch, parts = self._batch, list(self._rows(self._batch))
        for number, rows in enumerate(parts):
            with self._averaged(is_last=number == len(parts) - 1):
                output = self._output_of(self.parallel, batch, rows).tensors()
                names = [name for name in gradients if output[name].requires_grad]
                with NoiseOfRows(rows, len(batch)):  # recomputed activations draw again
                    torch.autograd.backward(
                        [output[name] for name in names], [gradients[name][rows.start : rows.stop] for name in names]
                    )
        set_random_state(after)
        self._batch, self._joined = None, {}

    def _rows(self, batch: Batch) -> Iterator[range]:
        for start in range(0, len(batch), self.num_rows):
            yield range(start, min(start + self.num_rows, len(batch)))

    def _output_of(self, module: nn.Module, batch: Batch, rows: range) -> ModelOutput:
        """Compute a micro-batch with the random numbers and the buffers that the whole batch begins with."""
        assert self._random is not None and self._changing is not None, "forward has stored them"  # noqa: PT018
        set_random_state(self._random)
        with torch.no_grad():
            for buffer, value in self._changing:
                buffer.copy_(value)
        with NoiseOfRows(rows, len(batch)), self.autocast():
            output: ModelOutput = module(batch.rows(rows))
        return output

    def _changing_buffers(self, batch: Batch) -> list[Tensor]:
        """Return the buffers that a forward pass changes; those of frozen parts are large, and stay as they are."""
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        versions = {name: buffer._version for name, buffer in self.model.named_buffers()}
        self._changing = []
        with torch.no_grad():
            self._output_of(self.model, batch, next(self._rows(batch)))
        found = {name: buffer for name, buffer in self.model.named_buffers() if buffer._version != versions[name]}
        with torch.no_grad():
            for name, buffer in found.items():
                buffer.copy_(before[name])
        return list(found.values())

    def _averaged(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Return the context in which ranks exchange gradients only with the last micro-batch."""
        if isinstance(self.parallel, DistributedDataParallel) and not is_last:
            return self.parallel.no_sync()
        return nullcontext()


def check_rows_are_independent(model: nn.Module) -> None:
    """Check that a model computes each row of a batch without the others; raises `UserError`."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise UserError(
                f"trainer.auto_batch: true is not allowed; '{name}' normalises over the whole batch, so micro-batches "
                "would give other results"
            )


def random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return the state of torch's random numbers on the CPU and on a CUDA device."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    """Restore the output of `random_state`, on the current CUDA device."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


class NoiseOfRows(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Gives some rows of a batch the random numbers that they have in the whole batch.

    Every random operation whose result has one row per row of the part is drawn for all rows of the batch, of which the
    part gets its own. As noise has the size of z and of small layers, this costs next to nothing.

    Rows are told by their number alone: every tensor, and every list of sizes, whose first number is that of the part's
    rows is taken for one row each. Noise of another meaning and this very length is drawn for the whole batch too.
    """

    def __init__(self, rows: range, num_rows: int) -> None:
        """Args: rows: the rows of the part. num_rows: rows of the whole batch."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows, self.num_rows = rows, num_rows

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call ``func``; draw random numbers for the whole batch."""
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags or len(self.rows) == self.num_rows:
            return func(*args, **kwargs)
        given = args[0]
        if isinstance(given, Tensor) and given.ndim and len(given) == len(self.rows):
            whole = self._whole(given)
            whole[self.rows.start : self.rows.stop] = given
            drawn = func(whole, *args[1:], **kwargs)
            if func._schema.is_mutable:
                return given.copy_(whole[self.rows.start : self.rows.stop])
            parts = drawn if isinstance(drawn, tuple) else (drawn,)
            found = tuple(part[self.rows.start : self.rows.stop] for part in parts)
            return found if isinstance(drawn, tuple) else found[0]
        if isinstance(given, list | tuple) and given and given[0] == len(self.rows):
            return func([self.num_rows, *given[1:]], *args[1:], **kwargs)[self.rows.start : self.rows.stop]
        return func(*args, **kwargs)

    def _whole(self, given: Tensor) -> Tensor:
        """Return zeros for all rows, in the memory format of the part's: random numbers are drawn in its order."""
        size = (self.num_rows, *given.shape[1:])
        outermost_first = sorted(range(given.ndim), key=torch.empty_like(given).stride, reverse=True)
        zeros = given.new_zeros([size[axis] for axis in outermost_first])
        return zeros.permute([outermost_first.index(axis) for axis in range(given.ndim)])
