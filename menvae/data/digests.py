"""Hashes of values and of the content of files; a file is read for it once, and again when its size or time changes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def digest_of(value: object) -> str:
    """Return 32 hexadecimal digits that stand for a value that JSON can hold; the order of keys does not count."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_digest(path: Path, cache: Path) -> str:
    """Return 32 hexadecimal digits that stand for the content of a file.

    Raises:
        OSError: the file cannot be read.
    """
    return remembered_digest(path, cache) or remember_digest(digest_memo(path, cache), path.read_bytes())


def remembered_digest(path: Path, cache: Path) -> str | None:
    """Return the digest of a file if it is known without reading it."""
    memo = digest_memo(path, cache)
    remembered = memo.read_text() if memo.is_file() else ""
    return remembered if len(remembered) == 32 else None


def digest_memo(path: Path, cache: Path) -> Path:
    """Return where the digest of a file is remembered, as it is now: take it before reading the file."""
    status = path.stat()
    return cache / "digests" / digest_of([str(path.resolve()), status.st_size, status.st_mtime_ns])


def remember_digest(memo: Path, content: bytes) -> str:
    """Write down the digest of a content; return it."""
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    memo.parent.mkdir(exist_ok=True)
    memo.write_text(digest)
    return digest
