"""Logging of menvae: short messages to standard error, messages with time and level to ``train.log``."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

# One console for messages and progress bars, so that a message does not break a live bar.
console = Console(stderr=True)

_STYLES = {logging.DEBUG: "dim", logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}
_LOG_WIDTH = 120
_PIPE_WIDTH = 10_000
_handlers: list[logging.Handler] = []


class _ConsoleHandler(logging.Handler):
    """Colours messages by level on a terminal; writes them plain, with the time of day, to a file or a pipe."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
            if record.levelno >= logging.WARNING:
                message = f"{record.levelname.lower()}: {message}"
            if console.is_terminal:
                console.print(Text(message, style=_STYLES.get(record.levelno, "")), soft_wrap=True)
            else:
                clock = logging.Formatter().formatTime(record, "%H:%M:%S")
                console.out(f"{clock} {message}", highlight=False)
        except Exception:  # noqa: BLE001 - a message that cannot be written must not stop the run
            self.handleError(record)


def configure(run_dir: Path | None, *, only_errors: bool = False) -> None:
    """Send the messages of the ``menvae`` loggers to standard error and, with a run directory, to its ``train.log``.

    Replaces the handlers of an earlier call, so that one process can run several runs in sequence.

    Args:
        run_dir: folder of ``train.log``, which is appended to; created if missing; None for standard error only.
        only_errors: log errors only, for ranks other than the main one.
    """
    release()
    logger = logging.getLogger("menvae")
    _handlers.append(_ConsoleHandler())
    if run_dir is not None:
        run_dir.mkdir(parents=True, exist_ok=True)
        file_handler = logging.FileHandler(run_dir / "train.log", mode="a", encoding="utf-8")
        file_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        _handlers.append(file_handler)
    for handler in _handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.ERROR if only_errors else logging.INFO)
    logger.propagate = False  # the root logger may have handlers (Hydra's), which would repeat messages


@contextmanager
def only_errors(quiet: bool = True) -> Iterator[None]:
    """Log only errors while the block runs, if ``quiet``."""
    logger = logging.getLogger("menvae")
    level = logger.level
    if quiet:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def release() -> None:
    """Remove the handlers that ``configure`` added, and close ``train.log``."""
    logger = logging.getLogger("menvae")
    for handler in _handlers:
        logger.removeHandler(handler)
        handler.close()
    _handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def show(renderable: RenderableType) -> None:
    """Print a result, such as a table, on standard output, and write it as plain text to ``train.log``.

    In a pipe or a file, lines are not wrapped.

    Args:
        renderable: anything that rich can print.
    """
    output = Console()
    if not output.is_terminal:
        output.width = _PIPE_WIDTH
    output.print(renderable)
    files = [
        handler.stream
        for handler in _handlers
        if isinstance(handler, logging.FileHandler) and handler.stream is not None
    ]
    if not files:
        return
    plain = io.StringIO()
    Console(file=plain, width=_LOG_WIDTH).print(renderable)
    for file in files:
        file.write(plain.getvalue())
        file.flush()
