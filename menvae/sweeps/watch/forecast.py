"""How long points take: what their epochs have taken, what is left of them, and when all will be done."""

from __future__ import annotations

import heapq
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_RECENT = 5  # epochs; the first ones of a run are slower, and the machine may be shared since
_SECONDS = ("time/train_s", "time/validate_s")


@dataclass(frozen=True)
class Clock:
    """What ``timings.jsonl`` of a run says.

    Attributes:
        epochs: the last finished epoch.
        seconds: training and validation, of all epochs and all processes.
        recent: the same of each of the last epochs.
        last_at: when the last epoch ended, in seconds since 1970; None without epochs.
    """

    epochs: int = 0
    seconds: float = 0.0
    recent: tuple[float, ...] = ()
    last_at: float | None = None

    @property
    def epoch_s(self) -> float | None:
        """Seconds that an epoch takes now: the median of the last ones; None without epochs."""
        return statistics.median(self.recent) if self.recent else None


def with_epochs(clock: Clock, lines: Sequence[bytes]) -> Clock:
    """Return the clock after further lines of ``timings.jsonl``; what is no such line is left out.

    >>> with_epochs(Clock(), [b'{"epoch": 1, "timestamp_ms": 9000, "time/train_s": 2.5, "time/validate_s": 0.5}'])
    Clock(epochs=1, seconds=3.0, recent=(3.0,), last_at=9.0)
    """
    for line in lines:
        try:
            row = json.loads(line)
            seconds = sum(float(row.get(key) or 0.0) for key in _SECONDS)
            epoch, last_at = int(row["epoch"]), float(row["timestamp_ms"]) / 1000
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        clock = Clock(epoch, clock.seconds + seconds, (*clock.recent, seconds)[-_RECENT:], last_at)
    return clock


def left_s(
    clock: Clock, max_epochs: int | None, typical_s: float | None, closing_s: float, since_s: float
) -> float | None:
    """Return the seconds that a run still needs.

    Args:
        clock: its clock.
        max_epochs: number of its epochs; None if unknown.
        typical_s: seconds of an epoch of other runs, for one without epochs; None if unknown.
        closing_s: seconds between the last epoch and the end: evaluation, pictures, report.
        since_s: seconds since its last epoch ended, or since it began, in its present process; 0 if it does not run.

    Returns:
        Seconds, at least 0; None if nobody knows how long an epoch takes.

    >>> left_s(Clock(3, 30.0, (10.0, 10.0, 10.0), 0.0), 10, None, 5.0, since_s=4.0)
    71.0
    >>> left_s(Clock(10, 100.0, (10.0,), 0.0), 10, None, 5.0, since_s=4.0)
    1.0
    """
    epoch_s = clock.epoch_s if clock.epoch_s is not None else typical_s
    if epoch_s is None or max_epochs is None:
        return None
    if (num := max_epochs - clock.epochs) > 0:
        return num * epoch_s - min(since_s, epoch_s) + closing_s
    return max(0.0, closing_s - since_s)


def all_left_s(running: Sequence[float], waiting: Sequence[float]) -> float | None:
    """Return the seconds until all points are done, if each that waits takes the next place that becomes free.

    Args:
        running: seconds that each running point still needs; there are as many places.
        waiting: seconds that each waiting point needs, in their order.

    Returns:
        Seconds; None if points wait and none runs, since nobody knows then when they start.

    >>> all_left_s([10.0, 30.0], [25.0, 5.0])  # the first begins after 10 s and the second after 30 s
    35.0
    >>> all_left_s([], []), all_left_s([], [25.0])
    (0.0, None)
    """
    if not running:
        return None if waiting else 0.0
    ends = list(running)
    heapq.heapify(ends)
    for seconds in waiting:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)
