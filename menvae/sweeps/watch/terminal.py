"""A sweep on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from menvae.sweeps.status import PointStatus
from menvae.sweeps.watch.snapshot import Failures, PointView, Snapshot
from menvae.sweeps.watch.standings import Best
from menvae.sweeps.watch.words import (
    KINDS_OF_STATES,
    clock_time,
    epoch_words,
    epochs_words,
    hours_words,
    kind_of,
    left_of,
    left_words,
    notes,
)
from menvae.sweeps.words import fate_counts, label_with_stand_ins, stopped_words

_MOST_FAILURES = 6
_MOST_BEST = 6
_FEWEST_RUNNING = 3
_LINES_OF_A_TABLE = 3  # an empty one, its title and its header
_BAR_WIDTH = 60
_STYLES = dict(zip(KINDS_OF_STATES, ("green", "cyan", "red", "yellow", "bright_black"), strict=True))


def view(snapshot: Snapshot, height: int | None = None) -> Group:
    """Return what a terminal shows.

    Args:
        snapshot: the sweep.
        height: lines of the terminal; None for as many as there are to say.
    """
    head = [
        Text(f"sweep {snapshot.sweep.path}, {clock_time(snapshot.at)}", style="bold"),
        Text(fate_counts(snapshot.statuses)),
        bar(snapshot.statuses),
        Text("; ".join([epochs_words(snapshot), left_words(snapshot), *hours_words(snapshot)])),
        *(Text(note, style="yellow") for note in (*notes(snapshot), *stopped_words(snapshot.statuses))),
    ]
    failed = [("failed", failures_table(snapshot.failures))] if snapshot.failures else []
    best = [] if snapshot.best is None else [(snapshot.best.title, best_table(snapshot.best))]
    lines = len(head) + 1  # the cursor's
    lines += sum(table.row_count + _LINES_OF_A_TABLE for _, table in (*failed, *best))
    room = None if height is None else max(_FEWEST_RUNNING, height - lines - _LINES_OF_A_TABLE)
    running = [("running", running_table(snapshot.running, room))] if snapshot.running else []
    parts: list[RenderableType] = []
    for title, table in (*running, *failed, *best):
        parts += ["", Text(title), table]  # a title within a table would be folded to its width
    return Group(*head, *parts)


def change_line(snapshot: Snapshot) -> str:
    """Return the line that a log gets when the state of a point has changed."""
    return f"{clock_time(snapshot.at)} {fate_counts(snapshot.statuses)}; {left_words(snapshot)}"


def bar(statuses: Sequence[PointStatus]) -> Text:
    """Return a bar with a share for the points that are done, run, have failed, were stopped, and wait."""
    kinds = [kind for kind in map(kind_of, statuses) if kind in _STYLES]
    counts = [kinds.count(kind) for kind in _STYLES]
    ends = [round(sum(counts[: index + 1]) * _BAR_WIDTH / max(1, len(kinds))) for index in range(len(counts))]
    widths = [end - start for start, end in pairwise([0, *ends])]
    parts = [("\N{FULL BLOCK}" * width, style) for width, style in zip(widths, _STYLES.values(), strict=True)]
    return Text.assemble(*parts)


def running_table(running: Sequence[PointView], room: int | None) -> Table:
    """Return a table of the points that run, as many as there is room for."""
    shown = running if room is None or len(running) <= room else running[: room - 1]
    table = _table(("", "point", "epochs", "an epoch", "left"))
    for point in shown:
        status = point.status
        epochs = f"{status.epochs}/{status.max_epochs or '?'}"
        label = label_with_stand_ins(status)
        _add(table, (str(status.point.number), label, epochs, epoch_words(point), left_of(point)))
    if len(shown) < len(running):
        _add(table, ("", f"and {len(running) - len(shown)} more", "", "", ""))
    return table


def failures_table(failures: Sequence[Failures]) -> Table:
    """Return a table of the causes of failures, the newest first."""
    table = _table(("cause", "points", "newest", "point", "reason"))
    for one in failures[:_MOST_FAILURES]:
        at = "" if one.newest.failed_at is None else clock_time(one.newest.failed_at)
        status = one.newest.status
        _add(table, (one.cause, str(one.count), at, status.point.label, status.reason))
    if (rest := len(failures) - _MOST_FAILURES) > 0:
        _add(table, (f"and {rest} more", "", "", "", ""))
    return table


def best_table(best: Best) -> Table:
    """Return a table of the best points, or configurations."""
    table = _table(("", "configuration" if best.are_means else "point", *best.columns))
    for one in best.rows[:_MOST_BEST]:
        _add(table, (one.numbers, one.label, *one.values))
    if (rest := len(best.rows) - _MOST_BEST) > 0:
        _add(table, ("", f"and {rest} more", *("" for _ in best.columns)))
    return table


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(column), overflow="ellipsis", no_wrap=True)
    return table


def _add(table: Table, cells: Iterable[str]) -> None:
    table.add_row(*map(Text, cells))  # not as markup: brackets are common in overrides and errors
