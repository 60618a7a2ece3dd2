"""Objective values of a finished run, read from its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from menvae.errors import UserError
from menvae.studies import objective_values


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
