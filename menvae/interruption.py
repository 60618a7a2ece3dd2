"""Stop requests: signals and the time limit, handled between two steps, where a checkpoint can be written."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from menvae.errors import RunInterruptedError, UserError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
"""Signals that schedulers (SIGTERM, SIGUSR2) and users (Ctrl-C) send."""

PROCESS_NAME_BYTES = 15
"""Longest name of a process that Linux keeps."""


class StopRequest:
    """Whether this process was asked to stop.

    Where no work can be lost (preparation, evaluation), a signal raises `RunInterruptedError` at once. Within
    `deferred` it only sets `reason`, which the training loop checks at every step. A second Ctrl-C stops at once.

    Attributes:
        signal_name: the first signal received, such as ``SIGTERM``, or empty.
    """

    def __init__(self, time_limit_min: float | None = None) -> None:
        """Args: time_limit_min: minutes from now until the process asks itself to stop; None: never."""
        self.signal_name = ""
        self._time_limit_min = time_limit_min
        self._deadline = None if time_limit_min is None else time.monotonic() + 60.0 * time_limit_min
        self._deferred = False

    @property
    def reason(self) -> str:
        """Why to stop, such as ``SIGTERM`` or ``time limit of 30 min``; empty if there is no request."""
        if self.signal_name:
            return self.signal_name
        past = self._deadline is not None and time.monotonic() >= self._deadline
        return f"time limit of {self._time_limit_min:g} min" if past else ""

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer signals: the block polls `reason`; if a signal arrived, `RunInterruptedError` is raised at its end."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.signal_name:
            raise RunInterruptedError(self.signal_name)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal (a handler for `signal.signal`)."""
        if self.signal_name:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal_name = signal.Signals(number).name
        if not self._deferred:
            raise RunInterruptedError(self.signal_name)


@contextmanager
def stop_requests(time_limit_min: float | None = None) -> Iterator[StopRequest]:
    """Turn stop signals into a `StopRequest` while the block runs; only the main thread can receive them.

    Args:
        time_limit_min: see `StopRequest`.
    """
    request = StopRequest(time_limit_min)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.receive) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def terminate(process: int) -> None:
    """Send SIGTERM to a process.

    Args:
        process: its id.

    Raises:
        ProcessLookupError: it does not exist.
        UserError: it belongs to another user.
    """
    try:
        os.kill(process, signal.SIGTERM)
    except PermissionError:
        raise UserError(f"process {process} belongs to another user, who alone can end it") from None


def leave_stopping_to_parent() -> None:
    """In a worker process: ignore stop signals, which schedulers and terminals send to whole groups of processes.

    The parent decides when its workers end.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def stop_with_parent() -> None:
    """Send SIGTERM to this process when its parent ends, even by a crash (Linux only)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def call_process(name: str) -> None:
    """Show the last 15 bytes of a name as that of this process in ``/proc`` and ``ps`` (Linux only)."""
    if sys.platform == "linux":
        set_name = 15  # PR_SET_NAME of prctl(2)
        ctypes.CDLL(None).prctl(set_name, os.fsencode(name)[-PROCESS_NAME_BYTES:])
