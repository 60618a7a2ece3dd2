"""``error.txt`` of a run directory: the traceback of every rank that failed, in order of time."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from pathlib import Path

from menvae.masking import without_passwords

_ENTRY = "=== "


class FailureLog:
    """Errors of one attempt; errors of earlier attempts stay in the file.

    Args:
        run_dir: the run directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "error.txt"
        self._begin = self._path.stat().st_size if self._path.is_file() else 0

    def append(self, error: BaseException, rank: int, num_ranks: int) -> None:
        """Append the traceback of an error on a rank."""
        entry = f"{_ENTRY}{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, rank {rank} of {num_ranks}\n"
        with self._path.open("a") as file:
            file.write(entry + without_passwords("".join(traceback.format_exception(error))) + "\n")

    def cause(self) -> str:
        """Return the message of the first error of this attempt on any rank, or an empty string.

        The first rank to fail has the cause; the others mostly report that they lost their connection to it.
        """
        content = self._path.read_bytes()[self._begin :].decode(errors="replace") if self._path.is_file() else ""
        first = content.partition(_ENTRY)[2].partition(_ENTRY)[0]
        messages = [line for line in first.splitlines()[1:] if line.strip() and not line.startswith(" ")]
        return messages[-1] if messages else ""
