"""Which folders are visits, how their files are named, and who is a patient."""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from menvae.data.files.discovery import discover_subjects
from menvae.data.files.patients import PatientRule
from menvae.data.files.subjects import FILE_NAMES, MODALITIES
from menvae.data.sources.brats import BratsSource
from menvae.data.workers import unseen
from menvae.errors import UserError

OLDER = {"t1c": "_t1ce", "t1n": "_t1", "t2f": "_flair", "t2w": "_t2", "seg": "_seg"}
"""File names of BraTS up to 2021."""


def visit(path: Path, *kinds: str, stem: str | None = None) -> Path:
    """A folder that looks like a visit; of all kinds by default."""
    path.mkdir(parents=True, exist_ok=True)
    for kind in kinds or FILE_NAMES:
        (path / f"{path.name if stem is None else stem}-{kind}.nii.gz").touch()
    return path


def visits(root: Path, *paths: str) -> None:
    for path in paths:
        visit(root / path)


def found(root: Path, **keys: Any) -> dict[str, str]:
    """{subject: patient}."""
    return {s.subject_id: s.patient_id for s in BratsSource(root=str(root), **keys).subjects(root, unseen)}


# --- which folders are visits ---------------------------------------------------------------------------------------


def test_flat_nested_and_mixed_folders(tmp_path: Path) -> None:
    visits(tmp_path, "BraTS-MEN-00004-001", "BraTS-MEN-00004-000", "BraTS-GLI-00004-000", "TCGA-DU-7294", "x-001")
    visits(tmp_path, "anna/anna-0", "anna/anna-1", "BraTS-MEN-00004/extra", "anna/.hidden")
    (tmp_path / "anna" / "notes").mkdir()
    (tmp_path / "empty").mkdir()
    assert found(tmp_path) == {
        "BraTS-GLI-00004-000": "BraTS-GLI-00004",
        "BraTS-MEN-00004-000": "BraTS-MEN-00004",
        "BraTS-MEN-00004-001": "BraTS-MEN-00004",
        "TCGA-DU-7294": "TCGA-DU-7294",
        "anna-0": "anna",
        "anna-1": "anna",
        "extra": "BraTS-MEN-00004",
        "x-001": "x-001",
    }
    assert list(found(tmp_path)) == sorted(found(tmp_path))
    (nested,) = (s for s in discover_subjects(tmp_path, MODALITIES) if s.subject_id == "anna-1")
    assert nested.mask == tmp_path / "anna" / "anna-1" / "anna-1-seg.nii.gz"


def test_folders_above_visits_of_any_depth_only_group_them(tmp_path: Path) -> None:
    visits(tmp_path, "HGG/BraTS-GLI-00000-000", "LGG/BraTS-GLI-00001-000", "LGG/BraTS-GLI-00001-001", "HGG/P7")
    visits(tmp_path, "2024/part_2/data/BraTS-MEN-00002-000", "Training/sub-01/ses-01")
    assert found(tmp_path) == {
        "BraTS-GLI-00000-000": "BraTS-GLI-00000",
        "BraTS-GLI-00001-000": "BraTS-GLI-00001",
        "BraTS-GLI-00001-001": "BraTS-GLI-00001",
        "BraTS-MEN-00002-000": "BraTS-MEN-00002",
        "P7": "P7",
        "ses-01": "sub-01",
    }


def test_copies_beside_the_visits_are_no_data(tmp_path: Path) -> None:
    names = ["BraTS-MEN-00001-000", "BraTS-MEN-00002-000"]
    visits(tmp_path, *names, *(f"{beside}/{name}" for beside in ("__MACOSX", "derivatives/seg") for name in names))
    (tmp_path / "__MACOSX" / names[0] / f"._{names[0]}-t1c.nii.gz").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "._x.nii.gz").touch()
    assert list(found(tmp_path)) == names


@pytest.mark.parametrize("stray", [["brainmask.nii.gz"], ["P1-seg.nii"], ["P1-seg.nii.gz", "P1-t1c.nii.gz"]])
def test_a_volume_beside_visits_does_not_hide_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stray: list[str]
) -> None:
    visits(tmp_path, "P0/P0-0", "P1/P1-0", "P1/P1-1")
    for name in stray:
        (tmp_path / "P1" / name).touch()
    caplog.set_level(logging.INFO)
    assert found(tmp_path) == {"P0-0": "P0", "P1-0": "P1", "P1-1": "P1"}
    assert f"'{tmp_path / 'P1' / stray[0]}' is ignored, because it lies in a folder above visits" in caplog.text


