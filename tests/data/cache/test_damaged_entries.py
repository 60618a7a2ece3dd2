"""Damaged cache entries are prepared anew, whatever is wrong with them; those of earlier versions are read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from menvae.data.batches.dataset import SplitLoader, SubjectDataset
from menvae.data.batches.order import EpochBatches
from menvae.data.cache import storage
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import find_prepared, prepare
from menvae.data.masks.features import FEATURES
from menvae.data.phantom.head import phantom_subject, write_subject
from menvae.data.sources.brats import BratsSource
from menvae.data.targets.normalizer import TargetNormalizer, TargetSettings
from menvae.errors import UserError
from menvae.files import new_folder

SPACING = (10.0, 10.0, 10.0)
FORMATS = ("arrays", "compressed")


def flipped(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x04
    path.write_bytes(content)


def swapped(first: Path, second: Path) -> None:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


Damage = Callable[[Path, Path, str], None]
DAMAGES: dict[str, Damage] = {
    "a bit of the image": lambda one, other, suffix: flipped(one / f"image{suffix}", 0.9),
    "a bit of the mask": lambda one, other, suffix: flipped(one / f"mask{suffix}", 0.9),
    "a bit of the description": lambda one, other, suffix: flipped(one / "subject.json", 0.3),
    "its last bit": lambda one, other, suffix: flipped(one / "subject.json", 1.0),
    "images swapped": lambda one, other, suffix: swapped(one / f"image{suffix}", other / f"image{suffix}"),
    "masks swapped": lambda one, other, suffix: swapped(one / f"mask{suffix}", other / f"mask{suffix}"),
    "descriptions swapped": lambda one, other, suffix: swapped(one / "subject.json", other / "subject.json"),
    "image cut": lambda one, other, suffix: os.truncate(one / f"image{suffix}", 700),
    "mask empty": lambda one, other, suffix: os.truncate(one / f"mask{suffix}", 0),
    "description cut": lambda one, other, suffix: os.truncate(one / "subject.json", 90),
    "no image": lambda one, other, suffix: (one / f"image{suffix}").unlink(),
    "no description": lambda one, other, suffix: (one / "subject.json").unlink(),
    "nothing but the folder": lambda one, other, suffix: [path.unlink() for path in one.iterdir()] and None,
}


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has checked no file, although this one has."""
    monkeypatch.setattr(storage, "_checked", {})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects, and what both formats make of them."""
    folder = tmp_path_factory.mktemp("made")
    for index in range(2):
        write_subject(phantom_subject(0, index, SPACING), folder / "root")
    for cache_format in FORMATS:
        prepare(source(folder / "root", cache_format), folder / cache_format, num_workers=1)
    return folder


def source(root: Path, cache_format: str) -> BratsSource:
    return BratsSource(root=str(root), roi_size=(16, 16, 16), spacing_mm=SPACING, cache_format=cache_format)  # type: ignore[arg-type]


def content_of(cache: Path) -> dict[str, bytes]:
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in (cache / "prepared").glob("*/[!.]*")}


def prepared(made: Path, cache_format: str, tmp_path: Path) -> tuple[Path, Cohort, list[Path], str]:
    """Return a copy of the cache, its cohort, its entries, and the suffix of their arrays."""
    cache = shutil.copytree(made / cache_format, tmp_path / "cache")
    cohort = find_prepared(source(made / "root", cache_format), cache)
    assert cohort is not None
    return cache, cohort, [subject.folder for subject in cohort.subjects], storage._SUFFIXES[cache_format]


@pytest.mark.parametrize("cache_format", FORMATS)
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_entry_is_prepared_anew_and_that_is_said(
    kind: str, cache_format: str, made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, before, entries, suffix = prepared(made, cache_format, tmp_path)
    DAMAGES[kind](*entries, suffix)
    cohort = prepare(source(made / "root", cache_format), cache, num_workers=1)
    loaded = [subject.load() for subject in cohort.subjects]
    assert cohort == before
    assert content_of(cache) == content_of(made / cache_format)
    num_damaged = 2 if "swapped" in kind else 1
    said = [text for text in caplog.messages if "is prepared anew: '" in text]
    assert len(said) == num_damaged, caplog.messages
    for subject, found in zip(cohort.subjects, loaded, strict=True):
        wanted = storage.read_subject(made / cache_format / "prepared" / subject.key, subject.arrays)
        np.testing.assert_array_equal(found.image, wanted.image)
        np.testing.assert_array_equal(found.mask, wanted.mask)


@pytest.mark.parametrize("cache_format", FORMATS)
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_in_the_middle_of_a_run_is_repaired_too(
    kind: str, cache_format: str, made: Path, tmp_path: Path
) -> None:
    cache, cohort, entries, suffix = prepared(made, cache_format, tmp_path)
    wanted = [subject.load().image.copy() for subject in cohort.subjects]
    DAMAGES[kind](*entries, suffix)
    storage._checked.clear()  # the clock of the file system may not have ticked
    for subject, image in zip(cohort.subjects, wanted, strict=True):
        np.testing.assert_array_equal(subject.load().image, image)
    if "descr" not in kind and "last" not in kind:  # nothing reads descriptions once they are known
        assert content_of(cache) == content_of(made / cache_format)


def test_a_whole_cache_that_is_removed_during_a_run_is_made_again(made: Path, tmp_path: Path) -> None:
    cache, cohort, _, _ = prepared(made, "arrays", tmp_path)
    shutil.rmtree(cache)
    cohort.subjects[1].load()
    assert [path.name for path in (cache / "prepared").glob("[!.]*")] == [cohort.subjects[1].key]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damage_without_the_files_of_the_subject_is_one_sentence(num_workers: int, made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made / "root", tmp_path / "root")
    cohort = prepare(source(root, "arrays"), tmp_path / "cache", num_workers=1)
    shutil.rmtree(root / "phantom-00001")
    flipped(cohort.subjects[1].folder / "mask.npy", 0.9)
    storage._checked.clear()
    normalizer = TargetNormalizer.fit([one.features for one in cohort.subjects], TargetSettings(), FEATURES)
    dataset = SubjectDataset(cohort.subjects, normalizer, {"all": FEATURES})
    batches = EpochBatches(2, 1, shuffle=False, seed=0, rank=0, num_ranks=1)
    with pytest.raises(UserError) as caught:
        list(SplitLoader(dataset, batches, num_workers=num_workers, pin_memory=False).epoch(0))
    text = str(caught.value)
    assert text.startswith("the cache entry of subject 'phantom-00001' is damaged and cannot be replaced: ")
    assert "\n" not in text


def of_earlier_version(folder: Path, change: Callable[[dict[str, Any]], None] = lambda content: None) -> None:
    """Take from the description what today's version adds to it."""
    content = json.loads((folder / "subject.json").read_text())
    del content["digest"], content["sketch"], content["arrays"]["files"]
    change(content)
    (folder / "subject.json").write_text(json.dumps(content))


