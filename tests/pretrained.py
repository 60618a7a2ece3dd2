"""A small pretrained encoder on disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from menvae.encoders.resnet import ResNetEncoder
from menvae.latent import LatentLayout

CHECKPOINT = Path(tempfile.gettempdir()) / f"menvae-tests-{os.getuid()}" / "pretrained.pt"
"""Where the conformance suite finds it: the same for all processes that collect tests."""


def pretrained(num_modalities: int = 2, seed: int = 7, **settings: Any) -> ResNetEncoder:
    """Return an encoder that is small, and as random as its seed."""
    torch.manual_seed(seed)
    return ResNetEncoder(num_modalities, (16, 16, 16), LatentLayout({"all": 3}), **{"base_filters": 8, **settings})


def write(path: Path, content: Any) -> Path:
    """Save whole or not at all, for other processes may write the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    torch.save(content, temporary)
    temporary.replace(path)
    return path
