"""Formats beside NIfTI: what the cache goes by, and several volumes in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from menvae.data.cache.prepare import prepare
from menvae.data.digests import file_digest, remembered_digest
from menvae.data.files.readers import Reader, UnreadableError
from menvae.data.files.stored_volume import StoredVolume
from menvae.data.files.subjects import MODALITIES, SubjectFiles
from menvae.data.sources.brats import BratsSource
from menvae.errors import UserError


@dataclass(frozen=True)
class Archive(Reader):
    """A NumPy archive with all volumes of a subject."""

    versions: ClassVar[Mapping[str, str]] = {"archive": "1"}

    def exists(self, path: Path, name: str) -> bool:
        with np.load(path) as archive:
            return name in archive.files

    def read(self, path: Path, name: str) -> StoredVolume:
        with np.load(path) as archive:
            if archive[name].ndim != 3:
                raise UnreadableError("has another shape", "reshape it")
            return StoredVolume(archive[name], np.diag([2.0, 2.0, 2.0, 1.0]))


@dataclass(frozen=True)
class NewerArchive(Archive):
    versions: ClassVar[Mapping[str, str]] = {"archive": "2"}


@dataclass(frozen=True, kw_only=True)
class Archives(BratsSource):
    def subjects(self, cache, show, num_workers=None):  # type: ignore[no-untyped-def]
        paths = sorted(Path(self.root).glob("*.npz"))
        return [SubjectFiles(path.stem, dict.fromkeys(self.modalities, path), path, reader=Archive()) for path in paths]


def write(path: Path, **others: np.ndarray) -> None:
    random = np.random.default_rng(0)
    mask = np.zeros((16, 16, 16), np.uint8)
    mask[4:9, 4:9, 4:10] = 3
    volumes = {name: random.integers(1, 500, mask.shape).astype(np.int16) for name in MODALITIES}
    np.savez(path, **{**volumes, "seg": mask, **others})


def source(root: Path, **keys: object) -> Archives:
    settings = {"roi_size": (16, 16, 16), "spacing_mm": (2.0, 2.0, 2.0), "box": "center", **keys}
    return Archives(root=str(root), **settings)  # type: ignore[arg-type]


def test_volumes_in_one_file_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "a.npz")
    cohort = prepare(source(tmp_path), tmp_path / "cache")
    image = cohort.subjects[0].load().image
    with np.load(tmp_path / "a.npz") as archive:
        for channel, name in enumerate(MODALITIES):
            np.testing.assert_array_equal(image[channel], archive[name])
    constant, flat = np.full((16, 16, 16), 7, np.int16), np.ones(8, np.int16)
    write(tmp_path / "b.npz", t2f=constant, t2w=flat)
    with pytest.raises(UserError) as caught:
        prepare(source(tmp_path), tmp_path / "cache")
    assert "1 of 2 subjects cannot be used" in str(caught.value)
    assert "b.npz has another shape: reshape it" in str(caught.value)
    assert "b.npz is constant (every voxel is 0 or 7)" in str(caught.value)


def test_another_version_of_a_reader_prepares_anew(tmp_path: Path) -> None:
    class Newer(Archives):
        def subjects(self, cache, show, num_workers=None):  # type: ignore[no-untyped-def]
            found = super().subjects(cache, show, num_workers)
            return [replace(subject, reader=NewerArchive()) for subject in found]

    write(tmp_path / "a.npz")
    (before,) = prepare(source(tmp_path), tmp_path / "cache").subjects
    (after,) = prepare(Newer(**vars(source(tmp_path))), tmp_path / "cache").subjects
    assert before.key != after.key


def test_missing_modalities_are_what_the_reader_says(tmp_path: Path) -> None:
    write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        kept = {name: archive[name] for name in archive.files if name != "t1n"}
    np.savez(tmp_path / "a.npz", **kept)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a\.npz is missing: add it, or rename existing files"):
        prepare(source(tmp_path), tmp_path / "cache")
    (subject,) = prepare(source(tmp_path, missing_modalities="allow"), tmp_path / "cache").subjects
    assert subject.missing_channels == (MODALITIES.index("t1n"),)


def test_content_of_a_folder_is_that_of_its_files_wherever_it_lies(tmp_path: Path) -> None:
    cache, digests = tmp_path / "cache", []
    cache.mkdir()
    for name in ("one", "two"):
        chunk = tmp_path / name / "c" / "0"
        chunk.parent.mkdir(parents=True)
        chunk.write_bytes(b"chunk")
        (tmp_path / name / ".zarray").write_text("{}")
        assert remembered_digest(tmp_path / name, cache) is None
        digests.append(file_digest(tmp_path / name, cache))
        assert remembered_digest(tmp_path / name, cache) == digests[-1]
    assert digests[0] == digests[1]
    (tmp_path / "two" / ".zarray").write_text("[]")
    assert remembered_digest(tmp_path / "two", cache) is None
    assert file_digest(tmp_path / "two", cache) != digests[0]
    (tmp_path / "two" / ".zarray").write_text("{}")
    chunk.rename(chunk.with_name("1"))
    assert file_digest(tmp_path / "two", cache) != digests[0], "a chunk in another place"


def test_what_a_source_knows_besides_the_mask_counts_in_the_hash_of_the_data(tmp_path: Path) -> None:
    write(tmp_path / "a.npz")
    hashes = set()
    for known in ({}, {"age": 61.0}, {"age": None}):

        class Aged(Archives):
            def subjects(self, cache, show, num_workers=None):  # type: ignore[no-untyped-def]
                found = super().subjects(cache, show, num_workers)
                return [replace(subject, targets=known) for subject in found]  # noqa: B023

        cohort = prepare(Aged(**vars(source(tmp_path))), tmp_path / "cache")
        assert cohort.subjects[0].features.get("age", "absent") == known.get("age", "absent")
        hashes.add(cohort.data_hash)
    assert len(hashes) == 3
