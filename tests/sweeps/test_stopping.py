"""Stopping: signals for processes of this machine, scancel for SLURM's, and one sentence for what cannot be stopped.

SLURM's commands are stand-ins that note what they are asked; tests/slurm has a real SLURM.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from menvae.errors import UserError
from menvae.registry import register, unregister
from menvae.sweeps.runners import Fate, JobState, Runner
from menvae.sweeps.stopping import launching, stop_all, stop_points
from menvae.sweeps.sweep import Point, Submission, Sweep
from menvae.sweeps.trials import journal

HOLD = (
    "import sys; from pathlib import Path; from menvae.files import FolderLock; lock = FolderLock(Path(sys.argv[1])); "
)

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    sweep = Sweep(tmp_path / "outputs" / "sweeps" / "a_sweep")
    sweep.describe([], [])
    return sweep


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function: what squeue answers, what scancel says and its exit code -> where the latter is noted."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def answers(squeue: str, error: str = "", code: int = 0) -> Path:
        scripts = {
            "squeue": f"printf '{squeue}'",
            "sacct": "true",
            "scancel": f"echo \"$@\" >> {folder}/asked\n[ -z '{error}' ] || echo '{error}' >&2\nexit {code}",
        }
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        return folder / "asked"

    return answers


def add(sweep: Sweep, number: int, launcher: str = "", job: str = "", state: str = "") -> Point:
    """Write a point, and what its run says."""
    submissions = (Submission(launcher, job, str(sweep.path / "log")),) if launcher else ()
    point = Point(number, f"run_{number}", (f"seed={number}",), submissions)
    sweep.keep(point)
    if state:
        (sweep.runs / point.run).mkdir(parents=True)
        (sweep.runs / point.run / "status.json").write_text(json.dumps({"state": state}))
    return point


def local(sweep: Sweep, number: int, start: Start) -> tuple[Point, subprocess.Popen[bytes]]:
    """Start a process that looks like the job of a point."""
    process = start("", "-m", "menvae.apps.job", str(sweep.path / "points" / f"run_{number}" / "job.json"))
    return add(sweep, number, "local", str(process.pid)), process


def refused(sweep: Sweep, *points: Point) -> str:
    with pytest.raises(UserError) as caught:
        stop_points(sweep, points)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_local_point_gets_the_signal_and_no_other_point_does(sweep: Sweep, start: Start) -> None:
    (_, first), (point, second) = local(sweep, 0, start), local(sweep, 1, start)
    (status,) = stop_points(sweep, [point])
    assert (status.point, status.fate) == (point, Fate.RUNNING)
    assert second.wait(10) == -signal.SIGTERM
    assert first.poll() is None


@pytest.mark.parametrize(
    ("launcher", "state", "words"),
    [
        ("local", "finished", "point 0 is 'finished'; only points that run or wait can be stopped"),
        ("local", "interrupted", "point 0 is 'interrupted'; only points that run or wait can be stopped"),
        ("", "", "point 0 has not started; --all keeps it from that, and ends the process that launches the sweep"),
        ("somebodys", "", "point 0 cannot be stopped: runner: 'somebodys' is not registered; known: local, slurm"),
    ],
)
def test_points_that_neither_run_nor_wait(sweep: Sweep, start: Start, launcher: str, state: str, words: str) -> None:
    (other, process) = local(sweep, 1, start)
    assert refused(sweep, other, add(sweep, 0, launcher, "999999999", state)) == words
    assert process.poll() is None, "nothing is stopped then"


def test_jobs_of_slurm_are_cancelled_with_one_command(sweep: Sweep, slurm: Callable[..., Path]) -> None:
    asked = slurm("812_0|RUNNING\\n812_1|PENDING\\n812_2|RUNNING\\n")
    points = [add(sweep, number, "slurm", f"812_{number}") for number in range(3)]
    assert [status.fate for status in stop_points(sweep, points[:2])] == [Fate.RUNNING, Fate.PENDING]
    assert asked.read_text() == "812_0 812_1\n"


def test_what_scancel_refuses_is_one_sentence(sweep: Sweep, slurm: Callable[..., Path]) -> None:
    slurm("812_0|RUNNING\\n", error="scancel: error: Kill job error on job id 812_0: Access/permission denied", code=1)
    told = refused(sweep, add(sweep, 0, "slurm", "812_0"))
    assert told.startswith("runner 'slurm' cannot stop its jobs: scancel refuses: scancel: error: Kill job error")


def test_a_job_that_has_just_ended_is_no_error(sweep: Sweep, slurm: Callable[..., Path]) -> None:
    slurm("812_0|RUNNING\\n", error="Kill job error on job id 812_0: Job/step already completing or completed", code=1)
    assert len(stop_points(sweep, [add(sweep, 0, "slurm", "812_0")])) == 1


def test_points_that_share_a_job_end_together_or_not_at_all(sweep: Sweep, slurm: Callable[..., Path]) -> None:
    asked = slurm("812_0|RUNNING\\n")
    points = [add(sweep, number, "slurm", "812_0") for number in range(2)]
    add(sweep, 2, "slurm", "812_0", "finished")
    words = "point 0 shares job 812_0 with point 1, which would end too; name all points of a job"
    assert refused(sweep, points[0]) == words
    assert not asked.exists()
    stop_points(sweep, points)
    assert asked.read_text() == "812_0\n"


class Silent(Runner):
    """Has jobs that it cannot end."""

    def submit(self, jobs: Mapping[str, Path]) -> dict[str, Submission]:
        return {}

    def stop(self) -> None:
        pass

    @staticmethod
    def states(submissions: Mapping[str, Submission]) -> dict[str, JobState]:
        return dict.fromkeys(submissions, JobState(Fate.RUNNING))


def test_a_runner_without_a_way_to_end_jobs(sweep: Sweep, start: Start) -> None:
    register("runner", "silent")(Silent)
    try:
        (point, process) = local(sweep, 1, start)
        told = refused(sweep, add(sweep, 0, "silent", "1"), point)
    finally:
        unregister("runner", "silent")
    assert (
        told == "runner 'silent' cannot stop its jobs: it has no way to end jobs; end them with the means of its queue"
    )
    assert process.wait(10) == -signal.SIGTERM, "the other one is stopped"


def test_a_run_that_no_launcher_has_started(sweep: Sweep, start: Start) -> None:
    point = add(sweep, 0, state="running")
    process = start(HOLD, str(sweep.runs / point.run))
    told = refused(sweep, point)
    assert told.startswith(f"point 0 is trained by process {process.pid} on {os.uname().nodename}, out of reach")
    assert process.poll() is None


@pytest.mark.parametrize("searches", [False, True])
def test_all_stops_the_launching_process_too(sweep: Sweep, start: Start, searches: bool) -> None:
    (point, job) = local(sweep, 0, start)
    add(sweep, 1)
    add(sweep, 2, "local", "999999999", "finished")
    folder = journal(sweep).parent if searches else sweep.path
    folder.mkdir(exist_ok=True)
    process = start(HOLD, str(folder))
    found = launching(sweep)
    assert (found and found.process) == process.pid
    assert [status.point for status in stop_all(sweep)] == [point]
    assert process.wait(10) == job.wait(10) == -signal.SIGTERM
    assert launching(sweep) is None
    assert stop_all(sweep) == []


def test_a_sweep_that_another_machine_launches_is_left_alone(sweep: Sweep, start: Start) -> None:
    (_, job) = local(sweep, 0, start)
    elsewhere = "(Path(sys.argv[1]) / '.lock').write_text('process 12 on elsewhere'); "
    process = start(HOLD + elsewhere, str(sweep.path))
    with pytest.raises(UserError, match="sweep 'a_sweep' is being launched by process 12 on elsewhere; stop it there"):
        stop_all(sweep)
    assert process.poll() is None
    assert job.poll() is None
