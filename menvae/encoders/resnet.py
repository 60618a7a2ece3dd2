"""ResNet encoder of Run 6: a stride-2 stem and four layers of two post-activation basic blocks."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn

from menvae.layers import coarse_grid, conv, norm
from menvae.registry import Field, register


class BasicBlock(nn.Module):
    """conv3-GN-ReLU-conv3-GN-add-ReLU (He et al. 2016); 1x1x1 convolution and GN where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, spectral: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(in_channels, out_channels, 3, stride=stride, bias=False, spectral=spectral),
            norm(out_channels),
            nn.ReLU(inplace=True),
            conv(out_channels, out_channels, 3, bias=False, spectral=spectral),
            norm(out_channels),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.skip = nn.Sequential(
                conv(in_channels, out_channels, 1, stride=stride, bias=False, spectral=spectral), norm(out_channels)
            )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> [B, C', D / stride, H / stride, W / stride]."""
        out: Tensor = self.activation(self.body(x) + self.skip(x))
        return out


@register("encoder", "resnet", reference="He et al. 2016; SemiVAE Run 6")
class ResNetEncoder(nn.Module):
    """Stem C -> b at stride 2, layers b, 2b, 4b, 8b (strides 1, 2, 2, 2), pooling, linear mean and logvar."""

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        z_dim: int,
        *,
        base_filters: Annotated[int, Field(ge=8, multiple_of=8)] = 16,
        pool: Literal["flatten", "average"] = "flatten",
        spectral_norm: bool = False,
    ) -> None:
        """Build the encoder.

        Args:
            in_channels: C, number of modalities.
            size: (D, H, W) in voxels, multiples of 16.
            z_dim: Z.
            base_filters: b, channels of the stem.
            pool: ``flatten`` the coarsest grid, which keeps positions, or global ``average``.
            spectral_norm: on every convolution, not on the linear heads.

        Raises:
            UserError: a side of ``size`` is not a multiple of 16.
        """
        super().__init__()
        grid = coarse_grid(size, "encoder=resnet")
        self.stem = nn.Sequential(
            conv(in_channels, base_filters, 3, stride=2, bias=False, spectral=spectral_norm),
            norm(base_filters),
            nn.ReLU(inplace=True),
        )
        widths = [base_filters * factor for factor in (1, 2, 4, 8)]
        blocks: list[nn.Module] = []
        width_in = base_filters
        for width, stride in zip(widths, (1, 2, 2, 2), strict=True):
            blocks += [BasicBlock(width_in, width, stride, spectral_norm), BasicBlock(width, width, 1, spectral_norm)]
            width_in = width
        self.layers = nn.Sequential(*blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool3d(1) if pool == "average" else nn.Identity(), nn.Flatten())
        num_features = width_in * (1 if pool == "average" else grid[0] * grid[1] * grid[2])
        self.mean = nn.Linear(num_features, z_dim)
        self.logvar = nn.Linear(num_features, z_dim)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [B, C, D, H, W] -> mean [B, Z], logvar [B, Z], not yet clamped."""
        features = self.pool(self.layers(self.stem(inputs)))
        return self.mean(features), self.logvar(features)
