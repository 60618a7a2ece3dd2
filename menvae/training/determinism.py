"""Random numbers that depend only on seed and position, so that resuming needs no saved state."""

from __future__ import annotations

import numpy as np
import torch

from menvae.uncompiled import use_deterministic_algorithms


def seed_everything(seed: int) -> None:
    """Seed torch for the construction of a model."""
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one optimiser step, differently at every step and on every rank, and equally after a resume.

    Args:
        seed: seed of the run.
        step: optimiser steps completed since the start.
        rank: rank of this process.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def make_deterministic(device: torch.device) -> None:
    """Use deterministic kernels on CPU, where every operation used here has one.

    Filling new memory is disabled, because it costs a twentieth of each step and no operation here reads uninitialised
    memory (`menvae.layers.Conv3d` avoids the one in torch that does).
    """
    use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
