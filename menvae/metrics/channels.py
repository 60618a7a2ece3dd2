"""Functions shared by metrics per modality or column."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from menvae.metrics import SplitRecord


def data_range(image: Tensor) -> Tensor:
    """Return max - min per subject and channel: [B, C, D, H, W] -> [B, C]."""
    flat = image.flatten(2)
    return flat.amax(dim=2) - flat.amin(dim=2)


def channel_means(record: SplitRecord, kind: str, channels: tuple[str, ...]) -> dict[str, float | None]:
    """Return ``val_epoch/<kind>_<channel>``: mean over the subjects that have the channel and a finite value.

    Args:
        record: record of a split with an array ``kind`` [N, C].
        kind: name of the array.
        channels: C names.
    """
    values = record.arrays[kind]
    counts = np.isfinite(values)
    if "available" in record.arrays:
        counts &= record.arrays["available"] > 0
    return {
        f"val_epoch/{kind}_{channel}": float(values[counts[:, index], index].mean()) if counts[:, index].any() else None
        for index, channel in enumerate(channels)
    }
