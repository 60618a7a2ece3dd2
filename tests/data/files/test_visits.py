"""Times of visits: tables of dates."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from menvae.data.batches.dataset import SubjectDataset, collate
from menvae.data.batches.order import Draw
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import prepare
from menvae.data.files.subjects import MODALITIES, SubjectFiles
from menvae.data.files.visits import read_visits, with_times
from menvae.data.sources.brats import BratsSource
from menvae.data.targets.normalizer import TargetNormalizer, TargetSettings
from menvae.errors import UserError
from menvae.files import write_table


def subject(subject_id: str, patient_id: str = "") -> SubjectFiles:
    return SubjectFiles(subject_id, {}, Path(), patient_id=patient_id)


# --- patients --------------------------------------------------------------------------------------------------------


def test_a_subject_is_a_patient_of_its_own_unless_more_is_said() -> None:
    assert (subject("a").patient_id, subject("a").days) == ("a", None)
    assert subject("a", "b").patient_id == "b"


# --- tables ---------------------------------------------------------------------------------------------------------

VISITS = [subject("a-0", "a"), subject("a-1", "a"), subject("b-0", "b"), subject("c-0", "c")]


def table(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "dates.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_days_are_counted_from_the_first_dated_visit_of_a_patient(tmp_path: Path) -> None:
    dates = table(tmp_path, "subject_id,date\na-1,2024-03-01\na-0,2024-02-28\nb-0,2019-07-01\nc-0,2020-01-01\n")
    assert [s.days for s in with_times(VISITS, dates)] == [0.0, 2.0, 0.0, 0.0]  # 2024 has a 29th of February
    days = table(tmp_path, "subject_id,days\na-1,100.5\na-0,-20\nb-0,7\nc-0,1e2\n")
    assert [s.days for s in with_times(VISITS, days)] == [0.0, 120.5, 0.0, 0.0]


def test_what_tables_of_other_programs_look_like(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = 'scanner , subject_id,date ,patient_id\r\n"A, 3 T",a-0, 2024-01-01,\r\n\r\n,a-1,2024-01-11,\r\n'
    text += ",b-0,2024-01-21, a\r\n,c-0,,\r\n"
    timed = with_times(VISITS, table(tmp_path, text, "utf-8-sig"))
    assert [(s.patient_id, s.days) for s in timed] == [("a", 0.0), ("a", 10.0), ("a", 20.0), ("c", None)]
    assert [record.getMessage() for record in caplog.records] == [
        f"data.dates: 1 of 4 subjects have no date in '{tmp_path / 'dates.csv'}', such as 'c-0'; their time is unknown"
    ]


@pytest.mark.parametrize("word", ["NA", "nan", "None", "#N/A"])
def test_words_for_missing_are_no_patient(tmp_path: Path, word: str) -> None:
    """As programs write them; two patients called NA would be one."""
    text = f"subject_id,days,patient_id\na-0,0,a\na-1,5,{word}\nb-0,7,{word}\nc-0,,NA-1\n"
    timed = with_times(VISITS, table(tmp_path, text))
    assert [(s.patient_id, s.days) for s in timed] == [("a", 0.0), ("a", 5.0), ("b", 0.0), ("NA-1", None)]


def test_rows_of_other_subjects_are_ignored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = table(tmp_path, "subject_id,days\na-0,3\nz-9,1\na-1,5\nb-0,0\nz-8,2\nc-0,0\n")
    assert [s.days for s in with_times(VISITS, path)] == [0.0, 2.0, 0.0, 0.0]
    assert [record.getMessage() for record in caplog.records] == [
        f"data.dates: 2 of 6 rows in '{path}' name no subject of the cohort, such as 'z-9' in line 3; ignored"
    ]


def test_visits_of_a_patient_on_one_day_are_told_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Visits of other patients may share a day, and so may visits without one."""
    path = table(
        tmp_path, "subject_id,date,patient_id\nb-0,2024-01-09,a\na-1,2024-01-01,\nc-0,2024-01-01,\na-0,2024-01-09,\n"
    )
    timed = with_times(VISITS, path)
    assert [(s.patient_id, s.days) for s in timed] == [("a", 8.0), ("a", 0.0), ("a", 8.0), ("c", 0.0)]
    assert [record.getMessage() for record in caplog.records] == [
        f"data.dates: 1 of 4 visits in '{path}' are on the day of another visit of the patient, such as 'b-0' in line "
        "2 and 'a-0' in line 5; training takes them as they are, forecasts of growth need different days"
    ]
    caplog.clear()
    with_times(VISITS, table(tmp_path, "subject_id,days\na-0,\na-1,\nb-0,3\nc-0,3\n"))
    assert "on the day of" not in caplog.text


