"""``trainer.auto_batch``: the largest micro-batch that fits into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from menvae import collectives
from menvae.composition.experiment import Experiment
from menvae.errors import OutOfMemoryError
from menvae.models import Model
from menvae.objective import Objective
from menvae.resources.shortage import available_bytes, is_out_of_memory
from menvae.resources.trace import StepCost, TracedSetting, trace_step, without_values
from menvae.training.passes import (
    MicroBatches,
    Passes,
    WholeBatch,
    check_rows_are_independent,
    random_state,
    set_random_state,
)
from menvae.training.settings import TrainerSettings
from menvae.training.trainer import Trainer
from menvae.types import DTYPES, Batch

_log = logging.getLogger(__name__)

_SHARE_OF_AVAILABLE = 0.9  # the estimate of a step is right within a tenth
_COPIES_OF_OUTPUTS = 2  # of the whole batch, beside a micro-batch: the outputs and their gradients


def fit_into_memory(experiment: Experiment, trainer: Trainer) -> None:
    """Make a trainer use micro-batches if its batch does not fit into the memory that is left.

    On a GPU, steps are tried, and halved while they fail; on a CPU, where a process that asks for too much may be
    killed, the memory of a step is estimated. All ranks use the smallest micro-batch of any.

    Raises:
        UserError: a layer normalises over the batch.
        OutOfMemoryError: not even a single subject fits.
    """
    check_rows_are_independent(trainer.model)
    whole = trainer.settings.batch_size
    if trainer.place.device.type == "cuda":
        batch = next(iter(trainer.ingredients.train.epoch(0))).to(trainer.place.device, trainer.memory_format)
        found = largest_that_fits(len(batch), lambda num_rows: step_fits(trainer, batch, num_rows))
        found = whole if found == len(batch) else found
    else:
        found = estimated_rows(experiment, trainer, available_bytes())
    num_rows = min(collectives.gather_objects(found))
    if num_rows == 0:
        raise OutOfMemoryError("a step with a single subject does not fit")
    if num_rows >= whole:
        _log.info("trainer.auto_batch: a batch of %d fits into memory", whole)
        return
    _log.info("trainer.auto_batch: each batch of %d is split into micro-batches of %d", whole, num_rows)
    trainer.use_micro_batches(num_rows)


def largest_that_fits(num_rows: int, fits: Callable[[int], bool]) -> int:
    """Halve a number of rows until they fit; 0 if a single one does not.

    >>> [largest_that_fits(20, lambda rows: rows <= most) for most in (30, 7, 1, 0)]
    [20, 5, 1, 0]
    """
    while num_rows and not fits(num_rows):
        num_rows //= 2
    return num_rows


def step_fits(trainer: Trainer, batch: Batch, num_rows: int) -> bool:
    """Try the passes of a step in micro-batches of ``num_rows``, and leave the trainer as it was."""
    model, objective, place = trainer.model, trainer.objective, trainer.place
    state, buffers = random_state(place.device), [buffer.clone() for buffer in model.buffers()]
    model.train()
    objective.train()
    passes: Passes = WholeBatch(model, trainer.autocast)
    if num_rows < len(batch):
        passes = MicroBatches(model, model, trainer.autocast, num_rows)
    try:
        moments = [torch.empty_like(one) for one in model.parameters() for _ in range(2)]  # of the optimiser
        output = passes.forward(batch)
        with collectives.alone():
            report = objective(batch, output, trainer.ingredients.curriculum.progress(0.0, trainer.settings.max_epochs))
        passes.backward(report.total)
        del moments
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(value)
        set_random_state(state)
        if place.device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def estimated_rows(experiment: Experiment, trainer: Trainer, available: int) -> int:
    """Return how many rows of a step fit into ``available`` bytes; 0 if not even one.

    The memory of a step grows linearly with its rows, so two traced steps tell it for all; not that of one row, whose
    convolutions keep more on a CPU (`menvae.layers.Conv3d`).
    """
    whole = trainer.settings.batch_size
    two, three = (cost_of_step(experiment, trainer, num_rows) for num_rows in (2, 3))
    per_row = three.peak_bytes - two.peak_bytes
    room = _SHARE_OF_AVAILABLE * available - (two.peak_bytes - 2 * per_row - two.constant_bytes)
    if whole * per_row <= room:
        return whole
    room -= _COPIES_OF_OUTPUTS * whole * two.output_bytes / 2
    return max(0, min(whole, int(room / per_row)))


def cost_of_step(experiment: Experiment, trainer: Trainer, num_rows: int) -> StepCost:
    """Trace a step of ``num_rows`` rows in the middle of a run."""
    device = trainer.place.device.type
    return traced(experiment, trainer.model, trainer.objective, trainer.settings, num_rows, device)


def traced(
    experiment: Experiment, model: Model, objective: Objective, settings: TrainerSettings, num_rows: int, device: str
) -> StepCost:
    """Trace a step in the middle of a run of an experiment.

    Args:
        experiment: gives the shapes of data, the optimiser and the position in training.
        model: its model.
        objective: its objective.
        settings: how the step computes.
        num_rows: subjects of the step.
        device: kind of device, which need not exist here.
    """
    source = experiment.source
    batch = without_values(source.size, len(source.channels), num_rows, experiment.supervision, source.gives)
    setting = TracedSetting(device, DTYPES.get(settings.precision), settings.channels_last)
    return trace_step(model, objective, experiment.parts["optimizer"], batch, experiment.positions(3)[1], setting)
