"""`ShapeWithoutVolume`: what linear probes find of volumes in it."""

import numpy as np
import torch
from torch import Tensor

from menvae.statistics.regions import OF_CORE, OF_TUMOUR
from menvae.statistics.shape import ShapeWithoutVolume


def subjects(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return volumes, the core absent in half of the subjects, and shapes that depend on them and on chance."""
    generator = torch.Generator().manual_seed(seed)
    volume = torch.randn(num, 4, generator=generator).clamp(-2.0, 3.0)
    volume[: num // 2, 1] = -3.2
    shape = 0.5 * torch.randn(num, 32, generator=generator)
    shape[:, OF_TUMOUR] += volume[:, :1] - 0.3 * volume[:, :1].square()
    shape[:, OF_CORE] += torch.where(volume[:, 1:2] > -3.0, 2.0 + volume[:, 1:2], 0.0)
    return volume, shape


def explained(values: Tensor, by: Tensor) -> float:
    """Return the share of the variance of a column that least squares explain."""
    design = np.column_stack([np.ones(len(by)), by.numpy(), by.square().numpy()])
    wanted = (values - values.mean()).numpy()
    fitted = design @ np.linalg.lstsq(design, wanted, rcond=None)[0]
    return float((fitted**2).sum() / (wanted**2).sum())


@torch.no_grad()
def test_volumes_are_removed_and_the_rest_stays() -> None:
    module = ShapeWithoutVolume()
    volume, shape = subjects(4000, 0)
    torch.testing.assert_close(module(volume, shape), shape)  # without data
    for rows in torch.randperm(4000, generator=torch.Generator().manual_seed(1)).split(40):
        module.commit(volume[rows], shape[rows])
    volume, shape = subjects(4000, 2)
    own = module(volume, shape)
    has_core = volume[:, 1] > -3.0
    for column, seen, of in ((0, volume[:, 1] > -9.0, 0), (OF_CORE.start, has_core, 1)):
        assert explained(shape[seen, column], volume[seen, of]) > 0.5
        assert explained(own[seen, column], volume[seen, of]) < 0.01
        assert own[seen, column].std() > 0.45
