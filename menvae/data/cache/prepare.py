"""Files -> cache: reorient, resample and crop each subject, measure its intensities and mask features.

Each subject has one entry, ``<cache>/prepared/<key>/``, with image and mask in one of the formats of
`menvae.data.cache.storage`, and ``subject.json``.
The key hashes the source files, the geometry, the format and library versions, so a changed file, box or library never
hits a stale entry. Entries are published by one atomic rename. An entry that is damaged is prepared anew: one whose
description or file sizes are wrong at the start of a run, others when they are read (`PreparedSubject.load`).

Before the first subject is prepared, the files of all subjects without an entry are checked.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache as cached
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

from menvae.data.cache.cohort import Cohort, PreparedSubject
from menvae.data.cache.duplicates import as_one_patient, warn_of_same_masks
from menvae.data.cache.likeness import sketch
from menvae.data.cache.storage import CacheFormat, check_sizes, read_subject, stored, write_subject
from menvae.data.digests import digest_of, file_digest, remembered_digest
from menvae.data.files.findings import Finding
from menvae.data.files.screening import check_files, is_checked, note_missing, without_faulty
from menvae.data.files.subjects import REGION_CODES, Region, SubjectFiles, modules_of_readers
from menvae.data.geometry.box import BoxReport, KeptShares, judge_box
from menvae.data.geometry.transforms import Geometry, PreparedArrays, load_and_resample
from menvae.data.masks.features import mask_features
from menvae.data.workers import ShowProgress, run_tasks, unseen
from menvae.errors import UserError, about
from menvae.files import (
    DamagedFileError,
    FolderIsLockedError,
    FolderLock,
    discard_folder,
    flushing,
    new_folder,
    read_json,
)

_log = logging.getLogger(__name__)

PREPARATION_VERSION = 5
"""Increment when prepared arrays or features change; this invalidates every cache entry."""

_UNFINISHED_S = 24 * 3600.0
_PATIENCE_S = 600.0  # for another process that prepares a damaged entry anew
_DESCRIPTION = "subject.json"
_ANEW = "subject '%s' is prepared anew: %s"
_SEAL = "digest"
_WITHOUT_SEAL = {"subject_id", "features", "native_features", "box", "spacing_mm", "arrays"}
"""Keys of descriptions that earlier versions wrote."""
_LIBRARIES = ("nibabel", "scikit-image", "scipy")


class Preparable(Protocol):
    """What preparation needs from a source; `menvae.data.volumes.VolumeSource` documents the keys."""

    @property
    def geometry(self) -> Geometry:
        """Target geometry of every subject."""

    @property
    def regions(self) -> Mapping[int, Region]:
        """Value in the mask file -> region."""

    @property
    def checks_files(self) -> bool:
        """Whether files may be faulty."""

    @property
    def cache_format(self) -> CacheFormat:
        """Storage format of arrays."""

    @property
    def on_error(self) -> Literal["skip", "fail"]:
        """How faulty subjects are handled."""

    @property
    def missing_modalities(self) -> Literal["fail", "allow"]:
        """Whether a subject may lack modalities."""

    @property
    def refuse_below(self) -> KeptShares:
        """Minimum share of tumour and brain in the box; a subject below it is faulty."""

    @property
    def warn_below(self) -> KeptShares:
        """Share of tumour and brain in the box below which a warning is logged."""

    def subjects(self, cache: Path, show: ShowProgress, num_workers: int | None = None) -> list[SubjectFiles]:
        """Return all subjects, sorted by identifier."""

    def found_subjects(self, cache: Path) -> list[SubjectFiles] | None:
        """Return all subjects without creating files; None if files have to be created."""


def prepare(
    source: Preparable,
    cache: Path,
    num_workers: int | None = None,
    show: ShowProgress = unseen,
    *,
    all_notes: bool = False,
) -> Cohort:
    """Return the cohort of ``source``, preparing subjects that are not in the cache.

    Args:
        source: the subjects and their target geometry.
        cache: cache folder, created if missing; several processes may prepare into it at once.
        num_workers: worker processes; None uses one per core.
        show: progress display.
        all_notes: include notes about the files of already prepared subjects; reads one small file for each of them.

    Raises:
        UserError: if the source or its subjects are invalid.
    """
    cache.mkdir(parents=True, exist_ok=True)
    subjects = mark_missing(source.subjects(cache, show, num_workers), source)
    recipe = _Recipe(source.geometry, source.cache_format)
    entries = {subject.subject_id: _find_entry(subject, recipe, cache) for subject in subjects}
    leave_out, findings = source.on_error == "skip", note_missing(subjects)
    if source.checks_files:
        unjudged = [subject for subject in subjects if all_notes or entries[subject.subject_id] is None]
        has_others = any(entry is not None for entry in entries.values())
        findings += check_files(unjudged, source.regions, cache, num_workers, show, has_others=has_others)
        subjects = without_faulty(subjects, findings, leave_out=leave_out)
    lacking = [
        _Task(subject, recipe, cache, _entry_key(subject, recipe, cache))
        for subject in subjects
        if entries[subject.subject_id] is None
    ]
    damages = [_damage_of(task) for task in lacking]
    tasks = [task for task, damage in zip(lacking, damages, strict=True) if damage]
    if tasks:
        for task, damage in zip(lacking, damages, strict=True):
            if damage and task.entry.is_dir():
                _log.warning(_ANEW, task.subject.subject_id, damage)
        _log.info("preparing %d of %d subjects into %s", len(tasks), len(subjects), cache)
        (cache / "prepared").mkdir(exist_ok=True)
        _remove_unfinished(cache)
        prepared = run_tasks(_prepare_entry, tasks, num_workers=num_workers, modules=modules_of_readers(subjects))
        for _ in show(prepared, "preparing", len(tasks)):
            pass
    entries |= {task.subject.subject_id: _read_entry(task) for task in lacking}
    return _cohort(subjects, entries, findings, source)


def find_prepared(source: Preparable, cache: Path) -> Cohort | None:
    """Return what `prepare` would, if nothing has to be created, checked or prepared; otherwise None.

    Faulty subjects that are left out are recognised by their cached checks.

    Raises:
        UserError: as for `prepare`.
    """
    subjects = source.found_subjects(cache) if cache.is_dir() else None
    if subjects is None:
        return None
    subjects, recipe = mark_missing(subjects, source), _Recipe(source.geometry, source.cache_format)
    entries = {subject.subject_id: _find_entry(subject, recipe, cache) for subject in subjects}
    unknown = [subject for subject in subjects if entries[subject.subject_id] is None]
    findings = note_missing(subjects)
    if unknown:
        if not source.checks_files or not all(is_checked(subject, cache) for subject in unknown):
            return None
        findings += check_files(unknown, source.regions, cache, has_others=len(unknown) < len(subjects))
        subjects = without_faulty(subjects, findings, leave_out=source.on_error == "skip")
    if any(entries[subject.subject_id] is None for subject in subjects):
        return None
    return _cohort(subjects, entries, findings, source)


def find_subject(subject: SubjectFiles, source: Preparable, cache: Path) -> PreparedSubject | None:
    """Return the cache entry of a subject without reading the subject's files; None if there is none."""
    return _find_entry(subject, _Recipe(source.geometry, source.cache_format), cache)


