"""``menvae-sweep``: its verbs, and a plan that names what is planted in it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from runs import TINY, menvae_sweep

from menvae.apps import sweep

VERBS = ("plan", "status", "watch", "stop", "retry", "promote", "sync")


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        ([], 2, VERBS),
        (["--help"], 0, VERBS),
        (["plan", "--help"], 0, ("plan",)),
        (["retry", "--cause", "lost", "-h"], 0, ("retry",)),
    ],
)
def test_usage(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    shown: tuple[str, ...],
) -> None:
    monkeypatch.setattr(sys, "argv", ["menvae-sweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        sweep.main()
    assert ended.value.code == code
    told = capsys.readouterr().out
    assert tuple(re.findall(r"^menvae-sweep (\w+)", told, re.MULTILINE)) == shown


@pytest.mark.parametrize("verb", ["status", "watch", "sync"])
def test_a_word_that_is_no_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    monkeypatch.setattr(sys, "argv", ["menvae-sweep", verb, "mine"])
    with pytest.raises(SystemExit) as ended:
        sweep.main()
    assert ended.value.code == 2
    expected = f"menvae-sweep: {verb}: 'mine' is no key; a sweep is chosen with sweep.name=NAME\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("more", [[], ["--help"]])
def test_unknown_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["menvae-sweep", "stauts", *more])
    with pytest.raises(SystemExit) as ended:
        sweep.main()
    assert ended.value.code == 2
    assert "did you mean 'status'?" in capsys.readouterr().err


def test_plan_names_a_dead_knob_a_duplicate_and_what_cannot_be_and_runs_nothing(tmp_path: Path) -> None:
    """The penalty begins at epoch 50 of a run of 3: its weight makes no difference."""
    late = ("loss.schedules.dcor.start=50", "curriculum.scale=false")
    planned = menvae_sweep(
        tmp_path, "plan", *TINY, *late, "loss.lambda_dcor=1,5", "model.partitions.vol=4,4,3,99", code=1
    )
    assert "loss.lambda_dcor has no effect" in planned
    assert "model.partitions.vol has no effect" not in planned
    assert planned.count("duplicate of") == 2
    assert planned.count("vol=99, loc=3, shape=4 sum to 106") == 2
    assert "4 of 8 points to run" in planned
    assert not (tmp_path / "runs").exists()
    assert not [path for path in tmp_path.glob("sweeps/*") if path.is_dir()]


def test_a_plan_prepares_nothing_and_names_runs_where_the_cohort_is_prepared(tmp_path: Path) -> None:
    arguments = (*TINY, "loss.lambda_dcor=1,1.0,5")
    planned = menvae_sweep(tmp_path, "plan", *arguments)
    assert planned.count("known once the cohort is prepared") == 2
    assert planned.count("duplicate of 0") == 1
    assert "2 of 3 points to run" in planned
    assert not (tmp_path / "cache").exists()
    assert "sweep.cost=true estimates" in menvae_sweep(tmp_path, "plan", *arguments, "sweep.cost=false")
    assert not (tmp_path / "cache").exists()
    cost = menvae_sweep(tmp_path, "plan", *arguments, "++sweep.cost=true")
    assert "s per step" in cost
    again = menvae_sweep(tmp_path, "plan", *arguments)
    names = re.findall(r"semivae_[0-9a-f]{10}\b", cost.partition("to run: about")[0])
    assert len(set(names)) == 2
    assert re.findall(r"semivae_[0-9a-f]{10}\b", again) == names
