"""``menvae-compare`` on runs of different versions: gates without intervals beside gates with them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from stores import TARGETS, MadeRun, fill

from menvae.apps import compare


def test_old_and_new_gates_are_compared_by_their_values(
    output_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    values = dict.fromkeys(TARGETS, 0.9)
    runs = [MadeRun({"seed": seed}, values, name=f"semivae_{seed:010x}") for seed in (1, 2)]
    _, new = fill(output_dir, runs)
    (path,) = output_dir.rglob(f"{new}/artifacts/gates.json")
    table = json.loads(path.read_text())
    for gate in table["gates"]:
        gate |= {"metric": f"sem/{gate['name']}", "low": 0.8, "high": 0.95, "verdict": "undecided", "passed": False}
    first = table["gates"][0] | {"value": 0.99, "low": 0.98, "high": 1.0, "verdict": "pass", "passed": True}
    table |= {"gates": [first, *table["gates"][1:]], "passed": False}
    path.write_text(json.dumps({**table, "test": {"gates": [first], "passed": True, "note": ""}}))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; this puts it back
    page = tmp_path / "page.html"
    monkeypatch.setattr(sys, "argv", ["menvae-compare", f"output_dir={output_dir}", f"html={page}"])
    with pytest.raises(SystemExit) as ended:
        compare.main()
    assert not ended.value.code, capfd.readouterr().err
    with page.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    key = next(column for column in rows[0] if first["name"] in column and rows[0][column])
    assert sorted(float(row[key]) for row in rows) == pytest.approx([0.9, 0.99])
    assert page.stat().st_size > 0
