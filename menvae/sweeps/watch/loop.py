"""Watching a sweep until it is over: on a terminal, in a log, and on a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from menvae.console import logs
from menvae.sweeps.watch.page import RenewedPage
from menvae.sweeps.watch.snapshot import Snapshot, Watcher
from menvae.sweeps.watch.terminal import change_line, view

Show = Callable[[Snapshot], None]


def watch(watcher: Watcher, html: Path | None, every_s: float, *, once: bool = False) -> tuple[Snapshot, bool]:
    """Show a sweep until nothing of it runs, waits or is launched, or until Ctrl-C.

    Args:
        watcher: reader of the sweep.
        html: file of a page that is renewed meanwhile; None for none.
        every_s: seconds between two looks.
        once: look once only.

    Returns:
        The last look, and whether the sweep was left while it went on.

    Raises:
        UserError: the page cannot be written.
    """
    page = None if html is None else RenewedPage(html)
    snapshot, is_left = watcher.look(), False
    try:
        with _shown(once) as show:
            while True:
                show(snapshot)
                ends = once or snapshot.is_over
                if page is not None:
                    page.renew(snapshot, is_last=ends)
                if ends:
                    break
                time.sleep(every_s)
                snapshot = watcher.look()
    except KeyboardInterrupt:  # the sweep goes on
        is_left = True
        if page is not None:
            page.renew(snapshot, is_last=True)
    logs.show(view(snapshot))
    return snapshot, is_left


@contextmanager
def _shown(once: bool) -> Iterator[Show]:
    """Provide a function that shows a snapshot: on the whole terminal, or as a line for each change in a log."""
    console = Console()
    if once:
        yield lambda _: None
    elif console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            yield lambda snapshot: live.update(view(snapshot, console.height), refresh=True)
    else:
        yield _Log().show


class _Log:
    """Writes a line whenever the state of a point has changed."""

    def __init__(self) -> None:
        self._before: list[str] = []

    def show(self, snapshot: Snapshot) -> None:
        """Write the line, if it is due."""
        fates = [str(status.fate) for status in snapshot.statuses]
        if fates != self._before:
            self._before = fates
            logs.show(Text(change_line(snapshot)))
