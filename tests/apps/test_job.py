"""The process of one run, as launchers start it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from runs import environment

from menvae.runs.job import Job, command


def test_a_process_that_is_stopped_while_it_imports_says_so(tmp_path: Path) -> None:
    slow = tmp_path / "site" / "torch"
    slow.mkdir(parents=True)
    (slow / "__init__.py").write_text(f"import time\nopen({str(tmp_path / 'ready')!r}, 'w')\ntime.sleep(60)\n")
    Job({}, "a_run", tmp_path).write(tmp_path / "job.json")
    process = subprocess.Popen(
        command(tmp_path / "job.json"), env=environment(site=slow.parent), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75, errors
    assert errors == "menvae-train: stopped by SIGTERM; run the same command again to resume\n"
    assert json.loads((tmp_path / "outcome.json").read_text())["exit_code"] == 75
