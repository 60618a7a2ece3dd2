"""Estimates and choices of menvae-plan-resources."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from shrunk import TINY, TINY_TABLE, composed

from menvae.capacity.calibration import Calibrated, Calibration, Needs
from menvae.capacity.estimate import Estimator
from menvae.capacity.plan import Option, Planner, PlanSettings, choose, plan_resources
from menvae.errors import UserError

GIB = 2**30


def option(size: int, *, fits: bool, width: int | None = 16, batch: int = 2) -> Option:
    return Option(size, width, "fp32", batch, False, 1.0, 0.1, None, fits=fits)


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
    needs = Needs(GIB, 2.0, 0.5)
    assert needs.seconds(num_training=9, num_validation=3, batch_size=2, epochs=10) == 10 * (5 * 2.0 + 2 * 0.5)


def test_scales_calibrated_steps(tmp_path: Path) -> None:
    training = OmegaConf.to_container(composed(*TINY, f"output_dir={tmp_path}"), resolve=True)
    small = {"data.roi_size": [16, 16, 16], "trainer.batch_size": 2}
    wide = {**small, "encoder.base_filters": 32}
    measured = [Calibrated(small, Needs(GIB, 1.0, 0.3)), Calibrated(wide, Needs(2 * GIB, 5.0, 1.5))]
    estimator = Estimator(training, Calibration(measured, {"fp32": 50.0}, 10.0, "cpu"))
    known = estimator.of(small)
    assert known.peak_bytes == pytest.approx(GIB), "a calibrated variant is what was measured"
    assert known.seconds_per_step == pytest.approx(1.0)
    assert known.seconds_per_validation_step == pytest.approx(0.3)
    assert estimator.of(wide).seconds_per_step == pytest.approx(5.0), "each width has its own calibration"
    more = estimator.of({**small, "trainer.batch_size": 8})
    cost, base = (estimator.cost({**small, "trainer.batch_size": rows}) for rows in (8, 2))
    assert more.peak_bytes - known.peak_bytes == cost.peak_bytes - base.peak_bytes > 0
    assert 1.5 < more.seconds_per_step <= 4.0, "four times the work, but parameters are read once"
    large = {**small, "trainer.batch_size": 4}
    line = Estimator(
        training, Calibration([*measured, Calibrated(large, Needs(1.5 * GIB, 1.5, 0.4))], {"fp32": 50.0}, 10.0, "cpu")
    )
    assert [line.of(one).seconds_per_step for one in (small, large)] == pytest.approx([1.0, 1.5])
    assert [line.of(one).peak_bytes for one in (small, large)] == pytest.approx([GIB, 1.5 * GIB])
    assert 2.4 < line.of({**small, "trainer.batch_size": 8}).seconds_per_step < 2.6, "two more batches of two"


def test_the_chosen_option_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("menvae.capacity.plan._SECONDS_PER_VARIANT", 0.0)
    overrides = [*TINY, "sizes=[16]", "batch_sizes=[4]", "memory_gb=64", f"output_dir={tmp_path}"]
    plan_resources(composed(*overrides, config="plan_resources"))
    result = json.loads((tmp_path / "resources.json").read_text())
    chosen = result["chosen"]
    assert (chosen["measured"], chosen["fits"], chosen["batch_size"]) == (True, True, 4)
    assert result["options"] == [chosen]
    assert 0.1 < chosen["peak_gib"] < 2.0
    assert chosen["hours"] > 0.0
    assert f"({chosen['peak_gib']:.2f} GiB" in capsys.readouterr().out


def test_an_option_that_does_not_fit_after_all_is_not_chosen(tmp_path: Path) -> None:
    """The estimate says that it fits; what was measured, memory of a whole process, says otherwise."""
    training = OmegaConf.to_container(composed(*TINY, f"output_dir={tmp_path}"), resolve=True)
    planner = Planner.__new__(Planner)
    planner.training, planner.settings = training, PlanSettings(memory_gb=0.05)
    planner.split, planner.epochs = (7, 3), 1
    planner.memory_bytes, planner.room_here = 0.05 * GIB, 64.0 * GIB
    options = [replace(option(16, fits=True, width=None), peak_gib=0.04)]
    (known,), chosen = planner.confirmed(options)
    assert chosen is None
    assert (known.measured, known.fits) == (True, False)
    planner.room_here = 0.01 * GIB
    assert planner.confirmed(options) == (options, options[0]), "nothing is started that this machine cannot hold"
    planner.room_here = 64.0 * GIB
    huge = replace(option(400, fits=True, width=None, batch=10**6), peak_gib=0.04)
    assert planner.confirmed([huge]) == ([replace(huge, fits=False)], None), "a petabyte cannot be allocated"


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