def mark_missing(subjects: Sequence[SubjectFiles], source: Preparable) -> list[SubjectFiles]:
    """Mark absent modalities as missing if ``missing_modalities`` is "allow"."""
    may_lack = source.missing_modalities == "allow"
    return [subject.without_missing() if may_lack else subject for subject in subjects]


def _cohort(
    subjects: Sequence[SubjectFiles],
    found: Mapping[str, PreparedSubject | None],
    findings: Sequence[Finding],
    source: Preparable,
) -> Cohort:
    """Return the cohort of these subjects, and handle those of which the box holds too little."""
    entries = [entry for subject in subjects if (entry := found[subject.subject_id]) is not None]
    of_boxes = _judge_boxes(entries, source)
    entries = as_one_patient(without_faulty(entries, of_boxes, leave_out=source.on_error == "skip"))
    if source.checks_files:  # masks that are generated may be the same, such as of a tumour that stands still
        warn_of_same_masks(entries)
    own = {subject.subject_id: [dict(subject.targets)] if subject.targets else [] for subject in subjects}
    identity = [
        [entry.subject_id, entry.key, entry.patient_id, entry.days, *own[entry.subject_id]] for entry in entries
    ]
    return Cohort(tuple(entries), digest_of(identity), (*findings, *of_boxes))


