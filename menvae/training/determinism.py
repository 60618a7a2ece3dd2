"""Random numbers that depend only on seed and position, so that resuming needs no saved state."""

from __future__ import annotations

import numpy as np
import torch

from menvae.uncompiled import use_deterministic_algorithms


def seed_everything(seed: int) -> None:
    """Seed torch for the construction of a model."""
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed torch for one optimiser step, differently at every step and on every rank, and equally after a resume.

    Args:
        seed: seed of the run.
        step: optimiser steps completed since the start.
        rank: rank of this process.
        device: device of the run.
    """
    number = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
    if device.type == "cpu":
        # torch.manual_seed gives the same numbers, but formats the stack for the GPUs that it may have to seed later,
        # which takes a tenth of a step of a table
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)


def make_deterministic(device: torch.device) -> None:
    """Use deterministic kernels on CPU, where every operation used here has one.

    Filling new memory is disabled, because it costs a twentieth of each step and no operation here reads uninitialised
    memory (`menvae.layers.Conv3d` avoids the one in torch that does).
    """
    use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
