"""An encoder that segments: partitions of measures of the tumour, and a residual to which the tumour is hidden."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from menvae.encoders import Encoder, Features, only_available
from menvae.encoders.resnet import DEFAULTS
from menvae.encoders.unet import CascadedUNet
from menvae.errors import UserError, about
from menvae.kernels.resizing import mean_of_boxes, smallest_of_boxes
from menvae.latent import LatentLayout
from menvae.layers import STRIDE, coarse_grid
from menvae.registry import Field, bind_inside, register
from menvae.statistics.regions import NUM_SHAPE_MEASURES, RegionMeter
from menvae.statistics.residualised_shape import ResidualisedShape
from menvae.statistics.running import RunningMean
from menvae.types import NUM_LABELS

Measure = Literal["volume", "location", "shape"]

MEASURED: Mapping[str, Measure] = {"vol": "volume", "loc": "location", "shape": "shape"}
NUM_MEASURES: Mapping[str, int] = {"volume": NUM_LABELS, "location": 3, "shape": NUM_SHAPE_MEASURES}

_OTHERS = "others."
_MEMORY = 400
"""Subjects that count in the average head."""
_SMALL = 1e-3
"""Keeps divisions by weights and variances of 0 finite."""


@register("encoder", "segmenting", reference="Ronneberger, Fischer & Brox 2015; menvae")
class SegmentingEncoder(Encoder):
    """A U-Net labels the voxels; some partitions are functions of what is measured on its labels, the rest of the head.

    The label shares, trained by the term ``segmentation``, are measured without gradient (`RegionMeter`), and each
    measured partition is a linear function of its measures, those of the shape without what volume and location say
    about them (`ResidualisedShape`). Images alone are enough to encode.

    The other partitions come from an encoder that does not see the voxels labelled as tumour. Its image is the
    deviation of the head from the average head of the training subjects (`deviation_from`); the tumour shows the mirror
    image of the other hemisphere, and 0 where there is tumour too. So the box must have the midsagittal plane in its
    middle.

    Attributes:
        average: mean over heads of normalised voxels times their weight [C, D', H', W'].
        average_weight: mean over heads of 1 for tissue outside the tumour, and 0 elsewhere.
        residualised_shape: removes what volume and location say about the measures of the shape.
    """

    offers = MappingProxyType(
        {"segmentation": "+term@loss.terms.segmentation=segmentation +loss.lambda_segmentation=1"}
    )
    commits = ("average", "average_weight", "volume", "location", "measured_shape")
    compares_hemispheres = True

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        layout: LatentLayout,
        *,
        measured: Mapping[str, Measure] = MEASURED,
        others: Mapping[str, Any] = DEFAULTS,
        others_stride: Literal[1, 2, 4] = 2,
        base_filters: Annotated[int, Field(ge=8, multiple_of=8)] = 16,
        fine_filters: Annotated[int, Field(ge=8, multiple_of=8)] = 8,
        fine_layers: Annotated[int, Field(ge=1)] = 2,
        crop: Annotated[float, Field(gt=0.0, le=1.0)] = 0.625,
        initial_logvar: float = -4.0,
    ) -> None:
        """Build the encoder.

        Args:
            in_channels: C, number of modalities.
            size: (D, H, W) in voxels, multiples of 16.
            layout: partitions of z.
            measured: partition -> what it is a function of.
            others: configuration of the encoder of the other partitions.
            others_stride: voxels per side of the boxes whose means the other partitions see; their grid is padded to
                multiples of 16 with 0, the average.
            base_filters: channels of the U-Net, which labels the voxels at half of the resolution.
            fine_filters: channels of the convolutions at full resolution, which correct these labels.
            fine_layers: number of them.
            crop: share of each side of the box in which they do.
            initial_logvar: log variance of the measured partitions before training; it is the same for all subjects.

        Raises:
            UserError: a side of ``size`` does not fit, a partition does not exist, or none is left to ``others``.
        """
        super().__init__()
        coarse_grid(size, "encoder=segmenting")
        with about("encoder.measured"):
            layout.chosen(list(measured), at_least=0)
        rest = [name for name in layout if name not in measured]
        if not rest:
            raise UserError(f"encoder.measured: {sorted(measured)} are all partitions; leave one, such as residual")
        self.layout, self.measured, self.stride = layout, dict(measured), others_stride
        self.segment = CascadedUNet(
            *(in_channels, NUM_LABELS, size),
            base_filters=base_filters,
            fine_filters=fine_filters,
            fine_layers=fine_layers,
            crop=crop,
        )
        self.meter = RegionMeter()
        self.partitions = nn.ModuleDict(
            {
                name: MeasuredPartition(NUM_MEASURES[what], layout.sizes[name], initial_logvar)
                for name, what in measured.items()
            }
        )
        self.seen_by_others = layout.of(rest)
        coarse = tuple(side // others_stride for side in size)
        whole = tuple(-(-side // STRIDE) * STRIDE for side in coarse)
        self.missing = [amount for had, side in zip(coarse, whole, strict=True) for amount in (side - had, 0)][::-1]
        bound = bind_inside("encoder", others, "encoder.others")
        self.others: Encoder = bound(in_channels, whole, self.seen_by_others)
        self.hierarchical = self.others.hierarchical
        self.average = RunningMean(in_channels, *coarse, memory=_MEMORY)
        self.average_weight = RunningMean(in_channels, *coarse, memory=_MEMORY)
        self.residualised_shape = ResidualisedShape()

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, C, D, H, W] -> ``segmentation`` [B, K, D, H, W], logits, measures, and features of the others."""
        inputs = only_available(inputs, available)
        logits = self.segment(inputs)
        with torch.no_grad():
            shares = logits.float().softmax(dim=1)
            measures = self.meter(shares)
            own_shape = self.residualised_shape(*measures)
            normal, weight, hidden = without_tumour(inputs, shares, self.stride)
            mean_head = self.average.value / self.average_weight.value.clamp(min=_SMALL)
            deviation = deviation_from(mean_head, normal, weight)
            seen = deviation + hidden * deviation.flip(2)
            weight = weight.expand_as(normal)
            if available is not None:
                weight = weight * available.reshape(*available.shape, 1, 1, 1)
        others = self.others.features(pad(seen, self.missing).to(inputs.dtype), available)
        return {
            "segmentation": logits,
            **measures._replace(shape=own_shape)._asdict(),
            **{f"{_OTHERS}{name}": value for name, value in others.items()},
            "average": normal * weight,
            "average_weight": weight,
            "measured_shape": measures.shape,
        }

    def posterior(self, features: Features, *, isolated: bool = False) -> tuple[Tensor, Tensor]:
        """Features -> mean [B, Z], logvar [B, Z]."""
        own = {name.removeprefix(_OTHERS): value for name, value in features.items() if name.startswith(_OTHERS)}
        mean, logvar = self.others.posterior(own, isolated=isolated)
        means, logvars = self.seen_by_others.split(mean), self.seen_by_others.split(logvar)
        for name, what in self.measured.items():
            means[name], logvars[name] = self.partitions[name](features[what])
        mean, logvar = (torch.cat([found[name] for name in self.layout], dim=1) for found in (means, logvars))
        return mean, logvar

    @torch.no_grad()
    def commit(self, features: Features) -> None:
        """Move the average head and the regression of the shape towards a training batch."""
        self.average.update(features["average"])
        self.average_weight.update(features["average_weight"])
        self.residualised_shape.update(features["volume"], features["location"], features["measured_shape"])


class MeasuredPartition(nn.Module):
    """Measures [B, F] -> mean [B, P] and log variance [B, P]; at first the first coordinates are the measures."""

    def __init__(self, num_measures: int, num_latents: int, initial_logvar: float) -> None:
        super().__init__()
        self.linear = nn.Linear(num_measures, num_latents)
        self.logvar = nn.Parameter(torch.full((num_latents,), initial_logvar))
        with torch.no_grad():
            nn.init.eye_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, measures: Tensor) -> tuple[Tensor, Tensor]:
        """Measures [B, F] -> mean [B, P], log variance [B, P]."""
        mean: Tensor = self.linear(measures)
        return mean, self.logvar.expand_as(mean)


