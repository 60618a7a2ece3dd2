"""What SLURM says about jobs: ``squeue`` about those it still knows, ``sacct`` (if there is accounting) about all."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterable

_log = logging.getLogger(__name__)

WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED"}
)
RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED"})
_SECONDS = 60


def job_states(jobs: Iterable[str]) -> dict[str, str]:
    """Return {job id such as ``812_3``: state such as ``RUNNING``, ``TIMEOUT``, ``OUT_OF_MEMORY``}.

    Jobs that SLURM does not know any more, or all of them where SLURM cannot be asked, are left out.
    """
    wanted = set(jobs)
    arrays = ",".join(sorted({job.partition("_")[0] for job in wanted}))
    if not wanted:
        return {}
    states = _ask(["sacct", "-X", "-n", "-P", "--array", "-o", "JobID,State", "-j", arrays])
    states |= _ask(["squeue", "-h", "-r", "-t", "all", "-o", "%i|%T", "-j", arrays])  # fresher than the accounting
    return {job: state for job, state in states.items() if job in wanted}


def _ask(command: list[str]) -> dict[str, str]:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.debug("%s: %s", command[0], error)
        return {}
    states = {}
    for line in answer.stdout.splitlines():  # squeue fails for jobs that are too old, sacct without accounting
        job, separator, state = line.strip().partition("|")
        if separator:
            states[job] = state.split()[0] if state else ""  # "CANCELLED by 0"
    return states
