"""NIfTI -> cache: orientation, spacing, box and z-score with MONAI transforms, and the targets of the mask.

One entry a subject: ``<cache>/prepared/<key>/`` with ``image.npy`` (float32 [C, D, H, W]), ``mask.npy`` (uint8
[D, H, W]) and ``subject.json``. The key is a hash of the source files, the geometry and the versions that made it, so a
changed file, box or library never meets a stale entry. An entry appears by one rename, so it is whole or absent.

Before the first subject is prepared, the files of all that have no entry are checked. What a file holds is remembered
with the digest of its content, so no file is read twice for that, whether its subject could be used or not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache as cached
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from menvae.data.checks import CHECKS_VERSION, Finding, Unreadable, Volume, check_subject, inspect_content
from menvae.data.features import mask_features
from menvae.data.subjects import REGION_CODES, Geometry, Source, SubjectFiles
from menvae.data.workers import ShowProgress, run_tasks, unseen
from menvae.errors import UserError

_log = logging.getLogger(__name__)

PREPARATION_VERSION = 2
"""Raise it when prepared arrays or features change: every cache entry is then made anew."""

_LIBRARIES = ("monai", "nibabel", "scikit-image", "scipy")
_LEAST_TUMOUR_KEPT = 0.95
_FINDINGS_TOLD = 3


@dataclass(frozen=True)
class PreparedSubject:
    """One entry of the cache.

    Attributes:
        subject_id: as in the source.
        folder: where the arrays lie.
        key: content hash.
        features: raw targets in the geometry of training; None where not observed.
        native_features: the same at native resolution.
        tumour_kept: share of the tumour's voxels that lies in the box of training; None without a tumour.
    """

    subject_id: str
    folder: Path
    key: str
    features: Mapping[str, float | None]
    native_features: Mapping[str, float | None]
    tumour_kept: float | None


@dataclass(frozen=True)
class Cohort:
    """All prepared subjects of a source, sorted by identifier.

    Attributes:
        subjects: the entries.
        data_hash: hash of all entries' keys and identifiers.
    """

    subjects: tuple[PreparedSubject, ...]
    data_hash: str


def prepare(source: Source, cache: Path, num_workers: int | None = None, show: ShowProgress = unseen) -> Cohort:
    """Return the cohort of ``source``, preparing what the cache does not hold.

    Args:
        source: where subjects come from, and the geometry to bring them to.
        cache: folder for entries; made if missing. Two processes may prepare into it at once.
        num_workers: processes; None is one a core.
        show: how to show progress.

    Raises:
        UserError: what is wrong with the source or with its subjects.
    """
    cache.mkdir(parents=True, exist_ok=True)
    subjects = source.subjects(cache, show)
    if source.checks_files:
        findings = _check(subjects, source.geometry, cache, num_workers, show)
        subjects = _without_faulty(subjects, findings, leave_out=source.on_error == "skip")
    keys = {subject.subject_id: _entry_key(subject, source.geometry, cache) for subject in subjects}
    tasks = [
        _Task(subject, source.geometry, cache, keys[subject.subject_id])
        for subject in subjects
        if not (cache / "prepared" / keys[subject.subject_id]).is_dir()
    ]
    if tasks:
        _log.info("preparing %d of %d subjects into %s", len(tasks), len(subjects), cache)
        (cache / "prepared").mkdir(exist_ok=True)
        for _ in show(run_tasks(_prepare_entry, tasks, num_workers=num_workers), "preparing", len(tasks)):
            pass
    entries = tuple(_read_entry(cache / "prepared" / keys[subject.subject_id], subject) for subject in subjects)
    _warn_of_cut_tumours(entries)
    return Cohort(entries, _digest([[entry.subject_id, entry.key] for entry in entries]))


_Files = dict[str, Volume | Unreadable]
_DESCRIPTION: TypeAdapter[Volume | Unreadable] = TypeAdapter(Volume | Unreadable)


def _check(
    subjects: Sequence[SubjectFiles], geometry: Geometry, cache: Path, num_workers: int | None, show: ShowProgress
) -> list[Finding]:
    """Return the findings of all subjects without an entry in the cache; notes are logged when files are read."""
    new = [subject for subject in subjects if not _is_prepared(subject, geometry, cache)]
    described = {subject.subject_id: _remembered_files(subject, cache) for subject in new}
    tasks = [(subject, cache) for subject in new if described[subject.subject_id] is None]
    if tasks:
        described.update(show(run_tasks(_inspect, tasks, num_workers=num_workers), "checking", len(tasks)))
    findings = [
        finding
        for subject in new
        for finding in check_subject(subject, described[subject.subject_id] or {}, geometry.regions)
    ]
    if tasks:
        _log_notes([finding for finding in findings if not finding.is_fault])
    return findings


def _is_prepared(subject: SubjectFiles, geometry: Geometry, cache: Path) -> bool:
    if subject.doubles or not all(path.is_file() for path in subject.files.values()):
        return False
    digests = {name: _remembered_digest(_digest_memo(path, cache)) for name, path in subject.files.items()}
    known = {name: digest for name, digest in digests.items() if digest is not None}
    return len(known) == len(digests) and (cache / "prepared" / _key_of(known, geometry)).is_dir()


def _remembered_files(subject: SubjectFiles, cache: Path) -> _Files | None:
    """Return what is known of the files of a subject that exist; None if one of them must be read."""
    files: _Files = {}
    for name, path in subject.files.items():
        if not path.is_file():
            continue
        digest = _remembered_digest(_digest_memo(path, cache))
        found = None if digest is None else _recall(_description_memo(path, name == "seg", digest, cache))
        if found is None:
            return None
        files[name] = found
    return files


def _inspect(task: tuple[SubjectFiles, Path]) -> tuple[str, _Files]:
    """Read the files of a subject that exist, and remember what they hold."""
    subject, cache = task
    files: _Files = {}
    for name, path in subject.files.items():
        if not path.is_file():
            continue
        digest_memo = _digest_memo(path, cache)
        try:
            content = path.read_bytes()
        except OSError as error:
            files[name] = Unreadable(f"cannot be read ({error.strerror})", "check its permissions and the disk")
            continue
        memo = _description_memo(path, name == "seg", _remember_digest(digest_memo, content), cache)
        found = _recall(memo)
        if found is None:
            found = inspect_content(content, path.name, is_mask=name == "seg")
            memo.parent.mkdir(exist_ok=True)
            memo.write_bytes(_DESCRIPTION.dump_json(found))
        files[name] = found
    return subject.subject_id, files


def _description_memo(path: Path, is_mask: bool, digest: str, cache: Path) -> Path:
    made_by = [CHECKS_VERSION, _library_versions()["nibabel"]]
    return cache / "checks" / _digest([digest, path.suffix, is_mask, made_by])


def _recall(memo: Path) -> Volume | Unreadable | None:
    try:
        return _DESCRIPTION.validate_json(memo.read_bytes())
    except (FileNotFoundError, ValidationError):  # not there, or cut short
        return None


def _log_notes(notes: Sequence[Finding]) -> None:
    alike: dict[tuple[str, str], list[Finding]] = {}
    for note in notes:
        alike.setdefault((note.problem, note.remedy), []).append(note)
    for first, *others in alike.values():
        _log.info("note: %s%s", first, f" (the same of {len(others)} files more)" if others else "")


def _without_faulty(
    subjects: Sequence[SubjectFiles], findings: Sequence[Finding], *, leave_out: bool
) -> list[SubjectFiles]:
    """Return the subjects without a fault.

    Raises:
        UserError: there are faults and they should not be left out, or nothing is left.
    """
    faults: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.is_fault:
            faults.setdefault(finding.subject_id, []).append(finding)
    every = [fault for found in faults.values() for fault in found]
    sound = [subject for subject in subjects if subject.subject_id not in faults]
    if faults and (not leave_out or not sound):
        for fault in every:
            _log.error("%s", fault)
        more = f"; and {len(every) - _FINDINGS_TOLD} findings more, logged above" if len(every) > _FINDINGS_TOLD else ""
        remedy = "" if not sound else "; data.on_error=skip leaves such subjects out"
        raise UserError(
            f"data: {len(faults)} of {len(subjects)} subjects cannot be used: "
            f"{'; '.join(map(str, every[:_FINDINGS_TOLD]))}{more}{remedy}"
        )
    for found in faults.values():
        _log.warning("left out: %s", "; ".join(map(str, found)))
    return sound


def _warn_of_cut_tumours(entries: Sequence[PreparedSubject]) -> None:
    cut = [entry for entry in entries if entry.tumour_kept is not None and entry.tumour_kept < _LEAST_TUMOUR_KEPT]
    if cut:
        worst = min(cut, key=lambda entry: entry.tumour_kept or 0.0)
        _log.warning(
            "the box cuts the tumour of %d of %d subjects, most of all that of '%s', of which %.0f %% is left; its "
            "targets are those of the rest: enlarge data.roi_size or data.spacing_mm",
            *(len(cut), len(entries), worst.subject_id, 100 * (worst.tumour_kept or 0.0)),
        )


@dataclass(frozen=True)
class _Task:
    subject: SubjectFiles
    geometry: Geometry
    cache: Path
    key: str


def _prepare_entry(task: _Task) -> str:
    from menvae.data.transforms import load_and_resample

    try:
        prepared = load_and_resample(task.subject, task.geometry)
    finally:  # whatever else went wrong then comes from that
        if _entry_key(task.subject, task.geometry, task.cache) != task.key:
            raise UserError(
                f"subject '{task.subject.subject_id}': its files changed while they were prepared; start again when "
                "nothing writes to them"
            )
    description = {
        "subject_id": task.subject.subject_id,
        "features": mask_features(prepared.mask, task.geometry.spacing_mm),
        "native_features": mask_features(prepared.native_mask, prepared.native_spacing_mm),
        "tumour_kept": prepared.tumour_kept,
    }
    _publish(task.cache / "prepared" / task.key, prepared.image, prepared.mask, description)
    return task.subject.subject_id


def _publish(entry: Path, image: NDArray[np.float32], mask: NDArray[np.uint8], description: Mapping[str, Any]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=entry.parent))
    try:
        np.save(temporary / "image.npy", image)
        np.save(temporary / "mask.npy", mask)
        (temporary / "subject.json").write_text(json.dumps(description))
        temporary.chmod(0o755)
        temporary.rename(entry)
    except OSError:
        if not entry.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_entry(entry: Path, subject: SubjectFiles) -> PreparedSubject:
    description = json.loads((entry / "subject.json").read_text())
    return PreparedSubject(
        subject.subject_id,
        entry,
        entry.name,
        description["features"],
        description["native_features"],
        description["tumour_kept"],
    )


def _entry_key(subject: SubjectFiles, geometry: Geometry, cache: Path) -> str:
    try:
        digests = {name: _file_digest(path, cache) for name, path in subject.files.items()}
    except OSError as error:
        raise UserError(f"subject '{subject.subject_id}': {error.filename} cannot be read: {error.strerror}") from error
    return _key_of(digests, geometry)


def _key_of(digests: Mapping[str, str], geometry: Geometry) -> str:
    made_by = {"menvae": PREPARATION_VERSION, "codes": dict(REGION_CODES)} | _library_versions()
    return _digest([list(digests.items()), asdict(geometry), made_by])  # a list keeps the order of the channels


@cached
def _library_versions() -> dict[str, Any]:
    return {package: version(package) for package in _LIBRARIES}


def _file_digest(path: Path, cache: Path) -> str:
    """Hash of a file's content, remembered by its path, size and time of change."""
    memo = _digest_memo(path, cache)
    return _remembered_digest(memo) or _remember_digest(memo, path.read_bytes())


def _digest_memo(path: Path, cache: Path) -> Path:
    status = path.stat()
    return cache / "digests" / _digest([str(path.resolve()), status.st_size, status.st_mtime_ns])


def _remembered_digest(memo: Path) -> str | None:
    remembered = memo.read_text() if memo.is_file() else ""
    return remembered if len(remembered) == 32 else None


def _remember_digest(memo: Path, content: bytes) -> str:
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    memo.parent.mkdir(exist_ok=True)
    memo.write_text(digest)
    return digest


def _digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
