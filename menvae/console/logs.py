"""Where log messages of menvae go: a short form to standard error, everything with its time to ``train.log``."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

# One console for messages and progress bars, so that a message moves a live bar instead of tearing it.
console = Console(stderr=True)

_STYLES = {logging.DEBUG: "dim", logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}
_LOG_WIDTH = 120
_PIPE_WIDTH = 10_000
_handlers: list[logging.Handler] = []


class _ConsoleHandler(logging.Handler):
    """Coloured by level on a terminal; plain, with the time of day, in a file or a pipe."""

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

    Replaces what an earlier call set up, so one process may run several runs one after the other.

    Args:
        run_dir: where to append ``train.log``; created if need be; None for standard error only.
        only_errors: for processes beside the main one, which says the rest.
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
    logger.propagate = False  # the root logger may have handlers of its own (Hydra's): no message twice


@contextmanager
def only_errors(quiet: bool = True) -> Iterator[None]:
    """Say nothing but errors while the block runs, if ``quiet``."""
    logger = logging.getLogger("menvae")
    level = logger.level
    if quiet:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def release() -> None:
    """Take back what ``configure`` set up, and close ``train.log``."""
    logger = logging.getLogger("menvae")
    for handler in _handlers:
        logger.removeHandler(handler)
        handler.close()
    _handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def show(renderable: RenderableType) -> None:
    """Print a result, such as a table, on standard output, and write it as plain text to ``train.log``.

    A pipe or a file has no width: nothing is folded there.

    Args:
        renderable: anything that rich can print.
    """
    output = Console()
    if not output.is_terminal:
        output.width = _PIPE_WIDTH
    output.print(renderable)
    plain = io.StringIO()
    Console(file=plain, width=_LOG_WIDTH).print(renderable)
    for handler in _handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            handler.stream.write(plain.getvalue())
            handler.flush()