def test_other_volumes_of_visits_are_mentioned_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    visits(tmp_path, "P0", "P1")
    for name in ("P0/P0-flair_old.nii.gz", "P1/brainmask.nii", "P1/x.nii.gz"):
        (tmp_path / name).touch()
    caplog.set_level(logging.INFO)
    found(tmp_path, modalities=("t1c",))  # the other modalities are known
    (line,) = (record.getMessage() for record in caplog.records if "is ignored" in record.getMessage())
    assert line == (
        f"data.root: '{tmp_path}/P0/P0-flair_old.nii.gz' is ignored, because it is not named as a file of its visit; "
        "set data.file_names if it is one (and the same for 2 more)"
    )


def test_folders_inside_a_visit_belong_to_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    visits(tmp_path, "a", "a/b")
    visit(tmp_path / "c", "t1c")  # no mask: a visit with a fault, which its own subfolder does not hide
    (tmp_path / "c" / "registered").mkdir()
    (tmp_path / "c" / "registered" / "x.nii.gz").touch()
    assert list(found(tmp_path)) == ["a", "c"]
    assert f"'{tmp_path / 'a' / 'b'}' is ignored, because it lies inside another visit" in caplog.text


def test_a_folder_of_misnamed_volumes_remains_a_visit_so_that_it_is_reported(tmp_path: Path) -> None:
    visits(tmp_path, "a")
    visit(tmp_path / "b", stem="old-name-of-b")
    assert list(found(tmp_path)) == ["a", "b"]


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    visits(tmp_path, "P0/P0-0")
    (tmp_path / "P0" / "again").symlink_to(tmp_path)
    assert list(found(tmp_path)) == ["P0-0"]


def test_a_link_to_a_visit_that_leads_nowhere_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    visits(tmp_path, "P0")
    (tmp_path / "P1").symlink_to(tmp_path / "elsewhere")
    assert list(found(tmp_path)) == ["P0"]
    assert f"'{tmp_path / 'P1'}' is ignored, because it is a link that leads nowhere" in caplog.text


def test_volumes_without_folders_are_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "a-t1c.nii.gz").touch()
    with pytest.raises(UserError, match=r"contains no subject folder; .*each visit needs a folder$"):
        found(tmp_path)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visits(tmp_path, "a")
    closed, scandir = tmp_path / "b", os.scandir
    closed.mkdir()

    def refused(path: Path) -> Any:
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)  # the superuser may read everything
    with pytest.raises(UserError, match=rf"^data.root: folder '{closed}' cannot be read: Permission denied$"):
        found(tmp_path)


# --- identifiers of visits ------------------------------------------------------------------------------------------


def test_sessions_of_equal_names_are_known_by_their_patients(tmp_path: Path) -> None:
    visits(tmp_path, "sub-00/ses-00", "sub-00/ses-01", "sub-01/ses-00", "Patient-001/week-000-1", "anna/anna-0", "x")
    assert found(tmp_path) == {
        "Patient-001_week-000-1": "Patient-001",
        "anna-0": "anna",
        "sub-00_ses-00": "sub-00",
        "sub-00_ses-01": "sub-00",
        "sub-01_ses-00": "sub-01",
        "x": "x",
    }


def test_two_visits_of_one_identifier_are_refused(tmp_path: Path) -> None:
    visits(tmp_path, "HGG/BraTS-GLI-00001-000", "LGG/BraTS-GLI-00001-000")
    first, second = (tmp_path / grade / "BraTS-GLI-00001-000" for grade in ("HGG", "LGG"))
    with pytest.raises(UserError, match=f"^data.root: '{first}' and '{second}' have the same name"):
        found(tmp_path)


