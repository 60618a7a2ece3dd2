"""Measures of the shape of regions, without what volume and location say about them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from menvae.statistics.regions import CORE, LARGEST, OF_CORE, OF_TUMOUR
from menvae.statistics.running import RunningRegression

_MEMORY = 400
"""Rows that count in the regressions. With 1,600, these lag behind the network, and shape tells the core's volume."""
_ABSENT = -2.6
"""Measured volume of about one voxel of 32^3."""
_SMALLEST_SQUARE = 0.05
"""Added to squared residuals before their logarithm."""


class ResidualisedShape(nn.Module):
    """Measures of the shape, of which probes cannot read volume or location.

    Those of the tumour are the residuals of a regression on its location and on powers of its volume, divided by their
    spread at this volume, because small tumours have noisy shapes: a regression of the logarithms of their squares.
    Those of the core are the residuals of a regression on its presence and on powers of its volume. More regressors
    would cost more than they remove: slopes that are known from few subjects put volume back into the shape of others.
    """

    def __init__(self) -> None:
        """Start without data, when nothing is removed."""
        super().__init__()
        num_tumour, num_core = (of.stop - of.start for of in (OF_TUMOUR, OF_CORE))
        self.tumour = RunningRegression(6, num_tumour, memory=_MEMORY)
        self.spread = RunningRegression(3, num_tumour, memory=_MEMORY)
        self.core = RunningRegression(4, num_core, memory=_MEMORY)

    def forward(self, volume: Tensor, location: Tensor, shape: Tensor) -> Tensor:
        """Volume [B, 4], location [B, 3], shape [B, 29], all of `RegionMeasures` -> [B, 29]."""
        size, place, core = _known(volume, location)
        spread = self.spread(size).clamp(math.log(_SMALLEST_SQUARE), 2.0 * math.log(LARGEST))
        tumour = (shape[:, OF_TUMOUR] - self.tumour(place)) * torch.exp(-0.5 * spread)
        return torch.cat([shape[:, OF_CORE] - self.core(core), tumour], dim=1).clamp(-LARGEST, LARGEST)

    @torch.no_grad()
    def update(self, volume: Tensor, location: Tensor, shape: Tensor) -> None:
        """Add a training batch."""
        size, place, core = _known(volume, location)
        self.tumour.update(place, shape[:, OF_TUMOUR])
        residuals = shape[:, OF_TUMOUR] - self.tumour(place)
        self.spread.update(size, torch.log(residuals.square() + _SMALLEST_SQUARE))
        self.core.update(core, shape[:, OF_CORE])


def _known(volume: Tensor, location: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return powers of the tumour's volume [B, 3], these and location [B, 6], and presence and powers of the core's."""
    size = _powers(volume[:, :1])
    of_core = volume[:, CORE : CORE + 1]
    present = (of_core > _ABSENT).to(volume.dtype)
    return size, torch.cat([size, location], dim=1), torch.cat([present, present * _powers(of_core)], dim=1)


def _powers(x: Tensor) -> Tensor:
    """X [B, 1] -> first three powers, of order 1 [B, 3]."""
    return torch.cat([x, x.square(), x.pow(3) / 5.0], dim=1)
