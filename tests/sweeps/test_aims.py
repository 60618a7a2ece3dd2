"""Objectives and constraints that no run of a sweep has are refused before the first one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf
from runs import TINY, menvae_sweep
from shrunk import composed

from menvae.composition.settings import SweepSettings
from menvae.errors import UserError
from menvae.sweeps.aims import check_aims

ROWS = ("experiment=lithology_vae", "data.num_rows=300", "data.num_classes=4")
"""Rows without classes to learn: no gate of images, targets or classes applies."""


@cache
def config(*overrides: str) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(composed(*overrides), resolve=True))


def test_what_runs_log_is_an_objective() -> None:
    metrics = ("sem/vol_r2", "indep/max_dcor", "gate/vol_r2", "gate/leak_max", "gate/passed", "val_epoch/kl_raw")
    settings = SweepSettings(objectives=dict.fromkeys(metrics, "maximize"), constraints=("max_dcor", "passed"))
    check_aims(settings, [config()])


@pytest.mark.parametrize(
    ("metric", "sentence"),
    [
        ("nope", "'nope' is not a metric of these runs"),
        ("vol_r2", "'vol_r2' is not a metric of these runs; did you mean '"),
        ("sem/vol_r", "'sem/vol_r' is not a metric of these runs; did you mean 'sem/vol_r2'"),
        ("gate/max_dcorr", "'gate/max_dcorr' is not a metric of these runs; did you mean 'gate/max_dcor'"),
        ("gate/class_skill", "'gate/class_skill' is not a metric of these runs"),
        ("leak/max", r"'leak/max' is computed only at the end; add '\+gates\.NAME=\{metric: leak/max, above: 0\}'"),
    ],
)
def test_an_objective_that_no_run_has(metric: str, sentence: str) -> None:
    with pytest.raises(UserError, match=rf"^sweep\.objectives: {sentence}"):
        check_aims(SweepSettings(objectives={metric: "maximize"}), [config()])


def test_a_gate_that_does_not_apply_is_no_constraint() -> None:
    settings = SweepSettings(constraints=("vol_r2",))
    with pytest.raises(UserError, match=r"^sweep\.constraints: 'vol_r2' is not a gate of these runs; "):
        check_aims(settings, [config(*ROWS)])
    check_aims(settings, [config(*ROWS), config()])  # points of another experiment have it


def test_an_invalid_point_is_reported_when_it_is_launched() -> None:
    check_aims(SweepSettings(constraints=("vol_r2",)), [config("model.z_dim=2")])


def test_sweeps_and_searches_refuse_them(tmp_path: Path) -> None:
    objective = "+sweep.objectives={sem/vol_r: maximize}"
    sentence = "menvae-sweep: sweep.objectives: 'sem/vol_r' is not a metric of these runs; did you mean 'sem/vol_r2'?"
    assert menvae_sweep(tmp_path, "plan", *TINY, "seed=1,2", objective, code=2).startswith(sentence)
    search = ("hydra/sweeper=optuna", "loss.lambda_dcor=interval(0,1)", objective)
    assert menvae_sweep(tmp_path, "plan", *TINY, *search, code=2).startswith(sentence)
