"""The folder of a run: its name and its lock."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

import pytest

from menvae.files import FolderIsLockedError, FolderLock
from menvae.runs.directory import RunDirectory, newest_name


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    assert not FolderLock.is_held(tmp_path)
    lock = FolderLock(tmp_path)
    assert FolderLock.is_held(tmp_path)
    with pytest.raises(FolderIsLockedError, match=r"^process \d+ on "):
        FolderLock(tmp_path)
    lock.release()
    assert not FolderLock.is_held(tmp_path)
    FolderLock(tmp_path).release()


def test_a_look_at_the_lock_keeps_nobody_from_taking_it(tmp_path: Path) -> None:
    looking = threading.Event()

    def look() -> None:
        with (tmp_path / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            looking.set()
            time.sleep(0.1)

    thread = threading.Thread(target=look)
    thread.start()
    looking.wait()
    RunDirectory(tmp_path).release()
    thread.join()


def test_the_run_begun_last_goes_on(tmp_path: Path) -> None:
    names = []
    for new in (False, True, True, False):
        directory = RunDirectory.choose(tmp_path, "semivae_0a", new=new)
        names.append(directory.path.name)
        directory.release()
    (tmp_path / "semivae_0a_old").mkdir()
    assert names == ["semivae_0a", "semivae_0a_2", "semivae_0a_3", "semivae_0a_3"]
    assert newest_name(tmp_path, "semivae_0a") == "semivae_0a_3"
    assert newest_name(tmp_path, "semivae_0b") == "semivae_0b"
