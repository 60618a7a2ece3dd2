"""Hashes of values and of the content of files.

A file is read for it once, and again when its path, its inode, its size, or the times of its content or of its inode
change. The second of these times cannot be set, so a file that was replaced by one of the same size and date is
noticed; what is not noticed is a second change within one tick of the file system's clock (milliseconds). The content
of a folder is that of all its files, hidden ones too.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from functools import lru_cache
from pathlib import Path


def digest_of(value: object) -> str:
    """Return 32 hexadecimal digits that stand for a value that JSON can hold; the order of keys does not count."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_digest(path: Path, cache: Path) -> str:
    """Return 32 hexadecimal digits that stand for the content of a file or folder.

    Raises:
        OSError: a file cannot be read.
    """
    if path.is_dir():
        return digest_of([[name, file_digest(file, cache)] for name, file in _files(path)])
    return remembered_digest(path, cache) or remember_digest(digest_memo(path, cache), path.read_bytes())


def remembered_digest(path: Path, cache: Path) -> str | None:
    """Return the digest of a file or folder if it is known without reading it; raises OSError if it does not exist."""
    if path.is_dir():
        known = [[name, remembered_digest(file, cache)] for name, file in _files(path)]
        return None if any(digest is None for _, digest in known) else digest_of(known)
    memo = digest_memo(path, cache)
    try:
        remembered = memo.read_bytes()
    except FileNotFoundError:
        return None
    digest = remembered[:32].decode("ascii", "replace")
    return digest if remembered == _sealed(digest, memo) else None


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Return the files of a folder and of those in it, by their path from there."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted((file.relative_to(folder).as_posix(), file) for file in files)


def digest_memo(path: Path, cache: Path) -> Path:
    """Return where the digest of a file is remembered, as it is now: take it before reading the file."""
    status = path.stat()
    place = [_resolved(path.parent), path.name, status.st_ino]
    name = digest_of([*place, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return Path(f"{cache}/digests/{name}")  # joined as text: a cohort has thousands of files


@lru_cache(maxsize=8)  # the files of a subject come one after the other, and every step of a path is asked for
def _resolved(folder: Path) -> str:
    return str(folder.resolve())


def remember_digest(memo: Path, content: bytes) -> str:
    """Write down the digest of a content; return it."""
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    write_whole(memo, _sealed(digest, memo))
    return digest


def _sealed(digest: str, memo: Path) -> bytes:
    """Return what is written down: the digest, and what shows that it is one, and of that file."""
    return (digest + digest_of([memo.name, digest])).encode()


def write_whole(memo: Path, content: bytes) -> None:
    """Write a file that appears in one step, in a folder that is made if need be."""
    memo.parent.mkdir(exist_ok=True)
    unfinished = memo.with_name(f".{memo.name}.{secrets.token_hex(8)}")  # processes of other hosts may have our number
    try:
        unfinished.write_bytes(content)
        unfinished.replace(memo)
    finally:
        unfinished.unlink(missing_ok=True)
