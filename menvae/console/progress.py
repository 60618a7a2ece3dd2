"""Progress of a run: a bar on a terminal, and one line per epoch in every log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from types import TracebackType
from typing import Self, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from menvae.console.logs import console

_logger = logging.getLogger(__name__)
_Item = TypeVar("_Item")

_REDRAW_SECONDS = 0.5
_LOSSES_SHOWN = ("loss", "total", "recon", "kl_raw", "kl", "semantic", "dcor")
_MAX_LOSSES_SHOWN = 4
_FRACTION_LOGGED = 0.1
_ITEMS_LOGGED = 100  # if the total is unknown


class TrainingProgress:
    """Progress of training: a bar if standard error is a terminal, otherwise only the line of each epoch.

    A context manager. Epochs and steps count from 1.

    Args:
        max_epochs: the last epoch.
        steps_per_epoch: optimiser steps of one epoch.
        first_epoch: the epoch at which training starts or resumes.
    """

    def __init__(self, max_epochs: int, steps_per_epoch: int, first_epoch: int) -> None:
        self._max_epochs = max_epochs
        self._steps_per_epoch = steps_per_epoch
        self._first_epoch = first_epoch
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._next_redraw = 0.0

    def __enter__(self) -> Self:
        self._progress = _start_bar(TextColumn("[cyan]{task.fields[losses]}"))
        if self._progress is not None:
            total = (self._max_epochs - self._first_epoch + 1) * self._steps_per_epoch
            self._task = self._progress.add_task(self._describe(self._first_epoch), total=total, losses="")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _stop_bar(self._progress)
        self._progress = None

    def step(self, epoch: int, step: int, losses: Callable[[], Mapping[str, float]]) -> None:
        """Record one finished step; takes well below a microsecond except for the two redraws per second.

        Args:
            epoch: the current epoch.
            step: the step within the epoch.
            losses: returns the losses to show, as Python numbers; called only for a redraw.
        """
        if self._progress is None:
            return
        now = time.monotonic()
        if now < self._next_redraw:
            return
        self._next_redraw = now + _REDRAW_SECONDS
        values = losses()
        shown = [name for name in _LOSSES_SHOWN if name in values][:_MAX_LOSSES_SHOWN]
        self._progress.update(
            self._task,
            completed=(epoch - self._first_epoch) * self._steps_per_epoch + step,
            description=self._describe(epoch),
            losses="  ".join(f"{name} {values[name]:.4g}" for name in shown),
        )

    def epoch_end(self, epoch: int, metrics: Mapping[str, float | None], seconds: float) -> None:
        """Log the line of an epoch.

        Args:
            epoch: the finished epoch.
            metrics: its metrics, with the keys of the metrics log; missing or None values are omitted.
            seconds: duration of the epoch.
        """
        _logger.info("%s", epoch_line(epoch, self._max_epochs, metrics, seconds))
        if self._progress is not None:
            completed = (epoch - self._first_epoch + 1) * self._steps_per_epoch
            self._progress.update(self._task, completed=completed, description=self._describe(epoch))

    def _describe(self, epoch: int) -> str:
        return f"epoch {epoch}/{self._max_epochs}"


def epoch_line(epoch: int, max_epochs: int, metrics: Mapping[str, float | None], seconds: float) -> str:
    """Return the line of one epoch.

    The two z-ratios are the reconstruction error with the mean training z, and with another subject's z, relative to
    that with the subject's own z; 1 means that the decoder ignores z.

    >>> epoch_line(3, 20, {"train_epoch/loss": 1.2341, "val_epoch/kl_raw": 34.08, "sem/vol_r2": 0.7149}, 6.91)
    'epoch  3/20  loss 1.234  kl 34.1 nats  vol R2 0.71  6.9 s'
    """
    parts = [f"epoch {epoch:>{len(str(max_epochs))}}/{max_epochs}"]
    for text, keys in (
        ("loss {:#.4g}", ["train_epoch/loss"]),
        ("val {:#.4g}", ["val_epoch/loss"]),
        ("recon {:#.3g}", ["val_epoch/recon", "train_epoch/recon"]),
        ("kl {:.1f} nats", ["val_epoch/kl_raw", "train_epoch/kl_raw"]),
        ("vol R2 {:.2f}", ["sem/vol_r2"]),
        ("loc R2 {:.2f}", ["sem/loc_r2"]),
        ("shape R2 {:.2f}", ["sem/shape_r2"]),
    ):
        value = next((metrics[key] for key in keys if metrics.get(key) is not None), None)
        if value is not None:
            parts.append(text.format(value))
    ratios = [metrics.get(key) for key in ("diag/mean_z_ratio", "diag/shuffled_ratio")]
    if known := [ratio for ratio in ratios if ratio is not None]:
        parts.append("z-ratio " + "/".join(f"{ratio:.2f}" for ratio in known))
    return "  ".join([*parts, f"{seconds:.1f} s"])


def progress_bar(items: Iterable[_Item], description: str, total: int | None = None) -> Iterator[_Item]:
    """Yield the items and show progress: a bar on a terminal, else a log line about every 10 %.

    Args:
        items: items to process.
        description: description of the work, such as ``preparing subjects``.
        total: number of items; None: the length of ``items`` if it has one.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    progress = _start_bar()
    if progress is None:
        yield from _logged(items, description, total)
        return
    try:
        yield from progress.track(items, total=total, description=description)
    finally:
        _stop_bar(progress)


def _logged(items: Iterable[_Item], description: str, total: int | None) -> Iterator[_Item]:
    of_total = "" if total is None else f"/{total}"
    every = _ITEMS_LOGGED if total is None else max(1, round(total * _FRACTION_LOGGED))
    start = time.monotonic()
    count = 0
    for count, item in enumerate(items, start=1):
        yield item
        if count % every == 0 or count == total:
            _logger.info("%s: %d%s, %.1f s", description, count, of_total, time.monotonic() - start)
    if total is None and count % every:
        _logger.info("%s: %d, %.1f s", description, count, time.monotonic() - start)


_bar_is_up = False  # one live bar per terminal: work inside training, which has its own bar, only logs


def _start_bar(*columns: TextColumn) -> Progress | None:
    global _bar_is_up
    if not console.is_terminal or _bar_is_up:
        return None
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        *columns,
        console=console,
        refresh_per_second=1 / _REDRAW_SECONDS,
        transient=True,
    )
    progress.start()
    _bar_is_up = True
    return progress


def _stop_bar(progress: Progress | None) -> None:
    global _bar_is_up
    if progress is not None:
        progress.stop()
        _bar_is_up = False
