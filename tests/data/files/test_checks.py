"""Faults in the files of subjects: each is found and named, and with ``skip`` the rest of the cohort is prepared."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from menvae.data.cache import prepare as preparation
from menvae.data.cache.prepare import prepare
from menvae.data.files.checks import Finding, Volume, check_subject, inspect_file
from menvae.data.files.discovery import discover_subjects
from menvae.data.files.readers import NIFTI
from menvae.data.files.subjects import MODALITIES
from menvae.data.sources.brats import BratsSource
from menvae.data.sources.phantom import PhantomSource
from menvae.errors import UserError

REGIONS = {1: "ncr", 2: "ed", 3: "et"}
LPS = np.array([[-1.0, 0, 0, 8], [0, -1.0, 0, 8], [0, 0, 1.0, -8], [0, 0, 0, 1]])
SUFFIX = ".nii.gz"


def mask_voxels() -> NDArray[np.uint8]:
    """A lopsided tumour, so that no mirroring leaves its targets alone."""
    mask = np.zeros((16, 16, 16), np.uint8)
    mask[3:9, 4:12, 5:10] = 2
    mask[3:7, 5:10, 6:9] = 3
    mask[4:6, 6:9, 7:8] = 1
    return mask


def save(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64] = LPS) -> None:
    nibabel.save(nibabel.nifti1.Nifti1Image(voxels, affine), path)  # type: ignore[no-untyped-call, attr-defined]


def write(root: Path, subject_id: str) -> Path:
    """Write one sound subject; return its folder."""
    folder = root / subject_id
    folder.mkdir(parents=True)
    rng = np.random.default_rng(list(subject_id.encode()))
    for name in MODALITIES:
        save(folder / f"{subject_id}-{name}{SUFFIX}", rng.integers(0, 1000, (16, 16, 16)).astype(np.int16))
    save(folder / f"{subject_id}-seg{SUFFIX}", mask_voxels())
    return folder


def voxels_of(path: Path) -> NDArray[Any]:
    return np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]


Spoil = Callable[[Path], object]


def changed(change: Callable[[NDArray[Any]], NDArray[Any]], affine: NDArray[np.float64] = LPS) -> Spoil:
    return lambda path: save(path, change(voxels_of(path)), affine)


def with_voxel(value: float) -> Spoil:
    def put(voxels: NDArray[Any]) -> NDArray[Any]:
        voxels = voxels.astype(np.float32)
        voxels[0, 1, 2] = value
        return voxels

    return changed(put)


def relabelled(old: int, new: int) -> Spoil:
    return changed(lambda mask: np.where(mask == old, new, mask.astype(np.int16)))


def cut(num_bytes: int) -> Spoil:
    return lambda path: path.write_bytes(path.read_bytes()[:-num_bytes])


def unpacked(path: Path) -> Path:
    other = path.with_suffix("")
    other.write_bytes(gzip.decompress(path.read_bytes()))
    return other


def bare(path: Path, cut_by: int = 0) -> None:
    content = unpacked(path).read_bytes()
    path.unlink()
    path.with_suffix("").write_bytes(content[: len(content) - cut_by])


def flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unfetched(path: Path) -> None:
    path.unlink()
    path.symlink_to("../../.git/annex/objects/XX/YY/SHA256E-s2280000--0.nii.gz")


MOVED = LPS + np.array([[0.0, 0, 0, 3], [0, 0, 0, 4], [0, 0, 0, 0], [0, 0, 0, 0]])
SHEARED = LPS @ np.array([[1.0, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # by arctan 0.1
TURNED = LPS @ np.array([[1.0, -0.03, 0, 0], [0.03, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def flat(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[312:328] = bytes(16)  # srow_z, the third row of the affine
    path.write_bytes(gzip.compress(content))


FAULTS: dict[str, tuple[str, Spoil, str, str]] = {
    # kind: file, what is done to it, the problem and the remedy that are told
    "missing": ("t2f", Path.unlink, "is missing", "add it"),
    "no mask": ("seg", Path.unlink, "is missing", "add it"),
    "double": ("t1c", unpacked, r"and {id}-t1c\.nii both exist", "remove one"),
    "not fetched": (
        "t1c",
        unfetched,
        "is a link to a file that does not exist",
        r"fetch it \(git annex get, datalad get\)",
    ),
    "unlocked in git-annex": (
        "t1c",
        lambda path: path.write_bytes(b"/annex/objects/SHA256E-s2280000--0.nii.gz\n"),
        "is a pointer to a file that was not fetched",
        "git annex get",
    ),
    "in git LFS": (
        "t1c",
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "is a pointer to a file that was not fetched",
        "git lfs pull",
    ),
    "cut": ("t1n", cut(900), r"is truncated \(its gzip stream ends after \d+ bytes\)", "copy or download"),
    "cut by a byte": ("t1n", cut(1), r"is truncated \(its gzip stream ends", "copy or download"),
    "damaged": ("t2w", flipped_bit, r"is damaged \(.+\)", "copy or download"),
    "empty": ("t2w", lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)", "copy or download"),
    "not packed": (
        "t2w",
        lambda path: path.write_bytes(b"x" * 400),
        "is named .nii.gz but is not compr",
        r"rename it to \.nii",
    ),
    "no NIfTI": (
        "t2w",
        lambda path: path.write_bytes(gzip.compress(b"x" * 400)),
        r"cannot be read as a NIfTI volume \(data code 30840 not recognized\)",
        "copy or download",
    ),
    "cut inside": (
        "t1c",
        lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:1352])),
        r"is truncated \(only 1000 of 8192 bytes of voxel data\)",
        "copy or download",
    ),
    "two volumes": (
        "t1c",
        changed(lambda image: np.stack([image, image], -1)),
        r"has shape \[16, 16, 16, 2\]",
        "save a single",
    ),
    "colours": (
        "t1c",
        changed(lambda image: image.astype(np.complex64)),
        "has voxels of type complex64",
        "one real number",
    ),
    "sheared": (
        "t1c",
        changed(lambda image: image, SHEARED),
        r"has axes that are 5\.71 degrees away from orthogonal",
        "resample it to an orthogonal grid",
    ),
    "no size": ("t1c", flat, "has a singular or non-finite affine", "correct its header"),
    "shape": (
        "t2f",
        changed(lambda image: image[:, :12]),
        r"has \[16, 12, 16\] voxels along R, A, S, but {id}-t1c\.nii\.gz has \[16, 16, 16\]",
        r"resample it to the grid of {id}-t1c\.nii\.gz",
    ),
    "moved": (
        "t1c",
        changed(lambda image: image, MOVED),
        r"is not aligned with {id}-t1n\.nii\.gz \(corners are up to 5 mm apart\)",
        "or correct its header",
    ),
    "turned": (
        "seg",
        changed(lambda mask: mask, TURNED),
        r"corners are up to 0\.\d+ mm apart",
        "or correct its header",
    ),
    "nan": ("t1c", with_voxel(np.nan), "contains 1 voxel that is NaN, infinite or too large", "set such voxels to 0"),
    "infinite": ("t1c", with_voxel(np.inf), "contains 1 voxel that is NaN, infinite or", "set such voxels to 0"),
    "nan in mask": ("seg", with_voxel(np.nan), "contains 1 voxel that is NaN, infinite or", "recreate the mask"),
    "all 0": ("t2w", changed(np.zeros_like), r"is constant \(every voxel is 0\)", r"remove it from data\.modalities"),
    "constant": (
        "t2w",
        changed(lambda image: (image > 300).astype(np.uint8)),
        r"is constant \(every voxel is 0 or 1\)",
        "replace it",
    ),
    "ET is 4": ("seg", relabelled(3, 4), "contains label 4 in 54 voxels, which data", r"set data\.label_map\.et=4 if"),
    "cavity": (
        "seg",
        relabelled(1, 4),
        "contains label 4 in 6 voxels",
        "the resection cavity of BraTS 2024; set it to 0",
    ),
    "label 7": ("seg", relabelled(1, 7), "contains label 7 in 6 voxels", r"map it, for example .*et=\[3,7\], or set"),
    "label -1": ("seg", relabelled(1, -1), "contains label -1 in 6 voxels", "set it to 0 in the mask"),
    "two labels": ("seg", changed(lambda mask: mask * 3), "label 6 in .* and label 9 in 54 voxels", "map it"),
    "probabilities": (
        "seg",
        with_voxel(0.25),
        "contains 1 voxel with a non-integer label, such as 0.25",
        "nearest-neighbour",
    ),
    "an image": (
        "seg",
        changed(lambda mask: np.arange(4096).reshape(16, 16, 16).astype(np.int16)),
        "contains 4095 labels",
        "this looks like an image",
    ),
    "no tumour": ("seg", changed(np.zeros_like), r"is empty \(no voxel has a label\)", "segment the tumour"),
}


def findings(folder: Path) -> list[Finding]:
    (subject,) = discover_subjects(folder.parent, MODALITIES)
    files = {
        name: inspect_file(NIFTI, path, name, is_mask=name == "seg")
        for name, path in subject.files.items()
        if NIFTI.exists(path, name)
    }
    return check_subject(subject, files, REGIONS)


def test_a_sound_subject(tmp_path: Path) -> None:
    assert findings(write(tmp_path, "a")) == []


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_named(tmp_path: Path, kind: str) -> None:
    name, spoil, problem, remedy = FAULTS[kind]
    folder = write(tmp_path, "men-1")
    spoil(folder / f"men-1-{name}{SUFFIX}")
    (found,) = findings(folder)
    assert found.is_fault
    assert found.subject_id == "men-1"
    assert found.file.startswith(f"men-1-{name}.nii")
    problem, remedy = (words.replace("{id}", "men-1") for words in (problem, remedy))
    with pytest.raises(UserError, match=f"^subject 'men-1': men-1-{name}.nii.* ?{problem}.*: .*{remedy}"):
        raise UserError(str(found))


def test_all_faults_of_a_subject_are_found_together(tmp_path: Path) -> None:
    folder = write(tmp_path, "a")
    (folder / f"a-t1n{SUFFIX}").unlink()
    (folder / f"a-t2w{SUFFIX}").unlink()
    with_voxel(np.nan)(folder / f"a-t2f{SUFFIX}")
    with_voxel(0.5)(folder / f"a-seg{SUFFIX}")
    assert [(found.file, found.is_fault) for found in findings(folder)] == [
        ("a-t1n.nii.gz, a-t2w.nii.gz", True),
        ("a-t2f.nii.gz", True),
        ("a-seg.nii.gz", True),
    ]


def test_a_cut_file_that_is_not_packed(tmp_path: Path) -> None:
    folder = write(tmp_path, "a")
    bare(folder / f"a-t1c{SUFFIX}", cut_by=100)
    assert str(findings(folder)[0]).startswith("subject 'a': a-t1c.nii is truncated (only 8092 of 8192 bytes")


def test_float_masks_of_whole_labels_and_headers_without_orientation_are_notes(tmp_path: Path) -> None:
    folder = write(tmp_path, "a")
    changed(lambda mask: mask.astype(np.float64))(folder / f"a-seg{SUFFIX}")
    (note,) = findings(folder)
    assert (note.is_fault, note.problem) == (False, "stores integer labels as float64")
    image = nibabel.nifti1.Nifti1Image(mask_voxels(), None)  # type: ignore[no-untyped-call]
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    found = inspect_file(NIFTI, tmp_path / "a.nii", "seg", is_mask=True)
    assert isinstance(found, Volume)
    assert not found.is_oriented


@pytest.mark.parametrize(("shear_deg", "is_told"), [(0.4, False), (0.6, True)])
def test_axes_may_be_half_a_degree_off_right_angles(tmp_path: Path, shear_deg: float, is_told: bool) -> None:
    folder, affine = write(tmp_path, "a"), LPS.copy()
    affine[0, 2] = np.tan(np.radians(shear_deg))
    for name in (*MODALITIES, "seg"):
        changed(lambda voxels: voxels, affine)(folder / f"a-{name}{SUFFIX}")
    assert ["degrees away from orthogonal" in found.problem for found in findings(folder)] == [True] * 5 * is_told


def test_two_ways_to_write_an_affine_are_one_place(tmp_path: Path) -> None:
    folder = write(tmp_path, "a")
    nearly = LPS.copy()
    nearly[:3, 3] += 0.02
    changed(lambda image: image, nearly)(folder / f"a-t1c{SUFFIX}")
    changed(lambda image: image[..., None])(folder / f"a-t2f{SUFFIX}")  # an axis of length 1 more
    assert findings(folder) == []


@pytest.mark.parametrize("codes", ["RAS", "SLP", "PIR"])
def test_one_place_in_another_order_of_axes(tmp_path: Path, codes: str) -> None:
    folder = write(tmp_path, "a")
    for name in (*MODALITIES, "seg"):
        changed(lambda voxels: voxels[:, :14, :12])(folder / f"a-{name}{SUFFIX}")
    path = folder / f"a-t1n{SUFFIX}"
    image = nibabel.nifti1.Nifti1Image(voxels_of(path), LPS)  # type: ignore[no-untyped-call]
    axes = nibabel.orientations.axcodes2ornt(codes)  # type: ignore[no-untyped-call]
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(LPS), axes))  # type: ignore[no-untyped-call]
    nibabel.save(turned, path)  # type: ignore[attr-defined]
    assert findings(folder) == []


def source(root: Path, **settings: Any) -> BratsSource:
    return BratsSource(root=str(root), roi_size=(16, 16, 16), **settings)


def to_ras(path: Path) -> None:
    before = voxels_of(path)
    image = nibabel.nifti1.Nifti1Image(before, LPS)  # type: ignore[no-untyped-call]
    nibabel.save(nibabel.as_closest_canonical(image), path)  # type: ignore[attr-defined, no-untyped-call]
    assert np.array_equal(voxels_of(path), before[::-1, ::-1])


def test_a_mask_in_another_orientation_gives_the_same_targets(tmp_path: Path) -> None:
    write(tmp_path / "lps", "a")
    to_ras(write(tmp_path / "mixed", "a") / f"a-seg{SUFFIX}")
    bare(write(tmp_path / "bare", "a") / f"a-seg{SUFFIX}")
    first, *others = (
        prepare(source(tmp_path / name), tmp_path / "cache").subjects[0] for name in ("lps", "mixed", "bare")
    )
    assert first.features["loc_x"] != pytest.approx(0.5, abs=0.01)
    for other in others:
        assert dict(other.features) == pytest.approx(dict(first.features), abs=1e-6, nan_ok=True)
        assert dict(other.native_features) == pytest.approx(dict(first.native_features), abs=1e-6)
        assert np.array_equal(np.load(other.folder / "mask.npy"), np.load(first.folder / "mask.npy"))


GOOD = ["good-1", "good-2"]


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sound subjects, and one with each kind of fault."""
    root = tmp_path_factory.mktemp("corrupted")
    for subject_id in GOOD:
        write(root, subject_id)
    for kind, (name, spoil, _, _) in FAULTS.items():
        subject_id = kind.replace(" ", "_")
        spoil(write(root, subject_id) / f"{subject_id}-{name}{SUFFIX}")
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Shown:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}

    def __call__(self, items: Iterator[Any], description: str, total: int) -> Iterator[Any]:
        self.totals[description] = total
        return items


