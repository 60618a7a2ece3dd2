"""A cohort in order, one subject after another, for a single pass over it that writes nothing.

Subjects that are in the cache are read from it. The others are checked and prepared by worker processes while the
caller works on those before them, with the arrays that the cache would hold: writing entries, which must survive a
crash of the machine, takes longer than a single pass gains from them. A subject may lack its mask.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from menvae.data.cache.prepare import Preparable, find_subject
from menvae.data.cache.storage import CacheFormat, StoredSubject, stored
from menvae.data.files.checks import Unreadable, Volume, check_subject, describe
from menvae.data.files.findings import Finding, merged
from menvae.data.files.readers import UnreadableError, not_readable
from menvae.data.files.stored_volume import StoredVolume
from menvae.data.files.subjects import Region, SubjectFiles, modules_of_readers
from menvae.data.geometry.box import BoxReport, KeptShares, judge_box
from menvae.data.geometry.transforms import Geometry, resample
from menvae.data.masks.features import FEATURES, mask_features
from menvae.data.workers import run_in_order
from menvae.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamedSubject:
    """A subject with its arrays.

    Attributes:
        files: its files, patient and time.
        arrays: image and statistics, as the cache stores them.
        features: raw targets in training geometry, plus those the source provides; None where not observed, as all
            targets of the mask without a mask.
    """

    files: SubjectFiles
    arrays: StoredSubject
    features: Mapping[str, float | None]


def stream_subjects(
    subjects: Sequence[SubjectFiles], source: Preparable, cache: Path, num_workers: int | None = None
) -> Iterator[StreamedSubject]:
    """Yield subjects in order; faulty ones are left out with a warning if the source says so.

    Args:
        subjects: subjects of the source, with or without masks.
        source: their target geometry, and how faults are handled.
        cache: cache folder, which is only read.
        num_workers: worker processes; None uses one per core.

    Raises:
        UserError: a subject is faulty and is not to be left out, or all are.
    """
    entries = {one.subject_id: find_subject(one, source, cache) if one.has_mask else None for one in subjects}
    recipe = _Recipe(
        source.geometry,
        source.cache_format,
        source.regions,
        dict(source.refuse_below),
        dict(source.warn_below),
        checks=source.checks_files,
    )
    lacking = [(subject, recipe) for subject in subjects if entries[subject.subject_id] is None]
    modules = modules_of_readers(subjects)
    prepared = run_in_order(_prepare, lacking, num_workers=num_workers, modules=modules)
    log = _FindingLog(leave_out=source.on_error == "skip")
    for subject in subjects:
        entry = entries[subject.subject_id]
        if entry is None:
            found, findings = next(prepared)
        else:
            found = StreamedSubject(subject, entry.load(), entry.features)
            findings = recipe.judge(subject, entry.box)
        if log.accepts(findings) and found is not None:
            yield found
    if log.num_left_out == len(subjects):
        raise UserError(f"data: all {len(subjects)} subjects were left out, because of the faults logged above")


class _FindingLog:
    """Logs faults of subjects that are left out, and each kind of note once."""

    def __init__(self, *, leave_out: bool) -> None:
        self.num_left_out = 0
        self._leave_out, self._known = leave_out, set[str]()

    def accepts(self, findings: Sequence[Finding]) -> bool:
        """Return whether a subject has no fault; raises `UserError` for one that is not to be left out."""
        faults = [finding for finding in findings if finding.is_fault]
        if faults and not self._leave_out:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            raise UserError(f"data: {faults[0]}{more}; data.on_error=skip leaves such subjects out")
        if faults:
            self.num_left_out += 1
            _log.warning("left out: %s", "; ".join(map(str, merged(faults))))
        for note in findings:
            if not note.is_fault and note.remedy not in self._known:
                self._known.add(note.remedy)
                _log.info("note, the first of its kind: %s", note)
        return not faults


@dataclass(frozen=True)
class _Recipe:
    """What a worker needs to know besides the subject."""

    geometry: Geometry
    cache_format: CacheFormat
    regions: Mapping[int, Region]
    refuse_below: KeptShares
    warn_below: KeptShares
    checks: bool

    def judge(self, subject: SubjectFiles, box: BoxReport) -> list[Finding]:
        """Return the findings about a subject's box."""
        limits = (self.refuse_below, self.warn_below)
        return judge_box(subject.subject_id, box, self.geometry.box, *limits, has_mask=subject.has_mask)


def _prepare(task: tuple[SubjectFiles, _Recipe]) -> tuple[StreamedSubject | None, list[Finding]]:
    """Read, check and prepare one subject; without the subject if it has a fault."""
    subject, recipe = task
    volumes, descriptions = _read(subject, recipe)
    findings = check_subject(subject, descriptions, recipe.regions) if recipe.checks else []
    if any(finding.is_fault for finding in findings):
        return None, findings
    try:
        prepared = resample(subject, volumes, recipe.geometry)
    except MemoryError as error:
        raise MemoryError(f"subject '{subject.subject_id}': {error}") from error
    findings += recipe.judge(subject, prepared.box)
    if any(finding.is_fault for finding in findings):
        return None, findings
    features = mask_features(prepared.mask, prepared.spacing_mm) if subject.has_mask else dict.fromkeys(FEATURES)
    arrays = stored(prepared.channels, prepared.mask, recipe.cache_format)
    return StreamedSubject(subject, arrays, {**features, **subject.targets}), findings


def _read(subject: SubjectFiles, recipe: _Recipe) -> tuple[dict[str, StoredVolume], dict[str, Volume | Unreadable]]:
    """Read every file once, and describe what was read."""
    volumes: dict[str, StoredVolume] = {}
    descriptions: dict[str, Volume | Unreadable] = {}
    for name, path in subject.files.items():
        if not subject.reader.exists(path, name):
            continue
        try:
            volumes[name] = subject.reader.read(path, name)
        except UnreadableError as error:
            descriptions[name] = Unreadable(error.problem, error.remedy)
        except OSError as error:
            reason = not_readable(path, error)
            descriptions[name] = Unreadable(reason.problem, reason.remedy)
        else:
            if recipe.checks:
                descriptions[name] = describe(volumes[name], is_mask=name == "seg")
    return volumes, descriptions
