"""Files -> cache: orientation, spacing, box, what makes z-scores, and the targets of the mask.

One entry a subject: ``<cache>/prepared/<key>/`` with image and mask in one of the formats of
`menvae.data.cache.storage`, and ``subject.json``.
The key is a hash of the source files, the geometry, the format and the versions that made it, so a changed file, box or
library never meets a stale entry. An entry appears by one rename, so it is whole or absent.

Before the first subject is prepared, the files of all that have no entry are checked.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache as cached
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

from menvae.data.cache.cohort import Cohort, PreparedSubject
from menvae.data.cache.storage import CacheFormat, StoredSubject, stored, write_subject
from menvae.data.digests import digest_of, file_digest, remembered_digest
from menvae.data.files.findings import Finding
from menvae.data.files.screening import check_files, is_checked, note_missing, without_faulty
from menvae.data.files.subjects import REGION_CODES, Region, SubjectFiles
from menvae.data.geometry.box import BoxReport, KeptShares, judge_box
from menvae.data.geometry.transforms import Geometry, load_and_resample
from menvae.data.masks.features import mask_features
from menvae.data.workers import ShowProgress, run_tasks, unseen
from menvae.errors import UserError

_log = logging.getLogger(__name__)

PREPARATION_VERSION = 5
"""Raise it when prepared arrays or features change: every cache entry is then made anew."""

_UNFINISHED_S = 24 * 3600.0
_LIBRARIES = ("nibabel", "scikit-image", "scipy")


class Preparable(Protocol):
    """What preparation asks of a source; `menvae.data.volumes.VolumeSource` explains the keys."""

    @property
    def geometry(self) -> Geometry:
        """What every subject is brought to."""

    @property
    def regions(self) -> Mapping[int, Region]:
        """Value in the mask file -> region."""

    @property
    def checks_files(self) -> bool:
        """Whether files may be faulty."""

    @property
    def cache_format(self) -> CacheFormat:
        """How arrays are stored."""

    @property
    def on_error(self) -> Literal["skip", "fail"]:
        """What happens to faulty subjects."""

    @property
    def missing_modalities(self) -> Literal["fail", "allow"]:
        """Whether a subject may lack modalities."""

    @property
    def refuse_below(self) -> KeptShares:
        """Least share of tumour and brain in the box; a subject with less is faulty."""

    @property
    def warn_below(self) -> KeptShares:
        """The same for a warning."""

    def subjects(self, cache: Path, show: ShowProgress, num_workers: int | None = None) -> list[SubjectFiles]:
        """Return all subjects, sorted by identifier."""

    def found_subjects(self, cache: Path) -> list[SubjectFiles] | None:
        """Return the same without making any file; None if files are to be made."""


def prepare(
    source: Preparable,
    cache: Path,
    num_workers: int | None = None,
    show: ShowProgress = unseen,
    *,
    all_notes: bool = False,
) -> Cohort:
    """Return the cohort of ``source``, preparing what the cache does not hold.

    Args:
        source: where subjects come from, and the geometry to bring them to.
        cache: folder for entries; made if missing. Two processes may prepare into it at once.
        num_workers: processes; None is one a core.
        show: how to show progress.
        all_notes: the findings hold notes about the files of subjects that were prepared before, too; it costs a small
            file read for each of theirs.

    Raises:
        UserError: what is wrong with the source or with its subjects.
    """
    cache.mkdir(parents=True, exist_ok=True)
    subjects = _as_allowed(source.subjects(cache, show, num_workers), source)
    recipe = _Recipe(source.geometry, source.cache_format)
    there = {subject.subject_id: _key_of_entry(subject, recipe, cache) for subject in subjects}
    leave_out, findings = source.on_error == "skip", note_missing(subjects)
    if source.checks_files:
        unjudged = [subject for subject in subjects if all_notes or there[subject.subject_id] is None]
        findings += check_files(unjudged, source.regions, cache, num_workers, show)
        subjects = without_faulty(subjects, findings, leave_out=leave_out)
    keys = {subject.subject_id: there[subject.subject_id] or _entry_key(subject, recipe, cache) for subject in subjects}
    tasks = [
        _Task(subject, recipe, cache, keys[subject.subject_id])
        for subject in subjects
        if there[subject.subject_id] is None and not (cache / "prepared" / keys[subject.subject_id]).is_dir()
    ]
    if tasks:
        _log.info("preparing %d of %d subjects into %s", len(tasks), len(subjects), cache)
        (cache / "prepared").mkdir(exist_ok=True)
        _sweep_out(cache)
        for _ in show(run_tasks(_prepare_entry, tasks, num_workers=num_workers), "preparing", len(tasks)):
            pass
    return _cohort([(subject, keys[subject.subject_id]) for subject in subjects], findings, source, cache)


def find_prepared(source: Preparable, cache: Path) -> Cohort | None:
    """Return what `prepare` would without making, checking or preparing anything; None if it would have to.

    Subjects that are faulty and left out are known by what the checks remember of them.

    Raises:
        UserError: as `prepare`.
    """
    subjects = source.found_subjects(cache) if cache.is_dir() else None
    if subjects is None:
        return None
    subjects, recipe = _as_allowed(subjects, source), _Recipe(source.geometry, source.cache_format)
    there = {subject.subject_id: _key_of_entry(subject, recipe, cache) for subject in subjects}
    unknown = [subject for subject in subjects if there[subject.subject_id] is None]
    findings = note_missing(subjects)
    if unknown:
        if not source.checks_files or not all(is_checked(subject, cache) for subject in unknown):
            return None
        findings += check_files(unknown, source.regions, cache)
        subjects = without_faulty(subjects, findings, leave_out=source.on_error == "skip")
    keyed = [(subject, key) for subject in subjects if (key := there[subject.subject_id]) is not None]
    return _cohort(keyed, findings, source, cache) if len(keyed) == len(subjects) else None


def _as_allowed(subjects: Sequence[SubjectFiles], source: Preparable) -> list[SubjectFiles]:
    """Return the subjects, without the modalities that they lack and may lack."""
    may_lack = source.missing_modalities == "allow"
    return [subject.without_missing() if may_lack else subject for subject in subjects]


def _cohort(
    keyed: Sequence[tuple[SubjectFiles, str]], findings: Sequence[Finding], source: Preparable, cache: Path
) -> Cohort:
    """Read the entries of these subjects, and leave out what the box cuts too much of."""
    entries = [_read_entry(cache / "prepared" / key, subject) for subject, key in keyed]
    of_boxes = _judge_boxes(entries, source)
    entries = without_faulty(entries, of_boxes, leave_out=source.on_error == "skip")
    own = {subject.subject_id: [dict(subject.targets)] if subject.targets else [] for subject, _ in keyed}
    identity = [
        [entry.subject_id, entry.key, entry.patient_id, entry.days, *own[entry.subject_id]] for entry in entries
    ]
    return Cohort(tuple(entries), digest_of(identity), (*findings, *of_boxes))


def _sweep_out(cache: Path) -> None:
    """Remove what processes left that were killed while they wrote; nothing that is written takes a day."""
    for unfinished in cache.glob("*/.*"):
        with suppress(FileNotFoundError):  # another process has just finished it
            if time.time() - unfinished.stat().st_mtime < _UNFINISHED_S:
                continue
            if unfinished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
            else:
                unfinished.unlink()


def _judge_boxes(entries: Sequence[PreparedSubject], source: Preparable) -> list[Finding]:
    """Return what is to be said about boxes, and log one warning for each remedy, with the worst subject."""
    worst_first = sorted(entries, key=lambda entry: min(entry.box.tumour_kept, entry.box.brain_kept))
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
        more = f" (and something like it for {len(others)} of {len(entries)} subjects more)" if others else ""
        _log.warning("%s%s", first, more)
    return findings


@dataclass(frozen=True)
class _Recipe:
    """What, beside its files, decides how the entry of a subject looks."""

    geometry: Geometry
    cache_format: CacheFormat


@dataclass(frozen=True)
class _Task:
    subject: SubjectFiles
    recipe: _Recipe
    cache: Path
    key: str


def _prepare_entry(task: _Task) -> str:
    try:
        prepared = load_and_resample(task.subject, task.recipe.geometry)
    finally:  # whatever else went wrong then comes from that
        if _entry_key(task.subject, task.recipe, task.cache) != task.key:
            raise UserError(
                f"subject '{task.subject.subject_id}': its files changed while they were prepared; start again when "
                "nothing writes to them"
            )
    description = {
        "subject_id": task.subject.subject_id,
        "features": mask_features(prepared.mask, prepared.spacing_mm),
        "native_features": mask_features(prepared.native_mask, prepared.native_spacing_mm),
        "box": asdict(prepared.box),
        "spacing_mm": prepared.spacing_mm,
    }
    subject = stored(prepared.channels, prepared.mask, task.recipe.cache_format)
    _publish(task.cache / "prepared" / task.key, subject, task.recipe.cache_format, description)
    return task.subject.subject_id


def _publish(entry: Path, subject: StoredSubject, cache_format: CacheFormat, description: Mapping[str, Any]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=entry.parent))
    try:
        arrays = write_subject(temporary, subject, cache_format)
        (temporary / "subject.json").write_text(json.dumps({**description, "arrays": arrays}))
        temporary.chmod(0o777 & ~_umask())
        temporary.rename(entry)
    except OSError:
        if not entry.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    """Return which permissions new files of this process do not get; a temporary folder has fewer still."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _read_entry(entry: Path, subject: SubjectFiles) -> PreparedSubject:
    description = json.loads((entry / "subject.json").read_text())
    return PreparedSubject(
        subject.subject_id,
        entry,
        entry.name,
        {**description["features"], **subject.targets},
        description["native_features"],
        BoxReport(**description["box"]),
        tuple(description["spacing_mm"]),
        description["arrays"],
        patient_id=subject.patient_id,
        days=subject.days,
        missing_channels=tuple(index for index, name in enumerate(subject.images) if name in subject.missing),
    )


