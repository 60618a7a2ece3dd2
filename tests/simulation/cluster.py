"""A cluster on a simulated clock: a queue, nodes, jobs that succeed, fail or are preempted, and a store that is away.

The cluster is a process of its own, which launching processes ask over a socket, one at a time. Time passes only while
one of them sleeps. A job leaves what `menvae.runs.train` would leave, at the same moments and with the same functions
(lock, status, log, checkpoint, trackers, outcome), but its training only lasts: a checkpoint is the number of epochs
done. What the cluster knows of its jobs goes into a `Ledger`, which the checks hold against the files and the store.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import math
import os
import random
import signal
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from menvae.errors import ExitCode, UserError
from menvae.registry import validated
from menvae.runs.delivery import hand_over
from menvae.runs.directory import ENDED, RUNS, RunDirectory, trackers_of
from menvae.runs.environment import code_hash
from menvae.runs.failures import FailureLog
from menvae.runs.job import Job
from menvae.sweeps.runners import Fate
from menvae.tracking import local
from menvae.tracking.local import LocalLog
from menvae.tracking.mlflow import tracker
from menvae.tracking.tracker import ParentRun, TrackerContext, TrackingSettings
from menvae.tracking.trackers import Trackers

HOUR = 3600.0
START = 1_800_000_000.0
"""Time of day at which a simulation starts, in seconds since 1970."""
EXCEPTION, OUT_OF_MEMORY, TIMED_OUT, NODE_FAILED, PREEMPTED = (
    "exception",
    "out of memory",
    "time limit",
    "node failure",
    "preemption",
)
SHARES = {EXCEPTION: 0.4, OUT_OF_MEMORY: 0.2, TIMED_OUT: 0.2, NODE_FAILED: 0.2}
"""Of the failures."""
_SIGNALS = {PREEMPTED: "SIGTERM", TIMED_OUT: "SIGUSR2"}
_GATES = {"vol_r2": 0.85, "max_dcor": 0.35}


@dataclass(frozen=True)
class Settings:
    """What is simulated.

    Attributes:
        num_points: number of points of the sweep.
        output_dir: their output directory.
        failures, preemptions: fractions of points whose first job ends so.
        num_nodes: jobs that run at once.
        most_jobs: MaxSubmitJobs: jobs that run or wait.
        num_epochs: epochs of a run, of 20 minutes on average.
        kills: when the launching process is killed while it waits, as a fraction of the time that all jobs need.
        killed_submissions: numbers of submissions, from 1, after which it is killed before it hears of them.
        seed: of everything that is drawn.
        fault: a fault of `FAULTS`, or empty.
    """

    num_points: int
    output_dir: Path
    failures: float = 0.05
    preemptions: float = 0.02
    num_nodes: int = 14
    most_jobs: int = 500
    num_epochs: int = 3
    kills: Sequence[float] = ()
    killed_submissions: Sequence[int] = ()
    seed: int = 0
    fault: str = ""

    @property
    def least_s(self) -> float:
        """Seconds that all jobs need without any failure."""
        return self.num_points * self.num_epochs * HOUR / 3 / self.num_nodes


@dataclass(frozen=True)
class Fortune:
    """What happens to the first job of a point that is trained, or to all of them.

    Attributes:
        mishap: one of `SHARES` or ``PREEMPTED``; empty: nothing.
        after: when, as a fraction of the work that is left.
        is_hopeless: whether it happens to each job.
    """

    mishap: str = ""
    after: float = 1.0
    is_hopeless: bool = False


@dataclass
class Attempt:
    """Training of a run by one job, in seconds of the simulation and in epochs.

    Attributes:
        run: the run.
        began: when it began.
        done: epochs that the checkpoint had then.
        ended: when it ended.
        reached: epochs that it has computed, those before included.
        kept: epochs that its last checkpoint has.
        end: its mishap, or ``finished``.
    """

    run: str
    began: float
    done: float
    ended: float = math.inf
    reached: float = 0.0
    kept: float = 0.0
    end: str = ""


@dataclass
class Ledger:
    """What has happened, as the cluster saw it.

    Attributes:
        fortunes: what was drawn for each run.
        attempts: all trainings, in the order in which they began.
        logged: how often each (run, epoch) was written to the log.
        untracked: runs that finished or failed while the store was away.
        num_locked: jobs that found their run trained by another job.
        num_idle: jobs that found their run finished.
        num_killed: launching processes that were killed.
        most_queued, most_running: largest numbers of jobs.
        now: seconds of the simulation.
    """

    fortunes: dict[str, Fortune] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    logged: Counter[tuple[str, int]] = field(default_factory=Counter)
    untracked: set[str] = field(default_factory=set)
    num_locked: int = 0
    num_idle: int = 0
    num_killed: int = 0
    most_queued: int = 0
    most_running: int = 0
    now: float = 0.0


@dataclass(frozen=True)
class _Queued:
    """A job that waits."""

    number: str
    run: str
    path: Path


@dataclass
class _Running:
    """A job that trains."""

    queued: _Queued
    job: Job
    directory: RunDirectory
    log: LocalLog
    attempt: Attempt
    seconds_per_epoch: float
    fortune: Fortune


class _KillCallerError(Exception):
    """The launching process dies instead of receiving an answer."""


class Cluster:
    """The cluster; public methods are the requests that `serve` answers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.book = Ledger()
        self._draw = random.Random(settings.seed)
        self._fortunes = _fortunes(settings, self._draw)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._queue: deque[_Queued] = deque()
        self._running: dict[str, _Running] = {}
        self._ends: dict[str, str] = {}  # by number of a job: its fate, as far as the queue says one
        self._num_events = self._num_submissions = 0
        self._kills = [fraction * settings.least_s for fraction in settings.kills]
        away = 0.35 * settings.least_s
        self._at(away, lambda: self._move_store(away=True))
        self._at(away + HOUR, lambda: self._move_store(away=False))

    # ------------------------------------------------------------------------------------------------------------
    # Requests
    # ------------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the time in seconds."""
        return self.book.now

    def ledger(self) -> Ledger:
        """Return what has happened so far."""
        return self.book

    def sleep(self, seconds: float) -> None:
        """Let time pass, unless the process that asks is to be killed meanwhile."""
        until = self.book.now + seconds
        if self._kills and self._kills[0] <= until:
            self.pass_time(max(0.0, self._kills.pop(0) - self.book.now))
            raise _KillCallerError
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        until = self.book.now + seconds
        while self._events and self._events[0][0] <= until:
            self.book.now, _, happen = heapq.heappop(self._events)
            happen()
        self.book.now = until

    def room(self) -> int:
        """Return how many jobs the queue takes."""
        return self.settings.most_jobs - len(self._queue) - len(self._running)

    def submit(self, jobs: Mapping[str, Path]) -> dict[str, str]:
        """Queue {run: job file} as an array; return {run: number of the job}."""
        assert len(jobs) <= self.room(), "more jobs than MaxSubmitJobs"
        self._num_submissions += 1
        numbers = {run: f"{self._num_submissions}_{place}" for place, run in enumerate(jobs)}
        self._queue.extend(_Queued(numbers[run], run, path) for run, path in jobs.items())
        self.book.most_queued = max(self.book.most_queued, len(self._queue) + len(self._running))
        self._at(self.book.now + 60.0, self._fill)
        if self._num_submissions in self.settings.killed_submissions:
            raise _KillCallerError
        return numbers

    def states(self, numbers: Sequence[str]) -> dict[str, str]:
        """Return {number of a job: its fate}, without jobs that ended by themselves."""
        waiting = {one.number for one in self._queue}
        known = {
            number: Fate.PENDING if number in waiting else Fate.RUNNING if number in self._running else ""
            for number in numbers
        }
        return {number: str(fate or self._ends[number]) for number, fate in known.items() if fate or self._ends[number]}

    # ------------------------------------------------------------------------------------------------------------
    # Events
    # ------------------------------------------------------------------------------------------------------------

    def _at(self, time: float, happen: Callable[[], None]) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (time, self._num_events, happen))

    def _move_store(self, *, away: bool) -> None:
        """Put a folder in the place of the store, which then cannot be opened; or put the store back."""
        store = self.settings.output_dir / "mlflow.db"
        aside = store.with_name("mlflow.db.away")
        if away:
            store.rename(aside)
            store.mkdir()
            (store / "away").touch()
        else:
            (store / "away").unlink()
            store.rmdir()
            aside.rename(store)

    @property
    def _is_away(self) -> bool:
        return (self.settings.output_dir / "mlflow.db").is_dir()

    def _fill(self) -> None:
        """Start jobs on free nodes: the oldest or the newest, as priorities change."""
        while self._queue and len(self._running) < self.settings.num_nodes:
            self._start(self._queue.popleft() if self._draw.random() < 0.5 else self._queue.pop())
            self.book.most_running = max(self.book.most_running, len(self._running))

    def _start(self, queued: _Queued) -> None:
        job = Job.read(queued.path)
        try:
            directory = RunDirectory(self.settings.output_dir / RUNS / queued.run, patience_s=0.0)
        except UserError as error:
            self.book.num_locked += 1
            queued.path.with_name("output.log").write_text(f"menvae-train: {error}\n")
            self._leave(queued.number, job, ExitCode.WRONG_INPUT)
            return
        if self.settings.fault == "lock":
            fcntl.flock(directory._lock._file, fcntl.LOCK_UN)
        status = directory.status()
        if status["state"] in ENDED:
            self.book.num_idle += 1
            self._complete(job, directory, status)
            directory.release()
            self._leave(queued.number, job, ExitCode.DONE)
            return
        directory.set_status("running")
        directory.checkpoints.mkdir(exist_ok=True)
        done = 0.0 if self.settings.fault == "checkpoint" else _checkpoint(directory)
        log = LocalLog(directory.path)
        log.rewind(int(done))
        attempt = Attempt(queued.run, self.book.now, done, reached=done, kept=done)
        self.book.attempts.append(attempt)
        fortune = self._fortune(queued.run)
        running = _Running(queued, job, directory, log, attempt, HOUR * self._draw.uniform(0.2, 0.47), fortune)
        self._running[queued.number] = running
        left = self.settings.num_epochs - done
        for epoch in range(int(done) + 1, self.settings.num_epochs + 1):
            part = (epoch - done) / left
            if fortune.mishap and part >= fortune.after:
                break
            self._later(running, epoch - done, lambda epoch=epoch: self._end_epoch(running, epoch))
        self._later(running, min(fortune.after, 1.0) * left, lambda: self._end(running))

    def _later(self, running: _Running, epochs: float, happen: Callable[[], None]) -> None:
        self._at(self.book.now + epochs * running.seconds_per_epoch, happen)

    def _fortune(self, run: str) -> Fortune:
        """Return what happens to a job; what was drawn for the run, unless that has happened to another job."""
        drawn = self.book.fortunes.get(run)
        if drawn is None:
            drawn = self.book.fortunes[run] = self._fortunes.pop()
            return drawn
        return drawn if drawn.is_hopeless else Fortune()

    def _end_epoch(self, running: _Running, epoch: int) -> None:
        running.attempt.reached = float(epoch)
        self.book.logged[running.attempt.run, epoch] += 1
        metrics, timings = values_of(running.attempt.run, epoch), {"time/train_s": running.seconds_per_epoch}
        running.log.append(epoch, metrics, timings)
        last = (epoch - running.attempt.done) / (self.settings.num_epochs - running.attempt.done)
        dies_before = running.fortune.mishap == NODE_FAILED and last + 0.2 > running.fortune.after
        if not dies_before:  # else the node dies after it has logged an epoch, and before the checkpoint is written
            self._keep(running, epoch)

    def _keep(self, running: _Running, done: float) -> None:
        (running.directory.checkpoints / "last.ckpt").write_text(repr(done))
        running.attempt.kept = done

    def _end(self, running: _Running) -> None:
        """End a job as `menvae.runs.train` does."""
        attempt, directory, mishap = running.attempt, running.directory, running.fortune.mishap
        left = self.settings.num_epochs - attempt.done
        attempt.reached = attempt.done + min(running.fortune.after, 1.0) * left
        attempt.end, attempt.ended = mishap or "finished", self.book.now
        code, stopped_by, fate = 1, "", ""
        if mishap in _SIGNALS:
            self._keep(running, attempt.reached)
            stopped_by, code = _SIGNALS[mishap], ExitCode.INTERRUPTED
            fate = Fate.TIMED_OUT if mishap == TIMED_OUT else ""
            directory.set_status("interrupted", reason=stopped_by)
            self._trackers(running.job, directory).finish("KILLED", {"menvae.state": "interrupted"}, patience_s=10.0)
        elif mishap in (EXCEPTION, OUT_OF_MEMORY):
            self._trackers(running.job, directory).finish("FAILED", {"menvae.state": "failed"})
            failures = FailureLog(directory.path)
            failures.append(ValueError(f"made up for {attempt.run}"), 0, 1)
            directory.set_status("failed", reason="out of memory" if mishap == OUT_OF_MEMORY else failures.cause())
        elif mishap == NODE_FAILED:
            fate = Fate.NODE_FAILED  # nothing is written any more
        else:
            self._keep(running, float(self.settings.num_epochs))
            code = ExitCode.DONE
            self._finish(running)
        directory.release()
        del self._running[running.queued.number]
        if mishap == PREEMPTED:
            running.job.leave_outcome(code, stopped_by)
            self._queue.append(running.queued)
            self._at(self.book.now + 600.0, self._fill)
        elif mishap == NODE_FAILED:
            self._ends[running.queued.number] = fate
            self._at(self.book.now, self._fill)
        else:
            self._leave(running.queued.number, running.job, code, stopped_by, fate)

    def _leave(self, number: str, job: Job, code: int, stopped_by: str = "", fate: str = "") -> None:
        job.leave_outcome(code, stopped_by)
        self._ends[number] = fate
        self._at(self.book.now, self._fill)

    # ------------------------------------------------------------------------------------------------------------
    # Results and trackers
    # ------------------------------------------------------------------------------------------------------------

    def _trackers(self, job: Job, directory: RunDirectory) -> Trackers:
        """Return the trackers of a run, which have been told all that the log has."""
        assert job.sweep is not None
        if self._is_away:
            self.book.untracked.add(directory.path.name)
        context = TrackerContext(
            settings=validated(TrackingSettings, job.config["tracking"], "tracking"),
            output_dir=self.settings.output_dir,
            run_dir=directory.path,
            run_name=directory.path.name,
            parent=ParentRun(job.sweep, job.sweep.name),
        )
        found = Trackers.of(context)
        config = job.config
        params = {
            "seed": config["seed"],
            "loss.lambda_kl": config["loss"]["lambda_kl"],
            "data.fold": config["data"]["fold"],
        }
        found.start(params, {"menvae.run": directory.path.name}, LocalLog(directory.path))
        return found

    def _finish(self, running: _Running) -> None:
        directory, run = running.directory, running.attempt.run
        gates = [
            {"name": name, "value": values_of(run, self.settings.num_epochs)[f"gate_of_{name}"], "passed": True}
            for name in _GATES
        ]
        (directory.path / "gates.json").write_text(json.dumps({"gates": gates, "passed": True}))
        (directory.checkpoints / "best.ckpt").write_text(run)
        num = self.settings.num_epochs
        status = {"state": "finished", "reason": "", "epochs": num, "best_epoch": num, "gates_passed": True}
        self._deliver(running.job, directory, {**status, "code": code_hash()})

    def _complete(self, job: Job, directory: RunDirectory, status: dict[str, Any]) -> None:
        settings = validated(TrackingSettings, job.config["tracking"], "tracking")
        if settings.active - trackers_of(status):
            self._deliver(job, directory, status)

    def _deliver(self, job: Job, directory: RunDirectory, status: dict[str, Any]) -> None:
        settings = validated(TrackingSettings, job.config["tracking"], "tracking")
        trackers = self._trackers(job, directory)
        if self.settings.fault == "loss" and self._is_away:
            status["trackers"] = ["mlflow"]
        else:
            hand_over(trackers, settings, directory, status)
        directory.set_status(**status)


