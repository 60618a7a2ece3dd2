"""Real command lines with random overrides and flags, in processes of their own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from overrides import COHORT, TABLE, Overrides, write_data
from tally import Tally

from menvae.cores import num_cores
from menvae.errors import ExitCode

_TINY = (*TABLE, "trainer.max_epochs=1", "tracking.enabled=false")
_FLAGS = (
    "-m",
    "-m",
    "-m",
    "--run",
    "--multirun",
    "--resolve",
    "--cfg=job",
    "--cfg=all",
    "--package=model",
    "--info=defaults",
)
_OTHERS = (
    ("sweep", ("plan", *_TINY)),
    ("sweep", ("status",)),
    ("sweep", ("retry",)),
    ("sweep", ("watch", "--once")),
    ("sweep", ("stop", "--all")),
    ("sweep", ("sync",)),
    ("prepare", COHORT),
    ("compare", ()),
    ("parts", ()),
)
_SECONDS = 60  # after which a command is asked to stop
_SECONDS_TO_STOP = 60
_SECONDS_TO_VANISH = 10
_STATUSES = {*ExitCode, 1}


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: exit status; None if it had to be killed.
        said: standard output and standard error.
        errors: standard error.
        left: whether it left processes behind.
    """

    status: int | None
    said: str
    errors: str
    left: bool


def commands(tally: Tally, draw: random.Random, folder: Path) -> None:
    """Run command lines in a folder within a temporary one, as many at a time as there are cores."""
    work = folder / "work"
    work.mkdir()
    write_data(work)
    overrides = Overrides(draw)
    lines = [_line(overrides) for _ in range(tally.num)]
    with ThreadPoolExecutor(num_cores()) as pool:
        for line, ended in zip(lines, pool.map(lambda line: run(line[0], line[1:], work), lines), strict=True):
            _judge(tally, " ".join(line), ended)


def _line(overrides: Overrides) -> list[str]:
    draw = overrides.random
    command, arguments = ("train", _TINY) if draw.random() < 0.6 else draw.choice(_OTHERS)
    if command == "parts":
        return [command, draw.choice(("term", "nosuch", "--nosuch", "''", "term=3"))]
    composed = "train" if "plan" in arguments else command
    base = [argument for argument in arguments if "=" in argument]
    flags = draw.sample(_FLAGS, draw.choice((0, 0, 0, 1, 1, 2)))
    sweeps = "-m" in flags or "plan" in arguments
    return [command, *arguments, *overrides.some(composed, base), *([overrides.swept(composed, base)] * sweeps), *flags]


def run(command: str, arguments: Sequence[str], folder: Path) -> Ended:
    """Run a command of menvae; ask it to stop after a time, and kill what is left."""
    program = f"import sys; sys.argv[0] = 'menvae-{command}'; from menvae.apps.{command} import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    status: int | None = None
    try:
        output, errors = process.communicate(timeout=_SECONDS)
        status = process.returncode
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            output, errors = process.communicate(timeout=_SECONDS_TO_STOP)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
    return Ended(status, output + errors, errors, _has_left(process.pid))


def _has_left(group: int) -> bool:
    """Return whether processes of a group outlive their command, and kill them."""
    deadline = time.monotonic() + _SECONDS_TO_VANISH
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)
        return True
    return False


def _judge(tally: Tally, line: str, ended: Ended) -> None:
    details = f"menvae-{line}\n{ended.said[-1500:]}"
    last = ended.errors.strip().rpartition("\n")[2]
    if "Traceback (most recent call last)" in ended.said:
        tally.failed("traceback", details)
    elif ended.status is None:
        tally.failed("no end", details)
    elif ended.status not in _STATUSES:
        tally.failed(f"exit code {ended.status}", details)
    elif ended.left:
        tally.failed("processes left behind", details)
    elif ended.status == ExitCode.WRONG_INPUT and not last.startswith("menvae-"):
        tally.failed("refused without a sentence", details)
    elif ended.status == ExitCode.WRONG_INPUT:
        tally.passed("refused in one sentence")
    else:
        tally.passed(f"exit code {ended.status}")
