"""Atomic writes of files and folders, and folders that one process locks at a time."""

from __future__ import annotations

import csv
import fcntl
import io
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

A_LOOK_S = 1.0  # `FolderLock.is_held` takes the lock for a moment

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")  # apostrophes before it count, so that `original_cell` is the inverse


class FolderIsLockedError(Exception):
    """Another process holds the lock of a folder; the message names the process."""


class FolderLock:
    """A lock held by one process at a time, until the process releases it or ends, even by a crash."""

    def __init__(self, folder: Path, patience_s: float = A_LOOK_S) -> None:
        """Take the lock.

        Args:
            folder: an existing folder; the lock is the file ``.lock`` in it.
            patience_s: how long to wait for another holder to release it.

        Raises:
            FolderIsLockedError: another process still holds it.
        """
        self._file: IO[str] = (folder / ".lock").open("a+")
        until = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.2)
                    continue
                self._file.seek(0)
                holder = self._file.read().strip() or "another process"
                self._file.close()
                raise FolderIsLockedError(holder) from None
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {os.uname().nodename}")
        self._file.flush()

    @staticmethod
    def is_held(folder: Path) -> bool:
        """Return whether any process currently holds the lock of a folder."""
        path = folder / ".lock"
        if not path.exists():
            return False
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


def write_text(path: Path, content: str, *, private: bool = False) -> Path:
    """Write a text file atomically; see `write_atomically`."""
    write_atomically(path, content.encode(), private=private)
    return path


def write_json(path: Path, content: Mapping[str, Any], *, private: bool = False) -> Path:
    """Write a JSON file atomically; see `write_atomically`."""
    return write_text(path, json.dumps(content, indent=2) + "\n", private=private)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a CSV file atomically; see `csv_text`."""
    return write_text(path, csv_text(itertools.chain([columns], rows)))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    r"""Return rows as CSV in which no cell of text is a formula to a spreadsheet.

    Names of subjects and runs may come from others, and spreadsheets execute cells that begin with ``=``, ``+``, ``-``,
    ``@``, a tab or a line end. Such a cell gets an apostrophe, which `original_cell` removes. Numbers stay as they are,
    also in text.

    >>> csv_text([["=1+1", -0.5, "-0.5", "a-b", None]])
    "'=1+1,-0.5,-0.5,a-b,\n"
    """
    return "".join(map(_line, rows))


def original_cell(cell: str) -> str:
    """Return a cell of text as it was before `csv_text` made it harmless.

    >>> original_cell("'=1+1"), original_cell("'a'")
    ('=1+1', "'a'")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _line(row: Sequence[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(map(_harmless, row))  # with "\n", it does not quote "\r"
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _harmless(cell: object) -> object:
    if not isinstance(cell, str) or not _FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Replace a file atomically: after a crash it holds either all of the old content or all of the new.

    Args:
        path: the file.
        content: its new content.
        private: whether only its owner may read it, for content with passwords.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        if private:
            os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Create a folder atomically: yield a hidden folder beside it, to be filled, and rename that at the end.

    Several processes may create the same folder at once: the first one to finish wins, and the others discard theirs.
    After an error nothing is left.

    Args:
        path: the new folder, in an existing one.

    Raises:
        OSError: the folder cannot be created, or ``path`` is a file.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    """Return the umask of this process, which `tempfile.mkdtemp` does not use."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_directory(directory: Path) -> None:
    """Flush the directory entries of new files to disk, as `os.fsync` does for their content."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
