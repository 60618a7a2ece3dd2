"""Interface of models that read the targets of a cohort directly from images."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class FeatureReader(Protocol):
    """Reads z-scored targets from images; frozen, independent of the model that is judged.

    Attributes:
        targets: names of the targets, in the order of the columns of `read`.
    """

    targets: tuple[str, ...]

    def read(self, images: Tensor) -> Tensor:
        """Return the z-scores of the targets [N, F] of images [N, C, D, H, W]."""
        ...
