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

    def read(self, images: Tensor, available: Tensor | None = None) -> Tensor:
        """Return the z-scores of the targets [N, F] of images.

        Args:
            images: images [N, C, D, H, W]; channels that are not available may have any value.
            available: channels that each subject has, bool [N, C]; None: all.
        """
        ...
