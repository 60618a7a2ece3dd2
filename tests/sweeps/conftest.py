"""What tests of sweeps share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

_WAIT = "import sys, time; sys.stdout.write('x'); sys.stdout.flush(); time.sleep(60)"


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Yield a function: program, arguments -> a Python process that has run it and waits, ended after the test."""
    processes = []

    def started(program: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{program}\n{_WAIT}", *arguments], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.read(1) == b"x"
        return process

    yield started
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