def _remove_unfinished(cache: Path) -> None:
    """Remove unfinished files and folders older than a day, left behind by killed processes."""
    for unfinished in cache.glob("*/.*"):
        with suppress(FileNotFoundError):  # another process has just finished it
            if time.time() - unfinished.stat().st_mtime < _UNFINISHED_S:
                continue
            if unfinished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
            else:
                unfinished.unlink()


def _judge_boxes(entries: Sequence[PreparedSubject], source: Preparable) -> list[Finding]:
    """Return the findings about boxes, and log one warning per remedy, naming the worst subject."""
    worst_first = sorted(
        entries, key=lambda entry: min(entry.box.tumour_kept, entry.box.brain_kept, 1.0 - entry.box.tumour_off_brain)
    )
    findings = [
        finding
        for entry in worst_first
        for finding in judge_box(
            entry.subject_id, entry.box, source.geometry.box, source.refuse_below, source.warn_below
        )
    ]
    alike: dict[str, list[Finding]] = {}
    for finding in findings:
        if not finding.is_fault:
            alike.setdefault(finding.remedy, []).append(finding)
    for first, *others in alike.values():
        more = f" (and similarly for {len(others)} more of {len(entries)} subjects)" if others else ""
        _log.warning("%s%s", first, more)
    return findings


@dataclass(frozen=True)
class _Recipe:
    """What determines a subject's entry besides its files."""

    geometry: Geometry
    cache_format: CacheFormat


@dataclass(frozen=True)
class _Task:
    subject: SubjectFiles
    recipe: _Recipe
    cache: Path
    key: str

    @property
    def entry(self) -> Path:
        """The folder of the entry."""
        return self.cache / "prepared" / self.key


def _prepare_entry(task: _Task) -> str:
    try:
        prepared = load_and_resample(task.subject, task.recipe.geometry)
    except MemoryError as error:
        raise MemoryError(f"subject '{task.subject.subject_id}': {error}") from error
    finally:  # a change of the files explains any other error
        if _entry_key(task.subject, task.recipe, task.cache) != task.key:
            raise UserError(
                f"subject '{task.subject.subject_id}': its files changed during preparation; start again once nothing "
                "writes to them"
            )
    _publish(task, prepared)
    return task.subject.subject_id


def _publish(task: _Task, prepared: PreparedArrays) -> None:
    """Write an entry; one that another process has written in the meantime is kept, a damaged one replaced."""
    cache_format = task.recipe.cache_format
    subject = stored(prepared.channels, prepared.mask, cache_format)
    with new_folder(task.entry) as folder:
        arrays = write_subject(folder, subject, cache_format)
        with flushing(folder):
            content = {
                "subject_id": task.subject.subject_id,
                "features": mask_features(prepared.mask, prepared.spacing_mm),
                "native_features": mask_features(prepared.native_mask, prepared.native_spacing_mm),
                "box": asdict(prepared.box),
                "spacing_mm": prepared.spacing_mm,
                "arrays": arrays,
                "sketch": sketch(subject),
            }
        sealed = {**content, _SEAL: digest_of([task.key, content])}
        (folder / _DESCRIPTION).write_text(json.dumps(sealed))
        if task.entry.is_dir() and _damage_of(task, is_read=True):
            discard_folder(task.entry)


def _damage_of(task: _Task, *, is_read: bool = False) -> str:
    """Return what is wrong with the entry, or an empty string.

    Args:
        task: of the entry.
        is_read: whether to read its arrays, besides their sizes.
    """
    try:
        entry = _read_entry(task)
        if is_read:
            read_subject(entry.folder, entry.arrays)
    except FileNotFoundError as error:
        return f"'{error.filename}' does not exist"
    except DamagedFileError as error:
        return str(error)
    return ""


