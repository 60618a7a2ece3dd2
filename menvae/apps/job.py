"""``python -m menvae.apps.job FILE``: train one run in its own process, without Hydra; for launchers and ranks."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import time
from pathlib import Path

from menvae.apps.outcome import carry_out, leave, report
from menvae.errors import ExitCode, RunInterruptedError, UserError
from menvae.interruption import stop_requests, stop_with_parent
from menvae.runs.job import Job, time_has_run_out


def run(path: Path, prepared: object = None) -> int:
    """Train the job in a file, write its exit code to the point's ``outcome.json``, and return it.

    Args:
        path: the job file.
        prepared: see `menvae.runs.train.train`.

    Raises:
        Exception: any bug; the exit code is written first.
    """
    return _run(path, prepared)[0]


def run_slurm_task(path: str, max_num_timeout: int) -> None:
    """Run one task of a SLURM job: join the other tasks, train, and requeue the job if its time has run out.

    Args:
        path: the job file.
        max_num_timeout: how often the job may be requeued.

    Raises:
        SystemExit: with a nonzero exit code, so that SLURM marks the job as failed.
    """
    import submitit

    environment = submitit.JobEnvironment()
    if environment.num_tasks > 1:
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    code, stopped_by = _run(Path(path))
    if environment.global_rank == 0 and time_has_run_out(stopped_by):
        requeue(environment.job_id, max_num_timeout)
    if code:
        sys.exit(code)
    if environment.num_tasks > 1:
        atexit.register(leave, code)  # after submitit has written its result


def requeue(job_id: str, max_num_timeout: int) -> None:
    """Queue a SLURM job again, unless it has been restarted ``max_num_timeout`` times."""
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) < max_num_timeout:
        subprocess.run(["scontrol", "requeue", job_id], check=True)


def _run(path: Path, prepared: object = None) -> tuple[int, str]:
    """Return the exit code, and the reason if the run was interrupted."""
    stopped_by, begun = "", time.time()
    try:
        job = Job.read(path)
    except UserError as error:
        return report("train", str(error), ExitCode.WRONG_INPUT), ""

    def task() -> int:
        nonlocal stopped_by
        try:
            with stop_requests():  # importing takes seconds
                from omegaconf import OmegaConf

                from menvae.runs.train import train
            return train(OmegaConf.create(dict(job.config)), job, prepared)
        except RunInterruptedError as interruption:
            stopped_by = interruption.reason
            raise

    code = 1
    try:
        code = carry_out("train", task)
        if code == ExitCode.INTERRUPTED and not stopped_by:  # only the ranks that this process started know the reason
            stopped_by = job.reason(begun)
    finally:
        if os.environ.get("RANK", "0") == "0" or code not in (ExitCode.DONE, ExitCode.INTERRUPTED):
            job.leave_outcome(code, stopped_by)
    return code, stopped_by


if __name__ == "__main__":
    stop_with_parent()
    leave(run(Path(sys.argv[1])))
