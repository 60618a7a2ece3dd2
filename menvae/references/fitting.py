"""Training of the networks of references: AdamW until the validation loss stops falling.

An exponential average of the weights is validated and kept (Polyak & Juditsky 1992): after a few epochs it is as
good as the weights themselves after a slow decay of the learning rate, so that the rate stays constant.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from menvae.errors import TrainingDivergedError
from menvae.layers import recomputed
from menvae.references.cohort import ReferenceCohort
from menvae.training.determinism import seed_everything
from menvae.types import Batch

_log = logging.getLogger(__name__)

SEED = 0
"""Seed of initial weights and dropout: references of a cohort do not depend on the seed of a run."""
LARGEST_GRADIENT = 1.0
"""Largest L2 norm of the gradient."""
AVERAGED = 0.98
"""Share of the average that a step keeps; less in the first steps."""
WARMUP_STEPS = 30
"""Steps in which the learning rate rises to its value."""
FEWEST_STEPS = 50
"""Steps between two validations; a longer epoch is completed first."""
MOST_STEPS = 20_000
PATIENCE = 2
"""Training ends after as many validations in a row without a clearly lower loss."""


@dataclass(frozen=True)
class Fit:
    """What training has come to.

    Attributes:
        steps: optimiser steps taken.
        best_step: step with the lowest validation loss, whose weights are kept.
        loss: that loss.
    """

    steps: int
    best_step: int
    loss: float


@contextmanager
def seeded(device: torch.device) -> Iterator[torch.Generator]:
    """Build and train a network from `SEED`, and restore the random state of the process; yields a generator."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed_everything(SEED)
        yield torch.Generator().manual_seed(SEED)


def in_chunks(network: nn.Module, chunk_size: int | None, *inputs: Tensor | None) -> Tensor:
    """Return the output of a network for a batch, in the memory that a chunk of the batch needs.

    In training, the activations of each chunk are computed again in the backward pass. The gradients are those of the
    whole batch up to rounding, also for losses that are no sum over subjects, if the network has no dropout and treats
    subjects independently of each other.

    Args:
        network: network of the inputs.
        chunk_size: subjects per chunk; None: the whole batch.
        inputs: inputs of the network, each with the subjects as first axis, or None.
    """
    num = max(len(value) for value in inputs if value is not None)
    size = num if chunk_size is None else chunk_size
    if num <= size:
        whole: Tensor = network(*inputs)
        return whole
    chunks = [
        [None if value is None else value[start : start + size] for value in inputs] for start in range(0, num, size)
    ]
    if not torch.is_grad_enabled():
        return torch.cat([network(*chunk) for chunk in chunks])
    buffers, outputs = list(network.buffers()), []
    before = [buffer.clone() for buffer in buffers]
    for chunk in chunks:
        with torch.no_grad():  # the vectors of a spectral norm change once per step, as with the whole batch
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        outputs.append(recomputed(network, buffers, *chunk))
    return torch.cat(outputs)


def fit(
    network: nn.Module,
    loss: Callable[[Batch], Tensor],
    validate: Callable[[], float],
    cohort: ReferenceCohort,
    *,
    learning_rate: float,
    least_fall: float,
    name: str,
) -> Fit:
    """Train a network on the training subjects, and leave it in evaluation mode with its best weights.

    Args:
        network: on the device of the cohort.
        loss: batch on the device -> loss, a scalar.
        validate: returns the loss of the validation subjects; called in evaluation mode, without gradients.
        cohort: provides batches and device.
        learning_rate: after the warm-up.
        least_fall: share of the validation loss by which it must fall to restart the patience.
        name: name of the reference, for the log.

    Raises:
        TrainingDivergedError: the validation loss is not finite.
    """
    optimiser = _Optimiser(network, learning_rate)
    best, best_state = Fit(0, 0, float("inf")), copy.deepcopy(network.state_dict())
    epoch = waited = judged_at = 0
    while optimiser.steps < MOST_STEPS and waited < PATIENCE:
        epoch += 1
        network.train()
        for stored in cohort.train.epoch(epoch):
            if len(stored) > 1 or cohort.train.steps_per_epoch == 1:  # batch norm needs two subjects
                optimiser.step(loss, cohort.on_device(stored))
        if optimiser.steps - judged_at < FEWEST_STEPS:
            continue
        judged_at = optimiser.steps
        network.eval()
        with optimiser.averaged():
            with torch.no_grad():
                value = validate()
            if value < best.loss:
                best_state = copy.deepcopy(network.state_dict())
        if not math.isfinite(value):
            raise TrainingDivergedError(f"{name}: the validation loss is not finite after {judged_at} steps")
        _log.info("%s: step %d, validation loss %.4f", name, judged_at, value)
        waited = waited + 1 if value > (1.0 - least_fall) * best.loss else 0
        if value < best.loss:
            best = Fit(judged_at, judged_at, value)
    network.load_state_dict(best_state)
    network.eval()
    return replace(best, steps=optimiser.steps)


class _Optimiser:
    """AdamW with warm-up, gradient clipping, and an average of the weights."""

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        self.steps, self._learning_rate = 0, learning_rate
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._adamw = torch.optim.AdamW(self._parameters, weight_decay=0.01, betas=(0.9, 0.99))
        self._averages = [parameter.detach().clone() for parameter in self._parameters]

    def step(self, loss: Callable[[Batch], Tensor], batch: Batch) -> None:
        """Take one step on a batch."""
        self.steps += 1
        self._adamw.param_groups[0]["lr"] = self._learning_rate * min(1.0, self.steps / WARMUP_STEPS)
        value = loss(batch)
        self._adamw.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, LARGEST_GRADIENT)
        self._adamw.step()
        kept = min(AVERAGED, self.steps / (self.steps + 10.0))
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            average.lerp_(parameter.detach(), 1.0 - kept)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the network the average of its weights, for a while."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for index, parameter in enumerate(self._parameters):
            parameter.data, self._averages[index] = self._averages[index], parameter.data
