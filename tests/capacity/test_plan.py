"""Estimates and choices of menvae-plan-resources."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from shrunk import TINY, TINY_TABLE, composed

from menvae.capacity.calibration import Calibrated, Calibration
from menvae.capacity.estimate import Estimate, Estimator
from menvae.capacity.plan import Option, choose, plan_resources
from menvae.errors import UserError

GIB = 2**30


def option(size: int, *, fits: bool, width: int | None = 16, batch: int = 2) -> Option:
    return Option(size, width, "fp32", batch, False, 1.0, 0.1, None, fits)


def test_chooses_the_largest_that_fits() -> None:
    options = [
        option(32, fits=True, batch=8),
        option(64, fits=True),
        option(64, fits=True, width=32),
        option(96, fits=False, width=64),
    ]
    assert choose(options) is options[2]
    assert choose(options[3:]) is None


def test_hours_are_those_of_training_and_validation() -> None:
    estimate = Estimate(GIB, 2.0, 0.5)
    assert estimate.seconds(num_training=9, num_validation=3, batch_size=2, epochs=10) == 10 * (5 * 2.0 + 2 * 0.5)


def test_scales_calibrated_steps(tmp_path: Path) -> None:
    training = OmegaConf.to_container(composed(*TINY, f"output_dir={tmp_path}"), resolve=True)
    small = {"data.roi_size": [16, 16, 16], "trainer.batch_size": 2}
    wide = {**small, "encoder.base_filters": 32}
    measured = [Calibrated(small, 1.0, 0.3, GIB), Calibrated(wide, 5.0, 1.5, 2 * GIB)]
    estimator = Estimator(training, Calibration(measured, {"fp32": 50.0}, 10.0, "cpu"))
    known = estimator.of(small)
    assert known.peak_bytes == pytest.approx(GIB), "the smallest is what the constant comes from"
    assert known.seconds_per_step == pytest.approx(1.0)
    assert known.seconds_per_validation_step == pytest.approx(0.3)
    assert estimator.of(wide).seconds_per_step == pytest.approx(5.0), "each width has its own calibration"
    more = estimator.of({**small, "trainer.batch_size": 8})
    cost, base = (estimator.cost({**small, "trainer.batch_size": rows}) for rows in (8, 2))
    assert more.peak_bytes - known.peak_bytes == cost.peak_bytes - base.peak_bytes > 0
    assert 1.5 < more.seconds_per_step <= 4.0, "four times the work, but parameters are read once"
    large = {**small, "trainer.batch_size": 4}
    line = Estimator(training, Calibration([*measured, Calibrated(large, 1.5, 0.4, GIB)], {"fp32": 50.0}, 10.0, "cpu"))
    assert [line.of(one).seconds_per_step for one in (small, large)] == pytest.approx([1.0, 1.5])
    assert 2.4 < line.of({**small, "trainer.batch_size": 8}).seconds_per_step < 2.6, "two more batches of two"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("memory_gb=0",), r"^memory_gb"),
        (("sizes=[20]",), r"^sizes"),
        (("base_filters=[12]",), r"^base_filters"),
        (("experiment=lithology_vae", *TINY_TABLE), r"^sizes: the data are rows of a table"),
    ],
)
def test_wrong_keys(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_resources(composed(f"output_dir={tmp_path}", *overrides, config="plan_resources"))
