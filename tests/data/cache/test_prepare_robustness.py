"""Preparing that is killed, doubled, or runs out of disk; and what must never meet an old entry."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from menvae.apps import train
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import prepare
from menvae.data.digests import file_digest, remembered_digest
from menvae.data.phantom.head import phantom_subject, write_subject
from menvae.data.sources.brats import BratsSource
from menvae.data.volumes import VolumeSource

SPACING = (10.0, 10.0, 10.0)
NUM_SUBJECTS = 24

PREPARE = f"""
import os, signal, sys
from pathlib import Path
from menvae.data.sources.brats import BratsSource
from menvae.data.cache.prepare import prepare
num_steps_left = int(sys.argv[3])
def show(items, description, total):
    global num_steps_left
    for item in items:
        num_steps_left -= 1
        if num_steps_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
source = BratsSource(root=sys.argv[1], roi_size=(16, 16, 16), spacing_mm={SPACING}, cache_format="compressed")
print(len(prepare(source, Path(sys.argv[2]), 2, show).subjects))
"""


def brats(root: Path, **settings: Any) -> BratsSource:
    return BratsSource(**{"root": str(root), "roi_size": (16, 16, 16), "spacing_mm": SPACING, **settings})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a cohort."""
    folder = tmp_path_factory.mktemp("cohort")
    for index in range(NUM_SUBJECTS):
        write_subject(phantom_subject(0, index, SPACING), folder)
    return folder


def preparing(root: Path, cache: Path, num_steps: int = 0) -> subprocess.Popen[str]:
    """Start to prepare; after some steps of checking or preparing, if any, the process kills itself, its workers not.

    A kill from here would come when the machine finds the time, which may be after the end.
    """
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(root), str(cache), str(num_steps)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-2000:]
    assert output.endswith(f"{NUM_SUBJECTS}\n")


def entries(cache: Path) -> dict[str, bytes]:
    """Every file of every entry."""
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in sorted((cache / "prepared").glob("[!.]*/*"))
        if path.is_file()
    }


def remains(group: int) -> list[int]:
    """Processes of a session that are still there."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getsid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except ProcessLookupError:
            continue
    return found


def test_a_cache_is_whole_after_being_killed_at_ten_moments(root: Path, tmp_path: Path) -> None:
    finish(preparing(root, tmp_path / "undisturbed"))
    wanted = entries(tmp_path / "undisturbed")
    assert len(wanted) == 3 * NUM_SUBJECTS
    random, seen = np.random.default_rng(0), []
    cache = tmp_path / "cache"
    for _ in range(10):
        if len(entries(cache)) == len(wanted):
            shutil.rmtree(cache)
        process = preparing(root, cache, int(random.integers(1, 9)))
        process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL)
        deadline = time.monotonic() + 20
        while remains(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert remains(process.pid) == []
        found = entries(cache)
        assert found.items() <= wanted.items()
        assert len(found) % 3 == 0
        seen.append(len(found) // 3)
    assert len(set(seen) - {0, NUM_SUBJECTS}) >= 3, f"kills met no preparation: {seen}"
    finish(preparing(root, cache))
    assert entries(cache) == wanted


def test_two_processes_prepare_into_one_cache_at_once(root: Path, tmp_path: Path) -> None:
    for process in [preparing(root, tmp_path / "cache") for _ in range(2)]:
        finish(process)
    alone = prepare(brats(root, cache_format="compressed"), tmp_path / "alone")
    assert len(alone.subjects) == NUM_SUBJECTS
    assert entries(tmp_path / "cache") == entries(tmp_path / "alone")
    assert list((tmp_path / "cache").rglob(".*")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 340 KiB: six subjects' memos take 60 pages of 4 KiB, and each of their entries 6 to 11."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=340k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("cache_format", ["arrays", "compressed"])
def test_a_full_disk_is_told_in_one_sentence(
    cache_format: Any,
    root: Path,
    small_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for folder in sorted(root.iterdir())[:6]:
        shutil.copytree(folder, tmp_path / "six" / folder.name)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "cache").symlink_to(small_disk)
    keys = [
        f"root={tmp_path}/six",
        f"cache_format={cache_format}",
        "roi_size=[16,16,16]",
        f"spacing_mm={list(SPACING)}",
    ]
    overrides = ["data=brats", *(f"data.{key}" for key in keys), f"output_dir={tmp_path}/outputs"]
    monkeypatch.setattr(sys, "argv", ["menvae-train", "tracking.enabled=false", *overrides])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit) as ended:
        train.main()
    told = capfd.readouterr().err
    assert ended.value.code == 2, told[-2000:]
    assert told.splitlines()[-1].startswith("menvae-train: ")
    assert told.endswith("No space left on device\n")
    assert "Traceback" not in told
    for entry in (small_disk / "prepared").iterdir():
        assert not entry.name.startswith("."), "what could not be finished is removed"
        assert len(list(entry.iterdir())) == 3
    whole = prepare(brats(tmp_path / "six", cache_format=cache_format), tmp_path / "cache")
    assert entries(small_disk).items() < entries(whole.subjects[0].folder.parents[1]).items()


# --- what must never meet an old entry --------------------------------------------------------------------------------


def one(root: Path, tmp_path: Path) -> Path:
    """A cohort of one subject, to be changed."""
    shutil.copytree(root / "phantom-00003", tmp_path / "one" / "phantom-00003")
    return tmp_path / "one"


def key(source: VolumeSource, cache: Path) -> str:
    (subject,) = prepare(source, cache, num_workers=1).subjects
    return subject.key


Change = Callable[[BratsSource], BratsSource]
CHANGES: dict[str, Change] = {
    "spacing": lambda source: replace(source, spacing_mm=(10.0, 10.0, 9.0)),
    "box": lambda source: replace(source, box="center"),
    "a box of its own spacing": lambda source: replace(source, box="resize", spacing_mm=None),
    "size": lambda source: replace(source, roi_size=(16, 16, 18)),
    "labels": lambda source: replace(source, label_map={"ncr": 2, "ed": 1, "et": 3}),
    "format": lambda source: replace(source, cache_format="compressed"),
    "order": lambda source: replace(source, modalities=("t1n", "t1c", "t2f", "t2w")),
    "fewer": lambda source: replace(source, modalities=("t1c",)),
}


def test_whatever_changes_an_entry_gives_it_another_key(root: Path, tmp_path: Path) -> None:
    source = brats(one(root, tmp_path))
    keys = [key(change(source), tmp_path / "cache") for change in (lambda same: same, *CHANGES.values())]
    assert len(set(keys)) == len(keys), dict(zip(("none", *CHANGES), keys, strict=True))
    assert key(source, tmp_path / "cache") == keys[0] == key(source, tmp_path / "another cache")
    assert len(list((tmp_path / "cache" / "prepared").iterdir())) == len(keys)


def test_limits_and_splits_change_no_entry(root: Path, tmp_path: Path) -> None:
    source = brats(one(root, tmp_path))
    others = [replace(source, warn_below={"tumour": 0.1}), replace(source, split_seed=1, val_fraction=0.3)]
    assert {key(other, tmp_path / "cache") for other in (source, *others)} == {key(source, tmp_path / "cache")}


def other_content(path: Path) -> None:
    """A file of the same size and the same date, but for the time of its inode, which nobody can set."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[4] ^= 0xFF  # a date in the header of gzip, which is not checked: the voxels stay the same
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of file systems ticks every few milliseconds
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_file_of_the_same_size_and_date_is_read_again(root: Path, tmp_path: Path) -> None:
    source = brats(one(root, tmp_path))
    before = key(source, tmp_path / "cache")
    other_content(tmp_path / "one" / "phantom-00003" / "phantom-00003-t1c.nii.gz")
    assert key(source, tmp_path / "cache") != before


