"""Hashes of values and of file contents.

A file is read once, and again when its path, inode, size, mtime or ctime changes. Because ctime cannot be set, a
replacement of the same size and mtime is detected; a second change within one tick of the file system's clock
(milliseconds) is not. The content of a folder is that of all its files, including hidden ones.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from functools import lru_cache
from pathlib import Path

import deflate


def digest_of(value: object) -> str:
    """Return the 32-digit hexadecimal hash of a JSON-serialisable value, independent of the order of keys."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def checksum(content: bytes | memoryview) -> int:
    """Return the CRC-32 of some content: it finds damage of any kind, and is faster than a cryptographic hash."""
    crc: int = deflate.crc32(content)  # several times faster than zlib, with the same value
    return crc


def file_digest(path: Path, cache: Path) -> str:
    """Return the 32-digit hexadecimal hash of the content of a file or folder.

    Args:
        path: file or folder.
        cache: folder for remembered digests.

    Raises:
        OSError: if a file cannot be read.
    """
    if path.is_dir():
        return digest_of([[name, file_digest(file, cache)] for name, file in _files(path)])
    return remembered_digest(path, cache) or remember_digest(digest_memo(path, cache), path.read_bytes())


def remembered_digest(path: Path, cache: Path) -> str | None:
    """Return the remembered digest of a file or folder, or None; raises OSError if it does not exist."""
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
    """Return all files below a folder with their relative paths, sorted."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted((file.relative_to(folder).as_posix(), file) for file in files)


def digest_memo(path: Path, cache: Path) -> Path:
    """Return the memo path for the current state of a file; call it before reading the file."""
    status = path.stat()
    place = [_resolved(path.parent), path.name, status.st_ino]
    name = digest_of([*place, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return Path(f"{cache}/digests/{name}")  # joining text is faster, for thousands of files


@lru_cache(maxsize=8)  # resolving a path is slow, and the files of a subject share a folder
def _resolved(folder: Path) -> str:
    return str(folder.resolve())


def remember_digest(memo: Path, content: bytes) -> str:
    """Store the digest of some content in its memo, and return it."""
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    write_whole(memo, _sealed(digest, memo))
    return digest


def _sealed(digest: str, memo: Path) -> bytes:
    """Return the content of a memo: the digest, and a checksum that ties it to the memo's name."""
    return (digest + digest_of([memo.name, digest])).encode()


def write_whole(memo: Path, content: bytes) -> None:
    """Write a file atomically, creating its folder if needed."""
    memo.parent.mkdir(exist_ok=True)
    unfinished = memo.with_name(f".{memo.name}.{secrets.token_hex(8)}")  # process ids are not unique across hosts
    try:
        unfinished.write_bytes(content)
        unfinished.replace(memo)
    finally:
        unfinished.unlink(missing_ok=True)
