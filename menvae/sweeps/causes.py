"""Why points have failed, in one word: to count them, and to run again only those of one cause."""

from __future__ import annotations

import re
from collections.abc import Sequence

from menvae.errors import UserError, nearest
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus

_EXCEPTION = re.compile(r"(?:\w+\.)*(\w*(?:Error|Exception))(?::|$)")
"""How a run names the exception that ended it."""
_STOPPED = "stopped"
"""What ``menvae-sweep`` calls points that were interrupted or cancelled."""


def cause_of(status: PointStatus) -> str:
    """Return the cause of a failure: the fate in one word, or the exception that ended the run.

    >>> from menvae.sweeps.status import refused
    >>> cause_of(refused(0, (), "seed: -1 is not allowed"))
    'cannot_run'
    """
    found = _EXCEPTION.match(status.reason) if status.fate == Fate.FAILED else None
    return found[1] if found else _word(status.fate)


def of_cause(failed: Sequence[PointStatus], cause: str) -> list[PointStatus]:
    """Return the points that have failed with a cause.

    Args:
        failed: all points that have failed.
        cause: as `cause_of`; ``failed`` includes those that an exception has ended, and ``stopped`` is interrupted or
            cancelled.

    Raises:
        UserError: there is no such cause.
    """
    wanted = cause.strip().replace(" ", "_")
    known = {_word(fate) for fate in Fate if fate.has_failed and fate != Fate.REFUSED} | set(map(cause_of, failed))
    if wanted == _STOPPED:
        return [status for status in failed if status.fate.is_stopped]
    if wanted not in known:
        raise UserError(f"--cause: '{cause}' is no cause of a failure; {nearest(wanted, known | {_STOPPED})}")
    return [status for status in failed if wanted in (_word(status.fate), cause_of(status))]


def _word(fate: Fate) -> str:
    return str(fate).replace(" ", "_")
