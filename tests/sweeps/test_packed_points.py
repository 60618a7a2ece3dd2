"""Points that share a GPU or the cores: forked from a warmed process, and otherwise as if each ran alone."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from machines import SHORT, TWO_TO_A_GPU, Machine
from runs import TRACKED, command, finished_sweep_in_mlflow, menvae_sweep, only_run, train

from menvae.apps import warmed
from menvae.errors import UserError
from menvae.runs.job import Job
from menvae.sweeps.runners import Fate
from menvae.sweeps.runners.local import LocalRunner
from menvae.sweeps.runners.warmed import WarmedHandle

ONE_RANK = {"trainer": {"devices": None}}
pytestmark = pytest.mark.usefixtures("forked_jobs")


@pytest.fixture
def machine(prepared_cache: Path, tmp_path: Path) -> Iterator[Machine]:
    with Machine.among(tmp_path, prepared_cache, TWO_TO_A_GPU) as machine:
        yield machine


def weights(run_dir: Path, name: str) -> dict[str, torch.Tensor]:
    content = torch.load(run_dir / "checkpoints" / name, weights_only=True, map_location="cpu")
    found: dict[str, torch.Tensor] = content["model"]
    return found


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize(("threads", "epochs"), [(1, 2), (2, 1)])  # several points with two threads each are slow
def test_each_point_is_bit_identical_to_its_lone_run(
    threads: int, epochs: int, prepared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both compute with the same number of threads, as ``environment.json`` says; sums depend on that number."""
    monkeypatch.setattr("runs.jobs_fork", threads == 1)  # else its warmed process imports everything itself
    for name in ("together", "alone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cache").symlink_to(prepared_cache)
    short = (*SHORT, f"trainer.max_epochs={epochs}")
    _run_with(threads, command(tmp_path / "together", *short, "-m", "seed=1,2,3", TWO_TO_A_GPU)[3:])
    _run_with(threads, command(tmp_path / "alone", *short, "seed=3")[3:])
    alone = only_run(tmp_path / "alone")
    together = tmp_path / "together" / "runs"
    assert len(list(together.iterdir())) == 3
    for file in ("best.ckpt", "last.ckpt"):
        lone, packed = weights(alone, file), weights(together / alone.name, file)
        assert lone.keys() == packed.keys()
        assert all(torch.equal(packed[name], value) for name, value in lone.items())
    for name in ("metrics.jsonl", "gates.json"):
        assert (together / alone.name / name).read_text() == (alone / name).read_text()
    for run in (alone, *together.iterdir()):
        assert json.loads((run / "environment.json").read_text())["num_threads"] == threads


def _run_with(threads: int, arguments: list[str]) -> None:
    from runs import Started, environment

    Started("train", arguments, environment(threads), both=True).ended(0)


def test_a_killed_point_costs_no_other(machine: Machine) -> None:
    (machine.flags / "1").write_text("die")
    (machine.flags / "2").write_text("raise")
    output = machine.launch("loss.lambda_dcor=1,2,3,4", "trainer.max_epochs=1", TRACKED, code=1)
    assert machine.fates() == {"1": "lost", "2": "failed", "3": "finished", "4": "finished"}, output
    assert machine.statuses()["1"].reason == (
        "ended by signal 9 (Killed); the kernel kills processes when memory runs out"
    )
    assert machine.statuses()["2"].reason == "ZeroDivisionError: a fault of the trouble term"
    assert machine.outcome("2") == 1

    for flag in ("1", "2"):
        (machine.flags / flag).unlink()
    assert "2 to run" in menvae_sweep(machine.output_dir, "retry", site=machine.site)
    assert set(machine.fates().values()) == {Fate.FINISHED}
    assert machine.num_submissions() == {"1": 2, "2": 2, "3": 1, "4": 1}
    finished_sweep_in_mlflow(machine.output_dir, 4)


