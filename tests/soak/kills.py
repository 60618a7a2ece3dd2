"""Runs and preparations that are killed (SIGKILL) at random moments: the same command ends as if nothing had happened.

Each command is killed again and again until it ends before its next kill, or until all kills are spent.
"""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from e2e.test_resume import SIX, compared, weights
from overrides import COHORT, write_data
from runs import command, environment, mlflow_points, only_run
from tally import Tally


@dataclass(frozen=True)
class Task:
    """A command to kill.

    Attributes:
        arguments: output folder -> the command line.
        has_begun: whether the command in an output folder does what it should be killed in.
        difference: output folders of an undisturbed and a killed command -> what differs, or nothing.
    """

    arguments: Callable[[Path], list[str]]
    has_begun: Callable[[Path], bool]
    difference: Callable[[Path, Path], str]


def training(tally: Tally, draw: random.Random, folder: Path) -> None:
    """Kill a run."""
    cache = folder / "prepare"
    subprocess.run(command(cache, "trainer.max_epochs=1"), env=environment(), capture_output=True, check=True)

    def arguments(output_dir: Path) -> list[str]:
        output_dir.mkdir(exist_ok=True)
        if not (output_dir / "cache").exists():
            (output_dir / "cache").symlink_to(cache / "cache")
        return command(output_dir, *SIX)

    def has_begun(output_dir: Path) -> bool:
        return (output_dir / "runs").is_dir()

    kill_often(Task(arguments, has_begun, _difference_of_runs), tally, draw, folder)


def preparation(tally: Tally, draw: random.Random, folder: Path) -> None:
    """Kill the preparation of a cohort."""
    write_data(folder, num_subjects=24)
    program = "from menvae.apps.prepare import main; main()"

    def arguments(output_dir: Path) -> list[str]:
        overrides = [text.replace("root=", f"root={folder}/") for text in COHORT]
        return [sys.executable, "-c", program, *overrides, f"output_dir={output_dir}", "thumbnails=1"]

    def has_begun(output_dir: Path) -> bool:
        return (output_dir / "cache").is_dir()

    kill_often(Task(arguments, has_begun, _difference_of_caches), tally, draw, folder)


def kill_often(task: Task, tally: Tally, draw: random.Random, folder: Path) -> None:
    """Kill a command as often as the tally says, at moments spread over the time that it takes undisturbed."""
    whole = folder / "whole"
    process = _start(task, whole)
    assert _wait(process, lambda: task.has_begun(whole)), _log(whole)
    begun = time.monotonic()
    assert process.wait() == 0, _log(whole)
    seconds = time.monotonic() - begun
    num_left = tally.num
    for number in itertools.count():
        if not num_left:
            return
        output_dir = folder / f"killed_{number}"
        kills, status = [], None
        while num_left and status is None:
            moment = draw.uniform(0.0, seconds)
            status = _killed(task, output_dir, moment)
            if status is None:
                kills.append(f"{moment:.2f}")
                num_left -= 1
        if status is None:
            status = _start(task, output_dir).wait()
        moments = f"{output_dir.name}, killed after {', '.join(kills)} s of {seconds:.2f}"
        if status:
            tally.failed(f"exit code {status}", f"{moments}\n{_log(output_dir)}", len(kills))
        elif difference := task.difference(whole, output_dir):
            tally.failed("another end", f"{moments}: {difference}", len(kills))
        elif kills:
            tally.passed("resumed to the same end", len(kills))


def _killed(task: Task, output_dir: Path, seconds: float) -> int | None:
    """Start a command, and kill it so long after it has begun; return its exit status if it ended before."""
    process = _start(task, output_dir)
    if _wait(process, lambda: task.has_begun(output_dir)):
        with suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=seconds)
        process.kill()
        process.wait()
        return None
    return process.wait()


def _start(task: Task, output_dir: Path) -> subprocess.Popen[bytes]:
    with output_dir.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(task.arguments(output_dir), env=environment(), stdout=subprocess.DEVNULL, stderr=log)


def _log(output_dir: Path) -> str:
    return output_dir.with_suffix(".log").read_text(errors="replace")[-1500:]


def _wait(process: subprocess.Popen[bytes], is_so: Callable[[], bool]) -> bool:
    """Wait until something is so; return whether it is, rather than the process having ended."""
    while process.poll() is None:
        if is_so():
            return True
        time.sleep(0.005)
    return False


def _difference_of_runs(wanted_dir: Path, got_dir: Path) -> str:
    """Compare the finished runs of two output folders: files, weights, and what MLflow has."""
    wanted, got = only_run(wanted_dir), only_run(got_dir)
    if wanted.name != got.name:
        return f"run {got.name} instead of {wanted.name}"
    for name in ("metrics.jsonl", "gates.json", "splits.csv", "targets.json"):
        if (wanted / name).read_bytes() != (got / name).read_bytes():
            return name
    files = [{str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} for run in (wanted, got)]
    if different := files[0] ^ files[1]:
        return f"files {', '.join(sorted(different))}"
    before, after = weights(wanted), weights(got)
    different = {name for name in before.keys() | after.keys() if not _equal(before.get(name), after.get(name))}
    if different:
        return f"weights {', '.join(sorted(different))}"
    tracked = [list(map(compared, mlflow_points(output_dir).values())) for output_dir in (wanted_dir, got_dir)]
    if len(tracked[1]) != 1:
        return f"{len(tracked[1])} runs in MLflow"
    points = sorted(tracked[0][0] ^ tracked[1][0])
    return f"points in MLflow: {points[:10]}" if points else ""


def _equal(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def _difference_of_caches(wanted_dir: Path, got_dir: Path) -> str:
    """Compare all files in two caches."""
    wanted, got = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (wanted_dir / "cache", got_dir / "cache")
    )
    different = {name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name)}
    return f"files {', '.join(sorted(different))}" if different else ""
