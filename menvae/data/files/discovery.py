"""Discovery of subject folders on disk.

One rule: a folder is a visit if it holds a volume that is named as one of a visit's files. Folders above visits group
them, at any depth; `menvae.data.files.patients` decides which of them are patients.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from menvae.data.files.patients import PatientRule, warn_of_groups
from menvae.data.files.subjects import (
    FILE_NAMES,
    SUFFIXES,
    FileKind,
    Listing,
    SubjectFiles,
    all_endings,
    files_named,
    list_folder,
    subject_files,
)
from menvae.errors import UserError

_log = logging.getLogger(__name__)

_NOT_DATA = frozenset({"__MACOSX", "derivatives", "sourcedata", "@eaDir"})
"""Folders that archives of macOS, BIDS and network drives put beside subjects, with the same names."""


def discover_subjects(
    root: Path,
    modalities: Sequence[str],
    rule: PatientRule | None = None,
    file_names: Mapping[FileKind, str] = FILE_NAMES,
) -> list[SubjectFiles]:
    """Return the visits below a folder, sorted by identifier; a visit may lack files.

    Hidden files and folders, ``__MACOSX`` and ``derivatives`` are ignored. A folder with volumes none of which is named
    as a visit's file is a visit, and faulty, unless visits lie below it; then such files are ignored with a note.

    The identifier of a visit is the name of its folder, or ``<patient>_<folder>`` in a cohort where visits of several
    patients have equal names.

    Args:
        root: the folder.
        modalities: modalities in channel order.
        rule: assigns patients to visits; None uses the known public names.
        file_names: modality or ``seg`` -> ending of the name, see `menvae.data.files.subjects.file_names_of`.

    Raises:
        UserError: if the folder does not exist, cannot be read or has no subject, or an identifier appears twice.
    """
    endings = all_endings(file_names)
    expected = f"<id>/<id>{endings['t1c']}.nii.gz"
    if not root.is_dir():
        raise UserError(f"data.root: folder '{root}' does not exist; it must contain {expected} and so on")
    walk = _Walk(endings, modalities)
    try:
        listing = list_folder(root)
        visits = walk.below(root, listing)
    except OSError as error:
        raise UserError(f"data.root: folder '{error.filename}' cannot be read: {error.strerror}") from None
    if not visits:
        itself = (
            "; it holds volumes itself, but each visit needs a folder" if any(map(_is_volume, listing.files)) else ""
        )
        raise UserError(f"data.root: '{root}' contains no subject folder; expected {expected} and so on{itself}")
    walk.log_ignored()
    return _identified(root, visits, modalities, rule or PatientRule(), file_names)


@dataclass(frozen=True)
class _Visit:
    """A folder that is a visit; ``named`` if one of its files is named as a visit's file."""

    folder: Path
    files: set[str]
    named: bool


@dataclass
class _Walk:
    """A walk over the folders below a root, and what it ignored."""

    endings: Mapping[str, str]
    modalities: Sequence[str]
    stray: list[Path] = field(default_factory=list)
    dangling: list[Path] = field(default_factory=list)
    inside: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def below(self, folder: Path, listing: Listing, above: tuple[str, ...] = ()) -> list[_Visit]:
        """Return the visits below a folder."""
        self.dangling += [folder / name for name in listing.dangling if not _is_volume(name)]
        path = os.path.realpath(folder) if listing.folders else ""
        if not path or path in above:  # nothing below, or a link to a folder above
            return []
        children = [folder / name for name in listing.folders if name not in _NOT_DATA]
        return [visit for child in children for visit in self._visits(child, (*above, path))]

    def _visits(self, folder: Path, above: tuple[str, ...]) -> list[_Visit]:
        """Return a folder if it is a visit, otherwise the visits below it."""
        listing = list_folder(folder)
        files = listing.files
        volumes = sorted(filter(_is_volume, files))
        named_files = {kind: files_named(files, folder, ending) for kind, ending in self.endings.items()}
        kinds = {kind for kind, names in named_files.items() if names}
        others = [folder / name for name in volumes if not any(name in names for names in named_files.values())]
        below = self.below(folder, listing, above)
        named = [visit for visit in below if visit.named]
        if kinds.issuperset(("seg", *self.modalities)):
            self.inside += [visit.folder for visit in named]
            self.others += others
            return [_Visit(folder, files, named=True)]
        if named or not volumes:
            self.stray += [folder / name for name in volumes]
            return below
        self.others += others
        return [_Visit(folder, files, named=bool(kinds))]

    def log_ignored(self) -> None:
        """Log what is not used although it looks like data."""
        for level, paths, problem, remedy in (
            (logging.INFO, self.stray, "lies in a folder above visits", "no action is needed"),
            (
                logging.INFO,
                self.others,
                "is not named as a file of its visit",
                "set data.file_names if it is one",
            ),
            (logging.WARNING, self.inside, "lies inside another visit", "move it beside that visit if it is one"),
            (logging.WARNING, self.dangling, "is a link that leads nowhere", "correct it if it is a visit"),
        ):
            if paths:
                more = f" (and the same for {len(paths) - 1} more)" if len(paths) > 1 else ""
                _log.log(level, "data.root: '%s' is ignored, because it %s; %s%s", paths[0], problem, remedy, more)


def _is_volume(name: str) -> bool:
    return name.endswith(SUFFIXES)


def _identified(
    root: Path,
    visits: Sequence[_Visit],
    modalities: Sequence[str],
    rule: PatientRule,
    file_names: Mapping[FileKind, str],
) -> list[SubjectFiles]:
    """Return the subjects with unique identifiers and their patients."""
    patients = [rule.patient_of(visit.folder, root) for visit in visits]
    names = [visit.folder.name for visit in visits]
    if len(set(names)) < len(names):
        names = [patient.name_of_visit(name) for patient, name in zip(patients, names, strict=True)]
    found: dict[str, SubjectFiles] = {}
    folders: dict[str, Path] = {}
    for visit, name, patient in zip(visits, names, patients, strict=True):
        other = folders.setdefault(name, visit.folder)
        if other != visit.folder:
            raise UserError(
                f"data.root: '{other}' and '{visit.folder}' have the same name, but names of visits must be unique in "
                "the cohort; remove one of them, or rename them and their files (data.on_error=skip does not leave one "
                "out, because either may be the right one)"
            )
        files = subject_files(visit.folder, modalities, file_names, visit.files)
        found[name] = replace(
            files, subject_id=name, patient_id=patient.patient_id or name, patient_origin=patient.origin
        )
    warn_of_groups(visit.folder for visit, patient in zip(visits, patients, strict=True) if patient.is_guess)
    return [found[name] for name in sorted(found)]
