"""The development cluster is a SLURM that runs, requeues, preempts and accounts for jobs, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

DevCluster = Callable[..., subprocess.CompletedProcess[str]]
Environment = dict[str, str]


def _run(cluster: Environment, *command: str) -> str:
    result = subprocess.run(command, env=cluster, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, f"{command}: {result.stderr}"
    return result.stdout.strip()


def _submit(cluster: Environment, script: str, output: Path, *options: str) -> str:
    return _run(cluster, "sbatch", "--parsable", "--open-mode=append", f"--output={output}", *options, "--wrap", script)


def _wait(what: str, condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def _wait_for_text(path: Path, text: str) -> None:
    _wait(f"'{text}' in {path.name}", lambda: path.exists() and text in path.read_text())


def _directory(cluster: Environment) -> Path:
    return Path(cluster["SLURM_CONF"]).parents[1]


def _pid(directory: Path, daemon: str) -> int:
    return int((directory / "run" / f"{daemon}.pid").read_text())


def _has_ended(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or bool(re.search(r"^State:\s+Z", status.read_text(), re.MULTILINE))


def _ports(directory: Path) -> set[str]:
    return set(re.findall(r"port=(\d+)", (directory / "etc" / "settings").read_text()))


def test_up_again_says_so(cluster: Environment, dev_cluster: DevCluster) -> None:
    before = _pid(_directory(cluster), "slurmctld")
    again = dev_cluster("up", _directory(cluster))
    assert again.returncode == 0
    assert "already running" in again.stderr
    assert again.stdout.splitlines()[-1] == f"export SLURM_CONF={cluster['SLURM_CONF']}"
    assert _pid(_directory(cluster), "slurmctld") == before


def test_up_with_other_settings_is_refused(cluster: Environment, dev_cluster: DevCluster) -> None:
    other = dev_cluster("up", _directory(cluster), "--gpus", "1")
    assert other.returncode == 2
    assert "gpus=4" in other.stderr


def test_a_job_gives_its_output(cluster: Environment, tmp_path: Path) -> None:
    _submit(cluster, "echo the answer is $((6 * 7))", tmp_path / "job.txt")
    _wait_for_text(tmp_path / "job.txt", "\n")  # sbatch --wait looks every ten seconds
    assert (tmp_path / "job.txt").read_text() == "the answer is 42\n"


def test_gpus_are_handed_out(cluster: Environment) -> None:
    assert _run(cluster, "srun", "--gpus=3", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES") == "0,1,2"


def test_a_requeued_job_runs_again(cluster: Environment, tmp_path: Path) -> None:
    output = tmp_path / "job.txt"
    job = _submit(cluster, "echo start ${SLURM_RESTART_COUNT:-0}; sleep 60", output, "--requeue")
    _wait_for_text(output, "start 0")
    _run(cluster, "scontrol", "requeue", job)
    _wait("pending again", lambda: _run(cluster, "squeue", "-h", "-j", job, "-o", "%T") == "PENDING")
    # else it is held for cred_expire seconds; within the same second slurmd would take it for the job that was ended
    _run(cluster, "scontrol", "update", f"JobId={job}", "StartTime=now+2")
    _wait_for_text(output, "start 1")
    _run(cluster, "scancel", job)


def test_a_job_in_debug_takes_the_place_of_a_preemptible_one(cluster: Environment, tmp_path: Path) -> None:
    output = tmp_path / "job.txt"
    script = "trap 'echo warned; scontrol requeue $SLURM_JOB_ID' USR2; echo start; while true; do sleep 0.2; done"
    warn = ("--partition=preemptible", "--signal=B:USR2@30")
    job = _submit(cluster, script, output, *warn, "--requeue", "--exclusive", "--mem=100")
    _wait_for_text(output, "start")
    _submit(cluster, "echo urgent", tmp_path / "urgent.txt", "--partition=debug", "--mem=100")
    _wait_for_text(tmp_path / "urgent.txt", "urgent")
    assert "warned" in output.read_text()
    assert _run(cluster, "squeue", "-h", "-j", job, "-o", "%T") == "PENDING"
    _run(cluster, "scancel", job)


def test_sacct_knows_a_cancelled_job(cluster: Environment, tmp_path: Path) -> None:
    job = _submit(cluster, "echo start; sleep 60", tmp_path / "job.txt")
    _wait_for_text(tmp_path / "job.txt", "start")
    _run(cluster, "scancel", job)
    sacct = ("sacct", "--noheader", "--allocations", "--parsable2", "--format=State", "--jobs", job)
    _wait("cancelled", lambda: _run(cluster, *sacct) == "CANCELLED by 0")


def test_up_repairs_after_a_kill(cluster: Environment, dev_cluster: DevCluster) -> None:
    killed = _pid(_directory(cluster), "slurmctld")
    os.kill(killed, signal.SIGKILL)
    _wait("killed", lambda: _has_ended(killed))
    repaired = dev_cluster("up", _directory(cluster))
    assert repaired.returncode == 0, repaired.stderr
    assert "repaired" in repaired.stderr
    assert _run(cluster, "srun", "echo", "alive") == "alive"


@pytest.fixture
def longest_directory(dev_cluster: DevCluster, short_directory: Path) -> Iterator[Path]:
    """A path as long as the sockets of steps allow, which are the longest."""
    node = os.uname().nodename.partition(".")[0]
    length = 107 - len(f"/spool/{node}_12345678.4294967291")
    path = short_directory / ("d" * (length - len(f"{short_directory}/")))
    yield path
    dev_cluster("down", path, "--purge")


def test_purge_leaves_no_process_and_no_file(
    cluster: Environment, dev_cluster: DevCluster, longest_directory: Path, tmp_path: Path
) -> None:
    longer = dev_cluster("up", longest_directory.with_name(f"{longest_directory.name}d"), "--no-accounting")
    assert longer.returncode == 2
    assert f"at most {len(str(longest_directory))}" in longer.stderr
    with ThreadPoolExecutor() as pool:  # two at once are one
        ups = list(pool.map(lambda _: dev_cluster("up", longest_directory, "--no-accounting"), range(2)))
    assert [up.returncode for up in ups] == [0, 0], ups
    assert sorted("already running" in up.stderr for up in ups) == [False, True]
    assert not _ports(longest_directory) & _ports(_directory(cluster))
    second = {**cluster, "SLURM_CONF": str(longest_directory / "etc" / "slurm.conf")}
    output = tmp_path / "job.txt"
    _submit(second, "setsid sleep 60 & echo $$ $!; wait", output)
    _wait_for_text(output, "\n")
    pids = [_pid(longest_directory, daemon) for daemon in ("munged", "slurmctld", "slurmd")]
    pids += [int(word) for word in output.read_text().split()]
    assert not any(_has_ended(pid) for pid in pids)
    assert dev_cluster("down", longest_directory, "--purge").returncode == 0
    assert all(_has_ended(pid) for pid in pids)
    assert not longest_directory.exists()
    assert _run(cluster, "sinfo", "--noheader", "--format=%P %a").splitlines() == ["debug* up", "preemptible up"]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("command", ["up", "down"])
def test_foreign_directories_are_left_alone(command: str, dev_cluster: DevCluster, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    refused = dev_cluster(command, tmp_path)
    assert refused.returncode == 2
    assert "development cluster" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
