"""States of files: equal while nothing changes, different after any change."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from menvae.fingerprints import state_of


def replaced(file: Path) -> None:
    """Replace a file by another one of the same size and mtime."""
    before = file.stat()
    new = file.with_name("new")
    new.write_bytes(file.read_bytes()[::-1])
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(file)


@pytest.mark.parametrize(
    "change",
    [
        replaced,
        lambda file: file.write_text("longer than before"),
        lambda file: os.utime(file, ns=(0, 0)),
        lambda file: file.unlink(),
        lambda file: file.rename(file.with_name("renamed.txt")),
        lambda file: file.with_name("added.txt").touch(),
        lambda file: (file.parent / "deeper").mkdir() or (file.parent / "deeper" / "added.txt").touch(),
    ],
    ids=["replaced", "written", "touched", "removed", "renamed", "added", "added deeper"],
)
def test_every_change_changes_the_state(tmp_path: Path, change: Callable[[Path], object]) -> None:
    file = tmp_path / "patient" / "visit" / "scan.txt"
    file.parent.mkdir(parents=True)
    file.write_text("content")
    before = state_of([tmp_path])
    assert state_of([tmp_path]) == before
    change(file)
    assert state_of([tmp_path]) != before


def test_a_missing_file_has_a_state_and_other_endings_do_not_matter(tmp_path: Path) -> None:
    absent = state_of([tmp_path / "table.csv"])
    (tmp_path / "table.csv").touch()
    assert state_of([tmp_path / "table.csv"]) != absent
    before = state_of([tmp_path], ".py")
    (tmp_path / "notes.txt").touch()
    assert state_of([tmp_path], ".py") == before
    (tmp_path / "module.py").touch()
    assert state_of([tmp_path], ".py") != before


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "up").symlink_to(tmp_path)
    assert state_of([tmp_path]) == state_of([tmp_path])
