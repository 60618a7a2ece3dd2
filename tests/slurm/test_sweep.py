"""Sweeps on a real SLURM: every fate, and what comes after it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from plugins import trouble, write_trouble
from runs import TRACKED, Started, command, environment, finished_sweep_in_mlflow, menvae_sweep, only_run, train

from menvae.studies import open_storage
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus, sweep_status
from menvae.sweeps.sweep import find_sweep

SLURM = ("hydra/launcher=slurm", "hydra.launcher.poll_s=0.5")
TWO_TASKS = "hydra.launcher.tasks_per_node=2"
SHORT = ("data.num_subjects=13", "trainer.batch_size=2", "trainer.max_epochs=3")


def test_tasks_of_one_srun_train_one_run(cluster: dict[str, str], prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    started = subprocess.run(
        ["srun", "-n", "2", *command(tmp_path, "trainer.max_epochs=1")],
        env={**environment(), **cluster},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert started.returncode == 0, started.stderr
    assert json.loads((only_run(tmp_path) / "environment.json").read_text())["num_ranks"] == 2


class Cluster:
    """Commands on the development cluster, with the term ``trouble`` installed."""

    def __init__(self, slurm: dict[str, str], output_dir: Path, site: Path) -> None:
        self.output_dir, self.site = output_dir, site
        self.flags = output_dir.with_name("flags")
        ours = environment(site=site)
        self.environment = {**ours, **slurm, "PYTHONPATH": ours["PYTHONPATH"]}

    def start(self, *overrides: str) -> Started:
        arguments = command(self.output_dir, "-m", *SHORT, *SLURM, *overrides)[3:]
        return Started("train", arguments, self.environment, both=True)

    def launch(self, *overrides: str, code: int = 0) -> str:
        return self.start(*overrides).ended(code)

    def sweep(self, verb: str, code: int = 0) -> str:
        return menvae_sweep(self.output_dir, verb, code=code, site=self.site)

    def slurm(self, *arguments: str) -> None:
        subprocess.run(arguments, env=self.environment, check=True, capture_output=True, timeout=60)

    def end_time_of(self, label: str, flag: Path) -> None:
        """Tell the job of a point that its time runs out, in a step that waits, and see it queued again.

        Args:
            label: that of the point.
            flag: what its step waits for, until it is gone.
        """
        job = self.job(label)
        self.slurm("scancel", "--signal=USR2", job)
        time.sleep(1)  # the signal is there by then
        flag.unlink()
        self.wait_for(lambda: self.statuses()[label].fate == Fate.PENDING)
        assert "SIGUSR2" in self.statuses()[label].reason
        # else it is held for cred_expire seconds; within the same second slurmd would take it for the job that ended
        self.slurm("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def statuses(self) -> dict[str, PointStatus]:
        if not list(self.output_dir.glob("sweeps/*/sweep.json")):
            return {}
        return {status.point.label: status for status in sweep_status(find_sweep(self.output_dir, None))}

    def wait_for(self, condition: Callable[[], bool], seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.statuses()
            time.sleep(0.5)

    def job(self, label: str) -> str:
        return self.statuses()[label].point.submissions[-1].job

    def is_training(self, label: str) -> bool:
        """Whether its first epoch is written down."""
        try:
            return self.statuses()[label].epochs > 0
        except KeyError:
            return False


@pytest.fixture
def here(cluster: dict[str, str], prepared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("SLURM_CONF", cluster["SLURM_CONF"])  # for `statuses` and `sweep`
    output_dir = tmp_path / "outputs"
    for folder in (output_dir, tmp_path / "flags"):
        folder.mkdir()
    (output_dir / "cache").symlink_to(prepared_cache)
    return Cluster(cluster, output_dir, write_trouble(tmp_path / "site"))


def test_a_sweep_with_every_fate(here: Cluster) -> None:
    flags = here.flags
    raises, runs_out, cancelled = (f"model.partitions.vol={size}" for size in (2, 3, 4))
    for name, fault in (("2", "raise"), ("3", "hang"), ("4", "slow")):
        (flags / name).write_text(fault)
    flag = f"{flags}/${{model.partitions.vol}}"
    in_epoch_2 = trouble(flag, step=5)
    sweep = [TRACKED, "trainer.max_epochs=2", *in_epoch_2, "hydra.launcher.array_parallelism=3"]
    values = "model.partitions.vol=2,3,4,5"

    launching = here.start(values, *sweep)
    here.wait_for(lambda: here.is_training(cancelled))
    node = subprocess.run(["sinfo", "-h", "-o", "%n"], env=here.environment, capture_output=True, text=True, check=True)
    here.slurm("scontrol", "update", f"NodeName={node.stdout.strip()}", "State=DRAIN", "Reason=test")
    here.slurm("scancel", here.job(cancelled))
    here.wait_for(lambda: here.is_training(runs_out))
    ends = ("scontrol", "update", f"JobId={here.job(runs_out)}", "EndTime=now")  # refused now and then, and then taken
    here.wait_for(lambda: subprocess.run(ends, env=here.environment, check=False).returncode == 0, 30.0)
    time.sleep(3)
    here.slurm("scontrol", "update", f"NodeName={node.stdout.strip()}", "State=RESUME")
    output = launching.ended(1)

    statuses = here.statuses()
    expected = {raises: Fate.FAILED, runs_out: Fate.TIMED_OUT, cancelled: Fate.CANCELLED}
    assert {label: status.fate for label, status in statuses.items()} == {
        label: expected.get(label, Fate.FINISHED) for label in statuses
    }, output
    assert len(statuses) == 4
    told = here.sweep("status", code=1)
    assert "1 finished" in told
    for fate in ("failed", "timed out", "stopped"):
        assert f"1 {fate}" in told
    assert "ZeroDivisionError: a fault of the trouble term" in told

    for path in flags.iterdir():
        path.unlink()
    assert "3 to run" in here.sweep("retry")
    assert all(status.fate == Fate.FINISHED for status in here.statuses().values())
    assert "nothing to retry" in here.sweep("retry")
    _check_mlflow(here.output_dir, 4)

    before = {label: status.point.submissions for label, status in here.statuses().items()}
    assert "0 to run" in here.launch(values, *sweep)
    assert {label: status.point.submissions for label, status in here.statuses().items()} == before
    assert "1 to run" in here.launch(f"{values},6", *sweep)
    after = {label: status.point.submissions for label, status in here.statuses().items()}
    assert {label: after[label] for label in before} == before
    assert len(after) == 5
    _check_mlflow(here.output_dir, 5)


def test_a_task_that_raises_fails_its_point(here: Cluster) -> None:
    (here.flags / "flag").write_text("raise")
    output = here.launch(*trouble(here.flags / "flag", rank=1), TWO_TASKS, "trainer.max_epochs=1", code=1)
    (status,) = here.statuses().values()
    assert status.fate == Fate.FAILED, output
    assert status.run_dir is not None
    assert "rank 1 of 2" in (status.run_dir / "error.txt").read_text()
    assert "ZeroDivisionError: a fault of the trouble term" in here.sweep("status", code=1)


def _check_mlflow(output_dir: Path, num_points: int) -> None:
    """One parent and a child a point, all finished, each with the gates of its run directory."""
    children = finished_sweep_in_mlflow(output_dir, num_points)
    assert len({run.data.tags["menvae.run"] for run in children}) == num_points
    for run in children:
        table = json.loads((output_dir / "runs" / run.data.tags["menvae.run"] / "gates.json").read_text())
        for gate in table["gates"]:
            assert run.data.metrics.get(f"gate/{gate['name']}") == gate["value"]
        assert run.inputs.dataset_inputs[0].dataset.name == "phantom"


def test_a_job_whose_time_runs_out_is_queued_again_and_goes_on(here: Cluster) -> None:
    flag = here.flags / "flag"
    flag.write_text("wait")
    launching = here.start(*trouble(flag, step=3), TWO_TASKS, "trainer.max_epochs=3", TRACKED)
    label = "(nothing swept)"
    here.wait_for(flag.with_suffix(".waiting").exists)
    here.end_time_of(label, flag)
    launching.ended(0, timeout=300)
    status = here.statuses()[label]
    assert len(status.point.submissions) == 1
    assert status.run_dir is not None
    log = (status.run_dir / "train.log").read_text()
    assert "resuming after epoch" in log
    rows = [json.loads(line)["epoch"] for line in (status.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3]
    _check_mlflow(here.output_dir, 1)


def test_points_that_share_a_job_end_each_in_its_own_way(here: Cluster) -> None:
    """Two jobs of two points; time runs out for the first when one of its points has failed and one has not ended."""
    flags = here.flags
    for name, fault in (("1", "raise"), ("2", "wait"), ("3", "die")):
        (flags / name).write_text(fault)
    in_epoch_2 = trouble(f"{flags}/${{loss.lambda_dcor}}", step=6)
    launching = here.start("loss.lambda_dcor=1,2,3,4", *in_epoch_2, "hydra.launcher.points_per_gpu=2")
    first, second, third, fourth = (f"loss.lambda_dcor={value}" for value in (1, 2, 3, 4))
    here.wait_for((flags / "2.waiting").exists)
    here.wait_for(lambda: here.statuses()[first].fate == Fate.FAILED)
    assert here.statuses()[first].reason == "ZeroDivisionError: a fault of the trouble term"
    assert here.statuses()[second].fate == Fate.RUNNING, "and its job with it"
    assert here.job(first) == here.job(second) != here.job(third) == here.job(fourth)
    here.end_time_of(second, flags / "2")
    assert here.statuses()[first].fate == Fate.FAILED, "a failed point does not run again"
    output = launching.ended(1)
    fates = {label: status.fate for label, status in here.statuses().items()}
    expected = {first: Fate.FAILED, third: Fate.FAILED}
    assert fates == {label: expected.get(label, Fate.FINISHED) for label in (first, second, third, fourth)}, output
    assert here.statuses()[third].reason.startswith("ended by signal 9 (Killed)")
    run_dir = here.statuses()[second].run_dir
    assert run_dir is not None
    assert "resuming after epoch" in (run_dir / "train.log").read_text()
    rows = [json.loads(line)["epoch"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3]
    assert all(len(status.point.submissions) == 1 for status in here.statuses().values())


def test_nobody_has_to_wait_for_the_jobs(here: Cluster) -> None:
    """The launching process is killed, then another adds a point without waiting, and a third waits for all."""
    short = ("trainer.max_epochs=1", TRACKED, "hydra.launcher.array_parallelism=1")
    launching = here.start("loss.lambda_dcor=0,5", *short)
    here.wait_for(lambda: any(status.fate == Fate.RUNNING for status in here.statuses().values()))
    launching.kill()
    launching.wait()
    told = here.launch("loss.lambda_dcor=0,5,7", *short, "hydra.launcher.wait=false")
    assert "1 to run" in told
    assert "submitted" in told
    assert here.statuses()["loss.lambda_dcor=7"].fate.is_active
    assert "0 to run" in here.launch("loss.lambda_dcor=0,5,7", *short)
    statuses = here.statuses()
    assert len(statuses) == 3
    assert all(status.fate == Fate.FINISHED and len(status.point.submissions) == 1 for status in statuses.values())
    _check_mlflow(here.output_dir, 3)


def test_stopped_points_are_cancelled_and_resumed(here: Cluster) -> None:
    """One runs and one waits for it: both are stopped by number, and a retry finishes both."""
    flags = here.flags
    (flags / "1").write_text("slow")
    first, second = "loss.lambda_dcor=1", "loss.lambda_dcor=2"
    faults = trouble(f"{flags}/${{loss.lambda_dcor}}", step=5)
    launching = here.start("loss.lambda_dcor=1,2", *faults, "hydra.launcher.array_parallelism=1")
    here.wait_for(lambda: here.is_training(first))
    assert here.statuses()[second].fate == Fate.PENDING
    told = menvae_sweep(here.output_dir, "stop", "0", "1", site=here.site)
    assert "point 0 (running): asked to stop" in told
    assert "point 1 (pending): asked to stop" in told
    launching.ended(1)
    assert {status.fate for status in here.statuses().values()} == {Fate.CANCELLED}
    assert here.statuses()[first].reason.startswith("SIGTERM in epoch 2")
    (flags / "1").unlink()
    assert "2 to run" in menvae_sweep(here.output_dir, "retry", "--cause", "cancelled", site=here.site)
    assert all(status.fate == Fate.FINISHED for status in here.statuses().values())
    run_dir = here.statuses()[first].run_dir
    assert run_dir is not None
    assert "resuming" in (run_dir / "train.log").read_text()


@pytest.mark.usefixtures("forked_jobs")
def test_a_search_with_pauses_finds_what_it_finds_on_one_machine(
    here: Cluster, prepared_cache: Path, tmp_path: Path
) -> None:
    search = (
        *("hydra/sweeper=optuna", "hydra.sweeper.pruner=halving", "hydra.sweeper.reduction_factor=2"),
        *("hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=4", "hydra.sweeper.batch=4", "sweep.name=search"),
        *("loss.lambda_vol=tag(log,interval(1,16))", "+sweep.objectives={val_epoch/recon: minimize}"),
        "trainer.max_epochs=4",
    )
    output = here.launch(*search)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "cache").symlink_to(prepared_cache)
    train(tmp_path / "alone", "-m", *SHORT, *search)
    journals = (
        folder / "sweeps" / "search" / "study" / "journal.log" for folder in (here.output_dir, tmp_path / "alone")
    )
    there, alone = (
        optuna.load_study(study_name="search", storage=open_storage(str(journal))).get_trials() for journal in journals
    )
    assert [
        (trial.state, trial.params, trial.intermediate_values, trial.values, trial.user_attrs) for trial in there
    ] == [(trial.state, trial.params, trial.intermediate_values, trial.values, trial.user_attrs) for trial in alone]
    statuses = sorted(here.statuses().values(), key=lambda status: status.epochs)
    assert [status.epochs for status in statuses] == [1, 1, 2, 4], output
    assert [len(status.point.submissions) for status in statuses] == [1, 1, 2, 3]
    assert [status.fate for status in statuses] == [*[Fate.PAUSED] * 3, Fate.FINISHED]


def test_what_cannot_be_is_refused(here: Cluster) -> None:
    overrides = ("loss.lambda_dcor=0,5", "hydra.launcher.timeout_min=1")
    assert "signal_delay_s=120 must be shorter" in here.launch(*overrides, code=2)
    assert "the launcher starts 2 processes" in here.launch(
        "loss.lambda_dcor=0,5", TWO_TASKS, "trainer.devices=3", code=2
    )
    assert "nodes, tasks_per_node and gpus_per_node to 1" in here.launch(
        "loss.lambda_dcor=0,5", TWO_TASKS, "hydra.launcher.points_per_gpu=2", code=2
    )
    assert "nothere" in here.launch("loss.lambda_dcor=0,5", "hydra.launcher.partition=nothere", code=2)
