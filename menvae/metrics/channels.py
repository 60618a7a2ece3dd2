"""Functions shared by metrics per modality or column."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from menvae.metrics import Means, SplitRecord
from menvae.metrics.means import observed, ratios


def data_range(image: Tensor) -> Tensor:
    """Return max - min per subject and channel: [B, C, D, H, W] -> [B, C]."""
    flat = image.flatten(2)
    return flat.amax(dim=2) - flat.amin(dim=2)


def channel_means(record: SplitRecord, kind: str, channels: tuple[str, ...]) -> Means:
    """Return ``val_epoch/<kind>_<channel>``: mean over the subjects that have the channel and a finite value.

    Args:
        record: record of a split with an array ``kind`` [N, C].
        kind: name of the array.
        channels: C names.
    """
    values = record.arrays[kind]
    known = np.isfinite(values) & (record.arrays.get("available", np.ones_like(values)) > 0)
    return ratios(
        {
            f"val_epoch/{kind}_{channel}": observed(values[:, place], known[:, place])
            for place, channel in enumerate(channels)
        }
    )
