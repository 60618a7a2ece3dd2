"""Memory of rows of earlier batches and their distances, shared by the independence terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from menvae.latent import LatentLayout
from menvae.statistics.pairwise import distances_of

GradientScale = Literal["batch", "all_rows"]
"""``batch``: derivative with respect to the rows of the batch; ``all_rows``: see `JoinedRows.with_gradient_of`."""


@dataclass(frozen=True)
class JoinedRows:
    """Rows of a batch joined with those of earlier batches: N rows in total, B of them new, K blocks of columns.

    Attributes:
        border: distances [K, B, N] from the batch's rows to all rows, with gradient.
        age_border: squared age differences [1, B, N] of these rows, in steps.
        inner_and_ages: distances and squared age differences [K + 1, N, N] between all rows, constant; entries of the
            batch's rows are undefined. None if B = N.
        slots: indices of the batch's rows [B].
    """

    border: Tensor
    age_border: Tensor
    inner_and_ages: Tensor | None
    slots: Tensor

    @property
    def num_rows(self) -> int:
        """N."""
        return self.border.shape[-1]

    @property
    def inner(self) -> Tensor | None:
        """Distances [K, N, N] between all rows; see ``inner_and_ages``."""
        return None if self.inner_and_ages is None else self.inner_and_ages[:-1]

    @property
    def border_and_ages(self) -> Tensor:
        """``border`` and ``age_border`` [K + 1, B, N]."""
        return torch.cat([self.border, self.age_border])

    def with_gradient_of(self, value: Tensor, scale: GradientScale) -> Tensor:
        """Return ``value``, with its gradient multiplied by N / B if ``scale`` is ``all_rows``.

        A statistic of N rows depends on each by about 1 / N. Only the B rows of the batch have a gradient, so that of
        the weights is B / N of the gradient with all rows recomputed at every step. The factor N / B makes it an
        estimate of the latter, independent of the size of the memory. The value already is the statistic of all rows
        and does not change.
        """
        if scale == "batch" or self.inner_and_ages is None:
            return value
        constant = value.detach()
        return constant + self.num_rows / len(self.slots) * (value - constant)


class RowMemory(nn.Module):
    """First-in first-out memory of detached rows of earlier batches, with the distances between them.

    Rows lie in a ring buffer: new rows take the slots of the oldest, permanently in `push` and temporarily in `joined`,
    so that a step computes only the distances of its own rows. Checkpoints omit the distances between stored rows;
    loading recomputes them exactly.
    """

    rows: Tensor
    steps: Tensor
    num_filled: Tensor
    next_slot: Tensor
    _distances: Tensor

    def __init__(self, size: int, layout: LatentLayout, partitions: Sequence[str]) -> None:
        """Allocate the buffers.

        Args:
            size: S, total number of rows of batch and memory; 0: no memory.
            layout: layout of the rows.
            partitions: the K blocks of columns between which distances are computed.
        """
        super().__init__()
        self.size = size
        self.bounds = [layout.bounds(partition) for partition in partitions]
        self.register_buffer("rows", torch.zeros(size, layout.z_dim))
        self.register_buffer("steps", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("num_filled", torch.tensor(0))
        self.register_buffer("next_slot", torch.tensor(0))
        # K blocks, then the ages
        distances = torch.zeros(len(self.bounds) + 1, size, size, dtype=torch.float64)
        self.register_buffer("_distances", distances, persistent=False)
        self._num_filled, self._next_slot = 0, 0  # copies of the buffers, to avoid a GPU synchronisation
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]

    def newest_first(self) -> Tensor:
        """Return the stored rows [filled, Z], newest first."""
        order = torch.arange(self._num_filled, device=self.rows.device)
        return self.rows[(self._next_slot - 1 - order) % max(1, self.size)]

    def remembered_distances(self) -> Tensor:
        """Return the distances [K, filled, filled] between the stored rows."""
        return self._distances[:-1, : self._num_filled, : self._num_filled]

    def joined(self, rows_BZ: Tensor) -> JoinedRows:
        """Return a batch's rows with the newest stored ones, up to ``size`` rows; a larger batch is used alone."""
        num_new = len(rows_BZ)
        if num_new >= self.size or self._num_filled == 0:
            return self.alone(rows_BZ)
        num_rows, slots = min(self.size, self._num_filled + num_new), self._slots(num_new)
        all_rows, steps = self.rows[:num_rows].to(rows_BZ.dtype), self.steps[:num_rows].clone()
        all_rows = all_rows.index_copy(0, slots, rows_BZ.detach())
        steps[slots] = self._step()
        border = distances_of(rows_BZ, all_rows, self.bounds)
        inner = self._distances[:, :num_rows, :num_rows]
        return JoinedRows(border, _squared_age_differences(steps, slots), inner, slots)

    def alone(self, rows_BZ: Tensor) -> JoinedRows:
        """Return rows without any stored ones, such as those of a whole split in evaluation."""
        num_rows = len(rows_BZ)
        border = distances_of(rows_BZ, rows_BZ, self.bounds)
        slots = torch.arange(num_rows, device=rows_BZ.device)
        return JoinedRows(border, border.new_zeros(1, num_rows, num_rows), None, slots)

    @torch.no_grad()
    def push(self, rows_BZ: Tensor) -> None:
        """Store a batch's rows; of more than ``size``, only the first ``size``."""
        newest = rows_BZ[: self.size].to(self.rows.dtype)
        if len(newest) == 0:
            return
        slots = self._slots(len(newest))
        step = self._step()
        self.rows[slots], self.steps[slots] = newest, step
        self._compute_distances(slots)
        self._num_filled = min(self.size, self._num_filled + len(newest))
        self._next_slot = (self._next_slot + len(newest)) % self.size
        self.num_filled.fill_(self._num_filled)
        self.next_slot.fill_(self._next_slot)

    def _slots(self, num_new: int) -> Tensor:
        """Return the slots of the next rows; the last row of a batch takes the slot to be overwritten first."""
        return (self._next_slot + num_new - 1 - torch.arange(num_new, device=self.rows.device)) % self.size

    def _step(self) -> Tensor:
        return self.steps.amax() + 1

    def _compute_distances(self, slots: Tensor) -> None:
        border = distances_of(self.rows[slots], self.rows, self.bounds)
        border = torch.cat([border, _squared_age_differences(self.steps, slots)])
        self._distances[:, slots] = border
        self._distances[:, :, slots] = border.transpose(1, 2)

    @torch.no_grad()
    def _restore(self) -> None:
        self._num_filled, self._next_slot = int(self.num_filled), int(self.next_slot)
        if self.size:
            self._compute_distances(torch.arange(self.size, device=self.rows.device))


def _after_loading(memory: nn.Module, _: Any) -> None:
    assert isinstance(memory, RowMemory)
    memory._restore()


def _squared_age_differences(steps_S: Tensor, slots_B: Tensor) -> Tensor:
    # Squared, because distances in many dimensions grow with the square of a small drift: for a drift of 1 sd, the
    # partial distance correlation is 0.00 instead of 0.02.
    return (steps_S[slots_B, None] - steps_S).double().square()[None]
