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

from menvae.data.files.subjects import PatientOrigin, SubjectFiles
from menvae.errors import UserError

_log = logging.getLogger(__name__)

KNOWN_NAMES: Final = (
    r"(BraTS(?:[-_][A-Za-z]+)+[-_]\d+)[-_]\d+",  # BraTS 2023 and later: BraTS-MEN-00004-001, BraTS-MEN-RT-0001-1
    r"(brats_(?:2013|tcia)_pat\d+)_\d+",  # BraTS 2015
    r"(Brats1[789]_\w+|BraTS20_(?:Training|Validation)_\d+|BraTS2021_\d+|BraTS-GoAT-\d+)",  # one visit per patient
    r"(UPENN-GBM-\d+)_\d+",
    r"(UCSF-PDGM-\d+)(?:_FU\d+d)?(?:_nifti)?",
    r"(UCSD-PTGBM-\d+)_\d+",
    r"(TCGA-\w{2}-\w{4})(?:[-_. ].+)?",  # often with the date of the visit
    r"(Patient-\d+)[-_]week-\d+(?:-\d+)?",  # LUMIERE, flattened
    r"(PatientID_\d+)_Timepoint_\d+",  # MU-Glioma-Post, flattened
    r"(RHUH-\d+)_\d+",  # flattened
    r"(sub-[A-Za-z0-9]+)_ses-[A-Za-z0-9]+",  # BIDS, flattened
    r"(case[-_]?\d+)[-_]v\d+",
)
"""Names of visits in public cohorts, for whole names in upper or lower case; the group is the patient."""

_KNOWN = tuple(f"(?i){name}" for name in KNOWN_NAMES)

_NUMBERED = r"(?![-_. ]?(?:0\d+|\d{3})$)"  # 001 numbers a patient; parts have numbers such as 2, releases years
_GROUP = re.compile(
    r"(?i)[hl]gg|gbm|(?:meningioma|glioma|glioblastoma)s?"
    r"|(?:.*[-_. ])?(?:train|valid|val|test|additional)(?:ing|ation)?(?:[-_. ]?(?:data|set))?"
    rf"{_NUMBERED}\d*(?:[-_. ].*)?"
    r"|(?:part|batch|fold|site|hospital|clinic|cent(?:er|re)|cohort|release|grade|who)[-_. ]?\w{0,3}"
    rf"|(?:group|set|images?|data){_NUMBERED}[-_. ]?\w{{0,3}}"
)
"""Folders that only group visits: diagnoses, grades, sites, splits and parts of a release, but not Test-001."""

_SESSION = (
    r"(?:ses|session|week|visit|v|tp|t|time|timepoint|scan|exam|study|day|month|year|fu|follow-?up|mri?)"
    r"[-_. ]?\d[-\w. ]*"
)
_DATE = r"\d{4}[-_.]?\d\d[-_.]?\d\d|\d\d[-_.]\d\d[-_.]\d{4}"

_VISIT = re.compile(rf"(?i){_SESSION}")
"""Names that tell when a visit was, but not whose."""

_NUMBER_OR_WORD = re.compile(r"\d[-\w. ]*|\D+")
"""Names of visits in the folder of a patient, or of patients in the folder of a hospital."""

