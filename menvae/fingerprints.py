"""States of files: texts that change whenever somebody changes a file, without reading it.

A state holds the name, inode, size, mtime and ctime of every file. Because ctime cannot be set, a replacement of the
same size and mtime changes it too; a second change within one tick of the file system's clock (milliseconds) does not.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def state_of(paths: Iterable[str | Path], ending: str = "") -> str:
    """Return 32 hexadecimal digits that depend on the state of files, and of all files below folders but hidden ones.

    Args:
        paths: files and folders; that one does not exist is part of the state.
        ending: what the names of the files below folders end with.

    Raises:
        OSError: a folder cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        place = Path(path).absolute()
        digest.update(f"{place}\0".encode("utf-8", "surrogateescape"))
        for name, found in sorted(_files(str(place), "", ending, set())):
            digest.update(f"{name}\0{found}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def distributions(folders: Iterable[str | Path]) -> list[str]:
    """Return what describes the distributions installed in some folders, sorted; its names hold versions."""
    found: list[str] = []
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:
            found += [entry.path for entry in entries if entry.name.endswith("-info")]
    return sorted(found)


def user_cache() -> Path:
    """Return the folder of this user for values that a state stands for; raises `RuntimeError` if there is no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "menvae"


def _files(place: str, name: str, ending: str, above: set[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Yield path and state of a file, or of all files below a folder; links are followed."""
    try:
        status = Path(place).stat()
    except OSError as error:
        yield name, type(error).__name__
        return
    if not stat.S_ISDIR(status.st_mode):
        yield name, f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a link to a folder above itself
        return
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith("."):  # snapshots and the like, which no source reads
                continue
            if entry.is_dir() or entry.name.endswith(ending):
                yield from _files(entry.path, f"{name}/{entry.name}", ending, above | {identity})
