"""Measures of the shape of regions, without what their volumes say about them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from menvae.statistics.regions import CORE, OF_CORE, OF_LABELS, OF_TUMOUR
from menvae.statistics.regression import RunningRegression
from menvae.types import NUM_LABELS

_SLOWEST = 0.005
"""Smallest weight of a batch in the regressions: about the last 200 batches count."""
_ABSENT = -2.6
"""Measured volume of about one voxel of 32^3."""


class ShapeWithoutVolume(nn.Module):
    """Measures of the shape minus linear regressions on powers of volumes.

    Those of the tumour are regressed on its volume, those of its core on the core's, and those of the labels on all.
    More regressors would cost more than they remove: their slopes, known from the training subjects only, put volume
    back into the shape of others.
    """

    def __init__(self) -> None:
        """Start without data, when nothing is removed."""
        super().__init__()
        self.regressions = nn.ModuleDict(
            {
                "tumour": RunningRegression(3, _length(OF_TUMOUR), slowest=_SLOWEST),
                "core": RunningRegression(4, _length(OF_CORE), slowest=_SLOWEST),
                "labels": RunningRegression(3 * NUM_LABELS - 1, _length(OF_LABELS), slowest=_SLOWEST),
            }
        )

    def forward(self, volume: Tensor, shape: Tensor) -> Tensor:
        """Volume [B, 4], shape [B, 32], both of `RegionMeasures` -> [B, 32]."""
        expected = [self.regressions[name](known) for name, known in _known(volume).items()]
        return shape - torch.cat(expected, dim=1)

    def commit(self, volume: Tensor, shape: Tensor) -> None:
        """Add a training batch."""
        groups = dict(zip(self.regressions, (OF_TUMOUR, OF_CORE, OF_LABELS), strict=True))
        for name, known in _known(volume).items():
            regression = self.regressions[name]
            assert isinstance(regression, RunningRegression)
            regression.commit(known, shape[:, groups[name]])


def _known(volume: Tensor) -> dict[str, Tensor]:
    """Volume [B, 4] -> regressors of each group [B, P]."""
    present = (volume > _ABSENT).to(volume.dtype)
    core = present[:, CORE : CORE + 1]
    return {
        "tumour": _powers(volume[:, :1]),
        "core": torch.cat([core, core * _powers(volume[:, CORE : CORE + 1])], dim=1),
        "labels": torch.cat([volume, present[:, 1:], volume.square()], dim=1),
    }


def _powers(x: Tensor) -> Tensor:
    """X [B, 1] -> first three powers, of order 1 [B, 3]."""
    return torch.cat([x, x.square(), x.pow(3) / 5.0], dim=1)


def _length(of: slice) -> int:
    return int(of.stop - of.start)