def _entry_key(subject: SubjectFiles, recipe: _Recipe, cache: Path) -> str:
    try:
        digests = {name: file_digest(path, cache) for name, path in subject.files.items()}
    except OSError as error:
        raise UserError(f"subject '{subject.subject_id}': {error.filename} cannot be read: {error.strerror}") from error
    return _key_of(subject, digests, recipe)


def _key_of_entry(subject: SubjectFiles, recipe: _Recipe, cache: Path) -> str | None:
    """Return the key of the subject's entry if there is one, without reading the subject's files."""
    if subject.doubles:
        return None
    try:
        digests = {name: remembered_digest(path, cache) for name, path in subject.files.items()}
    except OSError:  # a file is missing
        return None
    known = {name: digest for name, digest in digests.items() if digest is not None}
    key = _key_of(subject, known, recipe)
    return key if len(known) == len(digests) and (cache / "prepared" / key).is_dir() else None


def _key_of(subject: SubjectFiles, digests: Mapping[str, str], recipe: _Recipe) -> str:
    made_by = {"menvae": PREPARATION_VERSION, "codes": dict(REGION_CODES)}
    made_by |= {**_library_versions(), **subject.reader.versions}
    channels = [(name, digests.get(name)) for name in (*subject.images, "seg")]  # a list, to keep their order
    return digest_of([channels, asdict(recipe), made_by])


@cached
def _library_versions() -> dict[str, Any]:
    return {package: version(package) for package in _LIBRARIES}
