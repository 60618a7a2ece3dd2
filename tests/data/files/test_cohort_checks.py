"""Image, mask and cohort looked at together: backgrounds, places of tumours, copies, labels, headers."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from menvae.data.batches.cohort_splits import split_cohort
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import find_prepared, prepare
from menvae.data.files.checks import background_of
from menvae.data.files.subjects import MODALITIES
from menvae.data.masks.parts import second_part
from menvae.data.sources.brats import BratsSource
from menvae.errors import UserError

AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])
SHAPE = (20, 22, 18)
Change = Callable[[Any, str], Any]


def ball(radius: float, centre: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Voxels of a ball, in voxels."""
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    return np.asarray(((places - np.array(centre)) ** 2).sum(-1) < radius**2)


BRAIN = ball(8.0, (9.5, 10.5, 8.5))
TUMOUR = ball(3.0, (7.0, 11.0, 9.0))


def image(seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return np.where(BRAIN, random.normal(300.0, 40.0, SHAPE), 0).astype(np.float32)


def as_is(one: Any, name: str) -> Any:
    return one


def subject(root: Path, name: str, seed: int, change: Change = as_is) -> None:
    """Write a skull-stripped head of 8 mm voxels with a tumour of label 3."""
    folder = root / name
    folder.mkdir(parents=True)
    for number, modality in enumerate((*MODALITIES, "seg")):
        voxels = TUMOUR.astype(np.uint8) * np.uint8(3) if modality == "seg" else image(10 * seed + number)
        made = nibabel.nifti1.Nifti1Image(voxels, AFFINE)  # type: ignore[no-untyped-call]
        nibabel.save(change(made, modality), folder / f"{name}-{modality}.nii.gz")  # type: ignore[attr-defined]


def source(root: Path, **keys: Any) -> BratsSource:
    return BratsSource(root=str(root), **{"roi_size": (16, 16, 16), "spacing_mm": (8.0, 8.0, 8.0), **keys})


def prepared(root: Path, **keys: Any) -> Cohort:
    return prepare(source(root, **keys), root.parent / "cache", 1)


def with_voxels(one: Any, voxels: NDArray[Any]) -> Any:
    return nibabel.nifti1.Nifti1Image(voxels, one.affine)  # type: ignore[no-untyped-call]


# --- background -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [-1024.0, -0.4321, 7.0, 1e-12])
@pytest.mark.parametrize("margin", [0, 3], ids=["everywhere", "inside a margin of zeros"])
def test_a_constant_background_is_found(background: float, margin: int) -> None:
    voxels = np.pad(np.where(BRAIN, image(0), np.float32(background)), margin)
    assert background_of(voxels) == pytest.approx(background, rel=1e-6)
    assert background_of(np.asfortranarray(voxels)[::-1]) == pytest.approx(background, rel=1e-6)


def test_a_rim_around_a_background_of_0_is_no_brain_either() -> None:
    """Padding by -1000 would count as brain, so it is refused like a background; the sentence names both."""
    padded = np.pad(image(0), 5, constant_values=-1000.0)
    assert background_of(padded) == -1000.0
    assert background_of(np.pad(image(0), 5)) == 0.0


def test_brains_and_noise_are_no_background() -> None:
    random = np.random.default_rng(0)
    assert background_of(image(0)) == 0.0
    assert background_of(image(0)[4:16, 4:18, 4:14]) == 0.0, "the brain fills the image"
    assert background_of(np.where(BRAIN, image(0), random.rayleigh(2.0, SHAPE))) == 0.0
    assert background_of(np.where(BRAIN, image(0), random.poisson(0.5, SHAPE)).astype(np.int16)) == 0.0
    assert background_of(np.zeros((20, 3, 20), np.uint8)) == 0.0


def test_a_background_is_told_instead_of_the_box(tmp_path: Path) -> None:
    def padded(one: Any, name: str) -> Any:
        voxels = np.asarray(one.dataobj)
        return with_voxels(one, np.where(BRAIN, voxels, np.float32(-1024))) if name == "t1c" else one

    subject(tmp_path / "c", "a", 0, padded)
    with pytest.raises(
        UserError, match=r"'a': a-t1c\.nii\.gz has a constant background or rim of -1024, .*: set it to 0"
    ):
        prepared(tmp_path / "c")


# --- a tumour that its images do not show ---------------------------------------------------------------------------


def test_a_tumour_where_every_image_is_0(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    half = np.zeros(SHAPE, np.bool_)
    half[:, 11:] = True  # 11 of the 22 rows: those of the centre of the tumour, and behind

    def stripped(one: Any, name: str) -> Any:
        voxels = np.asarray(one.dataobj)
        return one if name == "seg" else with_voxels(one, np.where(TUMOUR & half, np.float32(0), voxels))

    subject(tmp_path / "c", "a", 0, stripped)
    subject(tmp_path / "c", "b", 1)
    first, second = prepared(tmp_path / "c").subjects
    share = (TUMOUR & half).sum() / TUMOUR.sum()
    assert (first.box.tumour_off_brain, second.box.tumour_off_brain) == (pytest.approx(share), 0.0)
    assert f"subject 'a': the mask has {100 * share:.3g} % of the tumour where every image is 0" in caplog.text


def test_a_mask_beside_the_head_is_not_told_to_enlarge_the_box(tmp_path: Path) -> None:
    def moved(one: Any, name: str) -> Any:
        return with_voxels(one, np.roll(np.asarray(one.dataobj), (10, 11, 9), (0, 1, 2))) if name == "seg" else one

    subject(tmp_path / "c", "a", 0, moved)
    with pytest.raises(UserError, match=r"holds .* % of the tumour: look whether skull stripping removed the tumour"):
        prepared(tmp_path / "c", roi_size=(8, 8, 8), refuse_below={"tumour": 1.0})


# --- lesions --------------------------------------------------------------------------------------------------------


def test_two_lesions_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = ball(2.0, (13.0, 11.0, 9.0))
    assert not (other & TUMOUR).any()

    def two(one: Any, name: str) -> Any:
        return with_voxels(one, (TUMOUR | other).astype(np.uint8)) if name == "seg" else one

    subject(tmp_path / "c", "a", 0, two)
    (found,) = prepared(tmp_path / "c").subjects
    assert found.box.second_lesion == pytest.approx(other.sum() / (other | TUMOUR).sum())
    assert "subject 'a': the mask has separate lesions" in caplog.text


def test_the_second_part_of_a_long_tumour() -> None:
    tumour = np.zeros((150, 20, 20), np.bool_)
    tumour[:90], tumour[120:] = True, True
    assert second_part(tumour) == 30 / 120
    tumour[90:120, 10, 10] = True  # a bridge of one voxel
    assert second_part(tumour) == 0.0
    assert second_part(np.zeros((0, 4, 4), np.bool_)) == 0.0


# --- copies ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight subjects; each even one has all files of the next, except for 4, which shares only t2w with 5."""
    root = tmp_path_factory.mktemp("copies") / "c"
    for index in range(8):
        subject(root, f"s{index}", index // 2 if index not in (4, 5) else index)
    shared = (root / "s5" / "s5-t2w.nii.gz").read_bytes()
    (root / "s4" / "s4-t2w.nii").write_bytes(gzip.decompress(shared))  # not compressed
    (root / "s4" / "s4-t2w.nii.gz").unlink()
    return root


def test_subjects_with_the_same_images_are_one_patient(copies: Path, caplog: pytest.LogCaptureFixture) -> None:
    cohort = prepared(copies)
    assert [(one.subject_id, one.patient_id, one.same_images) for one in cohort.subjects] == [
        (f"s{index}", f"s{index - index % 2}", (f"s{index + 1 - 2 * (index % 2)}",)) for index in range(8)
    ]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    line, _ = warned  # all masks are the same, too
    assert line.startswith("data: 8 subjects have the same images as another: 's0' and 's1'; 's2' and 's3'; ")
    assert "; and 1 more group; they" in line
    for seed in range(5):
        splits = split_cohort(cohort, 0.25, 0.25, seed)
        assert all(splits[f"s{index}"] == splits[f"s{index + 1}"] for index in range(0, 8, 2))
    assert find_prepared(source(copies), copies.parent / "cache") == cohort


def test_copies_join_all_visits_of_their_patients(copies: Path, tmp_path: Path) -> None:
    dates = tmp_path / "dates.csv"
    rows = "".join(f"s{index},{patient},{index}\n" for index, patient in enumerate("abbccdef"))
    dates.write_text(f"subject_id,patient_id,days\n{rows}")
    cohort = prepared(copies, dates=str(dates))
    assert [one.patient_id for one in cohort.subjects] == ["a", "a", "a", "a", "a", "a", "e", "e"]


def test_a_subject_without_a_copy_keeps_its_patient(copies: Path, tmp_path: Path) -> None:
    for name in ("s0", "s2"):
        (tmp_path / "c").mkdir(exist_ok=True)
        (tmp_path / "c" / name).symlink_to(copies / name)
    (alone,) = [one for one in prepared(tmp_path / "c").subjects if one.subject_id == "s0"]
    assert (alone.patient_id, alone.same_images) == ("s0", ())


def test_a_mask_copied_from_another_subject_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def other_tumour(one: Any, name: str) -> Any:
        return with_voxels(one, 3 * ball(3.5, (12.0, 9.0, 8.0)).astype(np.uint8)) if name == "seg" else one

    subject(tmp_path / "c", "a", 1)
    subject(tmp_path / "c", "b", 2)
    subject(tmp_path / "c", "d", 3, other_tumour)
    cohort = prepared(tmp_path / "c")
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line == (
        "data: 2 subjects have the same mask as another, but other images: 'a' and 'b'; "
        "correct the mask that was copied"
    )
    assert [one.patient_id for one in cohort.subjects] == ["a", "b", "d"]


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "float32"])
def test_labels_that_a_scale_factor_or_float32_rounded(tmp_path: Path, kind: str) -> None:
    whole = np.where(TUMOUR, 1 + np.arange(SHAPE[2]) % 3, 0)

    def labels(one: Any, name: str) -> Any:
        return with_voxels(one, whole.astype(np.uint8)) if name == "seg" else one

    def rounded(one: Any, name: str) -> Any:
        if name != "seg":
            return one
        if kind == "float32":
            return with_voxels(one, (whole * np.float32(1.0000001)).astype(np.float32))
        saved = with_voxels(one, whole.astype(np.float64))
        saved.set_data_dtype(np.dtype(kind))  # nibabel then saves a scale factor
        return saved

    subject(tmp_path / "whole" / "c", "a", 0, labels)
    subject(tmp_path / "rounded" / "c", "a", 0, rounded)
    read = nibabel.load(tmp_path / "rounded/c/a/a-seg.nii.gz").get_fdata()  # type: ignore[attr-defined]
    assert not np.array_equal(read, whole), "the file has what this test is about"
    (expected,), (found,) = (prepared(tmp_path / name / "c").subjects for name in ("whole", "rounded"))
    assert found.features == expected.features
    np.testing.assert_array_equal(found.load().mask, expected.load().mask)


def test_masks_of_one_label_are_warned_about_and_can_be_mapped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def one_label(one: Any, name: str) -> Any:
        return with_voxels(one, TUMOUR.astype(np.uint8)) if name == "seg" else one

    for index in range(2):
        subject(tmp_path / "c", f"s{index}", index, one_label)
    prepared(tmp_path / "c")
    assert "label 1, the only one in all 2 masks, is mapped to ncr; if" in caplog.text
    assert "set '~data.label_map.ncr' data.label_map.et=1" in caplog.text
    caplog.clear()
    (first, _) = prepared(tmp_path / "c", label_map={"ed": 2, "et": 1}).subjects
    assert "the only one in all" not in caplog.text
    assert first.features["vol_et"] == pytest.approx(np.log(512.0 * TUMOUR.sum() + 1))
    assert first.features["vol_ncr"] is None


@pytest.mark.parametrize(("changed", "unset"), [({"et": 1}, "ncr"), ({"ncr": 3}, "et"), ({"ed": (2, 3)}, "et")])
def test_two_regions_of_one_label_say_which_to_remove(changed: dict[str, Any], unset: str) -> None:
    with pytest.raises(UserError, match=rf"cannot be both .* remove it with ~data\.label_map\.{unset}$"):
        BratsSource(root="nowhere", label_map={"ncr": 1, "ed": 2, "et": 3, **changed})


# --- headers --------------------------------------------------------------------------------------------------------


def in_units(unit: str, factor: float) -> Change:
    def change(one: Any, name: str) -> Any:
        affine = one.affine.copy()
        affine[:3] *= factor
        made = nibabel.nifti1.Nifti1Image(np.asarray(one.dataobj), affine)  # type: ignore[no-untyped-call]
        made.header.set_xyzt_units(unit, "sec")
        return made

    return change


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1000.0), ("meter", 0.001), ("unknown", 1.0)])
def test_lengths_are_in_the_unit_of_the_header(tmp_path: Path, unit: str, factor: float) -> None:
    subject(tmp_path / "mm" / "c", "a", 0, in_units("mm", 1.0))
    subject(tmp_path / "other" / "c", "a", 0, in_units(unit, factor))
    (expected,), (found,) = (prepared(tmp_path / name / "c").subjects for name in ("mm", "other"))
    assert expected.features["vol_total"] == pytest.approx(np.log(512.0 * TUMOUR.sum() + 1))
    assert found.features == {
        name: None if value is None else pytest.approx(value, rel=1e-5) for name, value in expected.features.items()
    }
    assert found.spacing_mm == pytest.approx((8.0, 8.0, 8.0))


