"""The fate of a point, from files written by hand, processes of this machine, and what SLURM's commands would say.

The two commands are stand-ins here, so that every state can be had; tests/slurm has a real SLURM.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from menvae.composition.settings import SweepSettings
from menvae.errors import UserError
from menvae.interruption import call_process
from menvae.registry import register, unregister
from menvae.studies import Trial
from menvae.sweeps.causes import of_cause
from menvae.sweeps.plan import plan_points
from menvae.sweeps.runners import Fate, JobState
from menvae.sweeps.status import NO_TRACE, PointStatus, refused_status, sweep_status
from menvae.sweeps.sweep import Point, Submission, Sweep, find_sweep

RUN = "semivae_0123456789"
STOPPED = {"state": "interrupted", "reason": "SIGTERM in epoch 2"}
RAN_OUT = {"state": "interrupted", "reason": "SIGUSR2 in epoch 2"}
FAILED = {"state": "failed", "reason": "ZeroDivisionError: by zero"}
RUNNING = {"state": "running"}
PAUSED = {"state": "paused", "reason": "after epoch 1 of 3"}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "outputs" / "sweeps" / "a_sweep")


def _write_run(sweep: Sweep, status: dict[str, str], num_epochs: int = 0) -> Path:
    run_dir = sweep.runs / RUN
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "status.json").write_text(json.dumps(status))
    if num_epochs:
        lines = (json.dumps({"epoch": epoch}) + "\n" for epoch in range(1, num_epochs + 1))
        (run_dir / "metrics.jsonl").write_text("".join(lines))
    return run_dir


def _write_point(
    sweep: Sweep, launcher: str = "", job: str = "", exit_code: int | None = None, output: str | None = None
) -> Path:
    folder = sweep.path / "points" / RUN
    folder.mkdir(parents=True)
    log = sweep.path / "slurm" / "log.out" if launcher == "slurm" else folder / "output.log"
    log.parent.mkdir(exist_ok=True)
    submission = {"launcher": launcher, "job": job, "log": str(log), "time": "2026-01-01T00:00:00+00:00"}
    submissions = [submission] if launcher else []
    point = {"number": 0, "run": RUN, "overrides": ["seed=1"], "submissions": submissions}
    (folder / "point.json").write_text(json.dumps(point))
    if exit_code is not None:
        (folder / "outcome.json").write_text(json.dumps({"exit_code": exit_code}))
    if output is not None:
        log.write_text(output)
    return folder


def _status(sweep: Sweep) -> PointStatus:
    (status,) = sweep_status(sweep)
    return status


def _fate(sweep: Sweep) -> tuple[Fate, str]:
    status = _status(sweep)
    return status.fate, status.reason


@pytest.fixture
def process_that_ended() -> str:
    process = subprocess.Popen(["true"])
    process.wait()
    return str(process.pid)


NO_RUN: dict[str, str] = {}
LOST_LINE = "the last line of its output"


@pytest.mark.parametrize(
    ("run", "exit_code", "fate", "reason"),
    [
        ({"state": "finished"}, 0, Fate.FINISHED, ""),
        ({"state": "finished"}, None, Fate.FINISHED, ""),  # by a plain menvae-train
        ({"state": "finished"}, 1, Fate.FINISHED, ""),  # and then something went wrong with the process
        ({"state": "finished"}, 3, Fate.FINISHED, ""),  # gates not met
        ({"state": "collapsed", "reason": "constant z"}, 4, Fate.COLLAPSED, "constant z"),
        (FAILED, 1, Fate.FAILED, "ZeroDivisionError: by zero"),
        ({"state": "failed", "reason": "out of memory"}, 1, Fate.OUT_OF_MEMORY, ""),
        (STOPPED, 75, Fate.INTERRUPTED, "SIGTERM in epoch 2"),
        (RAN_OUT, 75, Fate.TIMED_OUT, "SIGUSR2 in epoch 2"),
        ({"state": "interrupted", "reason": "time limit of 30 min in epoch 2"}, 75, Fate.TIMED_OUT, None),
        (PAUSED, 0, Fate.PAUSED, "after epoch 1 of 3"),
        (PAUSED, None, Fate.PAUSED, "after epoch 1 of 3"),  # goes on, and its process has not begun
        (PAUSED, 1, Fate.FAILED, LOST_LINE),
        (PAUSED, 75, Fate.INTERRUPTED, None),
        (NO_RUN, 75, Fate.INTERRUPTED, ""),  # before it had a run directory
        (FAILED, 75, Fate.INTERRUPTED, None),  # failed once; stopped before it began again
        (NO_RUN, 2, Fate.FAILED, LOST_LINE),
        (STOPPED, 2, Fate.FAILED, LOST_LINE),  # stopped once; then the data were wrong
        (NO_RUN, 1, Fate.FAILED, LOST_LINE),
        (RUNNING, 1, Fate.FAILED, LOST_LINE),
        (RUNNING, None, Fate.LOST, LOST_LINE),
        (NO_RUN, None, Fate.LOST, LOST_LINE),
    ],
)
def test_fates_of_local_processes_that_ended(
    sweep: Sweep, process_that_ended: str, run: dict[str, str], exit_code: int | None, fate: Fate, reason: str | None
) -> None:
    _write_point(sweep, "local", process_that_ended, exit_code, f"the first line\n{LOST_LINE}\n\n")
    if run:
        _write_run(sweep, run)
    found = _fate(sweep)
    assert found[0] == fate
    assert reason is None or found[1] == reason


@pytest.mark.parametrize(
    ("run", "fate"),
    [
        (NO_RUN, Fate.NOT_STARTED),
        (STOPPED, Fate.INTERRUPTED),
        (FAILED, Fate.FAILED),
        (RUNNING, Fate.LOST),
        (PAUSED, Fate.PAUSED),
    ],
)
def test_fates_of_points_that_were_never_submitted(sweep: Sweep, run: dict[str, str], fate: Fate) -> None:
    """Their runs, if they have one, were begun by a plain menvae-train."""
    _write_point(sweep)
    if run:
        _write_run(sweep, run)
    assert _status(sweep).fate == fate


def test_what_is_known_beside_the_fate(sweep: Sweep, process_that_ended: str) -> None:
    folder = _write_point(sweep, "local", process_that_ended, 75)
    assert _status(sweep).run_dir is None
    assert (_status(sweep).epochs, _status(sweep).max_epochs) == (0, None)
    run_dir = _write_run(sweep, STOPPED, num_epochs=2)
    config = {"trainer": {"max_epochs": 7}}
    (folder / "job.json").write_text(json.dumps({"config": config, "run": RUN, "point": str(folder)}))
    status = _status(sweep)
    assert (status.run_dir, status.epochs, status.max_epochs) == (run_dir, 2, 7)
    assert status.point == Point(
        0,
        RUN,
        ("seed=1",),
        (Submission("local", process_that_ended, str(folder / "output.log"), "2026-01-01T00:00:00+00:00"),),
    )


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.mark.parametrize("run", [RUNNING, STOPPED, FAILED])
def test_a_run_whose_lock_another_process_holds_is_running(sweep: Sweep, start: Start, run: dict[str, str]) -> None:
    _write_point(sweep, exit_code=1)
    run_dir = _write_run(sweep, run)
    lock = f"import fcntl; file = open({str(run_dir / '.lock')!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX)"
    process = start(lock)
    assert _fate(sweep) == (Fate.RUNNING, "")
    process.kill()
    process.wait()
    assert _status(sweep).fate in (Fate.LOST, Fate.INTERRUPTED, Fate.FAILED)


def test_a_process_is_running_until_it_ends(sweep: Sweep, start: Start) -> None:
    job_file = sweep.path / "points" / RUN / "job.json"
    process = start("pass", "-m", "menvae.apps.job", str(job_file))
    _write_point(sweep, "local", str(process.pid))
    assert _fate(sweep) == (Fate.RUNNING, "")
    _write_run(sweep, FAILED)  # of the attempt before
    assert _fate(sweep) == (Fate.RUNNING, "")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    _write_run(sweep, RUNNING)
    assert _status(sweep).fate == Fate.LOST, "a process that ended is none, also before its parent has noticed"


def test_a_process_that_was_forked_for_a_run_is_running_until_it_ends(sweep: Sweep) -> None:
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        call_process(RUN)
        os.write(writer, b"named")
        signal.pause()
    os.read(reader, 5)
    _write_point(sweep, "local", str(process))
    _write_run(sweep, RUNNING)
    try:
        assert _fate(sweep) == (Fate.RUNNING, "")
    finally:
        os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    assert _status(sweep).fate == Fate.LOST, "a process that ended is none, also before its parent has noticed"
    os.waitpid(process, 0)


@pytest.mark.parametrize("arguments", [[], ["-m", "menvae.apps.job", "/elsewhere/points/semivae_9876543210/job.json"]])
def test_a_process_id_that_another_program_has_now(sweep: Sweep, start: Start, arguments: list[str]) -> None:
    process = start("pass", *arguments)
    _write_point(sweep, "local", str(process.pid))
    assert _status(sweep).fate == Fate.LOST


SAY = """#!/bin/sh
for argument in "$@"; do echo "$argument" >> {folder}/{name}.asked; done
cat {folder}/{name}.answer
echo "{error}" >&2
exit {code}
"""
FORGOTTEN = "slurm_load_jobs error: Invalid job id specified"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function: answers and exit codes of squeue and sacct -> the folder where they note what was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def answers(squeue: str = "", sacct: str = "", squeue_code: int = 0, sacct_code: int = 0, error: str = "") -> Path:
        for name, answer, code in (("squeue", squeue, squeue_code), ("sacct", sacct, sacct_code)):
            (folder / f"{name}.answer").write_text(answer)
            (folder / name).write_text(SAY.format(folder=folder, name=name, code=code, error=error))
            (folder / name).chmod(0o755)
        return folder

    return answers


@pytest.mark.parametrize("who", ["squeue", "sacct"])
@pytest.mark.parametrize(
    ("state", "run", "exit_code", "fate", "reason"),
    [
        ("PENDING", NO_RUN, None, Fate.PENDING, ""),
        ("CONFIGURING", NO_RUN, None, Fate.PENDING, ""),
        ("REQUEUED", RAN_OUT, 75, Fate.PENDING, "requeued after SIGUSR2 in epoch 2"),
        ("PENDING", FAILED, None, Fate.PENDING, ""),
        ("SUSPENDED", RUNNING, None, Fate.PENDING, ""),
        ("RUNNING", NO_RUN, None, Fate.RUNNING, ""),
        ("RUNNING", FAILED, None, Fate.RUNNING, ""),
        ("COMPLETING", RUNNING, 1, Fate.RUNNING, ""),
        ("RUNNING", {"state": "finished"}, None, Fate.FINISHED, ""),
        ("COMPLETED", {"state": "finished"}, 0, Fate.FINISHED, ""),
        ("CANCELLED by 0", {"state": "finished"}, None, Fate.FINISHED, ""),
        ("TIMEOUT", RUNNING, None, Fate.TIMED_OUT, ""),
        ("TIMEOUT", RAN_OUT, 75, Fate.TIMED_OUT, "SIGUSR2 in epoch 2"),
        ("DEADLINE", NO_RUN, None, Fate.TIMED_OUT, ""),
        ("CANCELLED by 1000", STOPPED, 75, Fate.CANCELLED, "SIGTERM in epoch 2"),
        ("CANCELLED", NO_RUN, None, Fate.CANCELLED, ""),
        ("PREEMPTED", STOPPED, 75, Fate.PREEMPTED, "SIGTERM in epoch 2"),
        ("OUT_OF_MEMORY", RUNNING, None, Fate.OUT_OF_MEMORY, ""),
        ("NODE_FAIL", RUNNING, None, Fate.NODE_FAILED, ""),
        ("BOOT_FAIL", NO_RUN, None, Fate.NODE_FAILED, ""),
        ("FAILED", FAILED, 1, Fate.FAILED, "ZeroDivisionError: by zero"),
        ("FAILED", NO_RUN, 2, Fate.FAILED, "its output"),
        ("FAILED", RUNNING, None, Fate.LOST, "its output"),
        ("COMPLETED", STOPPED, 75, Fate.INTERRUPTED, "SIGTERM in epoch 2"),
    ],
)
def test_fates_of_slurm_jobs(
    sweep: Sweep,
    slurm: Callable[..., Path],
    who: str,
    state: str,
    run: dict[str, str],
    exit_code: int | None,
    fate: Fate,
    reason: str,
) -> None:
    slurm(**{who: f"812_2|PENDING\n812_3|{state}\n"})
    _write_point(sweep, "slurm", "812_3", exit_code, "its output\n")
    if run:
        _write_run(sweep, run)
    assert _fate(sweep) == (fate, reason)


@pytest.mark.parametrize(
    ("answers", "fate"),
    [
        # the queue is ahead of the accounting
        ({"squeue": "812_3|PENDING\n", "sacct": "812_3|TIMEOUT\n"}, Fate.PENDING),
        ({"squeue": "812_3|RUNNING\n", "sacct": "812_3|PENDING\n"}, Fate.RUNNING),
        # squeue fails for jobs that it has forgotten, sacct without accounting, squeue too while SLURM is away
        ({"squeue_code": 1, "error": FORGOTTEN, "sacct": "812_3|CANCELLED by 0\n"}, Fate.CANCELLED),
        ({"squeue_code": 1, "error": "Unable to contact slurm controller"}, Fate.UNKNOWN),
        ({"squeue": "812_3|PREEMPTED\n", "sacct_code": 1}, Fate.PREEMPTED),
        ({"squeue_code": 1, "error": FORGOTTEN, "sacct_code": 1}, Fate.LOST),
        ({"squeue": "81_3|RUNNING\n812_33|RUNNING\n", "sacct": "812_30|RUNNING\n"}, Fate.LOST),
    ],
)
def test_both_commands_are_asked(sweep: Sweep, slurm: Callable[..., Path], answers: dict[str, Any], fate: Fate) -> None:
    slurm(**answers)
    _write_point(sweep, "slurm", "812_3")
    assert _status(sweep).fate == fate


def test_slurm_is_asked_once_for_all_points_and_not_for_local_ones(
    sweep: Sweep, slurm: Callable[..., Path], process_that_ended: str
) -> None:
    folder = slurm(squeue="812_0|RUNNING\n812_1|PENDING\n900|RUNNING\n")
    jobs = {"812_0": Fate.RUNNING, "812_1": Fate.PENDING, "900": Fate.RUNNING}
    points = [Point(number, f"run_{job}", (), (Submission("slurm", job, "log"),)) for number, job in enumerate(jobs)]
    local = Point(3, "run_local", (), (Submission("local", process_that_ended, "log"),))
    assert [status.fate for status in sweep_status(sweep, [*points, local])] == [*jobs.values(), Fate.LOST]
    asked = (folder / "squeue.asked").read_text().splitlines()
    assert asked.count("-j") == 1
    assert asked[asked.index("-j") + 1] == "812,900"
    assert not (folder / "sacct.asked").exists(), "the queue knows all of them"
    (folder / "squeue.asked").unlink()
    sweep_status(sweep, [local])
    assert not list(folder.glob("*.asked"))


def test_where_there_is_no_slurm_its_jobs_are_lost(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _write_point(sweep, "slurm", "812_3")
    assert _status(sweep).fate == Fate.LOST


@pytest.mark.parametrize("fate", Fate)
def test_every_fate_is_one_of_four_kinds(fate: Fate) -> None:
    kinds = [fate.is_final, fate.is_active, fate.has_failed, fate in (Fate.NOT_STARTED, Fate.PAUSED)]
    assert sum(kinds) == 1
    assert fate.is_final is (fate in {"finished", "collapsed", "pruned"})
    assert fate.is_active is (fate in {"running", "pending", "unknown"})


def test_another_submission_forgets_how_the_last_process_ended(sweep: Sweep, process_that_ended: str) -> None:
    folder = _write_point(sweep, "local", process_that_ended, 1)
    (point,) = sweep.points()
    sweep.prepare(point, {"trainer": {"resume": "auto"}})
    again = sweep.submitted(point, Submission("slurm", "812_3", "log"))
    assert not (folder / "outcome.json").exists()
    assert sweep.points() == [again]
    assert [submission.launcher for submission in again.submissions] == ["local", "slurm"]


def test_finding_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no sweep"):
        find_sweep(tmp_path, None)
    for seconds, name in ((2000, "last"), (1000, "first")):
        Sweep(tmp_path / "sweeps" / name).describe([], [])
        os.utime(tmp_path / "sweeps" / name / "sweep.json", (seconds, seconds))
    assert find_sweep(tmp_path, None).name == "last"
    assert find_sweep(tmp_path, "first").name == "first"
    with pytest.raises(UserError, match="did you mean 'first'"):
        find_sweep(tmp_path, "frist")


def test_a_sweep_that_vanishes_while_others_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gone", "here"):
        Sweep(tmp_path / "sweeps" / name).describe([], [])
    find = Path.glob

    def find_and_remove(self: Path, pattern: str) -> Iterator[Path]:
        found = list(find(self, pattern))
        shutil.rmtree(tmp_path / "sweeps" / "gone", ignore_errors=True)
        return iter(found)

    monkeypatch.setattr(Path, "glob", find_and_remove)
    assert find_sweep(tmp_path, None).name == "here"


def test_stopped_points_are_a_cause_of_their_own(sweep: Sweep) -> None:
    failed = [
        PointStatus(Point(number, f"run_{number}", ()), fate, "", None, 0, None)
        for number, fate in enumerate((Fate.INTERRUPTED, Fate.LOST, Fate.CANCELLED))
    ]
    assert [status.point.number for status in of_cause(failed, "stopped")] == [0, 2]
    assert [status.point.number for status in of_cause(failed, "cancelled")] == [2]


def test_a_runner_that_is_not_installed_may_still_have_its_jobs(sweep: Sweep, start: Start) -> None:
    """Such points are neither lost nor submitted again; what their runs say of themselves counts."""
    _write_point(sweep, "somebodys", "812_3")
    assert _fate(sweep) == (
        Fate.UNKNOWN,
        "runner: 'somebodys' is not registered; known: local, slurm",
    )
    run_dir = _write_run(sweep, RUNNING)
    process = start(f"import fcntl; file = open({str(run_dir / '.lock')!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX)")
    assert _fate(sweep) == (Fate.RUNNING, "")
    process.kill()
    process.wait()
    assert _status(sweep).fate == Fate.UNKNOWN
    _write_run(sweep, {"state": "finished"})
    assert _fate(sweep) == (Fate.FINISHED, "")


class Register:
    """Takes every run for what its job is called."""

    @staticmethod
    def states(submissions: Mapping[str, Submission]) -> dict[str, JobState]:
        if any(submission.job == "away" for submission in submissions.values()):
            raise ConnectionError("no route to host")
        told = {run: submission.job.partition(": ") for run, submission in submissions.items()}
        return {run: JobState(Fate(fate), reason) for run, (fate, _, reason) in told.items() if fate != "forgotten"}


@pytest.fixture
def registered() -> Iterator[None]:
    register("runner", "register")(Register)
    yield
    unregister("runner", "register")


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("job", "run", "fate", "reason"),
    [
        ("pending: third in the queue", NO_RUN, Fate.PENDING, "third in the queue"),
        ("pending: third in the queue", STOPPED, Fate.PENDING, "requeued after SIGTERM in epoch 2"),
        ("running", FAILED, Fate.RUNNING, ""),
        ("preempted: by somebody", NO_RUN, Fate.PREEMPTED, "by somebody"),
        ("preempted: by somebody", STOPPED, Fate.PREEMPTED, "SIGTERM in epoch 2"),
        ("unknown: it does not answer", STOPPED, Fate.UNKNOWN, "it does not answer"),
        ("away", STOPPED, Fate.UNKNOWN, "runner 'register' does not answer: ConnectionError: no route to host"),
        ("forgotten", STOPPED, Fate.INTERRUPTED, "SIGTERM in epoch 2"),
        ("forgotten", NO_RUN, Fate.LOST, NO_TRACE),
        ("finished", RUNNING, Fate.LOST, ""),  # which only its run directory can say
        ("running", {"state": "finished"}, Fate.FINISHED, ""),
    ],
)
def test_a_runner_says_how_its_jobs_are(sweep: Sweep, job: str, run: dict[str, str], fate: Fate, reason: str) -> None:
    _write_point(sweep, "register", job)
    if run:
        _write_run(sweep, run)
    assert _fate(sweep) == (fate, reason)


def test_status_needs_no_torch_for_a_runner_of_menvae(sweep: Sweep, process_that_ended: str) -> None:
    _write_point(sweep, "local", process_that_ended)
    program = (
        "import sys\nfrom pathlib import Path\nfrom menvae.sweeps.status import sweep_status\n"
        "from menvae.sweeps.sweep import Sweep\n(status,) = sweep_status(Sweep(Path(sys.argv[1])))\n"
        "print(status.fate, 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program, sweep.path], capture_output=True, text=True, check=True)
    assert told.stdout == "lost False\n"


GARBAGE = {
    "empty": b"",
    "cut": b'{"num',
    "a list": b"[]",
    "no text": b"\xff\xfe",
    "other types": b'{"number": "1", "state": 5}',
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=list(GARBAGE))
@pytest.mark.parametrize("name", ["status.json", "point.json", "outcome.json", "job.json"])
def test_one_damaged_file_hides_no_other_point(name: str, content: bytes, sweep: Sweep) -> None:
    for number, run in enumerate(("run_a", "run_b", "run_c")):
        point = Point(number, run, (f"seed={number}",))
        sweep.prepare(point, {"trainer": {"resume": "auto", "max_epochs": 3}})
        (sweep.folder(point) / "outcome.json").write_text(json.dumps({"exit_code": 0}))
        (sweep.runs / run).mkdir(parents=True)
        (sweep.runs / run / "status.json").write_text(json.dumps({"state": "finished"}))
    damaged = (sweep.runs if name == "status.json" else sweep.path / "points") / "run_b" / name
    damaged.write_bytes(content)
    statuses = {status.point.run: status for status in sweep_status(sweep)}
    assert {run: statuses[run].fate for run in ("run_a", "run_c")} == dict.fromkeys(("run_a", "run_c"), Fate.FINISHED)
    assert statuses["run_a"].point.label == "seed=0"
    assert f"'{damaged}' is damaged: " in statuses["run_b"].reason
    if name != "status.json":
        assert statuses["run_b"].fate == Fate.FINISHED


def test_a_damaged_point_is_written_again_by_its_sweep(sweep: Sweep) -> None:
    for number, run in enumerate(("run_1", "run_2")):
        sweep.keep(Point(number, run, (f"loss.lambda_dcor={number + 1}",)))
    before = {run: (sweep.path / "points" / run / "point.json").read_text() for run in ("run_1", "run_2")}
    (sweep.path / "points" / "run_2" / "point.json").write_text("{")
    (damaged,) = [point for point in sweep.points() if point.damage]
    assert (damaged.run, damaged.number, damaged.label) == ("run_2", 1, "run_2")
    config = {"loss": {"lambda_dcor": 2}, "trainer": {"resume": "auto", "max_epochs": 3}}
    (planned,) = plan_points(
        sweep, [(["loss.lambda_dcor=2"], config)], lambda config: "run_2", SweepSettings(), lambda: "code"
    )
    assert planned.status is not None
    sweep.keep(planned.status.point)
    assert {run: (sweep.path / "points" / run / "point.json").read_text() for run in before} == before


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"overrides": [], "launcher": 3}', b'{"overrides": [1], "launcher": []}']
)
def test_a_damaged_description_is_one_sentence(content: bytes, sweep: Sweep) -> None:
    sweep.describe(["seed=1"], [])
    (sweep.path / "sweep.json").write_bytes(content)
    with pytest.raises(
        UserError, match=r"sweep\.json' is damaged: .*; the command that launched the sweep writes it"
    ) as caught:
        sweep.description()
    assert "\n" not in str(caught.value)


def test_refused_points_are_shown_until_they_run(sweep: Sweep) -> None:
    sweep.keep(Point(0, "run_a", ("seed=1",)))
    assert refused_status(sweep) == []
    sweep.refuse({("seed=-1",): "seed: -1 is not allowed", ("seed=1",): "the data are gone"})
    (status,) = refused_status(sweep)
    assert (status.point.number, status.point.label, status.fate) == (1, "seed=-1", Fate.REFUSED)
    assert status.reason == "seed: -1 is not allowed"
    (sweep.path / "refused.json").write_text('{"points": [1]}')
    (status,) = refused_status(sweep)
    assert "refused.json' is damaged: " in status.reason


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "config",
    [
        {"trainer": {"resume": "auto", "max_epochs": 7}},
        {"trainer": {"resume": "a {b}", "max_epochs": 7}, "update": {"max_epochs": 9}},
        {
            "update": {"trainer": {"max_epochs": 9}},
            "trainer": {"max_epochs": 7, "resume": '"trainer": {"max_epochs": 8'},
        },
        {"update": {"max_epochs": 9}, "trainer": {"resume": "auto"}},
    ],
)
@pytest.mark.parametrize("pause_after", [None, 3])
def test_the_length_of_a_run_stands_in_its_job_file(
    sweep: Sweep, config: dict[str, Any], indent: int | None, pause_after: int | None
) -> None:
    """Files of earlier versions have several lines."""
    point = Point(0, RUN, ("seed=1",))
    path = sweep.prepare(point, config, Trial('"pause_after": 8', "study", 0, "", "none", 5, 3, pause_after))
    path.write_text(json.dumps(json.loads(path.read_text()), indent=indent) + "\n")
    (status,) = sweep_status(sweep)
    assert status.max_epochs == config["trainer"].get("max_epochs")
    assert (status.pause_after, status.last_epoch) == (pause_after, pause_after or status.max_epochs)
    assert status.reason == ""


def test_a_run_that_has_ended_says_how_long_it_was(sweep: Sweep) -> None:
    sweep.prepare(Point(0, RUN, ()), {"trainer": {"resume": "auto"}})
    _write_run(sweep, {"state": "running"}, num_epochs=3)
    assert _status(sweep).epochs == 3
    (sweep.runs / RUN / "status.json").write_text(json.dumps({"state": "finished", "epochs": 12}))
    assert _status(sweep).epochs == 12


def test_of_runs_that_have_ended_no_runner_is_asked(sweep: Sweep, slurm: Callable[..., Path]) -> None:
    folder = slurm(squeue="")
    _write_point(sweep, "slurm", "812_3")
    _write_run(sweep, {"state": "finished"})
    assert _status(sweep).fate == Fate.FINISHED
    assert not list(folder.glob("*.asked"))