# --- file names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "stem", "names"),
    [
        ("BraTS20_Training_001", "BraTS20_Training_001", OLDER),
        ("UCSF-PDGM-0004_nifti", "UCSF-PDGM-0004", {"t1c": "_T1c_bias", "seg": "_tumor_segmentation"}),
        ("PatientID_0003/Timepoint_1", "PatientID_0003_Timepoint_1", {"t1c": "_brain_t1c", "seg": "_tumorMask"}),
        ("sub-01/ses-02", "anat/sub-01_ses-02", {"t1c": "_ce-gd_T1w", "seg": "_dseg"}),
        ("sub-01", "anat/sub-01", {"t1c": "_ce-gd_T1w", "seg": "_dseg"}),
        ("Patient-001/week-000", "", {"t1c": "CT1", "seg": "mask"}),
    ],
)
def test_files_of_other_releases_need_no_new_names(
    tmp_path: Path, place: str, stem: str, names: dict[str, str]
) -> None:
    for kind in ("t1c", "seg"):
        path = tmp_path / place / f"{stem}{names[kind]}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    source = BratsSource(root=str(tmp_path), file_names=names, modalities=("t1c",))  # type: ignore[arg-type]
    (subject,) = source.subjects(tmp_path, unseen)
    assert subject.subject_id == Path(place).name
    assert subject.images == {"t1c": tmp_path / place / f"{stem}{names['t1c']}.nii.gz"}
    assert subject.mask == tmp_path / place / f"{stem}{names['seg']}.nii.gz"


def test_names_of_files_may_hold_a_date(tmp_path: Path) -> None:
    names = {"t1c": "_*_t1ce", "t1n": "_*_t1", "seg": "*_mask"}
    for name, date in (("sub1", "20200101"), ("sub2", "20210203")):
        (tmp_path / name).mkdir()
        for ending in ("t1ce", "t1", "mask"):
            (tmp_path / name / f"{name}_{date}_{ending}.nii.gz").touch()
    source = BratsSource(root=str(tmp_path), file_names=names, modalities=("t1c", "t1n"))  # type: ignore[arg-type]
    first, second = source.subjects(tmp_path, unseen)
    assert first.images == {
        "t1c": tmp_path / "sub1" / "sub1_20200101_t1ce.nii.gz",
        "t1n": tmp_path / "sub1" / "sub1_20200101_t1.nii.gz",
    }
    assert second.mask == tmp_path / "sub2" / "sub2_20210203_mask.nii.gz"
    assert not first.doubles
    (tmp_path / "sub1" / "sub1_20220101_t1.nii.gz").touch()
    assert source.subjects(tmp_path, unseen)[0].doubles == (
        (tmp_path / "sub1" / "sub1_20200101_t1.nii.gz", tmp_path / "sub1" / "sub1_20220101_t1.nii.gz"),
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"t1c": "_*"}, r"data\.file_names\.t1c: '_\*' is not an ending"),
        ({"t1c": "_t1ce.nii.gz"}, r"data\.file_names\.t1c: '_t1ce\.nii\.gz' must be given without \.nii\.gz"),
        ({"seg": "../seg"}, r"data\.file_names\.seg: '\.\./seg' is not an ending"),
        ({"seg": ""}, r"data\.file_names\.seg: '' is not an ending"),
        ({"t1c": "_t1", "t1n": "_t1"}, r"data\.file_names: '_t1' cannot be both t1c and t1n"),
    ],
)
def test_file_names_that_cannot_be_used_are_refused(names: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        BratsSource(root="/nowhere", file_names=names)  # type: ignore[arg-type]


def test_default_file_names_are_no_part_of_the_configuration() -> None:
    default = {"name": "brats", "root": "/data"}
    assert BratsSource.canonical({**default, "file_names": dict(FILE_NAMES)}) == default
    assert BratsSource.canonical({**default, "file_names": OLDER}) != default


# --- patients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "patient"),
    [
        (["BraTS-MEN-00004-001", "BraTS-MEN-00004-000"], "BraTS-MEN-00004"),
        (["BraTS-MEN-RT-0001-1", "BraTS-MEN-RT-0001-2"], "BraTS-MEN-RT-0001"),
        (["UPENN-GBM-00001_11", "UPENN-GBM-00001_21"], "UPENN-GBM-00001"),
        (["UCSF-PDGM-0409", "UCSF-PDGM-0409_FU001d", "UCSF-PDGM-0409_FU001d_nifti"], "UCSF-PDGM-0409"),
        (["UCSD-PTGBM-0001_01", "UCSD-PTGBM-0001_02"], "UCSD-PTGBM-0001"),
        (["case001_v1", "case001_v2"], "case001"),
        (["sub-01_ses-01", "sub-01_ses-02"], "sub-01"),
        (["Patient-001_week-000-1", "Patient-001_week-044"], "Patient-001"),
        (["BraTS20_Training_001"], "BraTS20_Training_001"),
        (["BraTS2021_00000"], "BraTS2021_00000"),
        (["Brats18_TCIA01_001_1"], "Brats18_TCIA01_001_1"),
        (["BraTS19_CBICA_AAB_1"], "BraTS19_CBICA_AAB_1"),
        (["brats_tcia_pat153_0002", "brats_tcia_pat153_0109"], "brats_tcia_pat153"),
        (["TCGA-02-0003", "TCGA-02-0003_1996.06.08", "TCGA-02-0003-pre"], "TCGA-02-0003"),
        (["brats-men-00004-000", "brats-men-00004-001"], "brats-men-00004"),
        (["BraTS_MET_00004_000", "BraTS_MET_00004_001"], "BraTS_MET_00004"),
        (["ucsf-pdgm-0409", "ucsf-pdgm-0409_FU001d"], "ucsf-pdgm-0409"),
    ],
)
def test_names_of_public_cohorts_are_known(tmp_path: Path, names: list[str], patient: str) -> None:
    visits(tmp_path, *names)
    assert found(tmp_path) == dict.fromkeys(names, patient)


