"""Warmed processes, as the launching process sees them: what `menvae.apps.warmed` does for it."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from menvae.interruption import PROCESS_NAME_BYTES
from menvae.runs.job import WARMED_APPLICATION

_SECONDS_TO_END = 5.0


class Process(Protocol):
    """The process of a point: one of `subprocess.Popen`, or one that a warmed process has forked."""

    @property
    def pid(self) -> int:
        """Its id; 0 before it has started."""

    @property
    def returncode(self) -> int | None:
        """Its exit code, that of a signal below 0; None while it runs, as `poll` found it."""

    def poll(self) -> int | None:
        """Look whether it has ended; return its exit code."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""


class ForkedProcess:
    """The process of a point that a warmed process forks.

    Attributes:
        pid: its id; 0 before it has started.
        returncode: its exit code, that of a signal below 0; 1 if nobody knows or it was refused; None while it runs.
    """

    def __init__(self, parent: WarmedHandle, job: Path) -> None:
        """Args: parent: the warmed process. job: the job file."""
        self._parent, self._job = parent, job
        self.pid = 0
        self.returncode: int | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the warmed process has ended, and the point has neither begun nor will."""
        return self.pid == 0 and self._parent.has_ended

    def poll(self) -> int | None:
        """Look whether it has ended; return its exit code."""
        self._parent.read()
        if self.returncode is None and self._parent.has_ended and not self._is_alive:
            self.returncode = 1  # nobody knows: only its parent could
        return self.returncode

    def terminate(self) -> None:
        """Ask it to end, and all others of its warmed process, which may be about to fork it."""
        self._parent.terminate()

    def kill(self) -> None:
        """End it."""
        if self.poll() is None and self._is_alive:
            os.kill(self.pid, signal.SIGKILL)

    @property
    def _is_alive(self) -> bool:
        return self.pid != 0 and is_named(self.pid, self._job.parent.name)


class WarmedHandle:
    """A warmed process of this machine, seen from the process that started it.

    It ends with this process, and its points then write their checkpoints.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        """Start it.

        Args:
            environment: its environment, and that of its points.
            log: receives what it says itself, which is nothing as long as all is well.
        """
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", WARMED_APPLICATION],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                process_group=0,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._answers.fileno(), False)
        self._rest = b""
        self._starting: dict[str, ForkedProcess] = {}
        self._running: dict[int, ForkedProcess] = {}
        self.has_ended = False

    def start(self, job: Path, log: Path) -> ForkedProcess:
        """Ask for the process of a point.

        Args:
            job: the job file.
            log: receives its output.
        """
        point = ForkedProcess(self, job)
        self._starting[str(job)] = point
        with suppress(BrokenPipeError):  # `read` first learns what it has answered
            self._requests.write(json.dumps({"job": str(job), "log": str(log)}).encode() + b"\n")
            self._requests.flush()
        return point

    def read(self) -> None:
        """Learn which points have started and ended.

        A point announces itself before it begins, and keeps the pipe open until it has. The end of the pipe thus says
        that no other point has begun.
        """
        while not self.has_ended:
            try:
                news = os.read(self._answers.fileno(), 1 << 16)
            except BlockingIOError:
                return
            self.has_ended = not news
            *lines, self._rest = (self._rest + news).split(b"\n")
            for line in lines:
                self._learn(json.loads(line))

    def terminate(self) -> None:
        """Ask it to start no more points and to pass SIGTERM on; if it has ended, the kernel has told its points."""
        self._process.terminate()

    def end(self) -> None:
        """Let it end with the last of its points, and wait a moment."""
        with suppress(BrokenPipeError):
            self._requests.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_END)

    def _learn(self, answer: Mapping[str, object]) -> None:
        process, code = answer["process"], answer.get("code")
        assert isinstance(process, int)
        if point := self._starting.pop(str(answer["job"]), None):  # its end says so too if it was killed before that
            point.pid = process
            self._running[process] = point
        if isinstance(code, int):
            self._running.pop(process).returncode = code


_kept: dict[tuple[tuple[str, str], ...], WarmedHandle] = {}


def warmed_process(environment: Mapping[str, str], log: Path) -> WarmedHandle:
    """Return the warmed process with an environment; the batches of a study share one.

    Args:
        environment: its environment, and that of its points.
        log: receives what it says itself, if it starts now.
    """
    key = tuple(sorted(environment.items()))
    if key not in _kept or _kept[key].has_ended:
        _kept[key] = WarmedHandle(environment, log)
        atexit.register(_kept[key].end)
    return _kept[key]


def is_named(process: int, run: str) -> bool:
    """Return whether a process is that of a run, after which a warmed process has named it, and has not ended.

    One that has ended keeps its name, without a command line, until its parent looks at it; the first process of a
    container, to which it falls when its parent has ended, may never do so.
    """
    folder = Path(f"/proc/{process}")
    try:
        name, arguments = ((folder / file).read_bytes() for file in ("comm", "cmdline"))
    except OSError:
        return False
    return name.removesuffix(b"\n") == os.fsencode(run)[-PROCESS_NAME_BYTES:] and bool(arguments)
