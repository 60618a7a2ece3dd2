"""Wording that the terminal and the page of a sweep share."""

from __future__ import annotations

import time
from collections.abc import Mapping

from menvae.presentation.text import counted, duration
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus
from menvae.sweeps.watch.snapshot import Kind, PointView, Snapshot, is_to_come

GOOD, RUNS, BAD, STOPPED, WAITS = KINDS_OF_STATES = ("good", "run", "bad", "stopped", "wait")
REPLACED = "replaced"
UNKNOWN = "?"
_KINDS: tuple[Kind, ...] = ("GPU", "CPU")
_HALF_A_DAY_S = 12 * 3600


def kind_of(status: PointStatus) -> str:
    """Return the kind of a state, for its colour: one of `KINDS_OF_STATES`, or `REPLACED`."""
    if status.stand_in is not None:
        return REPLACED
    if status.fate.is_final:
        return GOOD
    if status.fate == Fate.RUNNING:
        return RUNS
    if status.is_stopped:
        return STOPPED
    return BAD if status.fate.has_failed else WAITS


def clock_time(at: float) -> str:
    """Return a time of this day, in seconds since 1970, as that of a clock."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def epochs_words(snapshot: Snapshot) -> str:
    """Return how many epochs are finished, of how many."""
    done, planned = snapshot.epochs
    return f"{done:,} of {counted(planned, 'epoch')}"


def left_words(snapshot: Snapshot) -> str:
    """Return how long a sweep still takes, or why nobody knows."""
    if snapshot.is_over:
        return "nothing runs or waits"
    if not snapshot.running:
        return "time left unknown: nothing runs now"
    if snapshot.left_s is None:
        return "time left unknown: no epoch has ended"
    form = "%H:%M" if snapshot.left_s < _HALF_A_DAY_S else "%a %d %b, %H:%M"
    end = time.strftime(form, time.localtime(snapshot.at + snapshot.left_s))
    return f"about {duration(snapshot.left_s)} left, until {end}"


def hours_words(snapshot: Snapshot) -> list[str]:
    """Return the hours so far and to come, a text for each kind of equipment."""
    known = {*snapshot.spent_h, *(snapshot.to_come_h or {})}
    return [_hours_of(kind, snapshot.spent_h, snapshot.to_come_h) for kind in _KINDS if kind in known]


def _hours_of(kind: Kind, spent: Mapping[Kind, float], to_come: Mapping[Kind, float] | None) -> str:
    rest = UNKNOWN if to_come is None else hours(to_come.get(kind, 0.0))
    return f"{kind} hours {hours(spent.get(kind, 0.0))} so far, {rest} to come"


def hours(number: float) -> str:
    """Format a number of hours.

    >>> hours(0.0), hours(0.0123), hours(2.04), hours(1234.5)
    ('0', '0.012', '2.0', '1,234')
    """
    if number == 0.0:
        return "0"
    return f"{number:.2g}" if number < 1 else f"{number:,.1f}" if number < 100 else f"{number:,.0f}"


def epoch_words(point: PointView) -> str:
    """Return the seconds of an epoch of a point; nothing without epochs.

    >>> from menvae.sweeps.status import refused
    >>> epoch_words(PointView(refused(0, (), ""), epoch_s=1.234)), epoch_words(PointView(refused(0, (), ""), 123.4))
    ('1.2 s', '2 min 03 s')
    """
    if point.epoch_s is None:
        return ""
    return f"{point.epoch_s:.2g} s" if point.epoch_s < 60 else duration(point.epoch_s)


def left_of(point: PointView) -> str:
    """Return how long a point still takes; for one that waits, once it runs."""
    if not is_to_come(point.status):
        return ""
    return UNKNOWN if point.left_s is None else duration(point.left_s)


def notes(snapshot: Snapshot) -> list[str]:
    """Return what the reader may have to know, or to do."""
    if snapshot.launched_by:
        return ["what the search has yet to choose is not counted"] if snapshot.searches else []
    waiting = sum(status.fate == Fate.NOT_STARTED for status in snapshot.statuses)
    paused = sum(status.fate == Fate.PAUSED for status in snapshot.statuses)
    words = []
    if waiting:
        verb, them = ("has", "it") if waiting == 1 else ("have", "them")
        started = f"{counted(waiting, 'point')} {verb} not started, and no process launches {them}"
        words.append(f"{started}: repeat the sweep's command")
    if paused:
        verb, them = ("is", "it") if paused == 1 else ("are", "them")
        chose = f"the search chose others, or goes on with {them} when its command is repeated"
        words.append(f"{counted(paused, 'point')} {verb} paused: {chose}")
    return words
