"""Files that do not change are not read again: shown by changes that leave no trace, and are therefore not seen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from menvae.files import DamagedFileError, write_text
from menvae.sweeps.rereading import Appended, Remembered, stamp_of


def change_without_a_trace(path: Path, content: bytes) -> None:
    """Overwrite a file with content of its length; inode and time of change stay."""
    before = path.stat()
    assert before.st_size == len(content)
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_is_read_again_only_if_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    read = Remembered(lambda path: path.read_text() if path.exists() else "nothing")
    assert read(path) == "nothing"
    path.write_text("first")
    assert read(path) == "first"
    change_without_a_trace(path, b"other")
    assert read(path) == "first"
    write_text(path, "third")  # replaces it, at whatever time
    assert read(path) == "third"
    path.unlink()
    assert read(path) == "nothing"


def test_damage_is_remembered_too_and_repaired(tmp_path: Path) -> None:
    path, num_reads = tmp_path / "file", 0

    def content(path: Path) -> object:
        nonlocal num_reads
        num_reads += 1
        try:
            return json.loads(path.read_text())
        except ValueError:
            raise DamagedFileError(f"'{path}' is damaged") from None

    path.write_text("{")
    read = Remembered(content)
    for _ in range(3):
        with pytest.raises(DamagedFileError, match="is damaged"):
            read(path)
    assert num_reads == 1
    path.write_text("{}")
    assert read(path) == {}


def test_only_new_whole_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    add = Appended[tuple[bytes, ...]]((), lambda total, lines: (*total, *lines))
    assert add(path) == ()
    path.write_bytes(b"one\ntwo\nthr")
    assert add(path) == (b"one", b"two")
    with path.open("r+b") as file:  # what was read is not read again
        file.write(b"ONE")
        file.seek(0, os.SEEK_END)
        file.write(b"ee\nfour\n")
    assert add(path) == (b"one", b"two", b"three", b"four")
    write_text(path, "a new file, longer than the old one\n")
    assert add(path) == (b"a new file, longer than the old one",)
    path.unlink()
    assert add(path) == ()
    assert stamp_of(path) is None


def test_a_file_that_became_shorter_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\n")
    count = Appended(0, lambda total, lines: total + len(lines))
    assert count(path) == 2
    with path.open("r+b") as file:
        file.truncate(4)
    assert count(path) == 1
