"""A sweep on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from menvae.sweeps.campaign import fate_counts, label_with_stand_ins
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus
from menvae.sweeps.watch.snapshot import Failures, PointView, Snapshot
from menvae.sweeps.watch.standings import Best
from menvae.sweeps.watch.words import clock_time, epoch_words, epochs_words, hours_words, left_of, left_words, notes

_MOST_FAILURES = 6
_MOST_BEST = 6
_FEWEST_RUNNING = 3
_LINES_OF_A_TABLE = 3  # an empty one, its title and its header
_BAR_WIDTH = 60
_STYLES = ("green", "cyan", "red", "bright_black")


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
        *(Text(note, style="yellow") for note in notes(snapshot)),
    ]
    tail: list[RenderableType] = []
    lines = len(head) + 1  # the cursor's
    for table in (failures_table(snapshot.failures), best_table(snapshot.best)):
        if table is not None:
            tail += ["", table]
            lines += table.row_count + _LINES_OF_A_TABLE
    room = None if height is None else max(_FEWEST_RUNNING, height - lines - _LINES_OF_A_TABLE)
    running = running_table(snapshot.running, room)
    middle: list[RenderableType] = [] if running is None else ["", running]
    return Group(*head, *middle, *tail)


def change_line(snapshot: Snapshot) -> str:
    """Return the line that a log gets when the state of a point has changed."""
    return f"{clock_time(snapshot.at)} {fate_counts(snapshot.statuses)}; {left_words(snapshot)}"


def bar(statuses: Sequence[PointStatus]) -> Text:
    """Return a bar with a share for the points that are done, run, have failed, and wait."""
    kinds = [_kind(status) for status in statuses]
    counts = [kinds.count(kind) for kind in range(len(_STYLES))]
    ends = [round(sum(counts[: kind + 1]) * _BAR_WIDTH / max(1, len(kinds))) for kind in range(len(_STYLES))]
    widths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    parts = [("\N{FULL BLOCK}" * width, style) for width, style in zip(widths, _STYLES, strict=True)]
    return Text.assemble(*parts)


def _kind(status: PointStatus) -> int:
    """Return the place of a state in `_STYLES`."""
    if status.fate.is_final or status.stand_in is not None:
        return 0
    if status.fate == Fate.RUNNING:
        return 1
    return 2 if status.fate.has_failed else 3


def running_table(running: Sequence[PointView], room: int | None) -> Table | None:
    """Return a table of the points that run, as many as there is room for; None if none does."""
    if not running:
        return None
    shown = running if room is None or len(running) <= room else running[: room - 1]
    table = _table("running", ("", "point", "epochs", "an epoch", "left"))
    for point in shown:
        status = point.status
        epochs = f"{status.epochs}/{status.max_epochs or '?'}"
        label = label_with_stand_ins(status)
        _add(table, (str(status.point.number), label, epochs, epoch_words(point), left_of(point)))
    if len(shown) < len(running):
        _add(table, ("", f"and {len(running) - len(shown)} more", "", "", ""))
    return table


def failures_table(failures: Sequence[Failures]) -> Table | None:
    """Return a table of the causes of failures, the newest first; None without failures."""
    if not failures:
        return None
    table = _table("failed", ("cause", "points", "newest", "", "reason"))
    for one in failures[:_MOST_FAILURES]:
        at = "" if one.newest.failed_at is None else clock_time(one.newest.failed_at)
        status = one.newest.status
        _add(table, (one.cause, str(one.count), at, status.point.label, status.reason))
    return table


def best_table(best: Best | None) -> Table | None:
    """Return a table of the best points; None if none has a result."""
    if best is None:
        return None
    table = _table(best.title, ("", "point", *best.columns))
    for one in best.rows[:_MOST_BEST]:
        _add(table, (str(one.status.point.number), label_with_stand_ins(one.status), *one.values))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(Text(column), overflow="ellipsis", no_wrap=True)
    return table


def _add(table: Table, cells: Iterable[str]) -> None:
    table.add_row(*map(Text, cells))  # not as markup: brackets are common in overrides and errors