def cohort_of(root: Path, cache: Path) -> Cohort:
    return prepare(brats(root), cache, num_workers=1)


GARBAGE = {
    "nothing": b"",
    "cut": None,
    "zeros": bytes(32),
    "zeros of the whole length": bytes(64),
    "another digest": b"0123456789abcdef" * 2,
    "two digests": b"0123456789abcdef" * 4,
    "no text": b"\xff" * 64,
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_memos_that_are_cut_short_or_garbage_are_made_anew(kind: str, root: Path, tmp_path: Path) -> None:
    cohort, cache = one(root, tmp_path), tmp_path / "cache"
    before = cohort_of(cohort, cache)
    memos = {path: path.read_bytes() for folder in ("digests", "checks") for path in (cache / folder).iterdir()}
    assert len(memos) == 10
    for path, content in memos.items():
        garbage = GARBAGE[kind]
        path.write_bytes(content[: len(content) // 2] if garbage is None else garbage)
    shutil.rmtree(cache / "prepared")
    after = cohort_of(cohort, cache)
    assert (after.data_hash, after.findings) == (before.data_hash, before.findings)
    assert {path: path.read_bytes() for path in memos} == memos


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_digest_is_that_of_the_content_whatever_was_remembered(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    wanted = hashlib.blake2b(b"content", digest_size=16).hexdigest()
    assert file_digest(tmp_path / "file", tmp_path) == wanted
    (memo,) = (tmp_path / "digests").iterdir()
    garbage = GARBAGE[kind]
    memo.write_bytes(memo.read_bytes()[:-1] if garbage is None else garbage)
    assert remembered_digest(tmp_path / "file", tmp_path) is None
    assert file_digest(tmp_path / "file", tmp_path) == wanted == remembered_digest(tmp_path / "file", tmp_path)


def test_the_memo_of_another_file_is_no_memo(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        file_digest(tmp_path / name, tmp_path)
    first, second = (tmp_path / "digests").iterdir()
    shutil.copy(first, second)
    known = [remembered_digest(tmp_path / name, tmp_path) for name in ("a", "b")]
    assert known.count(None) == 1
    assert file_digest(tmp_path / "a", tmp_path) != file_digest(tmp_path / "b", tmp_path)


def test_a_folder_that_a_killed_process_left_is_no_entry(root: Path, tmp_path: Path) -> None:
    cohort, cache = one(root, tmp_path), tmp_path / "cache"
    (subject,) = cohort_of(cohort, cache).subjects
    subject.folder.rename(subject.folder.with_name(".left"))
    (again,) = cohort_of(cohort, cache).subjects
    assert (again.key, again.folder) == (subject.key, subject.folder)
    assert len(entries(cache)) == 3
