"""Atomic writes of files and folders, and folders that one process locks at a time."""

from __future__ import annotations

import csv
import fcntl
import fnmatch
import glob
import io
import itertools
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, TypeVar

from menvae.errors import UserError

Types = Mapping[str, type | tuple[type, ...]]
_T = TypeVar("_T")
_R = TypeVar("_R")

A_LOOK_S = 1.0  # `FolderLock.is_held` takes the lock for a moment
_THREADS_THAT_WRITE = 16

NULL_WORDS = frozenset(
    {
        *("", "#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "None", "n/a", "null"),
        *("-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "NaN", "nan"),
    }
)
"""Words that mean "missing" in every cell of a table, as in `pandas.read_csv`."""

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")  # apostrophes before it count, so that `original_cell` is the inverse


class FolderIsLockedError(Exception):
    """Another process holds the lock of a folder; the message names the process."""


class DamagedFileError(UserError):
    """A file that menvae wrote has another content now; the message names the file and the damage."""


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
        self._path = folder / ".lock"
        self._file: IO[str] = self._path.open("a+")
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

    @staticmethod
    def holder(folder: Path) -> str:
        """Return which process holds the lock of a folder, such as ``process 812 on node3``; empty if none does."""
        if not FolderLock.is_held(folder):
            return ""
        return (folder / ".lock").read_text().strip() or "another process"

    @property
    def is_lost(self) -> bool:
        """Whether the folder was removed, or replaced by another of the same name, since it was locked."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            return True

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
    with replacing(path) as file:
        if private:
            os.fchmod(file.fileno(), 0o600)
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file that replaces ``path`` at the end; several processes may replace the same file at once.

    After a crash ``path`` holds either all of the old content or all of the new, and after an error the old. What a
    killed process leaves beside it is removed first, so that it does not fill the disk.

    Args:
        path: a file, which may not exist, in an existing folder.

    Raises:
        OSError: the file cannot be written.
    """
    remove_leftovers(path.parent, f".{glob.escape(path.name)}.*tmp")
    temporary, file = _locked_file(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)  # before the lock is released
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)  # errors of writing name no file
        raise
    sync_directory(path.parent)


def _locked_file(path: Path) -> tuple[Path, IO[bytes]]:
    """Create a hidden file beside ``path``, locked while it is open: an unlocked one belongs to no process."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        file = temporary.open("xb")
        with suppress(OSError):  # on a file system without locks nobody takes it for a leftover
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # another process removed it before it was locked


def in_parallel(write: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Return the results of a function that spends its time waiting until the disk has what it writes.

    Args:
        write: the function; calls for different items must not depend on each other.
        items: its arguments.

    Raises:
        OSError: as the first call that fails; others may have been made.
    """
    todo = list(items)
    if len(todo) < 2:
        return [write(item) for item in todo]
    with ThreadPoolExecutor(min(len(todo), _THREADS_THAT_WRITE)) as threads:
        return list(threads.map(write, todo))


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove the unfinished files that killed processes left in a folder.

    Args:
        folder: the folder; it may not exist.
        pattern: their names, with wildcards; files that a process still writes are kept.
    """
    try:
        with os.scandir(folder) as entries:  # `Path.glob` takes several times as long
            names = fnmatch.filter((entry.name for entry in entries), pattern)
    except OSError:
        return
    for path in map(folder.joinpath, names):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def read_json(path: Path, types: Types, optional: Types = MappingProxyType({})) -> dict[str, Any]:
    """Read a JSON object that menvae wrote.

    Args:
        path: the file.
        types: key -> type of its value, for keys that must exist.
        optional: key -> type of its value, for keys that may exist; so may others.

    Returns:
        The object; empty if the file does not exist.

    Raises:
        DamagedFileError: the file is no such object.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):  # not JSON, not UTF-8
        raise DamagedFileError(f"'{path}' is damaged: it is not JSON") from None
    if not isinstance(content, dict):
        raise DamagedFileError(f"'{path}' is damaged: it is not a JSON object")
    if lacking := types.keys() - content.keys():
        raise DamagedFileError(f"'{path}' is damaged: it lacks '{min(lacking)}'")
    for key, kind in {**types, **{key: kind for key, kind in optional.items() if key in content}}.items():
        if not isinstance(content[key], kind) or (isinstance(content[key], bool) and kind is int):
            raise DamagedFileError(f"'{path}' is damaged: its '{key}' is {str(content[key])[:60]!r}")
    return content


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Create a folder atomically: yield a hidden folder beside it, to be filled, and rename that at the end.

    The files are on disk before the folder has its name, so that no crash leaves a folder of empty files. Several
    processes may create the same folder at once: the first one to finish wins, and the others discard theirs.
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
        _sync_files(temporary)  # a file that `flushing` has flushed and nobody changed since costs no write
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def flushing(folder: Path) -> Iterator[None]:
    """Flush the files of a folder to disk while the block computes; raises `OSError` at its end."""
    with ThreadPoolExecutor(1) as thread:
        flushed = thread.submit(_sync_files, folder)
        yield
        flushed.result()


def discard_folder(path: Path) -> None:
    """Remove a folder, if it exists, such that no other process sees a part of it."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    with suppress(FileNotFoundError):
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    """Return the umask of this process, which `tempfile.mkdtemp` does not use."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_files(folder: Path) -> None:
    """Flush the files below a folder to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Flush the directory entries of new files to disk, as `os.fsync` does for their content."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