def test_the_pattern_is_for_whole_names_or_paths(tmp_path: Path) -> None:
    visits(tmp_path, "x-001", "x-002", "x-001-b", "y")
    assert list(found(tmp_path, patient_pattern=r"(\w)-\d+").values()) == ["x", "x-001-b", "x", "y"]
    assert list(found(tmp_path, patient_pattern=r"(?:(\w)-\d+)?.*").values()) == ["x", "x", "x", "y"]
    visits(tmp_path, "site/z/s1")
    assert found(tmp_path, patient_pattern=r".+/([^/]+)/[^/]+")["s1"] == "z"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(BraTS", r"data\.patient_pattern: '\(BraTS' is not a valid regular expression: missing \)"),
        (
            r"BraTS-\d+",
            r"data\.patient_pattern: 'BraTS-\\d\+' has no group; put the patient's part .*, such as \(BraTS",
        ),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        BratsSource(root="/nowhere", patient_pattern=pattern)


@pytest.mark.parametrize(
    ("names", "patient", "other"),
    [
        (("P1_1", "P1_2", "P2_1"), "P1", "P2"),
        (("P1a", "P1b", "P2a"), "P1", "P2"),
        (("anna-post", "anna-pre", "eve-pre"), "anna", "eve"),
        (("YG_01_2010-05-01", "YG_01_2011-06-02", "YG_02_2010-05-01"), "YG_01", "YG_02"),
        (("P1-week-000-1", "P1-week-044-1", "P2-week-000-1"), "P1", "P2"),
    ],
)
def test_names_that_look_like_visits_of_one_patient_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...], patient: str, other: str
) -> None:
    visits(tmp_path, *names)
    assert found(tmp_path) == dict(zip(names, names, strict=True))
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "no pattern matches 2 names of visits that differ from others in their last part only" in warning
    advised = re.search("set a pattern such as '(.+)', otherwise", warning)
    assert advised is not None
    patients = found(tmp_path, patient_pattern=advised.group(1))
    assert list(patients.values()) == [patient, patient, other]
    caplog.clear()
    found(tmp_path, patient_pattern="(.+)")
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_numbers_in_a_cohort_are_no_visits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    visits(tmp_path, "men-001", "men-002", "men-003", "TCGA-DU-7294", "TCGA-DU-7295", "BraTS2021_00000")
    found(tmp_path)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_a_folder_that_may_be_a_patient_or_a_group_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    visits(tmp_path, "alpha/P01", "alpha/P02", "beta/P03")
    assert found(tmp_path) == {"P01": "alpha", "P02": "alpha", "P03": "beta"}
    assert "are taken for patients (1 in all, such as 'alpha' (2 visits))" in caplog.text
    caplog.clear()
    assert found(tmp_path, patient_pattern="(.+)") == {name: name for name in ("P01", "P02", "P03")}
    assert found(tmp_path, patient_pattern="(?:.+/)?([^/]+)/[^/]+")["P02"] == "alpha"
    assert "taken for patients" not in caplog.text


