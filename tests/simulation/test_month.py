"""The simulated month, a small one: every point ends finished or with its cause, and nothing happens twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("month.py")


def simulate(*options: str) -> tuple[int, str]:
    """Return exit code and output of the script, which forks its commands and so needs a process without threads."""
    project = SCRIPT.parents[2]
    paths = os.pathsep.join([str(project), str(project / "launchers"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def test_every_point_ends_and_nothing_happens_twice() -> None:
    code, output = simulate("--points", "60")
    assert code == 0, output
    assert "FAILS" not in output
    assert output.count("holds") >= 25
    assert re.search(r"[1-9]\d* runs ended while the store was away", output), output
    assert re.search(r"[1-9]\d* jobs found their run trained", output), output
    assert "6 launches were killed" in output


def test_runs_without_locks_are_trained_twice() -> None:
    code, output = simulate("--points", "40", "--fault", "lock")
    assert code == 1, output
    assert re.search(r"runs trained by two jobs at once +0 +[1-9]\d* +FAILS", output), output
