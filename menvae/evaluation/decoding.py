"""Decoding after training, in the precision and the batch size of the run: its memory may suffice for no more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from menvae.metrics import Floats
from menvae.models import Model
from menvae.training.precision import autocast
from menvae.training.settings import TrainerSettings


def device_of(model: Model) -> torch.device:
    """Return the device of a model; the CPU for one without parameters."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def precision_of(model: Model, trainer: TrainerSettings) -> torch.autocast:
    """Return the context in which a model computes in the precision of its run."""
    return autocast(device_of(model), trainer.precision)


@torch.no_grad()
def decoded(model: Model, latents: Floats, trainer: TrainerSettings) -> Iterator[Tensor]:
    """Yield the decoded images of latents, one batch of the run after the other.

    Args:
        model: model in evaluation mode.
        latents: rows [N, Z].
        trainer: precision and batch size of the run.

    Yields:
        Images [B, C, D, H, W] in float32, on the device of the model.
    """
    z = torch.from_numpy(latents).float().to(device_of(model))
    for first in range(0, len(z), trainer.batch_size):
        with precision_of(model, trainer):
            images = model.decode(z[first : first + trainer.batch_size])
        yield images.float()


def first_channel(model: Model, latents: Floats, trainer: TrainerSettings) -> NDArray[np.float32]:
    """Return the first channel [N, D, H, W] of the images that `decoded` yields."""
    return np.concatenate([images[:, 0].cpu().numpy() for images in decoded(model, latents, trainer)])
