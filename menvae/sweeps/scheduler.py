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


def job_states(jobs: Iterable[str]) -> dict[str, str] | None:
    """Return {job id such as ``812_3``: state such as ``RUNNING``, ``TIMEOUT``, ``OUT_OF_MEMORY``}.

    Jobs that SLURM does not know any more are left out, all of them where there is no SLURM. None: it does not answer.
    """
    wanted = set(jobs)
    if not wanted:
        return {}
    queued = _ask(["squeue", "-h", "-r", "-t", "all", "-o", "%i|%T", "-j", _arrays(wanted)], "Invalid job id")
    if queued is None:
        return None
    older = wanted - queued.keys()
    ended = _ask(["sacct", "-X", "-n", "-P", "--array", "-o", "JobID,State", "-j", _arrays(older)], "") if older else {}
    return {job: state for job, state in ((ended or {}) | queued).items() if job in wanted}


def _arrays(jobs: Iterable[str]) -> str:
    return ",".join(sorted({job.partition("_")[0] for job in jobs}))


def _ask(command: list[str], harmless: str) -> dict[str, str] | None:
    """Return {job: state}, or None where the command fails for another reason than ``harmless``."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
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