@pytest.mark.parametrize("cache_format", FORMATS)
def test_an_entry_without_digests_is_read_and_kept(cache_format: str, made: Path, tmp_path: Path) -> None:
    cache, before, entries, _ = prepared(made, cache_format, tmp_path)
    wanted = [subject.load().image.copy() for subject in before.subjects]
    for entry in entries:
        of_earlier_version(entry)
    written = content_of(cache)
    cohort = find_prepared(source(made / "root", cache_format), cache)
    assert cohort is not None
    assert cohort.data_hash == before.data_hash
    for subject, image in zip(cohort.subjects, wanted, strict=True):
        np.testing.assert_array_equal(subject.load().image, image)
    assert content_of(cache) == written


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another key": lambda content: content.update(digets="0"),
    "no features": lambda content: content.update(features=None),
    "a box of another kind": lambda content: content.update(box={"a": 1}),
    "no means": lambda content: content["arrays"].pop("mean"),
    "another shape": lambda content: content["arrays"].update(shape=[4, 16, 16, 17]),
    "no type": lambda content: content["arrays"].update(dtype="in16"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_an_old_description_that_cannot_be_is_prepared_anew(kind: str, made: Path, tmp_path: Path) -> None:
    cache, _, entries, _ = prepared(made, "compressed", tmp_path)
    of_earlier_version(entries[0], lambda content: CHANGES[kind](content) and None)
    for subject in prepare(source(made / "root", "compressed"), cache, num_workers=1).subjects:
        subject.load()
    assert content_of(cache) == content_of(made / "compressed")


def test_files_are_on_disk_before_their_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = [], os.fsync

    def watched(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, (tmp_path / "entry").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with new_folder(tmp_path / "entry") as folder:
        (folder / "file").write_text("content")
    assert synced == [("file", False)]
