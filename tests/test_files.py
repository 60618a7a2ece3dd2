"""Files and folders that appear whole or not at all, whoever else writes them; CSV without formulas."""

from __future__ import annotations

import csv
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from menvae.files import (
    DamagedFileError,
    FolderLock,
    csv_text,
    in_parallel,
    new_folder,
    original_cell,
    read_json,
    replacing,
    write_table,
    write_text,
)

OVER_AND_OVER = """
import sys
from pathlib import Path
from menvae.files import write_text
for _ in range(200):
    write_text(Path(sys.argv[1]), sys.argv[2] * 1000)
"""
RACE = """
import sys
from pathlib import Path
from menvae.files import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "who").write_text(sys.argv[2])
    print("filled", flush=True)
    sys.stdin.readline()
"""


def _fill(path: Path, who: str) -> subprocess.Popen[str]:
    """Start a process that creates the folder, and wait until it has filled it."""
    process = subprocess.Popen(
        [sys.executable, "-c", RACE, str(path), who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "filled\n"
    return process


def test_the_first_of_two_processes_wins(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with _fill(path, "first") as first, _fill(path, "second") as second:
        assert not path.exists()
        for process in (first, second):
            process.communicate("go on\n", timeout=60)
            assert process.returncode == 0
            assert (path / "who").read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "folder") as folder:
            (folder / "half").touch()
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").touch()
    with pytest.raises(NotADirectoryError), new_folder(tmp_path / "folder"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with new_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


@pytest.mark.parametrize("cell", ["=1+1", "+x", "-x", "@SUM(A1)", "\tx", "\r=1", "\n=1", "-", "'=1", "''-x", "-2+3"])
def test_no_cell_of_text_is_a_formula(tmp_path: Path, cell: str) -> None:
    path = write_table(tmp_path / "a.csv", ["name", cell], [[cell, 1.5]])
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name", f"'{cell}"], [f"'{cell}", "1.5"]]
    assert original_cell(rows[1][0]) == cell


@pytest.mark.parametrize("cell", ["a=b", "", "x-1", "'quoted'", "-1.5", "+3", "-1e-3", "2024-01-31"])
def test_other_cells_stay_as_they_are(cell: str) -> None:
    assert csv_text([["first", cell]]) == f"first,{cell}\n"
    assert original_cell(cell) == cell


def test_numbers_stay_numbers() -> None:
    assert csv_text([[-1.5, -3, 0.1, None, float("-inf"), True]]) == "-1.5,-3,0.1,,-inf,True\n"


def test_two_processes_may_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    processes = [
        subprocess.Popen([sys.executable, "-c", OVER_AND_OVER, str(path), who], stderr=subprocess.PIPE, text=True)
        for who in "ab"
    ]
    for process in processes:
        assert process.communicate(timeout=120) == (None, "")
        assert process.returncode == 0
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_killed_processes_are_removed_and_files_being_written_kept(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    for name in (".status.json.tmp", ".status.json.0123abcd.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".other.json.0123abcd.tmp").write_text("half")
    with replacing(path) as file:
        file.write(b"slow")
        write_text(path, "fast")
        assert path.read_text() == "fast"
        assert len(list(tmp_path.glob(".status*"))) == 1
    assert path.read_text() == "slow"
    assert sorted(one.name for one in tmp_path.iterdir()) == [".other.json.0123abcd.tmp", "status.json"]


def test_after_an_error_the_old_content_stays(tmp_path: Path) -> None:
    path = write_text(tmp_path / "status.json", "old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*status\.json'"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "it is not JSON"),
        (b'{"number": 1', "it is not JSON"),
        (b'{"number": "\xff"}', "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[1]", "it is not a JSON object"),
        (b"{}", "it lacks 'number'"),
        (b'{"number": "1"}', "its 'number' is '1'"),
        (b'{"number": true}', "its 'number' is 'True'"),
        (b'{"number": 1, "why": 2}', "its 'why' is '2'"),
    ],
)
def test_a_damaged_file_is_one_sentence(content: bytes, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "point.json"
    assert read_json(path, {"number": int}, {"why": str}) == {}
    path.write_bytes(content)
    with pytest.raises(DamagedFileError) as caught:
        read_json(path, {"number": int}, {"why": str})
    assert str(caught.value) == f"'{path}' is damaged: {wanted}"


def test_a_lock_knows_that_its_folder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FolderLock(folder)
    assert not lock.is_lost
    shutil.rmtree(folder)
    assert lock.is_lost
    folder.mkdir()
    (folder / ".lock").touch()
    assert lock.is_lost
    lock.release()


def test_many_files_at_once_are_all_written_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(100)]
    assert in_parallel(lambda path: write_text(path, path.name), paths) == paths
    assert [path.read_text() for path in paths] == [str(number) for number in range(100)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    with pytest.raises(FileNotFoundError):
        in_parallel(lambda path: write_text(path, "text"), [*paths, tmp_path / "nowhere" / "file"])
    assert in_parallel(str, []) == []
