"""``hydra/launcher=slurm``: submits the points as one job array, with submitit.

The state of jobs comes from ``squeue``, for recent jobs, and from ``sacct``, if accounting is available, for all.
"""

from __future__ import annotations

import importlib
import logging
import re
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from menvae.errors import ExitCode, UserError
from menvae.files import DamagedFileError, read_json
from menvae.registry import Field, register
from menvae.runs.job import APPLICATION, WARMED_APPLICATION
from menvae.sweeps.runners import Fate, JobState, Runner, slurm_queue
from menvae.sweeps.sweep import Submission

_log = logging.getLogger(__name__)

_WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED"}
)
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"})
_FATES: Mapping[str, Fate] = {
    **dict.fromkeys(_WAITING, Fate.PENDING),
    **dict.fromkeys(_RUNNING, Fate.RUNNING),
    "TIMEOUT": Fate.TIMED_OUT,
    "DEADLINE": Fate.TIMED_OUT,
    "CANCELLED": Fate.CANCELLED,
    "PREEMPTED": Fate.PREEMPTED,
    "OUT_OF_MEMORY": Fate.OUT_OF_MEMORY,
    "NODE_FAIL": Fate.NODE_FAILED,
    "BOOT_FAIL": Fate.NODE_FAILED,
}
"""State of a job -> fate. FAILED and COMPLETED are omitted, because the files of the run are more specific."""

_OWN = (
    *("max_num_timeout", "modules", "environment", "setup", "wait", "poll_s", "srun_args", "additional_parameters"),
    "points_per_gpu",
)
_SHARED = ("timeout_min", "nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb", "name")
_SECONDS_AFTER_FIRST_TASK = 45  # all tasks of a run end together; one that remains is waiting for a failed one
_HAS_ENDED = ("already completing or completed", "Invalid job id")  # what scancel says of such jobs
_SECONDS_BETWEEN_LOOKS = 60.0  # for room in the queue

Pack = Sequence[tuple[str, Path]]
"""Runs of one job, with their job files."""

_CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def _word(value: object) -> object:
    """Return text, also for a whole number, such as ``account=4711``; other values differ from what was typed."""
    if isinstance(value, bool | float):
        raise ValueError("should be text: put it in quotes")
    return str(value) if isinstance(value, int) else value


def _minutes(value: object) -> object:
    """Return a time limit in minutes; text may have the forms of ``sbatch --time``, such as 12:00:00 or 2-12.

    >>> [_minutes(text) for text in ("12:00:00", "1-00", "2-12:30", "90:30", "45")]
    [720, 1440, 3630, 91, 45]
    """
    if not isinstance(value, str):
        return value
    found = _CLOCK.fullmatch(value)
    if found is None:
        raise ValueError("should be minutes, or a time such as 12:00:00 or 2-12:00:00 (days-hours:minutes:seconds)")
    days, *parts = (int(part) if part else None for part in found.groups())
    if days is None:  # minutes, minutes:seconds or hours:minutes:seconds
        given = [part for part in parts if part is not None]
        hours, minutes, seconds = ([0, *given] if len(given) < 3 else given) + [0] * (2 - len(given))
    else:
        hours, minutes, seconds = (part or 0 for part in parts)
    return (days or 0) * 1440 + hours * 60 + minutes + (seconds + 59) // 60


