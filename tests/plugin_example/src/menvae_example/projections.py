"""An encoder that sees three projections of a volume."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from menvae.encoders import Encoder, Features
from menvae.encoders.trunk import GaussianHead
from menvae.errors import UserError
from menvae.latent import LatentLayout
from menvae.layers import Conv3d, norm
from menvae.registry import Field, register

VIEWS = {"sagittal": 2, "coronal": 3, "axial": 4}
"""View -> axis of [B, C, D, H, W] that it is projected along; menvae orders axes right, anterior, superior."""


class View(nn.Sequential):
    """Stride-2 convolutions, GroupNorm and ReLU on a projection.

    The projected axis is kept with size 1, and kernels have size 1 along it, because `Conv2d` does not support the
    memory formats of volumes.
    """

    def __init__(self, in_channels: int, axis: int, *, base_filters: int, num_halvings: int) -> None:
        kernel, stride, padding = _sides(axis, 1, 3), _sides(axis, 1, 2), _sides(axis, 0, 1)
        layers: list[nn.Module] = []
        for number in range(num_halvings):
            width = base_filters * 2**number
            layers += [Conv3d(in_channels, width, kernel, stride, padding, bias=False), norm(width), nn.ReLU()]
            in_channels = width
        super().__init__(*layers, nn.Flatten())


def _sides(axis: int, projected: int, other: int) -> tuple[int, int, int]:
    depth, height, width = (projected if place == axis else other for place in VIEWS.values())
    return depth, height, width


@register("encoder", "projections", reference="Prasoon et al. 2013 (triplanar network)")
class ProjectionEncoder(Encoder):
    """Sagittal, coronal and axial projections, each with a small 2D network.

    Prasoon et al. classify a voxel from the three planes through it; here, projections represent the whole box. As in
    the paper, the networks share no weights, and one linear layer joins them. Strides replace max pooling. At 32^3 the
    encoder needs 240 times fewer multiplications than ``resnet``.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        layout: LatentLayout,
        *,
        projection: Literal["mean", "maximum"] = "mean",
        base_filters: Annotated[int, Field(ge=8, multiple_of=8)] = 8,
        num_halvings: Annotated[int, Field(ge=1)] = 3,
        initial_logvar: float | None = -3.0,
    ) -> None:
        """Build the encoder.

        Args:
            in_channels: C, number of modalities.
            size: (D, H, W) in voxels.
            layout: the partitions of z.
            projection: ``mean``, or ``maximum``, which preserves small bright regions.
            base_filters: channels after the first convolution; each further one doubles them.
            num_halvings: number of convolutions of each view.
            initial_logvar: log variance of q(z|x) before training.

        Raises:
            UserError: a side of ``size`` is too small for ``num_halvings``.
        """
        super().__init__()
        self.projection = projection
        smallest = 2 ** (num_halvings + 1)  # so that GroupNorm has more than one value to normalise
        if min(size) < smallest:
            raise UserError(
                f"data.roi_size: {list(size)} has a side of {min(size)}, too small for encoder=projections; with "
                f"encoder.num_halvings={num_halvings} every side must be at least {smallest}"
            )
        self.views = nn.ModuleDict(
            {
                name: View(in_channels, axis, base_filters=base_filters, num_halvings=num_halvings)
                for name, axis in VIEWS.items()
            }
        )
        num_features = 0
        for axis in VIEWS.values():
            height, width = (-(-side // 2**num_halvings) for place, side in enumerate(size, start=2) if place != axis)
            num_features += base_filters * 2 ** (num_halvings - 1) * height * width
        self.head = GaussianHead(num_features, layout.z_dim, initial_logvar=initial_logvar)

    def features(self, inputs: Tensor, available: Tensor | None = None) -> Features:
        """Inputs [B, C, D, H, W] -> {view: [B, F]}; missing modalities are set to 0, the mean of z-scores."""
        if available is not None:
            inputs = inputs.masked_fill(~available[..., None, None, None], 0.0)
        project = torch.mean if self.projection == "mean" else torch.amax
        return {name: self.views[name](project(inputs, dim=axis, keepdim=True)) for name, axis in VIEWS.items()}

    def posterior(self, features: Features, *, isolated: bool = False) -> tuple[Tensor, Tensor]:
        """Features -> mean [B, Z], logvar [B, Z]; each latent reads its own row of the linear layers."""
        mean, logvar = self.head(torch.cat([features[name] for name in VIEWS], dim=1), None)
        return mean.float(), logvar.float()