def _renew(task: _Task) -> Mapping[str, Any]:
    """Prepare a damaged entry anew, unless another process has; return the storage format of its arrays.

    Raises:
        UserError: it cannot be prepared, or another process takes too long.
    """
    task.entry.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(task.entry.parent, _PATIENCE_S)
    except FolderIsLockedError as error:
        raise UserError(
            f"the cache entry of subject '{task.subject.subject_id}' is damaged, and {error} has been replacing "
            f"entries of '{task.entry.parent}' for {_PATIENCE_S:.0f} s; run the same command again when it has ended"
        ) from None
    try:
        if damage := _damage_of(task, is_read=True):
            _log.warning(_ANEW, task.subject.subject_id, damage)
            with about(f"the cache entry of subject '{task.subject.subject_id}' is damaged and cannot be replaced"):
                _prepare_entry(task)
        return _read_entry(task).arrays
    finally:
        lock.release()


def _read_entry(task: _Task) -> PreparedSubject:
    """Read the description of an entry, and compare the sizes of its files.

    Raises:
        FileNotFoundError: a file does not exist.
        DamagedFileError: the description or a size is wrong.
    """
    path, subject = task.entry / _DESCRIPTION, task.subject
    content = read_json(path, {})
    if not content:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    seal = content.pop(_SEAL, None)
    if seal != digest_of([task.key, content]) and (seal is not None or content.keys() != _WITHOUT_SEAL):
        raise DamagedFileError(f"'{path}' is damaged: its digest is wrong")
    try:
        entry = PreparedSubject(
            subject.subject_id,
            task.entry,
            task.key,
            {**content["features"], **subject.targets},
            content["native_features"],
            BoxReport(**content["box"]),
            tuple(content["spacing_mm"]),
            content["arrays"],
            patient_id=subject.patient_id,
            days=subject.days,
            sketch=content.get("sketch", ""),
            missing_channels=tuple(index for index, name in enumerate(subject.images) if name in subject.missing),
            renew=partial(_renew, task),
        )
        check_sizes(entry.folder, entry.arrays)
    except (KeyError, TypeError, AttributeError) as error:  # of an earlier version, without digest
        raise DamagedFileError(f"'{path}' is damaged: {error}") from None
    return entry


def _entry_key(subject: SubjectFiles, recipe: _Recipe, cache: Path) -> str:
    try:
        digests = {name: file_digest(path, cache) for name, path in subject.files.items()}
    except OSError as error:
        raise UserError(f"subject '{subject.subject_id}': {error.filename} cannot be read: {error.strerror}") from error
    return _key_of(subject, digests, recipe)


def _find_entry(subject: SubjectFiles, recipe: _Recipe, cache: Path) -> PreparedSubject | None:
    """Return the subject's entry, without reading the subject's files; None if there is none or it is damaged."""
    if subject.doubles:
        return None
    try:
        digests = {name: remembered_digest(path, cache) for name, path in subject.files.items()}
    except OSError:  # a file is missing
        return None
    known = {name: digest for name, digest in digests.items() if digest is not None}
    if len(known) < len(digests):
        return None
    try:
        return _read_entry(_Task(subject, recipe, cache, _key_of(subject, known, recipe)))
    except (DamagedFileError, FileNotFoundError):
        return None


def _key_of(subject: SubjectFiles, digests: Mapping[str, str], recipe: _Recipe) -> str:
    made_by = {"menvae": PREPARATION_VERSION, "codes": dict(REGION_CODES)}
    made_by |= {**_library_versions(), **subject.reader.versions}
    channels = [(name, digests.get(name)) for name in (*subject.images, "seg")]  # a list keeps their order
    return digest_of([channels, asdict(recipe), made_by])


@cached
def _library_versions() -> dict[str, Any]:
    return {package: version(package) for package in _LIBRARIES}
