r"""Which visits belong to one patient.

In this order: the name of the visit matches a pattern (by default that of a public cohort, such as
BraTS-MEN-00004-001); the visit lies in a folder of a patient (sub-01/ses-01); the visit is its own patient.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from menvae.data.files.subjects import SubjectFiles
from menvae.errors import UserError

_log = logging.getLogger(__name__)

KNOWN_NAMES: Final = (
    r"(BraTS(?:-[A-Za-z]+)+-\d+)-\d+",  # BraTS 2023 and later: BraTS-MEN-00004-001, BraTS-MEN-RT-0001-1
    r"(Brats1[789]_\w+|BraTS20_(?:Training|Validation)_\d+|BraTS2021_\d+|BraTS-GoAT-\d+)",  # one visit per patient
    r"(UPENN-GBM-\d+)_\d+",
    r"(UCSF-PDGM-\d+)(?:_FU\d+d)?(?:_nifti)?",
    r"(UCSD-PTGBM-\d+)_\d+",
    r"(TCGA-\w{2}-\w{4})(?:_\w+)?",
    r"(Patient-\d+)[-_]week-\d+(?:-\d+)?",  # LUMIERE, flattened
    r"(PatientID_\d+)_Timepoint_\d+",  # MU-Glioma-Post, flattened
    r"(RHUH-\d+)_\d+",  # flattened
    r"(sub-[A-Za-z0-9]+)_ses-[A-Za-z0-9]+",  # BIDS, flattened
    r"(case[-_]?\d+)[-_]v\d+",
)
"""Names of visits in public cohorts, for whole names; the group is the patient."""

_GROUP = re.compile(
    r"(?i)[hl]gg|(?:.*[-_. ])?(?:train|valid|val|test|additional)(?:ing|ation)?(?:[-_. ]?(?:data|set))?\d*(?:[-_. ].*)?"
    r"|(?:part|batch|fold|site|cent(?:er|re)|cohort|release|group|set|images?|data)[-_. ]?\w{0,3}"
)
"""Folders that only group visits: grades, splits and parts of a release."""

_SESSION = re.compile(
    r"(?i)(?:ses|session|week|visit|v|tp|t|time|timepoint|scan|exam|study|day|month|year|fu|follow-?up|mri?)?"
    r"[-_. ]?\d[-\w. ]*|\D+"
)
"""Names that tell when a visit was, but not whose."""

_SHOWN = 3


def compiled_patient_pattern(pattern: str) -> re.Pattern[str]:
    r"""Compile ``data.patient_pattern``.

    Raises:
        UserError: if it is not a regular expression or has no group.

    >>> compiled_patient_pattern(r"(\w+)-\d+").fullmatch("anna-002").group(1)
    'anna'
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"data.patient_pattern: '{pattern}' is not a valid regular expression: {error}") from None
    if compiled.groups == 0:
        raise UserError(
            f"data.patient_pattern: '{pattern}' has no group; put the patient's part in parentheses, such as "
            r"(BraTS-[A-Za-z]+-\d+)-\d+"
        )
    return compiled


@dataclass(frozen=True)
class Patient:
    """The patient of a visit.

    Attributes:
        patient_id: identifier; None if the visit is its own patient.
        folder: name of the patient's folder; empty if the folder was not used.
        is_guess: whether the folder may as well be one that only groups visits.
    """

    patient_id: str | None
    folder: str = ""
    is_guess: bool = False

    def name_of_visit(self, name: str) -> str:
        """Return the identifier of a visit in a cohort where visits of several patients have equal names."""
        return name if not self.folder or _begins_with(name, self.folder) else f"{self.folder}_{name}"


class PatientRule:
    """Assigns patients to visits.

    Args:
        pattern: regular expression for the whole name of a visit, or, if it contains a slash, for its path below the
            root; the first group is the patient. None uses `KNOWN_NAMES`.

    Raises:
        UserError: if the pattern is invalid.
    """

    def __init__(self, pattern: str | None = None) -> None:
        self._uses_path = pattern is not None and "/" in pattern
        self._patterns = [compiled_patient_pattern(text) for text in (KNOWN_NAMES if pattern is None else (pattern,))]

    def patient_of(self, folder: Path, root: Path) -> Patient:
        """Return the patient of a visit in a folder below the root."""
        name = folder.name
        if matched := self.match(folder.relative_to(root).as_posix() if self._uses_path else name):
            return Patient(matched.group(1))
        parent = folder.parent
        if parent == root or _GROUP.fullmatch(parent.name):
            return Patient(None)
        is_certain = _begins_with(name, parent.name) or _SESSION.fullmatch(name) is not None
        return Patient(parent.name, parent.name, is_guess=not is_certain)

    def covers(self, name: str) -> bool:
        """Whether the pattern determines the patient of a visit of this name."""
        return self._uses_path or self.match(name) is not None

    def match(self, name: str) -> re.Match[str] | None:
        """Match a name with the patterns."""
        return next((matched for pattern in self._patterns if (matched := pattern.fullmatch(name))), None)


