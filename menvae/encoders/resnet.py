"""ResNet encoder of Run 6: a stride-2 stem and four layers of two post-activation basic blocks."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn

from menvae.layers import Recomputable, coarse_grid, conv, norm
from menvae.registry import Field, register


class BasicBlock(Recomputable):
    """conv3-GN-ReLU-conv3-GN-add-ReLU (He et al. 2016); 1x1x1 convolution and GN where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, gain: float, spectral: bool) -> None:
        super().__init__()
        last_norm = norm(out_channels)
        nn.init.constant_(last_norm.weight, gain)
        self.body = nn.Sequential(
            conv(in_channels, out_channels, 3, stride=stride, bias=False, spectral=spectral),
            norm(out_channels),
            nn.ReLU(inplace=True),
            conv(out_channels, out_channels, 3, bias=False, spectral=spectral),
            last_norm,
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.skip = nn.Sequential(
                conv(in_channels, out_channels, 1, stride=stride, bias=False, spectral=spectral), norm(out_channels)
            )
        self.activation = nn.ReLU(inplace=True)

    def compute(self, x: Tensor) -> Tensor:
        """X [B, C, D, H, W] -> [B, C', D / stride, H / stride, W / stride]."""
        out: Tensor = self.activation(self.body(x) + self.skip(x))
        return out


@register("encoder", "resnet", reference="He et al. 2016; SemiVAE Run 6")
class ResNetEncoder(nn.Module):
    """Stem C -> b at stride 2, layers b, 2b, 4b, 8b (strides 1, 2, 2, 2), pooling, linear mean and logvar.

    The mean may also get a linear share of the block means of the input, past all layers.
    """

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int, int],
        z_dim: int,
        *,
        base_filters: Annotated[int, Field(ge=8, multiple_of=8)] = 16,
        pool: Literal["flatten", "average"] = "flatten",
        residual_gain: Annotated[float, Field(gt=0.0)] = 0.1,
        block_means: Annotated[int, Field(ge=1)] | None = 8,
        initial_logvar: float | None = -3.0,
        spectral_norm: bool = False,
    ) -> None:
        """Build the encoder.

        Args:
            in_channels: C, number of modalities.
            size: (D, H, W) in voxels, multiples of 16.
            z_dim: Z.
            base_filters: b, channels of the stem.
            pool: ``flatten`` the coarsest grid, which keeps positions, or global ``average``.
            residual_gain: initial weight of the last GroupNorm of each block. Below 1 a deep encoder starts as a
                shallow one, whose features tell subjects apart (Goyal et al. 2017 start at 0).
            block_means: side of a grid of block means of the input, from which a linear layer adds to the posterior
                mean: what a principal component analysis would find reaches z within a few hundred steps. None: no
                such path.
            initial_logvar: log variance of q(z|x) before training, the same for all subjects; None: whatever a
                random layer gives, about 0, which buries the mean in noise.
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
            for block_stride in (stride, 1):
                block = BasicBlock(width_in, width, block_stride, gain=residual_gain, spectral=spectral_norm)
                blocks.append(block)
                width_in = width
        self.layers = nn.Sequential(*blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool3d(1) if pool == "average" else nn.Identity(), nn.Flatten())
        num_features = width_in * (1 if pool == "average" else grid[0] * grid[1] * grid[2])
        self.mean = nn.Linear(num_features, z_dim)
        self.logvar = nn.Linear(num_features, z_dim)
        self.block_means: nn.Module | None = None
        if block_means is not None:
            pool_to_grid = nn.AdaptiveAvgPool3d(block_means)
            linear = nn.Linear(in_channels * block_means**3, z_dim, bias=False)
            self.block_means = nn.Sequential(pool_to_grid, nn.Flatten(), linear)
        if initial_logvar is not None:
            nn.init.zeros_(self.logvar.weight)
            nn.init.constant_(self.logvar.bias, initial_logvar)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [B, C, D, H, W] -> mean [B, Z], logvar [B, Z], not yet clamped."""
        features = self.pool(self.layers(self.stem(inputs)))
        mean = self.mean(features)
        if self.block_means is not None:
            mean = mean + self.block_means(inputs)
        return mean, self.logvar(features)
