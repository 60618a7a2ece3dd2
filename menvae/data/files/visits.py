"""Times of visits, and patients if given, from a table of dates."""

from __future__ import annotations

import csv
import difflib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from menvae.data.files.subjects import SubjectFiles
from menvae.errors import UserError
from menvae.files import NULL_WORDS, original_cell

_log = logging.getLogger(__name__)

_EXPECTED = "expected a header such as subject_id,date"


@dataclass(frozen=True)
class VisitRow:
    """One row of a table of dates.

    Attributes:
        subject_id: identifier of the visit.
        patient_id: identifier of the patient; None if not given.
        days: days since an origin common to all rows; None if not given.
        line: line of the row, counted from 1.
    """

    subject_id: str
    patient_id: str | None
    days: float | None
    line: int


def with_times(subjects: Sequence[SubjectFiles], table: Path) -> list[SubjectFiles]:
    """Return subjects with the days and, if given, the patients of a table of dates.

    Days are counted from each patient's first dated visit. One warning reports subjects without a date, another rows
    that name no subject, such as those of a table of the whole collection; they are ignored. A third reports two visits
    of a patient on one day: they are subjects like others in training, but no growth lies between them.

    Args:
        subjects: all subjects of the cohort.
        table: path of the table, see `read_visits`.

    Raises:
        UserError: if the table is invalid or names no subject of the cohort.
    """
    rows = {row.subject_id: row for row in read_visits(table)}
    _check_known(table, list(rows.values()), [subject.subject_id for subject in subjects])
    patients, days = {}, {}
    for subject in subjects:
        found = rows.get(subject.subject_id)
        patients[subject.subject_id] = (found.patient_id if found else None) or subject.patient_id
        days[subject.subject_id] = found.days if found else None
    given = {name for name, row in rows.items() if row.patient_id}
    first: dict[str, float] = {}
    for subject_id, day in days.items():
        if day is not None:
            first[patients[subject_id]] = min(day, first.get(patients[subject_id], math.inf))
    undated = [subject_id for subject_id, day in days.items() if day is None]
    if undated:
        _log.warning(
            "data.dates: %d of %d subjects have no date in '%s', such as '%s'; their time is unknown",
            *(len(undated), len(subjects), table, undated[0]),
        )
    _warn_of_equal_days(table, [rows[name] for name, day in days.items() if day is not None], patients)
    return [
        replace(
            subject,
            patient_id=patients[subject.subject_id],
            days=None if day is None else day - first[patients[subject.subject_id]],
            patient_origin="table" if subject.subject_id in given else subject.patient_origin,
        )
        for subject, day in zip(subjects, days.values(), strict=True)
    ]


def read_visits(table: Path) -> list[VisitRow]:
    """Read a table of dates: comma-separated UTF-8, one row per visit.

    The header names the column ``subject_id``, either ``date`` (2024-01-31) or ``days`` (a number), and optionally
    ``patient_id``; other columns are ignored. An empty cell is an unknown value, as is NA and the like
    (`menvae.files.NULL_WORDS`) for a patient; empty lines are skipped.

    Raises:
        UserError: if the file cannot be read, a column is missing or appears twice, a row has too few or too many
            cells, an identifier is empty or appears twice, or a date or number is invalid; names file and line.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(table, header)
            rows: dict[str, VisitRow] = {}
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                row = _row(table, reader.line_num, header, cells)
                other = rows.setdefault(row.subject_id, row)
                if other is not row:
                    raise UserError(
                        f"{_place(table, row.line)}: subject_id '{row.subject_id}' already appears in line "
                        f"{other.line}; keep one of them"
                    )
    except OSError as error:
        raise UserError(f"data.dates: '{table}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"data.dates: '{table}' is not UTF-8: {error.reason}; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{_place(table, reader.line_num)} cannot be read as CSV: {error}") from None
    return list(rows.values())


def _check_header(table: Path, header: Sequence[str]) -> None:
    place = _place(table, 1)
    found = f"found: {', '.join(header) or 'nothing'}"
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise UserError(f"{place}: the header '{header[0]}' is not comma-separated; save the table with commas")
    for name in ("subject_id", "patient_id", "date", "days"):
        if header.count(name) > 1:
            raise UserError(f"{place}: column {name} appears twice; {found}")
    if "subject_id" not in header:
        raise UserError(f"{place}: column subject_id is missing; {_EXPECTED}; {found}")
    if ("date" in header) == ("days" in header):
        is_both = "date" in header
        problem = "columns date and days are mutually exclusive" if is_both else "a column date or days is missing"
        raise UserError(f"{place}: {problem}; {_EXPECTED}; {found}")


def _row(table: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> VisitRow:
    place = _place(table, line)
    if len(cells) != len(header):
        raise UserError(f"{place}: {len(cells)} cells, but the header has {len(header)}: '{','.join(cells)}'")
    values = dict(zip(header, (original_cell(cell.strip()) for cell in cells), strict=True))
    if not values["subject_id"]:
        raise UserError(f"{place}: subject_id is empty; every row must name its subject")
    days = _day(place, values["date"]) if "date" in values else _number_of_days(place, values["days"])
    patient = values.get("patient_id", "")
    return VisitRow(values["subject_id"], None if patient in NULL_WORDS else patient, days, line)


def _day(place: str, text: str) -> float | None:
    try:
        return float(date.fromisoformat(text).toordinal()) if text else None
    except ValueError:
        raise UserError(f"{place}: date '{text}' is invalid; expected a day such as 2024-01-31") from None


def _number_of_days(place: str, text: str) -> float | None:
    try:
        days = float(text) if text else None
    except ValueError:
        days = math.nan
    if days is not None and not math.isfinite(days):
        raise UserError(f"{place}: days '{text}' is invalid; expected a number such as 180 or 92.5")
    return days


def _check_known(table: Path, rows: Sequence[VisitRow], subject_ids: Sequence[str]) -> None:
    known = set(subject_ids)
    superfluous = [row for row in rows if row.subject_id not in known]
    if not superfluous:
        return
    first = superfluous[0]
    if len(superfluous) < len(rows):
        _log.warning(
            "data.dates: %d of %d rows in '%s' name no subject of the cohort, such as '%s' in line %d; ignored",
            *(len(superfluous), len(rows), table, first.subject_id, first.line),
        )
        return
    close = difflib.get_close_matches(first.subject_id, subject_ids, n=1)
    raise UserError(
        f"{_place(table, first.line)}: subject_id '{first.subject_id}' is not in the cohort, nor is that of any other "
        "row; " + (f"did you mean '{close[0]}'?" if close else "use the folder names of the visits")
    )


def _warn_of_equal_days(table: Path, rows: Sequence[VisitRow], patients: Mapping[str, str]) -> None:
    first: dict[tuple[str, float | None], VisitRow] = {}
    found = [(first.setdefault((patients[row.subject_id], row.days), row), row) for row in rows]
    pairs = [(other, row) for other, row in found if other is not row]
    if pairs:
        one, two = sorted(pairs[0], key=lambda row: row.line)
        _log.warning(
            "data.dates: %d of %d visits in '%s' are on the day of another visit of the patient, such as '%s' in line "
            "%d and '%s' in line %d; training takes them as they are, forecasts of growth need different days",
            *(len(pairs), len(rows), table, one.subject_id, one.line, two.subject_id, two.line),
        )


def _place(table: Path, line: int) -> str:
    return f"data.dates: '{table}', line {line}"
