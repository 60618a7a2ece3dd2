"""Objective values of a finished run, read from its files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from menvae.errors import UserError
from menvae.studies import objective_values, violations


def test_objectives_are_metrics_of_the_best_epoch_and_gates(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "finished", "best_epoch": 1}))
    rows = [{"epoch": 1, "sem/vol_r2": 0.5}, {"epoch": 2, "sem/vol_r2": 0.75}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gates = [{"name": "max_dcor", "value": 0.25}, {"name": "mean_z_ratio", "value": None}]
    (tmp_path / "gates.json").write_text(json.dumps({"gates": gates, "passed": False}))
    assert objective_values(tmp_path, ["sem/vol_r2", "gate/max_dcor", "gate/passed"]) == [0.5, 0.25, 0.0]
    assert objective_values(tmp_path, ["gate/max_dcor", "gate/mean_z_ratio"]) is None
    with pytest.raises(UserError, match=r"'sem/vol_r3' is not a metric of run .*; did you mean 'sem/vol_r2'\?"):
        objective_values(tmp_path, ["gate/max_dcor", "sem/vol_r3"])


def _gate(name: str, value: float | None, comparison: str, target: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "comparison": comparison, "target": target, **more}


def test_a_constraint_is_what_the_deciding_end_of_an_interval_misses(tmp_path: Path) -> None:
    gates = [
        _gate("vol_r2", 0.9, ">", 0.8, low=0.7, high=0.95, passed=False),  # undecided
        _gate("max_dcor", 0.2, "<", 0.35, low=0.1, high=0.28, passed=True),
        _gate("class_skill", 0.25, ">", 0.0, passed=True),  # of a version without intervals
        _gate("leak_max", 2.0, "<", 3.0, low=None, high=None, passed=False),  # rests on few patients
        _gate("mean_z_ratio", None, ">", 1.5, low=None, high=None, passed=False),
    ]
    (tmp_path / "gates.json").write_text(json.dumps({"gates": gates, "passed": False}))
    names = [gate["name"] for gate in gates]
    missed = violations(tmp_path, [*names, "passed"])
    assert missed == {
        "vol_r2": pytest.approx((0.8 - 0.7) / 0.8),
        "max_dcor": pytest.approx((0.28 - 0.35) / 0.35),
        "class_skill": -0.25,
        "leak_max": pytest.approx(0.0, abs=1e-6),
        "mean_z_ratio": math.inf,
        "passed": math.inf,
    }
    assert missed["leak_max"] > 0.0
    (tmp_path / "gates.json").write_text(json.dumps({"gates": gates[:3], "passed": False}))
    assert violations(tmp_path, ["passed"]) == {"passed": pytest.approx(0.125)}
    (tmp_path / "gates.json").write_text(json.dumps({"gates": gates[1:3], "passed": False}))
    assert 0.0 < violations(tmp_path, ["passed"])["passed"] < 1e-6, "a gate of the test split"
    (tmp_path / "gates.json").write_text(json.dumps({"gates": gates[1:3], "passed": True}))
    assert violations(tmp_path, ["passed"]) == {"passed": 0.0}
    assert violations(tmp_path, []) == {}
    with pytest.raises(
        UserError, match=r"sweep\.constraints: 'max_dcorr' is not a gate of .*; did you mean 'max_dcor'"
    ):
        violations(tmp_path, ["max_dcorr"])
