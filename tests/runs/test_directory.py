"""The folder of a run: its name and its lock."""

from __future__ import annotations

import fcntl
import shutil
import threading
import time
from pathlib import Path

import pytest

from menvae.errors import UserError
from menvae.files import FolderIsLockedError, FolderLock
from menvae.runs.directory import RunDirectory, newest_name, newest_names


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


def test_a_run_writes_when_it_began_and_ended(tmp_path: Path) -> None:
    directory, before = RunDirectory(tmp_path / "run"), time.time()
    directory.begin(host="here")
    begun = directory.status()
    directory.end("finished", epochs=3)
    ended, after = directory.status(), time.time()
    directory.release()
    assert (begun["state"], begun["host"], "ended_at" in begun) == ("running", "here", False)
    assert (ended["state"], ended["epochs"], ended["began_at"]) == ("finished", 3, begun["began_at"])
    assert before <= begun["began_at"] <= ended["ended_at"] <= after


@pytest.mark.parametrize("content", [b"", b'{"state": "fini', b"[]", b'{"state": 1}', b'{"epochs": 3}'])
def test_a_run_with_a_damaged_status_goes_on_from_its_checkpoint(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.set_status("finished", epochs=3)
    (tmp_path / "run" / "status.json").write_bytes(content)
    assert directory.status() == {"state": "new"}
    (said,) = caplog.messages
    assert said.startswith(f"'{tmp_path}/run/status.json' is damaged: ")
    directory.set_status("finished", epochs=3)
    assert directory.status() == {"state": "finished", "epochs": 3}
    directory.release()


def test_what_killed_processes_left_is_removed_when_the_run_goes_on(tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in (".last.ckpt.4711", ".last.ckpt.00ff.tmp", "last.ckpt"):
        (checkpoints / name).write_text("half")
    (tmp_path / "run" / ".report.html.tmp").write_text("half")
    RunDirectory(tmp_path / "run").release()
    assert [path.name for path in checkpoints.iterdir()] == ["last.ckpt"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "checkpoints"]


def test_a_directory_that_is_gone_gets_no_status(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"run directory '.*run' was removed during the run; the same command trains"):
        directory.set_status("finished")
    assert list((tmp_path / "run").iterdir()) == []
    directory.release()


@pytest.mark.parametrize("content", [None, b"", b'{"gates": [1], "passed": true}', b'{"gates": []}'])
def test_damaged_gates_are_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    if content is not None:
        (tmp_path / "run" / "gates.json").write_bytes(content)
    with pytest.raises(UserError, match=r"gates\.json' is damaged.*; remove status\.json beside it, and"):
        directory.gates()
    directory.release()


def test_newest_names_of_many_runs_are_those_of_each(tmp_path: Path) -> None:
    folders = ("a_0a", "a_0a_2", "a_0a_10", "a_0b_3", "a_0c_x", "a_0d_2_3", "a_0e_0", "a_0f_1", "a_007", "a_007_4")
    for folder in folders:
        (tmp_path / folder).mkdir()
    (tmp_path / "a_0b_9").write_text("no folder")
    newest = newest_names(tmp_path)
    identities = ("a_0a", "a_0b", "a_0c", "a_0d", "a_0d_2", "a_0e", "a_0f", "a_007", "a_9", "b", "a")
    assert [newest(identity) for identity in identities] == [newest_name(tmp_path, one) for one in identities]
    assert newest("a_0a") == "a_0a_10"
    assert newest_names(tmp_path / "nowhere")("a_0a") == "a_0a"
