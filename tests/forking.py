"""Jobs of a command under test that fork from a copy of its process, which has imported what they need."""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import torch

from menvae.interruption import call_process
from menvae.runs.job import APPLICATION, WARMED_APPLICATION

_SET_CHILD_SUBREAPER = 36  # of prctl(2)
_SECONDS_TO_START = 60.0
_LONGEST_REQUEST_BYTES = 1 << 17


def fork_jobs() -> None:
    """From now on `subprocess` forks the jobs of sweeps, and their warmed processes, instead of starting Python.

    They fork from a copy of this process made here, while it has one thread, and are then children of this process as
    others are: it waits for them, and the kernel tells them of its end. Call it before the command begins, and once
    its streams are in place (Linux only).
    """
    command = os.getpid()
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)
    requests, served = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        requests.close()
        _serve(served, command)
    served.close()
    requests.settimeout(_SECONDS_TO_START)
    start_program = subprocess._fork_exec  # type: ignore[attr-defined]  # `Popen` stays the real one

    def start(arguments: Sequence[str], *rest: Any) -> int:
        if tuple(arguments[1:2]) != ("-m",) or arguments[2] not in (APPLICATION, WARMED_APPLICATION):
            return int(start_program(arguments, *rest))
        environ, streams, group = rest[4], (rest[5], rest[8], rest[10]), rest[15]
        request = {"arguments": arguments[2:], "environ": list(map(os.fsdecode, environ)), "group": group}
        own = [number if stream == -1 else stream for number, stream in enumerate(streams)]
        socket.send_fds(requests, [json.dumps(request).encode()], own)
        return int(requests.recv(16))

    mock.patch.object(subprocess, "_fork_exec", start).start()


def _serve(requests: socket.socket, command: int) -> NoReturn:
    """Fork a job for each request, until the command has ended."""
    os.setsid()  # a signal to the group of the command is not for this process
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    while True:
        request, streams, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST_BYTES, 3)
        if not request:
            os._exit(0)
        between = os.fork()
        if between == 0:
            between = os.getpid()
            if os.fork():
                os._exit(0)  # the job becomes a child of the command
            while os.getppid() == between:
                time.sleep(0.001)
            if os.getppid() != command:  # it has ended
                os._exit(1)
            _be_job(requests, json.loads(request), streams)
        os.waitpid(between, 0)
        for stream in streams:
            os.close(stream)


def _be_job(requests: socket.socket, request: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    """Become the program that was asked for, and tell the command the id of this process."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if request["group"] >= 0:
        os.setpgid(0, request["group"])
    module, *arguments = request["arguments"]
    if arguments:
        call_process(Path(arguments[0]).parent.name)  # its command line is not that of a job
    requests.send(str(os.getpid()).encode())
    requests.close()
    os.environ.clear()
    os.environ.update(entry.split("=", 1) for entry in request["environ"])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()
