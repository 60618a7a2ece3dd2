"""Random numbers that depend on seed and position alone, so that a resumed run needs no saved state."""

from __future__ import annotations

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the construction of a model."""
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one optimiser step: other numbers at every step and on every rank, the same after a resume.

    Args:
        seed: of the run.
        step: optimiser steps done since the beginning.
        rank: of this process.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def make_deterministic(device: torch.device) -> None:
    """Ask for deterministic kernels on CPU, where every operation used here has one.

    New memory is not filled first, which would cost a twentieth of each step: no operation here reads what it has not
    written (`menvae.layers.Conv3d` avoids the one of torch that does).
    """
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