def test_every_subject_is_checked_before_the_first_is_prepared(
    corrupted: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = Shown()
    with pytest.raises(UserError) as refused:
        prepare(source(corrupted), cache, show=shown)
    assert shown.totals == {"checking": len(FAULTS) + 2}
    assert not (cache / "prepared").exists()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == len(FAULTS) - 3, "the message itself holds three"
    for kind in FAULTS:
        start = f"subject '{kind.replace(' ', '_')}': "
        assert (start in str(refused.value)) != any(line.startswith(start) for line in told), kind
    assert str(refused.value).startswith(f"data: {len(FAULTS)} of {len(FAULTS) + 2} subjects cannot be used: subject '")
    assert str(refused.value).endswith(
        f"; and {len(FAULTS) - 3} more findings, logged above; set data.on_error=skip to leave such subjects out"
    )


def test_other_names_beside_expected_ones_are_to_be_renamed(tmp_path: Path) -> None:
    write(tmp_path / "c", "a")
    for path in write(tmp_path / "c", "b").iterdir():
        path.rename(path.with_name(path.name.replace("-", "_")))
    for known in ([], [prepare(source(tmp_path / "c", on_error="skip"), tmp_path / "cache")]):
        with pytest.raises(UserError, match="rename existing files as those of the other subjects") as refused:
            prepare(source(tmp_path / "c"), tmp_path / ("cache" if known else "new"))
        assert "set data.file_names" not in str(refused.value)


def test_skip_prepares_the_rest_as_if_the_faulty_were_not_there(
    corrupted: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = Shown()
    cohort = prepare(source(corrupted, on_error="skip"), cache, show=shown)
    assert "preparing" in shown.totals
    assert [subject.subject_id for subject in cohort.subjects] == GOOD
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum(line.startswith("left out: subject '") for line in warned) == len(FAULTS)
    for subject_id in GOOD:
        (tmp_path / subject_id).symlink_to(corrupted / subject_id)
    assert prepare(source(tmp_path), cache).data_hash == cohort.data_hash


def test_what_was_read_once_is_not_read_again(corrupted: Path, cache: Path) -> None:
    shown = Shown()
    with pytest.raises(UserError, match="cannot be used"):
        prepare(source(corrupted, label_map={"ncr": 1, "ed": 2, "et": (3, 4)}), cache, show=shown)
    cohort = prepare(source(corrupted, on_error="skip"), cache, show=shown)
    assert shown.totals["checking"] == 1, "a link that leads nowhere may have been fetched since"
    assert [subject.subject_id for subject in cohort.subjects] == GOOD


def test_a_file_beside_a_prepared_subject_is_noticed(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", "a")
    prepare(source(tmp_path / "c"), tmp_path / "cache")
    unpacked(folder / f"a-t1c{SUFFIX}")
    with pytest.raises(UserError, match=r"1 of 1 subjects cannot be used: .*both exist: remove one of them$"):
        prepare(source(tmp_path / "c", on_error="skip"), tmp_path / "cache")


def test_notes_are_logged_once_for_all_alike(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "menvae")
    for subject_id in ("a", "b", "c"):
        changed(lambda mask: mask.astype(np.float32))(write(tmp_path / "c", subject_id) / f"{subject_id}-seg{SUFFIX}")
    assert len(prepare(source(tmp_path / "c"), tmp_path / "cache").subjects) == 3
    notes = [record.getMessage() for record in caplog.records if record.getMessage().startswith("note: ")]
    assert notes == [
        "note: subject 'a': a-seg.nii.gz stores integer labels as float32: no action is needed "
        "(and the same for 2 more files)"
    ]


def test_files_that_change_while_they_are_prepared_are_not_kept(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", "a")
    (subject,) = discover_subjects(folder.parent, MODALITIES)
    task = preparation._Task(subject, source(folder.parent).geometry, tmp_path, "key of other files")
    with pytest.raises(UserError, match="subject 'a': its files changed during preparation"):
        preparation._prepare_entry(task)


def test_phantoms_are_not_checked(tmp_path: Path) -> None:
    shown = Shown()
    prepare(PhantomSource(num_subjects=2, roi_size=(16, 16, 16), spacing_mm=(10.0,) * 3), tmp_path, show=shown)
    assert set(shown.totals) == {"making phantoms", "preparing"}


def test_a_label_of_phantoms_that_is_not_mapped_is_told(tmp_path: Path) -> None:
    labels = {"ncr": 1, "ed": 2, "et": 4}
    phantoms = PhantomSource(num_subjects=2, roi_size=(16, 16, 16), spacing_mm=(10.0,) * 3, label_map=labels)
    with pytest.raises(
        UserError, match=r"subject 'phantom-0000\d': its mask contains label 3: map it, for example with .*=\[4,3\]"
    ):
        prepare(phantoms, tmp_path)


def test_notes_on_files_of_prepared_subjects_are_told_again_where_all_are_wanted(tmp_path: Path) -> None:
    changed(lambda mask: mask.astype(np.float32))(write(tmp_path / "c", "a") / f"a-seg{SUFFIX}")
    first = prepare(source(tmp_path / "c"), tmp_path / "cache")
    assert [finding.file for finding in first.findings] == [f"a-seg{SUFFIX}"]
    again = prepare(source(tmp_path / "c"), tmp_path / "cache", all_notes=True)
    assert again == first
    assert prepare(source(tmp_path / "c"), tmp_path / "cache").findings == ()
