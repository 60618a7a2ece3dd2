import math

import pytest

from menvae.registry import build
from menvae.types import Progress


@pytest.mark.parametrize(
    ("config", "total", "table"),
    [
        ({"name": "constant"}, 20.0, [(0.0, 1.0), (20.0, 1.0)]),
        ({"name": "constant", "value": 0.25}, 20.0, [(0.0, 0.25), (20.0, 0.25)]),
        ({"name": "linear"}, 20.0, [(0.0, 1.0), (20.0, 1.0)]),
        ({"name": "linear", "start": 4.0}, 20.0, [(3.99, 0.0), (4.0, 1.0)]),
        ({"name": "linear", "start": 4.0, "length": 2.0}, 20.0, [(4.0, 0.0), (4.5, 0.25), (6.0, 1.0), (20.0, 1.0)]),
        (
            {"name": "linear", "start": 4.0, "length": 2.0, "initial": 0.2},
            20.0,
            [(0.0, 0.2), (4.0, 0.2), (5.0, 0.6), (6.0, 1.0)],
        ),
        ({"name": "linear", "start": 4.0, "initial": 0.2}, 20.0, [(3.99, 0.2), (4.0, 1.0)]),
        ({"name": "linear", "decay_start": 5.0, "decay_to": 0.0}, 20.0, [(4.9, 1.0), (5.0, 0.0)]),
        (
            {"name": "linear", "length": 10.0, "decay_start": 5.0, "decay_length": 10.0, "decay_to": 0.5},
            20.0,
            [(5.0, 0.5), (10.0, 0.75), (15.0, 0.5)],  # rise and decay overlap: their product
        ),
        ({"name": "cyclical", "cycles": 2, "length": 10.0, "ratio": 0.4}, 20.0, [(1.0, 0.5), (2.0, 1.0), (4.9, 1.0)]),
        ({"name": "cyclical", "cycles": 2, "length": 10.0, "ratio": 0.4}, 20.0, [(5.0, 0.0), (6.0, 0.5), (10.0, 1.0)]),
        # Fu et al. 2019: four cycles, half of each rising
        ({"name": "cyclical"}, 400.0, [(15.0, 0.5), (30.0, 1.0), (59.9, 1.0), (60.0, 0.0), (195.0, 0.5), (400.0, 1.0)]),
        ({"name": "exponential"}, 60.0, [(0.0, 0.0), (8.0, 1 - math.exp(-1)), (40.0, 1 - math.exp(-5))]),
        (
            {"name": "exponential", "start": 10.0, "length": 20.0},
            60.0,
            [(0.0, 0.0), (10.0, 0.0), (14.0, 1 - math.exp(-1)), (20.0, 1 - math.exp(-2.5)), (60.0, 1 - math.exp(-5))],
        ),
        ({"name": "cosine"}, 21.0, [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (11.0, 0.5), (21.0, 0.0)]),
        ({"name": "cosine", "warmup": 0.0, "final": 0.2}, 20.0, [(0.0, 1.0), (10.0, 0.6), (20.0, 0.2)]),
        ({"name": "cosine", "warmup": 0.0}, 30.0, [(10.0, 0.75), (20.0, 0.25)]),  # cos 60 and cos 120 degrees
        ({"name": "cosine", "warmup": 4.0, "final": 0.2}, 24.0, [(1.0, 0.25), (14.0, 0.6), (24.0, 0.2), (34.0, 0.2)]),
        ({"name": "cosine", "warmup": 4.0}, 4.0, [(3.0, 0.75), (4.0, 1.0)]),  # a run that ends with its warm-up
        ({"name": "cosine", "warmup": 4.0}, 4.5, [(4.0, 1.0), (4.25, 0.5), (4.5, 0.0)]),
    ],
)
def test_table(config: dict[str, object], total: float, table: list[tuple[float, float]]) -> None:
    schedule = build("schedule", config)
    for epoch, expected in table:
        assert schedule(Progress(epoch, total)) == pytest.approx(expected, abs=1e-9), epoch