def test_subjects_without_a_row_are_counted_in_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    timed = with_times(VISITS, table(tmp_path, "subject_id,days\na-1,3\n"))
    assert [(s.patient_id, s.days) for s in timed] == [("a", None), ("a", 0.0), ("b", None), ("c", None)]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "3 of 4 subjects have no date" in record.getMessage()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: column subject_id is missing; expected a header such as subject_id,date; found: nothing$"),
        ("id,date\n", "line 1: column subject_id is missing; .*; found: id, date$"),
        ("subject_id,when\n", "line 1: a column date or days is missing; .*; found: subject_id, when$"),
        ("subject_id,date,days\n", "line 1: columns date and days are mutually exclusive"),
        ("subject_id,date,date\n", "line 1: column date appears twice"),
        ("subject_id;date\na-0;2024-01-01\n", "line 1: the header 'subject_id;date' is not comma-separated"),
        (
            "subject_id,date\nz-9,2024-01-01\nz-8,2024-01-01\n",
            "line 2: subject_id 'z-9' is not in the cohort, nor is that of any other row; use the folder names",
        ),
        (
            "subject_id,date\na-00,2024-01-01\n",
            "line 2: subject_id 'a-00' is not in the cohort.*; did you mean 'a-0'[?]$",
        ),
        ("subject_id,days\na-0,1\nb-0,1\na-0,1\n", "line 4: subject_id 'a-0' already appears in line 2"),
        ("subject_id,date\na-0,31.01.2024\n", "line 2: date '31.01.2024' is invalid; .* such as 2024-01-31$"),
        ("subject_id,date\na-0,2023-02-29\n", "line 2: date '2023-02-29' is invalid"),
        ("subject_id,days\n\na-0,soon\n", "line 3: days 'soon' is invalid; expected a number"),
        ("subject_id,days\na-0,nan\n", "line 2: days 'nan' is invalid"),
        ("subject_id,days\na-0\n", "line 2: 1 cells, but the header has 2: 'a-0'$"),
        ("subject_id,days\na-0,1,2\n", "line 2: 3 cells, but the header has 2"),
        ("subject_id,days\n,12\n", "line 2: subject_id is empty"),
        ('subject_id,days\n"a-0"x,12\n', "line 2 cannot be read as CSV: "),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_value(tmp_path: Path, text: str, message: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(UserError, match=f"^data.dates: '{path}', {message}") as told:
        with_times(VISITS, path)
    assert "\n" not in str(told.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.dates: '.*no\.csv' cannot be read: No such file or directory$"):
        read_visits(tmp_path / "no.csv")
    with pytest.raises(UserError, match=r"^data\.dates: '.*' is not UTF-8: "):
        read_visits(table(tmp_path, "subject_id,date,arzt\na-0,2024-01-01,Müller\n", "latin-1"))


# --- from files to batches ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patient anna with two visits, and a subject of its own."""
    root = tmp_path_factory.mktemp("cohort")
    for name in ("anna/anna-0", "anna/anna-1", "bert"):
        visit = root / name
        visit.mkdir(parents=True)
        rng = np.random.default_rng(list(visit.name.encode()))
        mask = np.zeros((16, 16, 16), np.uint8)
        mask[4:9, 5:9, 6:12] = 3
        for modality in (*MODALITIES, "seg"):
            voxels = mask if modality == "seg" else rng.integers(1, 900, mask.shape).astype(np.int16)
            image = nibabel.nifti1.Nifti1Image(voxels, np.eye(4))  # type: ignore[no-untyped-call]
            nibabel.save(image, visit / f"{visit.name}-{modality}.nii.gz")  # type: ignore[attr-defined]
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def prepared(root: Path, cache: Path, text: str) -> Cohort:
    source = BratsSource(root=str(root), dates=str(table(cache, text)), roi_size=(16, 16, 16))
    return prepare(source, cache)


def times(cohort: Cohort) -> torch.Tensor | None:
    normalizer = TargetNormalizer.fit([s.features for s in cohort.subjects], TargetSettings(), ["vol_total"])
    dataset = SubjectDataset(cohort.subjects, normalizer, {"vol": ["vol_total"]})
    return collate([dataset[Draw(number, 0)] for number in (1, 0)]).time


def test_times_reach_the_batch_where_all_are_known(root: Path, cache: Path) -> None:
    cohort = prepared(root, cache, "subject_id,days\nanna-0,10\nanna-1,190.5\nbert,4\n")
    assert [(s.subject_id, s.patient_id, s.days) for s in cohort.subjects] == [
        ("anna-0", "anna", 0.0),
        ("anna-1", "anna", 180.5),
        ("bert", "bert", 0.0),
    ]
    time = times(cohort)
    assert time is not None
    assert time.dtype == torch.float32
    assert time.tolist() == [180.5, 0.0]


def test_one_unknown_time_leaves_all_batches_without(root: Path, cache: Path) -> None:
    assert times(prepared(root, cache, "subject_id,days\nanna-0,10\nanna-1,190.5\n")) is None


def test_a_corrected_date_prepares_nothing_anew_and_is_other_data(root: Path, cache: Path) -> None:
    first = prepared(root, cache, "subject_id,days\nanna-0,10\nanna-1,190\nbert,4\n")
    again = prepared(root, cache, "subject_id,days\nanna-0,0\nanna-1,180\nbert,0\n")
    assert again.data_hash == first.data_hash, "days are those since the first visit"
    moved = prepared(root, cache, "subject_id,days\nanna-0,0\nanna-1,181\nbert,0\n")
    other = prepared(root, cache, "subject_id,days,patient_id\nanna-0,0,\nanna-1,180,\nbert,0,anna\n")
    assert len({first.data_hash, moved.data_hash, other.data_hash}) == 3
    assert [s.key for s in first.subjects] == [s.key for s in moved.subjects] == [s.key for s in other.subjects]


def test_names_that_look_like_formulas_are_read_as_they_were_written(tmp_path: Path) -> None:
    names = ["=a", "-b", "@c", "'=d", "e"]
    table = write_table(tmp_path / "a.csv", ["subject_id", "days"], [[name, 1.5] for name in names])
    assert [row.subject_id for row in read_visits(table)] == names
