"""Screening of a cohort: check all files in worker processes and leave out faulty subjects.

Descriptions of files are cached by the digest of their content, so no file is inspected twice, whether its subject is
usable or not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from menvae.data.digests import digest_of, file_digest, remembered_digest, write_whole
from menvae.data.files.checks import CHECKS_VERSION, Unreadable, Volume, check_cohort, check_subject, inspect_file
from menvae.data.files.findings import Finding, merged
from menvae.data.files.readers import Reader, not_readable
from menvae.data.files.subjects import SubjectFiles, modules_of_readers
from menvae.data.workers import ShowProgress, run_tasks, unseen
from menvae.errors import UserError

_log = logging.getLogger(__name__)

_MAX_REPORTED = 3
_MADE_BY = [CHECKS_VERSION, version("nibabel")]

_Files = dict[str, Volume | Unreadable]
_DESCRIPTION: TypeAdapter[Volume | Unreadable] = TypeAdapter(Volume | Unreadable)


def check_files(
    subjects: Sequence[SubjectFiles],
    regions: Mapping[int, str],
    cache: Path,
    num_workers: int | None = None,
    show: ShowProgress = unseen,
    *,
    has_others: bool = False,
) -> list[Finding]:
    """Return the findings about the files of subjects; logs the notes if any file had to be read.

    Args:
        subjects: subjects to check.
        regions: value in the mask -> region.
        cache: cache folder, which keeps the descriptions of files.
        num_workers: worker processes; None uses one per core.
        show: progress display.
        has_others: whether other subjects were prepared before, so that their files are named as expected.
    """
    described = {subject.subject_id: _remembered_files(subject, cache) for subject in subjects}
    tasks = [(subject, cache) for subject in subjects if described[subject.subject_id] is None]
    if tasks:
        inspected = run_tasks(_inspect, tasks, num_workers=num_workers, modules=modules_of_readers(subjects))
        described.update(show(inspected, "checking", len(tasks)))
    is_mixed = has_others or any((described[one.subject_id] or {}).keys() >= one.files.keys() for one in subjects)
    findings = [
        finding
        for subject in subjects
        for finding in check_subject(subject, described[subject.subject_id] or {}, regions, is_mixed=is_mixed)
    ]
    for warning in check_cohort({name: files or {} for name, files in described.items()}, regions):
        _log.warning("%s", warning)
    if tasks:
        _log_notes([finding for finding in findings if not finding.is_fault])
    return findings


def is_checked(subject: SubjectFiles, cache: Path) -> bool:
    """Whether the descriptions of all files of a subject are cached, so that `check_files` reads none of them."""
    return _remembered_files(subject, cache) is not None


def _remembered_files(subject: SubjectFiles, cache: Path) -> _Files | None:
    """Return the cached descriptions of the subject's existing files; None if any file must be read."""
    files: _Files = {}
    for name, path in subject.files.items():
        if not subject.reader.exists(path, name):
            continue
        try:
            digest = remembered_digest(path, cache)
        except OSError:  # a link that leads nowhere
            return None
        found = None if digest is None else _recall(_description_memo(subject.reader, path, name, digest, cache))
        if found is None:
            return None
        files[name] = found
    return files


def _inspect(task: tuple[SubjectFiles, Path]) -> tuple[str, _Files]:
    """Describe the subject's existing files, and cache the descriptions."""
    subject, cache = task
    files: _Files = {}
    for name, path in subject.files.items():
        if not subject.reader.exists(path, name):
            continue
        try:
            digest = file_digest(path, cache)
        except OSError as error:
            reason = not_readable(path, error)
            files[name] = Unreadable(reason.problem, reason.remedy)
            continue
        memo = _description_memo(subject.reader, path, name, digest, cache)
        found = _recall(memo)
        if found is None:
            found = inspect_file(subject.reader, path, name, is_mask=name == "seg")
            if remembered_digest(path, cache) == digest:  # otherwise it has changed in the meantime
                write_whole(memo, _DESCRIPTION.dump_json(found))
        files[name] = found
    return subject.subject_id, files


def _description_memo(reader: Reader, path: Path, name: str, digest: str, cache: Path) -> Path:
    of_format = [name, dict(reader.versions)] if reader.versions else []
    return cache / "checks" / digest_of([digest, path.suffix, name == "seg", _MADE_BY, *of_format])


def _recall(memo: Path) -> Volume | Unreadable | None:
    try:
        return _DESCRIPTION.validate_json(memo.read_bytes())
    except (FileNotFoundError, ValidationError):  # missing or truncated
        return None


def note_missing(subjects: Sequence[SubjectFiles]) -> list[Finding]:
    """Return and log one note for each subject that lacks optional modalities."""
    notes = [
        Finding(
            subject.subject_id,
            ", ".join(subject.images[name].name for name in subject.missing),
            "is missing" if len(subject.missing) == 1 else "are missing",
            "the subject is used with its other modalities",
            is_fault=False,
        )
        for subject in subjects
        if subject.missing
    ]
    _log_notes(notes)
    return notes


def _log_notes(notes: Sequence[Finding]) -> None:
    alike: dict[tuple[str, str], list[Finding]] = {}
    for note in notes:
        alike.setdefault((note.problem, note.remedy), []).append(note)
    for first, *others in alike.values():
        _log.info(
            "note: %s%s",
            first,
            f" (and the same for {len(others)} more {'file' if len(others) == 1 else 'files'})" if others else "",
        )


class OfSubject(Protocol):
    """Anything that belongs to a subject."""

    @property
    def subject_id(self) -> str:
        """Identifier of the subject."""


Subject = TypeVar("Subject", bound=OfSubject)


def without_faulty(subjects: Sequence[Subject], findings: Sequence[Finding], *, leave_out: bool) -> list[Subject]:
    """Return the subjects without a fault, and warn about the others.

    Args:
        subjects: all subjects.
        findings: findings about all subjects.
        leave_out: whether to continue without faulty subjects.

    Raises:
        UserError: if there are faults and ``leave_out`` is False, or if every subject has one.
    """
    faults: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.is_fault:
            faults.setdefault(finding.subject_id, []).append(finding)
    every = merged(fault for found in faults.values() for fault in found)
    sound = [subject for subject in subjects if subject.subject_id not in faults]
    if faults and (not leave_out or not sound):
        for fault in every[_MAX_REPORTED:]:  # the command prints the others
            _log.error("%s", fault)
        more = f"; and {len(every) - _MAX_REPORTED} more findings, logged above" if len(every) > _MAX_REPORTED else ""
        remedy = "" if not sound else "; set data.on_error=skip to leave such subjects out"
        raise UserError(
            f"data: {len(faults)} of {len(subjects)} subjects cannot be used: "
            f"{'; '.join(map(str, every[:_MAX_REPORTED]))}{more}{remedy}"
        )
    for found in faults.values():
        _log.warning("left out: %s", "; ".join(map(str, merged(found))))
    return sound
