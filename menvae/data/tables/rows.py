"""Rows of a table -> batches, indexed from tensors in memory without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from menvae.data.batches.order import order_of_rank
from menvae.types import Batch

_BATCHES_AT_ONCE = 32
"""Batches whose rows are gathered in one piece: fewer and larger copies, of which batches are views."""


class RowLoader:
    """Batches of rows, epoch by epoch; all ranks get the same number of batches of the same sizes.

    If a single row of all ranks remains, it joins the last batch of the epoch, because batch normalisation cannot
    handle one row.
    """

    def __init__(
        self,
        inputs: NDArray[np.float32],
        labels: NDArray[np.int64] | None,
        subject_id: NDArray[np.str_],
        batch_size: int,
        *,
        targets: Mapping[str, NDArray[np.float32]] | None = None,
        patient_id: NDArray[np.str_] | None = None,
        seed: int | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        """Keep the rows.

        Args:
            inputs: standardised values [N, F].
            labels: class indices [N], -1 where not observed, or None.
            subject_id: name of each row [N].
            batch_size: rows per rank and step.
            targets: partition -> z-scored targets [N, P], NaN where not observed. None: no partition is supervised.
            patient_id: unit that each row belongs to [N], such as a patient or a drill hole; None: each to its own.
            seed: seed of the order, reshuffled every epoch; None keeps the original order.
            rank: rank of this process.
            num_ranks: number of ranks.
        """
        self._inputs = from_numpy(inputs)
        self._labels: Tensor | None = None if labels is None else from_numpy(labels)
        known = targets or {}
        self._observed = {name: from_numpy(~np.isnan(values)) for name, values in known.items()}
        self._targets = {name: from_numpy(np.nan_to_num(values, nan=0.0)) for name, values in known.items()}
        self._subject_id = subject_id.astype(object)
        self._patient_id = None if patient_id is None else patient_id.astype(object)
        self._seed, self._rank, self._num_ranks = seed, rank, num_ranks
        per_rank = -(-len(inputs) // num_ranks)
        full, rest = divmod(per_rank, batch_size)
        self.steps_per_epoch = max(1, full + (rest * num_ranks > 1))
        self._bounds = [step * batch_size for step in range(self.steps_per_epoch)] + [per_rank]

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, starting at ``first_step``."""
        order = order_of_rank(len(self._inputs), self._seed, epoch, self._rank, self._num_ranks, self._bounds)
        for first in range(first_step, self.steps_per_epoch, _BATCHES_AT_ONCE):
            bounds = self._bounds[first : first + _BATCHES_AT_ONCE + 1]
            chosen = order[bounds[0] : bounds[-1]]
            rows, subjects = from_numpy(chosen), self._subject_id[chosen].tolist()
            patients = [] if self._patient_id is None else self._patient_id[chosen].tolist()
            inputs, labels = self._inputs[rows], None if self._labels is None else self._labels[rows]
            targets = {name: values[rows] for name, values in self._targets.items()}
            observed = {name: values[rows] for name, values in self._observed.items()}
            for start, stop in pairwise(bounds):
                some = slice(start - bounds[0], stop - bounds[0])
                yield Batch(
                    inputs=inputs[some],
                    subject_id=tuple(subjects[some]),
                    targets={name: values[some] for name, values in targets.items()},
                    observed={name: values[some] for name, values in observed.items()},
                    labels=None if labels is None else labels[some],
                    patient_id=tuple(patients[some]),
                )