def without_tumour(inputs: Tensor, shares: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise a head by its tissue outside the tumour, at a coarser resolution.

    Args:
        inputs: normalised images [B, C, D, H, W]; 0 in all channels outside the head.
        shares: of the labels [B, K, D, H, W]; the first is the background.
        stride: voxels per side of a coarse voxel.

    Returns:
        z-scores [B, C, D', H', W'], the weight of each coarse voxel, 0 in the tumour and outside the head
        [B, 1, D', H', W'], and how much of it the tumour hides.
    """
    # any(dim=1) takes twice as long on a CPU
    head = reduce(torch.logical_or, torch.split(inputs != 0, 1, dim=1)).float()
    part = mean_of_boxes(head, stride)
    coarse = mean_of_boxes(inputs.float(), stride) / part.clamp(min=_SMALL)
    tumour = 1.0 - smallest_of_boxes(shares[:, :1], stride)
    hidden = ((tumour - 0.1) / 0.4).clamp(0.0, 1.0)
    weight = (part > 0.3).float() * (1.0 - hidden)
    total = weight.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1.0)
    mean = (coarse * weight).sum(dim=(2, 3, 4), keepdim=True) / total
    spread = ((coarse - mean).square() * weight).sum(dim=(2, 3, 4), keepdim=True) / total
    return (coarse - mean) / (spread.sqrt() + _SMALL), weight, hidden


def deviation_from(mean_head: Tensor, normal: Tensor, weight: Tensor) -> Tensor:
    """Return how heads deviate from the average head, 0 where they have no weight [B, C, D', H', W'].

    Gain and offset of each channel are those of a regression on the average head at the voxels with weight. A mean and
    a standard deviation over these voxels would depend on which tissue the tumour hides, and so tell its volume.

    Args:
        mean_head: average head [C, D', H', W']; 0 before training, when the gain is 1.
        normal: z-scores [B, C, D', H', W'].
        weight: of each voxel [B, 1, D', H', W'].
    """
    axes = (2, 3, 4)
    total = weight.sum(dim=axes, keepdim=True).clamp(min=1.0)
    mean_head = mean_head.unsqueeze(0)
    offset_of_mean = (mean_head * weight).sum(dim=axes, keepdim=True) / total
    offset = (normal * weight).sum(dim=axes, keepdim=True) / total
    mean_head, normal = mean_head - offset_of_mean, normal - offset
    variance = (mean_head.square() * weight).sum(dim=axes, keepdim=True) / total
    covariance = (mean_head * normal * weight).sum(dim=axes, keepdim=True) / total
    gain = ((covariance + _SMALL) / (variance + _SMALL)).clamp(min=0.1)
    return (normal / gain - mean_head) * weight
