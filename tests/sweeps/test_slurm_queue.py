"""Arrays of a sweep in a queue that takes few jobs, with stand-ins for SLURM's commands; tests/slurm has a real one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from menvae.errors import UserError
from menvae.sweeps.runners import slurm_queue
from menvae.sweeps.runners.slurm import SlurmRunner

QUEUE = """#!{python}
# A queue of jobs in a file, one per line; it refuses what exceeds its limits.
import re, sys
from pathlib import Path

folder = Path("{folder}")
name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
queue = folder / "queue"
jobs = queue.read_text().split() if queue.exists() else []
with (folder / "asked").open("a") as file:
    print(name, *arguments, file=file)


def refuse(words):
    sys.exit("sbatch: error: " + words)


if name == "sbatch":
    text = Path(arguments[-1]).read_text()
    array = re.search(r"^#SBATCH --array=0-([0-9]+)%([0-9]+)", text, re.MULTILINE)
    size = int(array[1]) + 1 if array else 1
    if "--partition=nosuch" in text:
        refuse("invalid partition specified: nosuch")
    if size > {largest}:
        refuse("Invalid job array specification")
    if len(jobs) + size > {limit}:
        refuse("{words}")
    number = 100 + len([line for line in (folder / "asked").read_text().splitlines() if line.startswith("sbatch")])
    jobs += [f"{{number}}_{{index}}" for index in range(size)] if array else [str(number)]
    queue.write_text("\\n".join(jobs) + "\\n")
    with (folder / "arrays").open("a") as file:
        print(size, array[2] if array else 1, file=file)
    print("Submitted batch job", number)
elif name == "squeue":
    state = "|PENDING" if "%i|%T" in arguments else ""
    print("".join(f"{{job}}{{state}}\\n" for job in jobs), end="")
elif name == "scontrol" and arguments[0] == "show":
    print("MaxArraySize            = {largest}")
elif name == "sacctmgr":
    print("{told}" if "assoc" in arguments else "{told_of_qos}", end="")
"""
FULL = "AssocMaxSubmitJobLimit"

Queue = Callable[..., Path]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """Return a function: limits of a queue -> folder with ``queue``, ``arrays`` (size, share) and ``asked``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def begin(limit: int, largest: int = 1001, told: str = "", told_of_qos: str = "", words: str = FULL) -> Path:
        program = QUEUE.format(
            python=sys.executable,
            folder=folder,
            limit=limit,
            largest=largest,
            told=told,
            told_of_qos=told_of_qos,
            words=words,
        )
        for name in ("sbatch", "squeue", "scontrol", "sacctmgr", "srun", "scancel"):
            (folder / name).write_text(program)
            (folder / name).chmod(0o755)
        return folder

    return begin


def _jobs(tmp_path: Path, num: int) -> dict[str, Path]:
    return {f"run_{number}": tmp_path / "points" / f"run_{number}" / "job.json" for number in range(num)}


def _runner(tmp_path: Path, **keys: object) -> SlurmRunner:
    runner = SlurmRunner(**keys)  # type: ignore[arg-type]
    runner.prepare(tmp_path / "sweep", {})
    return runner


def _arrays(folder: Path) -> list[tuple[int, int]]:
    """Return size and share of every array."""
    rows = (line.split() for line in (folder / "arrays").read_text().splitlines())
    return [(int(size), int(share)) for size, share in rows]


def _leave(folder: Path, num: int) -> None:
    """Let all jobs end but the last ``num``."""
    jobs = (folder / "queue").read_text().split()
    (folder / "queue").write_text("".join(f"{job}\n" for job in jobs[len(jobs) - num :]))


def test_arrays_as_large_as_the_cluster_allows_share_what_runs_at_once(slurm: Queue, tmp_path: Path) -> None:
    folder = slurm(limit=1000, largest=40)
    runner = _runner(tmp_path, array_parallelism=20)
    submitted = runner.submit(_jobs(tmp_path, 100))
    assert len(submitted) == 100
    assert len({submission.job for submission in submitted.values()}) == 100
    assert _arrays(folder) == [(40, 8), (40, 8), (20, 4)]
    assert runner.num_open == 0


@pytest.mark.parametrize(
    "limits",
    [
        {"told": "30|normal\\n"},
        {"told": "|normal\\n", "told_of_qos": "30\\n"},
        {"told": "50|normal\\n", "told_of_qos": "30\\n"},
        {},  # the cluster does not say, and refuses
        {"words": "Slurm temporarily unable to accept job, sleeping and retrying"},
    ],
)
def test_a_queue_that_is_full_gets_the_rest_as_jobs_end(
    slurm: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, str]
) -> None:
    folder = slurm(limit=30, **limits)
    monkeypatch.setattr("menvae.sweeps.runners.slurm._SECONDS_BETWEEN_LOOKS", 0.0)
    runner, jobs = _runner(tmp_path, array_parallelism=16), _jobs(tmp_path, 80)
    submitted = dict(runner.submit(jobs))
    assert sum(size for size, _ in _arrays(folder)) == len(submitted) == 30
    assert runner.num_open == 50
    assert runner.advance() == {}, "none has ended"
    for left in (10, 0):
        _leave(folder, left)
        submitted |= runner.advance()
        assert len((folder / "queue").read_text().split()) == 30
        assert runner.num_open == 80 - len(submitted)
    assert list(submitted) == list(jobs), "in order"
    assert len({submission.job for submission in submitted.values()}) == 80
    assert not list((tmp_path / "sweep" / "slurm").glob("*.pkl")), "nothing is left of refused arrays"


def test_without_waiting_the_same_command_submits_the_rest(
    slurm: Queue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slurm(limit=3, told="3|\\n")
    runner = _runner(tmp_path, wait=False)
    with caplog.at_level("INFO"):
        assert len(runner.submit(_jobs(tmp_path, 5))) == 3
    assert "2 jobs wait" in caplog.text
    assert "the same command submits them later" in caplog.text


def test_what_sbatch_refuses_for_good_ends_the_launch(slurm: Queue, tmp_path: Path) -> None:
    folder = slurm(limit=30)
    with pytest.raises(UserError, match=r"sbatch rejects the jobs: .*invalid partition specified: nosuch"):
        _runner(tmp_path, partition="nosuch").submit(_jobs(tmp_path, 5))
    assert not (folder / "queue").exists()


def test_shares_go_to_the_arrays_that_can_use_them(
    slurm: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = slurm(limit=1000, largest=40)
    monkeypatch.setattr("menvae.sweeps.runners.slurm._SECONDS_BETWEEN_LOOKS", 0.0)
    runner = _runner(tmp_path, array_parallelism=20)
    runner.submit(_jobs(tmp_path, 80))
    _leave(folder, 45)
    runner.advance()
    runner.advance()
    updates = [line for line in (folder / "asked").read_text().splitlines() if "ArrayTaskThrottle" in line]
    assert updates == [
        "scontrol update JobId=101 ArrayTaskThrottle=5",
        "scontrol update JobId=102 ArrayTaskThrottle=15",
    ]


def test_a_single_array_asks_the_cluster_nothing_more(slurm: Queue, tmp_path: Path) -> None:
    folder = slurm(limit=1000)
    runner = _runner(tmp_path)
    runner.submit(_jobs(tmp_path, 5))
    before = (folder / "asked").read_text()
    assert runner.advance() == {}
    assert (folder / "asked").read_text() == before


def test_a_cluster_that_says_nothing_has_no_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm_queue.room(None, None) is None
    assert slurm_queue.largest_array() is None