_LAST_PART = re.compile(rf"(?i)(.+?)[-_. ]{_SESSION}|(.+)[-_. ](?:{_DATE})|(.*\d)[A-Z]{{1,4}}\d*|(.+)[-_. ][^-_. ]+")

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
        origin: what identified the patient.
        folder: name of the folder above the visit; empty if it does not identify the visit.
        is_guess: whether the folder may as well be one that only groups visits.
    """

    patient_id: str | None
    origin: PatientOrigin = "visit"
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
        self._is_given = pattern is not None
        self._uses_path = pattern is not None and "/" in pattern
        self._patterns = [compiled_patient_pattern(text) for text in ([pattern] if pattern is not None else _KNOWN)]

    def patient_of(self, folder: Path, root: Path) -> Patient:
        """Return the patient of a visit in a folder below the root."""
        name, parent = folder.name, folder.parent
        above = "" if parent == root or _GROUP.fullmatch(parent.name) else parent.name
        if matched := self.match(folder.relative_to(root).as_posix() if self._uses_path else name):
            return Patient(matched.group(1), "name", above if self._is_given else "")  # public names are unique
        if not above:
            return Patient(None)
        has_number = any(map(str.isdecimal, above))
        is_certain = (
            _begins_with(name, above)
            or _VISIT.fullmatch(name) is not None
            or (has_number and _NUMBER_OR_WORD.fullmatch(name) is not None)
        )
        return Patient(above, "folder", above, is_guess=not is_certain)

    @property
    def is_given(self) -> bool:
        """Whether the user gave a pattern."""
        return self._is_given

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
    stems: dict[str, list[str]] = {}
    for name in [subject.subject_id for subject in subjects if subject.patient_origin == "visit"]:
        stems.setdefault(_without_last_part(name), []).append(name)
    alike = [names for names in stems.values() if len(names) > 1]
    if alike and len(stems) > 1:  # a single stem is the name of the cohort
        _log.warning(
            "data.patient_pattern: no pattern matches %d names of visits that differ from others in their last part "
            "only, such as '%s' and '%s', so each is a patient of its own; if they are visits of one patient, set a "
            "pattern such as '%s', otherwise set '(.+)'",
            *(sum(map(len, alike)), alike[0][0], alike[0][1], _pattern_for(alike[0][0])),
        )


def _how(subjects: Sequence[SubjectFiles], rule: PatientRule) -> str:
    """Return what identified the patients, with numbers of visits if they differ in it."""
    names = "data.patient_pattern" if rule.is_given else "the built-in names of public cohorts"
    ways: dict[PatientOrigin, str] = {
        "name": f"by {names}",
        "folder": "by folders of patients",
        "table": "by data.dates",
        "visit": "one per visit",
    }
    counts = Counter(subject.patient_origin for subject in subjects)
    if counts.keys() == {"visit"}:
        return f"{ways['visit']} ({names} match{'es' if rule.is_given else ''} no name)"
    used = [(way, counts[origin]) for origin, way in ways.items() if counts[origin]]
    return " and ".join(f"{way} ({_counted(count, 'visit')})" if len(used) > 1 else way for way, count in used)


def _with_visits(patient: str, visits: Sequence[str]) -> str:
    """Return a patient with the ends of the names of its visits.

    >>> _with_visits("P01", ["P01_v1", "P01_v2"]), _with_visits("P02", ["P02"]), _with_visits("alpha", ["P03"])
    ('P01 (_v1, _v2)', 'P02', 'alpha (P03)')
    """
    ends = [name.removeprefix(patient) for name in visits[:_SHOWN]] + ["..."] * (len(visits) > _SHOWN)
    return f"{patient} ({', '.join(ends)})" if any(ends) else patient


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _pattern_for(name: str) -> str:
    r"""Return a pattern that finds `_without_last_part` in a name.

    >>> [_pattern_for(name) for name in ("P01_v1", "P01b", "P01_2024-01-31", "P01-week-000-1")]
    ['(.+)[-_. ].+', '(.*\\d)[A-Za-z]+\\d*', '(.+)[-_. ]\\d{4}.*', '(.+)-week.*']
    """
    stem = _without_last_part(name)
    rest = re.match("[-_. ]+[A-Za-z]*", name[len(stem) :])
    patterns = ["(.+)[-_. ].+", r"(.*\d)[A-Za-z]+\d*", r"(.+)[-_. ]\d{4}.*"]
    patterns += ["(.+)" + rest.group().replace(".", r"\.") + ".*"] if rest else []
    fitting = (text for text in patterns if (found := re.fullmatch(text, name)) and found.group(1) == stem)
    return next(fitting, f"({re.escape(stem)}).*")


def _without_last_part(name: str) -> str:
    """Return a name without its session, its date, what follows its last separator, or the letters after its number.

    >>> [_without_last_part(name) for name in ("P01_v1", "P01-2", "P01b", "P01", "P01_2024-01-31", "P01-week-000-1")]
    ['P01', 'P01', 'P01', 'P01', 'P01', 'P01']
    """
    matched = _LAST_PART.fullmatch(name)
    return next((group for group in matched.groups() if group), name) if matched else name
