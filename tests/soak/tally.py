"""How the trials of one part ended, and the progress through them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_console = Console(stderr=True)


class Tally:
    """Counts of ends; a context manager that shows a bar on a terminal, or else a line about every 10 %.

    Args:
        part: name of the trials.
        num: number of trials.
    """

    def __init__(self, part: str, num: int) -> None:
        self.part, self.num = part, num
        self.ends: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.seconds = 0.0
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[counts]}"), TimeRemainingColumn())
        # not refreshed by a thread, because trials redirect standard error
        self._bar = Progress(TextColumn(part), *columns, console=_console, auto_refresh=False)
        self._task = self._bar.add_task(part, total=num, counts="")

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        if _console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if _console.is_terminal:
            self._bar.stop()
        self.seconds = time.monotonic() - self._start

    def passed(self, end: str, num: int = 1) -> None:
        """Count trials that ended as they should."""
        self.ends[end] += num
        self._show()

    def failed(self, end: str, details: str, num: int = 1) -> None:
        """Count trials that did not, and print what repeats and explains the failure."""
        self.failures[end] += num
        sys.stdout.write(f"FAILED {self.part}: {end}: {details.rstrip()}\n")
        sys.stdout.flush()
        self._show()

    @property
    def counts(self) -> str:
        """All ends with their numbers, the most frequent first."""
        return ", ".join(f"{num} {end}" for end, num in (self.ends + self.failures).most_common())

    def _show(self) -> None:
        done = self.ends.total() + self.failures.total()
        self._bar.update(self._task, completed=done, counts=self.counts, refresh=_console.is_terminal)
        if not _console.is_terminal and (done % max(1, self.num // 10) == 0 or done == self.num):
            line = f"{self.part}: {done}/{self.num}, {time.monotonic() - self._start:.0f} s: {self.counts}"
            _console.print(line, soft_wrap=True)