@pytest.mark.parametrize("victim", ["launching process", "warmed process"])
def test_points_write_checkpoints_when_a_process_above_them_is_killed(machine: Machine, victim: str) -> None:
    machine.hold("1")
    machine.hold("2")
    launching = machine.start("loss.lambda_dcor=1,2,3")
    machine.wait_until_held("1")
    machine.wait_until_held("2")
    assert machine.fates() == {"1": "running", "2": "running", "3": "not started"}
    machine.wait_until_submitted("1", "2")
    processes = [int(machine.statuses()[label].point.submissions[-1].job) for label in ("1", "2")]
    (parent,) = {parent_of(process) for process in processes}
    assert parent != launching.pid
    assert [os.getpgid(process) for process in processes] == processes, "a group of its own each"
    os.kill(launching.pid if victim == "launching process" else parent, signal.SIGKILL)
    time.sleep(0.5)  # the kernel has told the points by then
    for label in ("1", "2"):
        machine.let_go(label)
    machine.wait_for(lambda: Fate.RUNNING not in [machine.statuses()[label].fate for label in ("1", "2")])
    for label in ("1", "2"):
        assert machine.statuses()[label].fate == Fate.INTERRUPTED
        assert machine.statuses()[label].reason == "SIGTERM in epoch 1 after step 1 of 4"
        assert machine.outcome(label) == 75
    if victim == "warmed process":
        launching.ended(1)
        assert machine.fates()["3"] == Fate.FINISHED, "what waits starts alone"
    machine.launch("loss.lambda_dcor=1,2,3")
    assert set(machine.fates().values()) == {Fate.FINISHED}
    rows = [json.loads(line) for line in (machine.run_dir("1") / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_a_stopped_sweep_stops_its_points(machine: Machine) -> None:
    machine.hold("1")
    launching = machine.start("loss.lambda_dcor=1,2,3")
    machine.wait_until_held("1")
    machine.wait_for(lambda: machine.fates()["2"] == Fate.FINISHED)
    os.killpg(launching.pid, signal.SIGINT)
    time.sleep(2.0)  # it looks every half second, and passes the signal on
    machine.let_go("1")
    assert "stopped by SIGINT; run the same command again to resume" in launching.ended(75)
    assert machine.statuses()["1"].reason == "SIGTERM in epoch 1 after step 1 of 4"


def test_a_sweep_that_stops_while_its_warmed_process_imports_starts_no_point(tmp_path: Path) -> None:
    (tmp_path / "a_run").mkdir()
    runner = LocalRunner(points_per_gpu=2)
    runner.prepare(tmp_path, ONE_RANK)
    assert runner.submit({"a_run": tmp_path / "a_run" / "job.json"}) == {}
    begun = time.monotonic()
    runner.stop()
    assert time.monotonic() - begun < 60.0, "it does not wait in vain"
    assert not (tmp_path / "a_run" / "output.log").exists(), "what the point writes to"


def test_a_point_that_starts_alone_instead_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("menvae.sweeps.runners.warmed.WARMED_APPLICATION", "menvae.no_such_module")
    monkeypatch.setattr("menvae.sweeps.runners.local.command", lambda _: ["sh", "-c", "sleep 0.5; echo done"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("A_WARMED_PROCESS", "of its own")
    (tmp_path / "a_run").mkdir()
    runner = LocalRunner(points_per_gpu=2)
    runner.prepare(tmp_path, ONE_RANK)
    submitted = set(runner.submit({"a_run": tmp_path / "a_run" / "job.json"}))
    deadline = time.monotonic() + 60
    while runner.num_open:
        assert time.monotonic() < deadline
        submitted |= set(runner.advance())
        time.sleep(0.02)
    assert submitted == {"a_run"}
    assert (tmp_path / "a_run" / "output.log").read_text() == "done\n"


DIES = '''
"""A warmed process that is killed in the moment after it has forked the process of a point."""

import os
import signal
import sys
import time
from pathlib import Path

from menvae.apps import warmed

folder = Path(os.environ["MENVAE_TEST_FOLDER"])
fork = os.fork


def train(path, prepared):
    """Note the start of a point, and take its time to stop, as one does that writes a checkpoint."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with (folder / "starts").open("a") as file:
        file.write(f"{path.parent.name} forked\\n")
    time.sleep(1.0)
    return 0


def fork_and_die():
    process = fork()
    if process:
        while os.environ["MENVAE_TEST_DIES"] == "once it has begun" and not (folder / "starts").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return process


warmed.lone.run = train
os.fork = fork_and_die
warmed.serve()
'''


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that has warmed processes die, given when, and returns the file that lists what starts."""
    (tmp_path / "dying_warmed_process.py").write_text(DIES)
    monkeypatch.setattr("menvae.sweeps.runners.warmed.WARMED_APPLICATION", "dying_warmed_process")
    alone = f"echo $(basename $(dirname $0)) alone >> {tmp_path}/starts"
    monkeypatch.setattr("menvae.sweeps.runners.local.command", lambda job: ["sh", "-c", alone, str(job)])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("MENVAE_TEST_FOLDER", str(tmp_path))
    for name in ("a_run", "its_neighbour"):
        (tmp_path / name).mkdir()

    def set_moment(moment: str) -> Path:
        monkeypatch.setenv("MENVAE_TEST_DIES", moment)
        return tmp_path / "starts"

    return set_moment


@pytest.mark.parametrize("moment", ["at once", "once it has begun"])
def test_no_point_starts_twice_when_its_warmed_process_is_killed_while_starting_it(
    moment: str, dying: Callable[[str], Path], tmp_path: Path
) -> None:
    starts, runs = dying(moment), ("a_run", "its_neighbour")
    runner = LocalRunner(points_per_gpu=2)
    runner.prepare(tmp_path, ONE_RANK)
    submitted = runner.submit({run: tmp_path / run / "job.json" for run in runs})
    deadline = time.monotonic() + 60
    while runner.num_open:
        assert time.monotonic() < deadline
        submitted |= runner.advance()
        time.sleep(0.02)
    assert submitted.keys() == set(runs)
    begun = sorted(line.split()[0] for line in starts.read_text().splitlines())
    kernel_ended_it_first = moment == "at once" and "a_run" not in begun
    assert begun == list(runs[kernel_ended_it_first:])


def test_what_a_killed_warmed_process_has_answered_is_read_after_a_request_has_failed(
    dying: Callable[[str], Path], tmp_path: Path
) -> None:
    starts = dying("once it has begun")
    warmed_process = WarmedHandle(os.environ, tmp_path / "warmed.log")
    first = warmed_process.start(tmp_path / "a_run" / "job.json", tmp_path / "output.log")
    assert select.select([warmed_process._answers], [], [], 60.0)[0]
    os.waitid(os.P_PID, warmed_process._process.pid, os.WEXITED | os.WNOWAIT)
    second = warmed_process.start(tmp_path / "its_neighbour" / "job.json", tmp_path / "output.log")
    for point in (first, second):
        while point.poll() is None:
            time.sleep(0.02)
    assert starts.read_text() == "a_run forked\n"
    assert (first.is_refused, second.is_refused) == (False, True)


def test_the_end_of_a_point_that_is_killed_before_it_begins_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = "import os; os.setpgid = lambda *_: os.kill(os.getpid(), 9)\n"
    (tmp_path / "killed_points.py").write_text(f"{program}from menvae.apps.warmed import serve\nserve()\n")
    monkeypatch.setattr("menvae.sweeps.runners.warmed.WARMED_APPLICATION", "killed_points")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    warmed_process = WarmedHandle(os.environ, tmp_path / "warmed.log")
    (tmp_path / "a_run").mkdir()
    point = warmed_process.start(tmp_path / "a_run" / "job.json", tmp_path / "output.log")
    deadline = time.monotonic() + 60
    while point.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    warmed_process.end()
    assert (point.returncode, point.is_refused) == (-9, False)


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [(signal.SIGUSR2, 75, "SIGUSR2"), (signal.SIGTERM, 75, "SIGTERM"), (signal.SIGKILL, -9, "")],
)
def test_a_point_that_a_stop_signal_ends_before_it_listens_is_interrupted(
    number: signal.Signals, code: int, reason: str, tmp_path: Path
) -> None:
    Job({}, "a_run", tmp_path).write(tmp_path / "job.json")
    assert warmed._left(tmp_path / "job.json", -number) == abs(code)
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["exit_code"], outcome["stopped_by"]) == (code, reason)
    assert (tmp_path / "output.log").read_text().startswith(f"ended by signal {number.value} ")


def test_trials_of_a_study_are_packed(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    search = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.batch=2")
    space = ("loss.lambda_vol=interval(1,16)", "+sweep.objectives={sem/vol_r2: maximize}")
    told = train(tmp_path, *search, *space, TWO_TO_A_GPU, "trainer.max_epochs=1")
    assert "4 complete" in told.stdout
    assert len(list((tmp_path / "runs").iterdir())) == 4
    processes = [json.loads(path.read_text())["process"] for path in tmp_path.glob("sweeps/*/points/*/outcome.json")]
    assert len(set(processes)) == 4, "one for each trial"


def test_no_points_on_a_gpu_are_refused(tmp_path: Path) -> None:
    for launcher in ("local", "slurm"):
        sweep = ("-m", "loss.lambda_dcor=1,2", f"hydra/launcher={launcher}", "hydra.launcher.points_per_gpu=0")
        assert train(tmp_path, *sweep, code=2).stderr == (
            "menvae-train: hydra.launcher.points_per_gpu: 0 is not allowed; it should be greater than or equal to 1\n"
        )


def test_more_points_than_share_the_cores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"num_parallel=3 exceeds hydra\.launcher\.points_per_gpu=2"):
        LocalRunner(num_parallel=3, points_per_gpu=2).prepare(tmp_path, ONE_RANK)


def test_more_points_than_the_gpus_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    LocalRunner(num_parallel=4, points_per_gpu=2).prepare(tmp_path, ONE_RANK)
    with pytest.raises(UserError, match="num_parallel=5 runs with 1 GPUs each, 2 to a GPU, exceed the 2 GPUs"):
        LocalRunner(num_parallel=5, points_per_gpu=2).prepare(tmp_path, ONE_RANK)


@pytest.mark.parametrize(
    ("gpus", "num_parallel", "words"),
    [
        (
            "0,1,2",
            3,
            "num_parallel=3 runs with 2 GPUs each, 2 to a GPU, exceed the 3 GPUs of this machine, which hold 2",
        ),
        (
            "0",
            None,
            "num_parallel=1 runs with 2 GPUs each, 2 to a GPU, exceed the 1 GPUs of this machine, which hold 0",
        ),
    ],
)
def test_pairs_of_gpus_hold_no_more_than_their_points(
    gpus: str, num_parallel: int | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    LocalRunner(num_parallel=1 if num_parallel else None, points_per_gpu=2).prepare(tmp_path, ONE_RANK)
    with pytest.raises(UserError, match=words):
        LocalRunner(num_parallel=num_parallel, gpus_per_run=2, points_per_gpu=2).prepare(tmp_path, ONE_RANK)