@pytest.mark.parametrize(
    ("unit", "factor", "words"),
    [("mm", 1000.0, ": correct"), ("meter", 1.0, r" \(.* metres in xyzt"), ("micron", 1.0, " .* micrometres in xyzt")],
)
def test_an_implausible_extent_names_its_subject_and_can_be_skipped(
    tmp_path: Path, unit: str, factor: float, words: str
) -> None:
    subject(tmp_path / "c", "bad", 0, in_units(unit, factor))
    subject(tmp_path / "c", "good", 1)
    with pytest.raises(
        UserError, match=rf"'bad': bad-t1c.nii.gz \(and 1 more file\) has an implausible extent of .* mm{words}"
    ):
        prepared(tmp_path / "c", modalities=("t1c",))
    assert [one.subject_id for one in prepared(tmp_path / "c", on_error="skip").subjects] == ["good"]


def test_an_extent_unlike_that_of_the_cohort_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(3):
        subject(tmp_path / "c", f"s{index}", index, in_units("mm", 0.1 if index == 1 else 1.0))
    prepared(tmp_path / "c", box="resize", spacing_mm=None)
    assert "subject 's1': its longest side measures 17.6 mm, but 176 mm is the median of the cohort" in caplog.text
    assert caplog.text.count("is the median of the cohort") == 1


def two_forms(qform: NDArray[np.float64], sform: NDArray[np.float64]) -> Callable[[Any], Any]:
    def change(one: Any) -> Any:
        one.header.set_qform(qform, 1)
        one.header.set_sform(sform, 4)
        return nibabel.nifti1.Nifti1Image(np.asarray(one.dataobj), None, one.header)  # type: ignore[no-untyped-call]

    return change


def test_a_mask_with_only_the_qform_of_its_images_is_to_copy_their_header(tmp_path: Path) -> None:
    atlas = AFFINE.copy()
    atlas[:3, 3] += [6.0, 8.0, 0.0]

    def as_simpleitk_saves(one: Any, name: str) -> Any:
        return two_forms(AFFINE, AFFINE if name == "seg" else atlas)(one)

    subject(tmp_path / "c", "a", 0, as_simpleitk_saves)
    with pytest.raises(UserError) as told:
        prepared(tmp_path / "c")
    assert "a-seg.nii.gz is not aligned with a-t1c.nii.gz (corners are up to 10 mm apart): copy the header of" in str(
        told.value
    )
    assert "resample it to the grid" not in str(told.value)