@pytest.mark.parametrize("name", ["001", "anna"])
def test_a_folder_without_a_number_may_be_a_hospital(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    visits(tmp_path, f"Bern/{name}", "Bern/002", "Basel/003")
    found(tmp_path)
    assert "are taken for patients (1 in all, such as 'Bern' (2 visits))" in caplog.text


@pytest.mark.parametrize("group", ["GBM", "Meningiomas", "grade2", "WHO-II", "Hospital_A"])
def test_diagnoses_grades_and_hospitals_are_groups(tmp_path: Path, group: str) -> None:
    visits(tmp_path, f"{group}/001", f"{group}/002")
    assert found(tmp_path) == {"001": "001", "002": "002"}


def test_patients_in_folders_of_visits(tmp_path: Path) -> None:
    """A pattern, such as that of the warning, need not make names of visits unique."""
    visits(tmp_path, "baseline/P1", "baseline/P2", "followup/P1")
    patients = {"baseline_P1": "P1", "baseline_P2": "P2", "followup_P1": "P1"}
    assert found(tmp_path, patient_pattern="(.+)") == patients
    visits(tmp_path / "sessions", "anna/ses-0", "eve/ses-0")
    paths = found(tmp_path / "sessions", patient_pattern="(?:.+/)?([^/]+)/[^/]+")
    assert paths == {"anna_ses-0": "anna", "eve_ses-0": "eve"}


def test_the_rule_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    visits(tmp_path, *(f"UPENN-GBM-0000{patient}_{number}1" for patient in range(2) for number in (1, 2)))
    found(tmp_path)
    assert (
        "4 visits of 2 patients, by the built-in names of public cohorts; first two: UPENN-GBM-00000 (_11, _21), "
        "UPENN-GBM-00001 (_11, _21)"
    ) in caplog.text


@pytest.mark.parametrize(
    ("names", "pattern", "how"),
    [
        (["x-1", "x-2", "y-1"], r"(\w)-\d", "3 visits of 2 patients, by data.patient_pattern; "),
        (["a/ses-1", "a/ses-2", "b/ses-1"], None, "3 visits of 2 patients, by folders of patients; "),
        (["sub-1/ses-1", "sub-1/ses-2", "sub-2/ses-1"], None, "3 visits of 2 patients, by folders of patients; "),
        (["anna", "eve"], None, "one per visit (the built-in names of public cohorts match no name); "),
        (["anna", "eve"], r"(\w)-\d", "one per visit (data.patient_pattern matches no name); "),
        (["anna", "eve"], r"(\w)/\d", "one per visit (data.patient_pattern matches no name); "),
        (
            ["sub-1/ses-1", "UPENN-GBM-00001_11", "UPENN-GBM-00001_21", "anna"],
            None,
            "by the built-in names of public cohorts (2 visits) and by folders of patients (1 visit) and one per visit "
            "(1 visit); ",
        ),
    ],
)
def test_what_identified_the_patients_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str], pattern: str | None, how: str
) -> None:
    caplog.set_level(logging.INFO)
    visits(tmp_path, *names)
    found(tmp_path, patient_pattern=pattern)
    assert how in caplog.text


def test_patients_of_a_table_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    visits(tmp_path / "data", "u", "v", "w")
    (tmp_path / "dates.csv").write_text("subject_id,days,patient_id\nu,0,P\nv,9,P\nw,0,\n")
    assert found(tmp_path / "data", dates=str(tmp_path / "dates.csv")) == {"u": "P", "v": "P", "w": "w"}
    assert "3 visits of 2 patients, by data.dates (2 visits) and one per visit (1 visit); " in caplog.text


@pytest.mark.parametrize("patient", ["Test-001", "train_012", "Train001", "Group-001", "image_007"])
def test_a_numbered_patient_is_no_group(tmp_path: Path, patient: str) -> None:
    visits(tmp_path, f"{patient}/ses-1", f"{patient}/ses-2")
    assert found(tmp_path) == {"ses-1": patient, "ses-2": patient}


@pytest.mark.parametrize("group", ["Test", "train2", "Training_2020", "BraTS-2021-Training_Data", "set-1", "site-001"])
def test_splits_parts_and_sites_are_groups(tmp_path: Path, group: str) -> None:
    visits(tmp_path, f"{group}/001", f"{group}/002")
    assert found(tmp_path) == {"001": "001", "002": "002"}


def test_the_folder_of_a_patient_is_found_below_groups() -> None:
    patient = PatientRule().patient_of(Path("/root/part1/sub-01/ses-01"), Path("/root"))
    assert (patient.patient_id, patient.name_of_visit("ses-01"), patient.is_guess) == ("sub-01", "sub-01_ses-01", False)