def values_of(run: str, epoch: int) -> dict[str, float | None]:
    """Return the metrics of an epoch, equal whenever it is computed."""
    draw = random.Random(f"{run} {epoch}")
    names = ("train_epoch/loss", "val_epoch/loss", *(f"gate_of_{name}" for name in _GATES))
    return {name: draw.random() for name in names}


def _checkpoint(directory: RunDirectory) -> float:
    """Return the number of epochs of the last checkpoint."""
    path = directory.checkpoints / "last.ckpt"
    return float(path.read_text()) if path.is_file() else 0.0


def _fortunes(settings: Settings, draw: random.Random) -> list[Fortune]:
    """Draw what happens to the points; the numbers of failures and preemptions are exact."""
    failures = settings.num_points * settings.failures
    mishaps = [name for name, share in SHARES.items() for _ in range(max(1, round(share * failures)))]
    mishaps += [PREEMPTED] * max(1, round(settings.num_points * settings.preemptions))
    most_hopeless = max(1, round(0.1 * failures))
    fortunes = [
        Fortune(name, draw.uniform(0.05, 0.95), is_hopeless=name == EXCEPTION and place < most_hopeless)
        for place, name in enumerate(mishaps)
    ]
    fortunes += [Fortune()] * (settings.num_points - len(fortunes))
    draw.shuffle(fortunes)
    return fortunes


