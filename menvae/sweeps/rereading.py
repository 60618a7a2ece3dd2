"""Files that are looked at again and again: read only if they have changed, and then only what is new.

Files of menvae are replaced as a whole, with another inode, or grow by whole lines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from menvae.files import DamagedFileError

Content = TypeVar("Content")
Total = TypeVar("Total")
Stamp = tuple[int, int, int]


def stamp_of(path: Path) -> Stamp | None:
    """Return inode, size and time of change (ns) of a file; None if it does not exist or cannot be reached."""
    try:
        return _stamp(path.stat())
    except OSError:
        return None


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns


class Remembered(Generic[Content]):
    """Reads files with a function, each again only if it has changed.

    Args:
        read: reads a file, which may not exist; may raise `DamagedFileError`.
    """

    def __init__(self, read: Callable[[Path], Content]) -> None:
        self._read = read
        self._kept: dict[Path, tuple[Stamp | None, Content | DamagedFileError]] = {}

    def __call__(self, path: Path) -> Content:
        """Return what the function returns for the file as it is now; raises `DamagedFileError` as that does."""
        stamp = stamp_of(path)  # before it is read: a change in between is read next time
        known = self._kept.get(path)
        if known is None or known[0] != stamp:
            known = self._kept[path] = (stamp, self._content(path))
        if isinstance(known[1], DamagedFileError):
            raise DamagedFileError(str(known[1]))  # anew: raising the same one again would lengthen its traceback
        return known[1]

    def _content(self, path: Path) -> Content | DamagedFileError:
        try:
            return self._read(path)
        except DamagedFileError as error:
            return error


@dataclass(frozen=True)
class _Read(Generic[Total]):
    """What has been read of a growing file: its stamp then, the bytes of whole lines, and what those add up to."""

    stamp: Stamp
    num_bytes: int
    total: Total


class Appended(Generic[Total]):
    """Adds up the lines of files that grow; lines that were read are read again only if a file was replaced.

    Args:
        nothing: the total without lines.
        add: returns a total with further lines, which have no line ends.
    """

    def __init__(self, nothing: Total, add: Callable[[Total, Sequence[bytes]], Total]) -> None:
        self._nothing, self._add = nothing, add
        self._kept: dict[Path, _Read[Total]] = {}

    def __call__(self, path: Path) -> Total:
        """Return the total of all whole lines; that without lines if the file does not exist."""
        stamp, known = stamp_of(path), self._kept.get(path)
        if known is not None and known.stamp == stamp:
            return known.total
        if stamp is None:
            self._kept.pop(path, None)
            return self._nothing
        try:
            with path.open("rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                if known is None or known.stamp[0] != stamp[0] or stamp[1] < known.num_bytes:
                    known = _Read(stamp, 0, self._nothing)
                file.seek(known.num_bytes)
                news = file.read()
        except OSError:
            self._kept.pop(path, None)
            return self._nothing
        complete, end, _ = news.rpartition(b"\n")
        total = self._add(known.total, complete.split(b"\n")) if end else known.total
        self._kept[path] = _Read(stamp, known.num_bytes + len(complete) + len(end), total)
        return total