def _begins_with(name: str, patient: str) -> bool:
    return re.match(rf"{re.escape(patient)}(?![A-Za-z0-9])", name) is not None


def warn_of_groups(guesses: Iterable[Path]) -> None:
    """Warn about folders that count as patients but may only group visits."""
    counts = Counter(folder.parent for folder in guesses)
    several = {folder: count for folder, count in counts.items() if count > 1}
    if several:
        shown = ", ".join(f"'{folder.name}' ({count} visits)" for folder, count in list(several.items())[:_SHOWN])
        _log.warning(
            "data.patient_pattern: folders of several visits are taken for patients (%d in all, such as %s); if they "
            "only group visits, set data.patient_pattern='(.+)', which makes each visit a patient, or a pattern for "
            "the names of visits; if they are patients, set '(?:.+/)?([^/]+)/[^/]+'",
            *(len(several), shown),
        )


def log_patients(subjects: Sequence[SubjectFiles], rule: PatientRule) -> None:
    """Log how many patients there are and how they were found; warn about names that look like visits of one patient.

    Args:
        subjects: the subjects, with their patients.
        rule: the rule that assigned them.
    """
    visits: dict[str, list[str]] = {}
    for subject in subjects:
        visits.setdefault(subject.patient_id, []).append(subject.subject_id)
    shown = [_with_visits(patient, names) for patient, names in list(visits.items())[:_SHOWN]]
    _log.info(
        "%s of %s, %s; first %s: %s",
        *(_counted(len(subjects), "visit"), _counted(len(visits), "patient"), _how(subjects, rule)),
        *(("one", "two", "three")[len(shown) - 1], ", ".join(shown)),
    )
    own = [subject.subject_id for subject in subjects if subject.patient_id == subject.subject_id]
    stems: dict[str, list[str]] = {}
    for name in own:
        if not rule.covers(name):
            stems.setdefault(_without_last_part(name), []).append(name)
    alike = [names for names in stems.values() if len(names) > 1]
    if alike and len(stems) > 1:  # a single stem is the name of the cohort
        _log.warning(
            "data.patient_pattern: no pattern matches %d names of visits that differ from others in their last part "
            "only, such as '%s' and '%s', so each is a patient of its own; if they are visits of one patient, set a "
            "pattern such as '(.+)[-_].+', otherwise set '(.+)'",
            *(sum(map(len, alike)), alike[0][0], alike[0][1]),
        )


def _how(subjects: Sequence[SubjectFiles], rule: PatientRule) -> str:
    covered = [rule.covers(subject.subject_id) for subject in subjects]
    others = [subject for subject, is_covered in zip(subjects, covered, strict=True) if not is_covered]
    ways = ["data.patient_pattern"] if any(covered) else []
    if any(subject.patient_id != subject.subject_id for subject in others):
        ways.append("folders of patients or data.dates")
    return f"by {' and '.join(ways)}" if ways else "one per visit (data.patient_pattern matches no name)"


def _with_visits(patient: str, visits: Sequence[str]) -> str:
    """Return a patient with the ends of the names of its visits.

    >>> _with_visits("P01", ["P01_v1", "P01_v2"]), _with_visits("P02", ["P02"]), _with_visits("alpha", ["P03"])
    ('P01 (_v1, _v2)', 'P02', 'alpha (P03)')
    """
    ends = [name.removeprefix(patient) for name in visits[:_SHOWN]] + ["..."] * (len(visits) > _SHOWN)
    return f"{patient} ({', '.join(ends)})" if any(ends) else patient


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _without_last_part(name: str) -> str:
    """Return a name without what follows its last separator, or without the letters after its number.

    >>> [_without_last_part(name) for name in ("P01_v1", "P01-2", "P01b", "P01")]
    ['P01', 'P01', 'P01', 'P01']
    """
    matched = re.fullmatch(r"(.*\d)[A-Za-z]{1,4}\d*|(.+)[-_. ][^-_. ]+", name)
    return next((group for group in matched.groups() if group), name) if matched else name