def _variable(name: str) -> str:
    """Check the name of an environment variable, which a shell must be able to set."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("should be the name of a variable: letters, digits and _, no digit first")
    return name


Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Minutes = Annotated[int, Field(ge=1), BeforeValidator(_minutes)]
Word = Annotated[str, BeforeValidator(_word)]
Variable = Annotated[str, AfterValidator(_variable)]


@register("runner", "slurm")
@dataclass(kw_only=True)
class SlurmRunner(Runner):
    """Runs jobs on a SLURM cluster with submitit; keys follow hydra-submitit-launcher where it has them.

    Attributes:
        timeout_min: time limit of a job, in minutes, or as for ``sbatch --time``: ``12:00:00``, ``2-12:00:00``.
        signal_delay_s: how long before the limit SLURM signals the job to write a checkpoint, in seconds.
        max_num_timeout: how often a job may be requeued after its time limit; restarts after a preemption or a node
            failure count too.
        nodes, tasks_per_node, gpus_per_node, cpus_per_task, mem_gb: resources of a job, whose tasks all train one run;
            ``mem_gb=0`` requests all memory of a node.
        points_per_gpu: number of runs that share the GPU, or the cores, of a job, forked from one process that has
            imported everything and opened the cohort; more than 1 needs jobs of one task and at most one GPU.
        array_parallelism: number of concurrent jobs; shared by arrays if one would exceed the cluster's largest, or
            its queue takes the jobs only as others end.
        partition, account, qos, constraint, exclude, nodelist, comment, gres: options of sbatch.
        additional_parameters: further options of sbatch; ``true`` for one without a value, ``false`` leaves one out.
        srun_args: further options of srun.
        modules: environment modules to load before the run.
        environment: environment variables to set before the run.
        setup: shell commands to execute before the run.
        name: job name.
        wait: False returns after submitting.
        poll_s: seconds between queries of the queue.
    """

    timeout_min: Minutes = 1440
    signal_delay_s: Count = 120
    max_num_timeout: Count = 20
    nodes: Positive = 1
    tasks_per_node: Positive = 1
    gpus_per_node: Count | None = None
    cpus_per_task: Positive | None = None
    mem_gb: Annotated[float, Field(ge=0.0)] | None = None
    points_per_gpu: Positive = 1
    array_parallelism: Positive = 256
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    exclude: Word | None = None
    nodelist: Word | None = None
    comment: Word | None = None
    gres: Word | None = None
    additional_parameters: dict[str, bool | Word | None] = field(default_factory=dict)
    srun_args: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    environment: dict[Variable, Word] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    name: Word = "menvae"
    wait: bool = True
    poll_s: Annotated[float, Field(ge=0.1)] = 5.0

    @property
    def num_ranks(self) -> int | None:
        """Number of tasks of a job, which train together; None for a single task, which may start its own ranks."""
        num_tasks = self.nodes * self.tasks_per_node
        return num_tasks if num_tasks > 1 else None

    def prepare(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Look for SLURM; raises `UserError` if it is missing, and for contradictory time limits."""
        super().prepare(folder, config)
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise UserError("hydra/launcher=slurm: sbatch and srun are not in PATH; launch from a node of the cluster")
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise UserError(
                f"hydra.launcher.signal_delay_s={self.signal_delay_s} must be shorter than "
                f"hydra.launcher.timeout_min={self.timeout_min} minutes, or jobs are stopped at once"
            )

        if self.points_per_gpu > 1 and (self.num_ranks or (self.gpus_per_node or 1) > 1):
            raise UserError(
                f"hydra.launcher.points_per_gpu={self.points_per_gpu} puts several runs on one GPU, so a job has one "
                "task and at most one GPU: set hydra.launcher.nodes, tasks_per_node and gpus_per_node to 1"
            )

    def __post_init__(self) -> None:
        """Begin without jobs."""
        self._waiting: list[Pack] = []
        self._arrays: dict[str, int] = {}  # number of jobs of each array, in the order of submission
        self._throttles: dict[str, int] = {}  # how many of them may run at once, for arrays that have not ended
        self._next_look = 0.0

    def submit(self, jobs: Mapping[str, Path]) -> dict[str, Submission]:
        """Submit the jobs as one array, or as few as the cluster allows; they outlive the launching process.

        The queue may be too full for all of them: `advance` submits the rest as others end.
        """
        runs, size = list(jobs.items()), self.points_per_gpu
        self._waiting += [runs[first : first + size] for first in range(0, len(runs), size)]
        self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        submitted = self._submitted()
        if self._waiting:
            rest = "they follow as others end" if self.wait else "the same command submits them later"
            _log.info("%d jobs wait, because the cluster takes no more now; %s", len(self._waiting), rest)
        return submitted

    @property
    def num_open(self) -> int:
        """Number of jobs that the cluster has not taken yet."""
        return len(self._waiting)

    def advance(self) -> dict[str, Submission]:
        """Submit waiting jobs if there is room now, and let arrays use what earlier ones no longer do."""
        if time.monotonic() < self._next_look or not (self._waiting or len(self._throttles) > 1):
            return {}
        self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        active = self._active()
        if active is None:  # SLURM does not answer
            return {}
        submitted = self._submitted(sum(active.values())) if self._waiting else {}
        active |= {array: size for array, size in self._arrays.items() if array not in active}  # submitted just now
        shares = slurm_queue.shares(list(active.values()), self.array_parallelism)
        found = {array: share for array, share in zip(active, shares, strict=True) if share}
        slurm_queue.throttle({array: share for array, share in found.items() if share != self._throttles.get(array)})
        self._throttles = found
        return submitted

    def _submitted(self, num_active: int = 0) -> dict[str, Submission]:
        """Submit as many of the waiting jobs as the cluster takes now.

        Args:
            num_active: jobs of earlier arrays that have not ended.

        Raises:
            UserError: sbatch rejects the jobs.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError  # only where jobs are submitted

        allowed = slurm_queue.room(self.account, self.qos)
        wave = len(self._waiting) if allowed is None else min(allowed, len(self._waiting))
        free = max(1, self.array_parallelism - num_active)
        left, most = wave, slurm_queue.largest_array() or wave
        executor = self._executor()
        queued: list[tuple[Pack, Any]] = []
        while left:
            array = self._waiting[: min(most, left)]
            share = max(1, free * len(array) // wave)
            executor.update_parameters(slurm_array_parallelism=share)
            try:
                with executor.batch():
                    jobs = [self._queued(executor, [job for _, job in pack]) for pack in array]
            except (FailedJobError, FailedSubmissionError) as error:
                self._remove_unsubmitted()
                if slurm_queue.is_full(str(error)):
                    most = len(array) // 2
                    if most:
                        continue
                    break
                for _, job in queued:  # of earlier arrays: nobody would know them
                    job.cancel(check=False)
                what = " ".join(str(error).split())
                raise UserError(f"hydra/launcher=slurm: sbatch rejects the jobs: {what}") from error
            queued += zip(array, jobs, strict=True)
            self._arrays[_array_of(jobs[0].job_id)] = len(array)
            self._throttles[_array_of(jobs[0].job_id)] = share
            del self._waiting[: len(array)]
            left -= len(array)
        return {run: self._submission(job, path) for pack, job in queued for run, path in pack}

    def _submission(self, job: Any, path: Path) -> Submission:
        log = job.paths.stdout if self.points_per_gpu == 1 else _output(path)
        return Submission("slurm", job.job_id, str(log))

    def _remove_unsubmitted(self) -> None:
        """Remove what submitit has written for jobs that sbatch refuses."""
        for pattern in ("*.pkl", "submission_file_*.sh"):
            for path in (self.folder / "slurm").glob(pattern):
                path.unlink(missing_ok=True)

    def _active(self) -> dict[str, int] | None:
        """Return the number of jobs of each array that have not ended; None if SLURM does not answer."""
        states = _states_in_queue(self._arrays) if self._arrays else {}
        if states is None:
            return None
        going = Counter(_array_of(job) for job, state in states.items() if state in _WAITING | _RUNNING)
        return {array: going[array] for array in self._arrays}

    def _queued(self, executor: Any, pack: Sequence[Path]) -> Any:
        """Queue the points of one job."""
        if self.points_per_gpu == 1:
            return executor.submit(_task, str(pack[0]), self.max_num_timeout)
        return executor.submit(_points, [str(job) for job in pack], self.max_num_timeout)

    def stop(self) -> None:
        """Leave the jobs to SLURM, but for those that it has not taken yet."""
        self._waiting.clear()

    @staticmethod
    def states(submissions: Mapping[str, Submission]) -> dict[str, JobState]:
        """Return the states of the jobs that SLURM knows, except failed and completed ones."""
        states = _job_states(submission.job for submission in submissions.values())
        if states is None:
            return dict.fromkeys(submissions, JobState(Fate.UNKNOWN, "SLURM does not answer"))
        fates = {
            run: _FATES.get(states.get(submission.job, ""))
            for run, submission in submissions.items()
            if not _has_ended(Path(submission.log))
        }
        return {run: JobState(fate) for run, fate in fates.items() if fate is not None}

    @staticmethod
    def cancel(submissions: Mapping[str, Submission]) -> set[str]:
        """Have SLURM cancel the jobs: those that run receive SIGTERM, and SIGKILL if they need longer than KillWait."""
        jobs = sorted({submission.job for submission in submissions.values()})
        try:
            answer = subprocess.run(
                ["scancel", *jobs], capture_output=True, text=True, timeout=slurm_queue.SECONDS_TO_ANSWER, check=False
            )
        except FileNotFoundError:
            raise UserError("scancel is not in PATH; stop points from a node of the cluster") from None
        except subprocess.TimeoutExpired:
            raise UserError(f"scancel did not answer within {slurm_queue.SECONDS_TO_ANSWER} s") from None
        wrong = [line for line in answer.stderr.splitlines() if not any(words in line for words in _HAS_ENDED)]
        if answer.returncode and any(map(str.strip, wrong)):
            raise UserError(f"scancel refuses: {' '.join(' '.join(wrong).split())}")
        return set(submissions)

    def _executor(self) -> Any:
        import submitit  # only where jobs are submitted

        settings = {each.name: getattr(self, each.name) for each in fields(self)}
        shared = {key: settings[key] for key in _SHARED if settings[key] is not None}
        slurm = {key: value for key, value in settings.items() if key not in (*_OWN, *_SHARED) and value is not None}
        options = {"requeue": True, **self.additional_parameters}
        executor = submitit.AutoExecutor(folder=self.folder / "slurm" / "%j", cluster="slurm")
        executor.update_parameters(
            **shared,
            **{f"slurm_{key}": value for key, value in slurm.items()},
            stderr_to_stdout=True,
            slurm_setup=self._commands(),
            slurm_srun_args=[f"--wait={_SECONDS_AFTER_FIRST_TASK}", *self.srun_args],
            slurm_additional_parameters={
                key: value for key, value in options.items() if value is not False and value is not None
            },
        )
        return executor

    def _commands(self) -> list[str]:
        loads = [f"module load {shlex.quote(module)}" for module in self.modules]
        exports = [f"export {name}={shlex.quote(str(value))}" for name, value in self.environment.items()]
        return [*loads, *exports, *self.setup, *self._shares]

    @property
    def _shares(self) -> list[str]:
        """Commands that give each of several points its share of the cores of the job."""
        if self.points_per_gpu == 1:
            return []
        share = f"$(( $(nproc) > {self.points_per_gpu} ? $(nproc) / {self.points_per_gpu} : 1 ))"
        return [f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{share}}}"']


def _task(path: str, max_num_timeout: int) -> None:
    """Run one task of a SLURM job; the application is imported by name, as on a command line."""
    importlib.import_module(APPLICATION).run_slurm_task(path, max_num_timeout)


def _points(paths: Sequence[str], max_num_timeout: int) -> None:
    """Run the points of one SLURM job; see `_task`."""
    importlib.import_module(WARMED_APPLICATION).run_slurm_points(paths, max_num_timeout)


def _output(job: Path) -> Path:
    """Return the log of a point that shares its SLURM job; that of the job itself has little to say."""
    return job.with_name("output.log")


def _has_ended(log: Path) -> bool:
    """Return whether a point that shares its SLURM job has ended for good, although the job may go on or run again.

    Args:
        log: as in its submission; beside that of a point that has a job of its own is no ``outcome.json``.
    """
    try:
        code = read_json(log.with_name("outcome.json"), {"exit_code": int}).get("exit_code")
    except DamagedFileError:
        return False
    return code not in (None, ExitCode.INTERRUPTED)


def _job_states(jobs: Iterable[str]) -> dict[str, str] | None:
    """Return {job id such as ``812_3``: state such as ``RUNNING``, ``TIMEOUT``, ``OUT_OF_MEMORY``}.

    Jobs that SLURM no longer knows are omitted; without SLURM, all are. None means that SLURM does not answer.
    """
    wanted = set(jobs)
    queued = _states_in_queue(wanted)
    if queued is None:
        return None
    older = wanted - queued.keys()
    ended = _ask(["sacct", "-X", "-n", "-P", "--array", "-o", "JobID,State", "-j", _arrays(older)], "") if older else {}
    return {job: state for job, state in ((ended or {}) | queued).items() if job in wanted}


def _states_in_queue(jobs: Iterable[str]) -> dict[str, str] | None:
    """Return {job id: state} of the arrays of jobs, as far as the queue knows them; None if it does not answer."""
    return _ask(["squeue", "-h", "-r", "-t", "all", "-o", "%i|%T", "-j", _arrays(jobs)], "Invalid job id")


def _arrays(jobs: Iterable[str]) -> str:
    return ",".join(sorted(set(map(_array_of, jobs))))


def _array_of(job: str) -> str:
    """Return the id of the array of a job, or of the job itself if it is not in an array.

    >>> _array_of("812_3"), _array_of("812")
    ('812', '812')
    """
    return job.partition("_")[0]


def _ask(command: list[str], harmless: str) -> dict[str, str] | None:
    """Return {job: state}, or None if the command fails with an error other than ``harmless``."""
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=slurm_queue.SECONDS_TO_ANSWER, check=False
        )
    except FileNotFoundError:
        return {}
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.debug("%s: %s", command[0], error)
        return None
    if answer.returncode and not (harmless and harmless in answer.stderr):
        _log.debug("%s: %s", command[0], answer.stderr)
        return None
    states = {}
    for line in answer.stdout.splitlines():
        job, separator, state = line.strip().partition("|")
        if separator:
            states[job] = state.split()[0] if state else ""  # "CANCELLED by 0"
    return states
