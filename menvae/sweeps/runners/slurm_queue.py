"""How many jobs a SLURM cluster takes from this user, and how many jobs of each array run at once."""

from __future__ import annotations

import getpass
import logging
import re
import subprocess
from collections.abc import Mapping, Sequence

_log = logging.getLogger(__name__)

SECONDS_TO_ANSWER = 60
_FULL = re.compile(r"(?:Assoc|QOS)(?:Max|Grp)SubmitJob|temporarily (?:unable|unavailable)", re.IGNORECASE)
"""What sbatch says if a queue takes no more jobs for now: limits of association and QOS, and MaxJobCount."""


def told(command: Sequence[str]) -> str | None:
    """Return what a command of SLURM prints, or None if it does not exist, fails or does not answer."""
    try:
        answer = subprocess.run(list(command), capture_output=True, text=True, timeout=SECONDS_TO_ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.debug("%s: %s", command[0], error)
        return None
    if answer.returncode:
        _log.debug("%s: %s", command[0], answer.stderr)
        return None
    return answer.stdout


def largest_array() -> int | None:
    """Return the largest number of jobs in an array of this cluster, or None if it does not say."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", told(["scontrol", "show", "config"]) or "", re.MULTILINE)
    return int(found[1]) or None if found else None  # the largest index is one less


def room(account: str | None, qos: str | None) -> int | None:
    """Return how many more jobs the limits of this user allow; None if there are none, or the cluster does not say.

    Args:
        account: the account of the jobs; None: that of the user.
        qos: their quality of service; None: that of the user.
    """
    most = _most_jobs(account, qos)
    queued = None if most is None else told(["squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%i"])
    return None if most is None or queued is None else max(0, most - len(queued.splitlines()))


def _most_jobs(account: str | None, qos: str | None) -> int | None:
    """Return MaxSubmitJobs of the user's association or of the quality of service, whichever is smaller."""
    where = [f"user={getpass.getuser()}", *([f"account={account}"] if account else [])]
    command = ("sacctmgr", "-n", "-P", "show")
    associations = told([*command, "assoc", *where, "format=MaxSubmitJobs,DefaultQOS"])
    rows = [line.split("|") for line in (associations or "").splitlines() if line.count("|") == 1]
    limits = [limit for limit, _ in rows]
    name = qos or next((default for _, default in rows if default), None)
    if name is not None:
        limits += (told([*command, "qos", f"name={name}", "format=MaxSubmitJobsPerUser"]) or "").splitlines()
    return min((int(limit) for limit in limits if limit.strip().isdigit()), default=None)


def is_full(error: str) -> bool:
    """Return whether sbatch refuses jobs only for now, because the queue has too many of them.

    >>> is_full("sbatch: error: QOSMaxSubmitJobPerUserLimit"), is_full("sbatch: error: invalid partition specified: x")
    (True, False)
    """
    return _FULL.search(error) is not None


def shares(active: Sequence[int], most: int) -> list[int]:
    """Return how many jobs of each array may run at once: the first ones as many as they can use, each at least one.

    Args:
        active: number of jobs of each array that have not ended.
        most: how many may run at once in all.

    >>> shares([1000, 1000, 500], 256), shares([10, 1000, 0], 256), shares([1, 1, 1], 2)
    ([254, 1, 1], [10, 246, 0], [1, 1, 1])
    """
    found, free = [], most
    for place, number in enumerate(active):
        later = sum(map(bool, active[place + 1 :]))  # each gets at least one
        found.append(min(number, max(1, free - later)))
        free -= found[-1]
    return found


def throttle(numbers: Mapping[str, int]) -> None:
    """Set how many jobs of each array may run at once.

    Args:
        numbers: {id of an array: number of jobs}.
    """
    for array, number in numbers.items():
        told(["scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={number}"])  # refused if it has just ended
