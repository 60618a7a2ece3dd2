"""`ResidualisedShape`: what probes find of volume and location in it."""

import numpy as np
import torch
from torch import Tensor

from menvae.statistics.regions import NUM_SHAPE_MEASURES, OF_CORE, OF_TUMOUR
from menvae.statistics.residualised_shape import ResidualisedShape


def subjects(num: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return volumes (half have no core), locations, and shapes that depend on them and on chance."""
    generator = torch.Generator().manual_seed(seed)
    volume = torch.randn(num, 4, generator=generator).clamp(-2.0, 3.0)
    volume[: num // 2, 1] = -3.2
    location = torch.randn(num, 3, generator=generator)
    shape = 0.5 * torch.randn(num, NUM_SHAPE_MEASURES, generator=generator)
    shape[:, OF_TUMOUR] *= torch.exp(-0.5 * volume[:, :1])  # small ones are noisy
    shape[:, OF_TUMOUR] += volume[:, :1] - 0.3 * volume[:, :1].square() + 0.5 * location[:, 2:]
    shape[:, OF_CORE] += torch.where(volume[:, 1:2] > -3.0, 2.0 + volume[:, 1:2], 0.0)
    return volume, location, shape


def explained(values: Tensor, by: Tensor) -> float:
    """Return the share of the variance of a column that least squares explain."""
    design = np.column_stack([np.ones(len(by)), by.numpy(), by.square().numpy()])
    wanted = (values - values.mean()).numpy()
    fitted = design @ np.linalg.lstsq(design, wanted, rcond=None)[0]
    return float((fitted**2).sum() / (wanted**2).sum())


@torch.no_grad()
def test_volume_and_location_are_removed_and_the_rest_stays() -> None:
    module = ResidualisedShape()
    volume, location, shape = subjects(4000, 0)
    torch.testing.assert_close(module(volume, location, shape), shape.clamp(-5.0, 5.0))  # without data
    for rows in torch.randperm(4000, generator=torch.Generator().manual_seed(1)).split(40):
        module.update(volume[rows], location[rows], shape[rows])
    volume, location, shape = subjects(4000, 2)
    own = module(volume, location, shape)
    tumour, core, has_core = OF_TUMOUR.start, OF_CORE.start, volume[:, 1] > -3.0
    everyone = torch.ones_like(has_core)
    for column, seen, by in ((tumour, everyone, volume[:, 0]), (core, has_core, volume[:, 1])):
        assert explained(shape[seen, column], by[seen]) > 0.4
        assert explained(own[seen, column], by[seen]) < 0.01
    assert explained(own[:, tumour], location[:, 2]) < 0.01
    assert explained(own[:, tumour].square(), volume[:, 0]) < 0.3 * explained(
        (shape - shape.mean(dim=0))[:, tumour].square(), volume[:, 0]
    )
    assert own[:, tumour].std() > 0.5
    assert own[has_core, core].std() > 0.45
