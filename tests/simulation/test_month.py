"""The simulated month, a small one: every point ends finished or with its cause, and nothing happens twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from checks import of_work
from cluster import Attempt, Ledger, Settings

from menvae.sweeps.sweep import Sweep

SCRIPT = Path(__file__).with_name("month.py")


def test_every_point_ends_and_nothing_happens_twice() -> None:
    """In a process without threads, because it forks its commands."""
    project = SCRIPT.parents[2]
    paths = os.pathsep.join([str(project), str(project / "launchers"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--points", "40"],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "FAILS" not in output
    assert output.count("  holds") == 27
    assert re.search(r"[1-9]\d* runs ended while the store was away", output), output
    assert re.search(r"[1-9]\d* found it finished", output), output
    assert "3 launches were killed" in output


def failing(ledger: Ledger, folder: Path) -> set[str]:
    """Return the checks of work that fail, without those of logs and folders, which do not exist."""
    (folder / "runs").mkdir()
    settings = Settings(num_points=0, output_dir=folder)
    found = of_work(settings, Sweep(folder / "sweeps" / "a"), ledger)
    return {words for words, expected, is_so in found if expected != is_so and not words.startswith("run dir")}


def test_work_that_is_done_twice_is_found(tmp_path: Path) -> None:
    first = Attempt("a", began=0.0, done=0.0, ended=2.0, reached=2.0, kept=2.0, end="exception")
    second = Attempt("a", began=1.0, done=1.0, ended=4.0, reached=3.0, kept=3.0, end="finished")
    third = Attempt("a", began=5.0, done=3.0, ended=6.0, reached=3.0, kept=3.0, end="finished")
    ledger = Ledger(attempts=[first, second, third], logged=Counter({("a", 1): 1, ("a", 2): 2}))
    assert failing(ledger, tmp_path) == {
        "runs trained by two jobs at once",
        "runs trained after their end",
        "runs that go on elsewhere than at their checkpoint",
        "epochs computed again, of which no checkpoint was left",
    }


def test_work_that_died_with_a_node_may_be_done_again(tmp_path: Path) -> None:
    first = Attempt("a", began=0.0, done=0.0, ended=2.0, reached=2.5, kept=1.0, end="node failure")
    second = Attempt("a", began=3.0, done=1.0, ended=5.0, reached=3.0, kept=3.0, end="finished")
    ledger = Ledger(attempts=[first, second], logged=Counter({("a", 1): 1, ("a", 2): 2, ("a", 3): 1}))
    assert failing(ledger, tmp_path) == set()