# ----------------------------------------------------------------------------------------------------------------
# The process of the cluster, and those that ask it
# ----------------------------------------------------------------------------------------------------------------


def serve(settings: Settings, address: str) -> None:
    """Answer requests, of one process after the other.

    Args:
        settings: what is simulated.
        address: path of the socket.
    """
    cluster = Cluster(settings)
    local.time = tracker.time = _Clock(cluster.now)  # type: ignore[assignment]
    with Listener(address) as listener:
        while True:
            with listener.accept() as connection:
                _answer(cluster, connection)


def _answer(cluster: Cluster, connection: Connection) -> None:
    """Answer the requests of one process, until it ends or is killed."""
    process = connection.recv()
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            connection.send(getattr(cluster, name)(*arguments))
        except _KillCallerError:
            cluster.book.num_killed += 1
            os.kill(process, signal.SIGKILL)
            return


class Asker:
    """The connection of a process to the cluster.

    Args:
        address: socket of the cluster.
    """

    def __init__(self, address: str) -> None:
        self._connection = Client(address)
        self._connection.send(os.getpid())

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Return the answer to a request: the name and the arguments of a method of `Cluster`."""
        self._connection.send((name, arguments))
        return self._connection.recv()

    def close(self) -> None:
        self._connection.close()


class _Clock:
    """What modules of menvae use of the module ``time``, in the cluster: pauses of trackers take no time there."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.monotonic = now

    def sleep(self, seconds: float) -> None:
        """Do not wait."""

    def time_ns(self) -> int:
        return round((START + self.monotonic()) * 1e9)


class WaitingClock:
    """The same in a launching process, whose pauses let the time of the cluster pass."""

    def __init__(self, ask: Asker) -> None:
        self._ask = ask

    def monotonic(self) -> float:
        return float(self._ask("now"))

    def sleep(self, seconds: float) -> None:
        self._ask("sleep", seconds)
