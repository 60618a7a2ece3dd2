"""Words and tables about the points of a sweep, which `menvae-sweep` and the end of a launch share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from menvae.console.listing import listing
from menvae.presentation.text import counted
from menvae.sweeps.status import PointStatus


def fate_counts(statuses: Sequence[PointStatus]) -> str:
    """Return the number of points in each state, such as ``1 failed, 2 finished``."""
    return counts_in_words(Counter(map(state_of, statuses)))


def counts_in_words(counts: Mapping[Any, int]) -> str:
    """Return how many there are of what.

    >>> counts_in_words({"failed": 1, "finished": 2})
    '1 failed, 2 finished'
    """
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def state_of(status: PointStatus) -> str:
    """Return the fate of a point; ``replaced`` if another runs in its place, ``stopped`` if it was asked to end."""
    if status.stand_in is not None:
        return "replaced"
    return "stopped" if status.fate.is_stopped else str(status.fate)


def stopped_words(statuses: Sequence[PointStatus]) -> list[str]:
    """Return what to do about points that were stopped; nothing without any."""
    if not (number := sum(status.is_stopped for status in statuses)):
        return []
    verb, them = ("was", "it") if number == 1 else ("were", "them")
    return [f"{counted(number, 'point')} {verb} stopped: menvae-sweep retry resumes {them}"]


def label_with_stand_ins(status: PointStatus) -> str:
    """Return the overrides of a point, and which failed points it stands for."""
    numbers = " and ".join(map(str, status.stands_for))
    return status.point.label + (f" (stands for {numbers})" if numbers else "")


def reason_with_stand_in(status: PointStatus) -> str:
    """Return the reason of a status, and which point runs in place of this one."""
    replaced = "" if status.stand_in is None else f"point {status.stand_in} stands for it"
    return "; ".join(filter(None, (replaced, status.reason)))


def status_table(statuses: Sequence[PointStatus]) -> RenderableType:
    """Return a table with one row per point: number, overrides, fate, epochs, job, reason."""
    return listing(("", "point", "fate", "epochs", "job", "reason"), [_row(status) for status in statuses])


def _row(status: PointStatus) -> tuple[str, ...]:
    submissions = status.point.submissions
    return (
        str(status.point.number),
        label_with_stand_ins(status),
        state_of(status),
        f"{status.epochs}/{status.max_epochs or '?'}" if status.point.run else "",
        f"{submissions[-1].launcher} {submissions[-1].job}" if submissions else "",
        reason_with_stand_in(status),
    )
