"""A sweep as one page that is written again and again, and that a browser loads again by itself."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from menvae.errors import UserError
from menvae.files import write_text
from menvae.presentation.page import render
from menvae.presentation.sortable import Cell, Column, Table, sorting_script
from menvae.sweeps.status import PointStatus
from menvae.sweeps.watch.snapshot import Failures, PointView, Snapshot
from menvae.sweeps.watch.standings import Best
from menvae.sweeps.watch.words import (
    BAD,
    GOOD,
    KINDS_OF_STATES,
    REPLACED,
    RUNS,
    STOPPED,
    WAITS,
    epoch_words,
    epochs_words,
    hours_words,
    kind_of,
    left_of,
    left_words,
    notes,
)
from menvae.sweeps.words import fate_counts, label_with_stand_ins, reason_with_stand_in, state_of, stopped_words

_SECONDS_BETWEEN_PAGES = 10
_SHARE_OF_WRITING = 0.1
"""Largest share of the time that goes into writing pages: one of ten thousand points takes seconds."""
_TEMPLATES = Path(__file__).with_name("templates")
_ORDER = (RUNS, BAD, STOPPED, WAITS, GOOD, REPLACED)


class RenewedPage:
    """A page of a sweep that goes on.

    Args:
        path: the HTML file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0.0
        self._every_s = _SECONDS_BETWEEN_PAGES

    def renew(self, snapshot: Snapshot, *, is_last: bool) -> None:
        """Write the page, if that is due; the last one is not loaded again.

        Raises:
            UserError: it cannot be written.
        """
        begun = time.monotonic()
        if begun < self._next and not is_last:
            return
        content = page_content(snapshot, self._path.resolve().parent, None if is_last else self._every_s)
        script = sorting_script() + ("" if is_last else (_TEMPLATES / "renewing.js").read_text(encoding="utf-8"))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, render(_TEMPLATES / "watch.html", content, script=script))
        except OSError as error:
            raise UserError(f"--html: cannot write to '{self._path}': {error.strerror}") from error
        taken_s = time.monotonic() - begun
        self._every_s = max(_SECONDS_BETWEEN_PAGES, math.ceil(taken_s / _SHARE_OF_WRITING))
        self._next = begun + self._every_s


def page_content(snapshot: Snapshot, place: Path, every_s: int | None) -> dict[str, Any]:
    """Return the variables of the template.

    Args:
        snapshot: the sweep.
        place: absolute path of the folder of the page.
        every_s: seconds after which a browser loads it again; None for never.
    """
    counts = Counter(map(kind_of, snapshot.statuses))
    num_counted = max(1, sum(counts[kind] for kind in KINDS_OF_STATES))
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.at))
    is_renewed = "renewed" if every_s else "last written"
    sentences = [left_words(snapshot), *notes(snapshot), *stopped_words(snapshot.statuses)]
    launched = [("Launched by", snapshot.launched_by)] if snapshot.launched_by else []
    return {
        "title": f"Sweep {snapshot.sweep.name}",
        "subtitle": f"{snapshot.sweep.path}, {is_renewed} at {written}",
        "time": written,
        "written": int(snapshot.at),
        "every_s": every_s,
        "banner": ("odd" if counts[BAD] or counts[STOPPED] else "good", fate_counts(snapshot.statuses) or "no points"),
        "sentences": [f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences],
        "shares": [(kind, f"{100 * counts[kind] / num_counted:.2f}") for kind in KINDS_OF_STATES],
        "summary": [("Epochs", epochs_words(snapshot)), *_hours(snapshot), *launched],
        "failures": _failures(snapshot.failures) if snapshot.failures else None,
        "best": None if snapshot.best is None else _best(snapshot.best, snapshot, place),
        "points": _points(snapshot, place),
    }


def _hours(snapshot: Snapshot) -> list[tuple[str, str]]:
    texts = hours_words(snapshot)
    return [("Hours of training and evaluation", "; ".join(texts))] if texts else []


def _words(name: str) -> Column:
    return Column(name, is_number=False)


def _failures(failures: Sequence[Failures]) -> Table:
    columns = [
        _words("cause"),
        Column("points", first="descending"),
        _words("newest"),
        _words("point"),
        _words("reason"),
    ]
    rows = []
    for one in failures:
        status, at = one.newest.status, one.newest.failed_at or 0.0
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else ""
        cells = [Cell(one.cause, one.cause, ""), Cell(str(one.count), str(one.count)), Cell(written, written, "")]
        rows.append([*cells, _label(status), Cell(status.reason, status.reason, "label")])
    caption = (
        "The newest point of each cause. menvae-sweep retry --cause CAUSE [KEY=VALUE] runs those of one cause again."
    )
    return Table("failures-table", columns, rows, caption)


def _best(best: Best, snapshot: Snapshot, place: Path) -> Table:
    columns = [Column("#"), _words("configuration" if best.are_means else "point"), *map(Column, best.columns)]
    rows = []
    for one in best.rows:
        values = [Cell(value, value.replace(",", "").partition("/")[0]) for value in one.values]
        link = _report(one.statuses[0], snapshot, place) if len(one.statuses) == 1 else ""
        runs = ", ".join(status.point.run for status in one.statuses)
        label = Cell(one.label, one.label, "label", runs, link)
        rows.append([Cell(one.numbers, str(one.statuses[0].point.number)), label, *values])
    return Table("best-table", columns, rows, f"{best.title[0].upper()}{best.title[1:]}.")


def _points(snapshot: Snapshot, place: Path) -> Table:
    columns = [Column("#"), _words("point"), _words("state"), Column("epochs", first="descending"), Column("an epoch")]
    columns += [Column("left", title="once it runs"), _words("job"), _words("reason")]
    ordered = sorted(snapshot.points, key=lambda point: _ORDER.index(kind_of(point.status)))
    rows = [_point(point, snapshot, place) for point in ordered]
    return Table("points-table", columns, rows, "Click a column header to sort; a point links to its report.")


def _point(point: PointView, snapshot: Snapshot, place: Path) -> list[Cell]:
    status, number = point.status, str(point.status.point.number)
    submissions, reason = status.point.submissions, reason_with_stand_in(status)
    job = f"{submissions[-1].launcher} {submissions[-1].job}" if submissions else ""
    epochs = f"{status.epochs}/{status.max_epochs or '?'}" if status.point.run else ""
    return [
        Cell(number, number),
        _label(status, _report(status, snapshot, place)),
        Cell(state_of(status), state_of(status), f"state-{kind_of(status)}"),
        Cell(epochs, str(status.epochs)),
        Cell(epoch_words(point), _exact(point.epoch_s)),
        Cell(left_of(point), _exact(point.left_s)),
        Cell(job, job, ""),
        Cell(reason, reason, "label"),
    ]


def _exact(number: float | None) -> str:
    return "" if number is None else repr(number)


def _label(status: PointStatus, link: str = "") -> Cell:
    label = label_with_stand_ins(status)
    return Cell(label, label, "label", status.point.run, link)


def _report(status: PointStatus, snapshot: Snapshot, place: Path) -> str:
    """Return the address of the report of a finished run: relative if the page is in the output directory too."""
    if status.run_dir is None or not status.fate.is_final or not (report := status.run_dir / "report.html").is_file():
        return ""
    if place.is_relative_to(snapshot.sweep.output_dir):
        return quote(os.path.relpath(report, place))
    return report.as_uri()
