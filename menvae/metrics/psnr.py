"""Peak signal-to-noise ratio of volumes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from menvae.metrics import Direction, Means, SplitRecord
from menvae.metrics.channels import channel_means, data_range
from menvae.metrics.means import MetricOfMeans
from menvae.registry import register
from menvae.types import Batch, ModelOutput


@register("metric", "psnr")
class PeakSignalToNoise(MetricOfMeans):
    """Peak signal-to-noise ratio of the reconstruction, per modality: ``val_epoch/psnr_<modality>``.

    It averages over the subjects that have the modality and a finite ratio, which constant images and perfect
    reconstructions do not have; the peak is the range of the image.
    """

    direction: ClassVar[Direction | None] = "higher"
    unit = "dB"
    needs = frozenset({"inputs", "reconstruction"})
    absent = "every subject lacks the modality, or its image is constant or perfectly reconstructed"

    def meaning(self, key: str) -> str:
        """Name the modality."""
        return f"Peak signal-to-noise ratio of the reconstructed {key.removeprefix('val_epoch/psnr_')}."

    def names(self) -> list[str]:
        """One key per modality."""
        return [f"val_epoch/psnr_{channel}" for channel in self.context.channels] if self.context.size else []

    def observe(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``psnr`` [B, C]."""
        return {"psnr": psnr(batch.inputs.float(), output.reconstruction.float())}

    def means(self, record: SplitRecord) -> Means:
        """Average each modality over the subjects that have it."""
        return channel_means(record, "psnr", self.context.channels)


def psnr(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB per subject and channel; the peak is the range of the image.

    Args:
        image: [B, C, D, H, W].
        reconstruction: same shape.

    Returns:
        [B, C].
    """
    error = (image - reconstruction).square().flatten(2).mean(dim=2)
    return 10.0 * torch.log10(data_range(image).square() / error)
