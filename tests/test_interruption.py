"""Requests to stop, with signals that this process sends itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from menvae.errors import RunInterruptedError
from menvae.interruption import STOP_SIGNALS, StopRequest, stop_requests

SECOND = (
    ([signal.SIGINT, signal.SIGINT], KeyboardInterrupt, ["SIGINT"]),
    ([signal.SIGTERM, signal.SIGINT], KeyboardInterrupt, ["SIGTERM"]),
    ([signal.SIGTERM, signal.SIGTERM], RunInterruptedError, ["SIGTERM", "SIGTERM"]),
    ([signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2], RunInterruptedError, ["SIGUSR2"] * 3),
    ([signal.SIGINT, signal.SIGTERM], RunInterruptedError, ["SIGINT", "SIGINT"]),
)
"""Signals that come one after another, what that raises, and the reason that a loop sees after each."""


def _send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def _receive(*numbers: signal.Signals, seen: list[str], deferred: bool = True) -> None:
    """Send signals, noting the reason to stop after each that did not raise."""
    with stop_requests() as stop, stop.deferred() if deferred else nullcontext():
        for number in numbers:
            _send(number)
            seen.append(stop.reason)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_where_nothing_can_be_lost_raises_at_once(number: signal.Signals) -> None:
    seen: list[str] = []
    with pytest.raises(RunInterruptedError, match=f"^{number.name}$"):
        _receive(number, seen=seen, deferred=False)
    assert seen == []


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_deferred_signal_lets_the_step_be_completed_and_raises_at_the_end(number: signal.Signals) -> None:
    seen: list[str] = []
    with pytest.raises(RunInterruptedError, match=f"^{number.name}$"):
        _receive(number, seen=seen)
    assert seen == [number.name]


@pytest.mark.parametrize(("numbers", "error", "expected"), SECOND)
def test_only_a_ctrl_c_is_heeded_after_another_signal(
    numbers: list[signal.Signals], error: type[BaseException], expected: list[str]
) -> None:
    seen: list[str] = []
    with pytest.raises(error):
        _receive(*numbers, seen=seen)
    assert seen == expected


def test_a_loop_that_sees_the_reason_says_where_it_stopped() -> None:
    def loop() -> None:
        with stop_requests() as stop, stop.deferred():
            assert stop.reason == ""
            _send(signal.SIGTERM)
            raise RunInterruptedError(stop.reason, "epoch 3")

    with pytest.raises(RunInterruptedError, match=r"^SIGTERM in epoch 3$") as raised:
        loop()
    assert raised.value.reason == "SIGTERM"


def test_after_deferring_signals_raise_at_once_again() -> None:
    with stop_requests() as stop:
        with stop.deferred():
            pass
        with pytest.raises(RunInterruptedError, match=r"^SIGTERM$"):
            _send(signal.SIGTERM)


def test_an_error_of_the_block_is_not_hidden_by_a_signal() -> None:
    def fail() -> None:
        with stop_requests() as stop, stop.deferred():
            _send(signal.SIGTERM)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_a_repeated_signal_does_not_disturb_cleaning_up() -> None:
    done = []

    def clean_up() -> None:
        with stop_requests():
            try:
                _send(signal.SIGTERM)
            finally:
                _send(signal.SIGTERM)
                done.append("cleaned up")

    with pytest.raises(RunInterruptedError):
        clean_up()
    assert done


def test_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("menvae.interruption.time.monotonic", lambda: now[0])
    stop = StopRequest(time_limit_min=1.5)
    never = StopRequest()
    now[0] = 1089.9
    assert stop.reason == ""
    now[0] = 1090.0
    assert stop.reason == "time limit of 1.5 min"
    now[0] = 1e9
    assert never.reason == ""


def test_a_signal_counts_more_than_the_time_limit() -> None:
    with stop_requests(time_limit_min=0.0) as stop:
        assert stop.reason == "time limit of 0 min"
        with pytest.raises(RunInterruptedError, match=r"^SIGTERM$"):
            _send(signal.SIGTERM)
        assert stop.reason == "SIGTERM"


def test_handlers_of_before_are_back_afterwards() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with stop_requests():
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
    with pytest.raises(RunInterruptedError), stop_requests():
        _send(signal.SIGTERM)
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def test_another_thread_can_run_the_block_and_receives_nothing() -> None:
    seen = []

    def work() -> None:
        with stop_requests(time_limit_min=0.0) as stop:
            seen.append(stop.reason)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["time limit of 0 min"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's service is Linux's")
def test_a_child_is_asked_to_stop_when_its_parent_is_killed(tmp_path: Path) -> None:
    child = f"""
import sys, time
from pathlib import Path
from menvae.errors import RunInterruptedError
from menvae.interruption import stop_requests, stop_with_parent
try:
    with stop_requests():
        stop_with_parent()
        Path({str(tmp_path / "ready")!r}).touch()
        time.sleep(60)
except RunInterruptedError as error:
    sys.stdout.write(f"stopped by {{error}}")
"""
    parent = f"""
import os, subprocess, sys, time
from pathlib import Path
subprocess.Popen([sys.executable, "-c", {child!r}])
while not Path({str(tmp_path / "ready")!r}).exists():
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stdout == "stopped by SIGTERM"  # whose pipe the child has too: it was read until the child ended
