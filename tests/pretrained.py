"""Small pretrained encoders on disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from menvae.encoders.resnet import ResNetEncoder
from menvae.latent import LatentLayout

CHECKPOINT = Path(tempfile.gettempdir()) / f"menvae-tests-{os.getuid()}" / "pretrained.pt"
TRANSFORMER = CHECKPOINT.with_name("transformer")
"""Where the conformance suite finds them: the same for all processes that collect tests."""


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


def transformer(kind: str = "Dinov2", seed: int = 7, **settings: Any) -> Any:
    """Return a vision transformer that is small, and as random as its seed; every weight of it counts."""
    import transformers

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4, "image_size": 16}
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**small, intermediate_size=32, **settings)
    )
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.2 * torch.randn_like(parameter)
    return model.eval()


def write_transformer(folder: Path, model: Any, **settings: Any) -> Path:
    """Save each file whole or not at all, for other processes may write the same."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        model.save_pretrained(temporary, **settings)
        for path in Path(temporary).iterdir():
            path.replace(folder / path.name)
    return folder
