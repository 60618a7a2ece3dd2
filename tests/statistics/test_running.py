"""`RunningRegression` against least squares on all rows, and `RunningMean` against its closed form."""

import numpy as np
import pytest
import torch

from menvae.statistics.running import RunningMean, RunningRegression


def rows(num: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 3, generator=generator) + torch.tensor([0.0, 1.0, -2.0])
    noise = torch.randn(num, 2, generator=generator)
    return x, x @ torch.tensor([[1.0, 0.0], [0.5, -2.0], [0.0, 3.0]]) + 4.0 + 0.3 * noise


def test_it_is_least_squares() -> None:
    regression = RunningRegression(3, 2, memory=400, ridge=0.0)
    x, y = rows(400)
    torch.testing.assert_close(regression(x), torch.zeros(400, 2))  # without data
    for batch in torch.arange(400).split([3, 13, 24] * 10):
        regression.update(x[batch], y[batch])
    design = np.column_stack([np.ones(400), x.numpy()])
    slopes = np.linalg.lstsq(design, y.numpy().astype(np.float64), rcond=None)[0]
    np.testing.assert_allclose(regression(x), design @ slopes, atol=1e-3)


def test_what_was_long_ago_does_not_count() -> None:
    regression = RunningRegression(3, 2, memory=80)
    x, y = rows(8)
    for _ in range(20):
        regression.update(x, 5.0 - 7.0 * y)
    for seed in range(100):
        regression.update(*rows(8, seed))
    x, y = rows(400, 1000)
    assert (y - regression(x)).std() < 0.5


@pytest.mark.parametrize("size", [5, 10, 200])
def test_the_memory_is_in_rows_whatever_the_size_of_batches(size: int) -> None:
    mean = RunningMean(memory=100)
    for _ in range(20):
        mean.update(torch.zeros(10))
    for _ in range(200 // size):
        mean.update(torch.ones(size))
    remembered = (1.0 - size / 100.0) ** (200 // size) if size < 100 else 0.0
    torch.testing.assert_close(mean.value, torch.tensor(1.0 - remembered))


def test_the_same_under_autocast() -> None:
    regression = RunningRegression(3, 2, memory=80)
    regression.update(*rows(100))
    x, _ = rows(8, 1)
    plain = regression(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(regression(x), plain)
