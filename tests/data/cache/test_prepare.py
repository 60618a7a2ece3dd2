"""From NIfTI files to the cache: geometry, intensities, labels, splits, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from menvae.data.cache.prepare import prepare
from menvae.data.cache.storage import StoredSubject, stored
from menvae.data.phantom.head import MODALITIES, phantom_subject, write_subject
from menvae.data.sources.brats import BratsSource
from menvae.errors import UserError
from menvae.types import Intensities

SPACING = (10.0, 10.0, 10.0)
Change = Callable[[Any, str], Any]


def cohort(root: Path, change: Change | None = None, **settings: Any) -> BratsSource:
    """One phantom as a BraTS folder, its files changed by ``change(image, name)``."""
    folder = write_subject(phantom_subject(0, 3, SPACING), root)
    for path in folder.iterdir() if change else ():
        assert change is not None
        image = nibabel.load(path)  # type: ignore[attr-defined]
        nibabel.save(change(image, path.name.split("-")[-1].split(".")[0]), path)  # type: ignore[attr-defined]
    return BratsSource(
        **{"root": str(root), "roi_size": (16, 16, 32), "spacing_mm": SPACING, "box": "center", **settings}
    )


def z_scores(subject: StoredSubject) -> NDArray[np.float32]:
    scale = Intensities(torch.tensor([subject.mean]), torch.tensor([subject.sd]))
    return scale.z_scores(torch.from_numpy(subject.image)[None])[0].numpy()


def arrays(source: BratsSource, cache: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8], dict[str, float | None]]:
    (subject,) = prepare(source, cache).subjects
    return z_scores(subject.load()), subject.load().mask, dict(subject.features)


def test_box_labels_and_intensities(tmp_path: Path) -> None:
    subject = phantom_subject(0, 3, SPACING)
    image, mask, _ = arrays(cohort(tmp_path / "c"), tmp_path / "cache")
    assert image.shape == (4, 16, 16, 32)
    inside = (slice(2, 18), slice(2, 18), slice(None))  # 20 voxels to 16; 20 to 32 with 6 of padding on each side
    assert np.array_equal(mask[..., 6:26], subject.mask[inside])
    for channel, name in enumerate(MODALITIES):
        raw = subject.images[name][inside].astype(np.float64)
        head = raw > 0
        expected = np.where(head, (raw - raw[head].mean()) / raw[head].std(), 0.0)
        np.testing.assert_allclose(image[channel, ..., 6:26], expected, atol=1e-4)
        assert not image[channel, ..., :6].any()
        assert not image[channel, ..., 26:].any()


def test_another_orientation_on_disk_is_the_same_subject(tmp_path: Path) -> None:
    def to_lps(image: Any, name: str) -> Any:
        codes = nibabel.orientations.axcodes2ornt(("L", "P", "S"))  # type: ignore[no-untyped-call]
        return image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), codes))  # type: ignore[no-untyped-call]

    first = arrays(cohort(tmp_path / "ras"), tmp_path / "cache")
    second = arrays(cohort(tmp_path / "lps", to_lps), tmp_path / "cache")
    np.testing.assert_allclose(first[0], second[0], atol=1e-5)
    assert np.array_equal(first[1], second[1])
    assert first[2] == pytest.approx(second[2], abs=1e-6)


def et_is_4(image: Any, name: str) -> Any:
    if name != "seg":
        return image
    labels = np.asarray(image.dataobj)
    return nibabel.nifti1.Nifti1Image(np.where(labels == 3, 4, labels).astype(np.uint8), image.affine)  # type: ignore[no-untyped-call]


def test_a_label_that_is_not_mapped_names_subject_and_value(tmp_path: Path) -> None:
    source = cohort(tmp_path / "old", et_is_4)
    with pytest.raises(UserError, match=r"subject 'phantom-00003': .*-seg\.nii\.gz contains label 4 .*label_map\.et=4"):
        prepare(source, tmp_path / "cache")


def test_label_map_brings_older_releases_to_the_same_regions(tmp_path: Path) -> None:
    reference = arrays(cohort(tmp_path / "new"), tmp_path / "cache")
    for et in (4, (3, 4)):
        source = cohort(tmp_path / f"old{et}", et_is_4, label_map={"ncr": 1, "ed": 2, "et": et})
        assert np.array_equal(arrays(source, tmp_path / "cache")[1], reference[1])


def test_a_label_of_two_regions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.label_map: 3 cannot be both ed and et"):
        BratsSource(root=str(tmp_path), label_map={"ncr": 1, "ed": (2, 3), "et": 3})


def test_what_is_prepared_once_is_not_prepared_again(tmp_path: Path) -> None:
    source = cohort(tmp_path / "c")
    first = prepare(source, tmp_path / "cache")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    second = prepare(source, tmp_path / "cache")
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    assert first.data_hash == second.data_hash


def test_a_changed_file_is_prepared_again(tmp_path: Path) -> None:
    def brighter(image: Any, name: str) -> Any:
        voxels = np.asarray(image.dataobj).copy()
        if name == "t1c":
            voxels[10, 10, 10] += 500
        return nibabel.nifti1.Nifti1Image(voxels, image.affine)  # type: ignore[no-untyped-call]

    before = prepare(cohort(tmp_path / "c"), tmp_path / "cache")
    after = prepare(cohort(tmp_path / "c", brighter), tmp_path / "cache")
    assert before.data_hash != after.data_hash


def test_order_of_modalities_is_the_order_of_channels(tmp_path: Path) -> None:
    source = cohort(tmp_path / "c", modalities=("t1c", "t2w"))
    first = arrays(source, tmp_path / "cache")[0]
    second = arrays(replace(source, modalities=("t2w", "t1c")), tmp_path / "cache")[0]
    assert np.array_equal(first, second[::-1])
    assert not np.array_equal(first, second)
    with pytest.raises(UserError, match=r"data\.modalities: t1c appears twice"):
        replace(source, modalities=("t1c", "t1c"))


def test_a_box_that_cuts_the_tumour_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = cohort(tmp_path / "c", refuse_below={"tumour": 0.0, "brain": 0.0}, warn_below={"tumour": 0.999})
    assert prepare(whole, tmp_path / "cache").subjects[0].box.tumour_kept == 1.0
    assert "% of the tumour" not in caplog.text
    mask = phantom_subject(0, 3, SPACING).mask[2:18, 2:18] > 0
    side = next(side for side in range(18, 1, -2) if mask[..., 10 - side // 2 : 10 + side // 2].sum() < mask.sum())
    kept = mask[..., 10 - side // 2 : 10 + side // 2].sum()
    cut = replace(whole, roi_size=(16, 16, side))
    cohort_cut = prepare(cut, tmp_path / "cache")
    report = cohort_cut.subjects[0].box
    assert report.tumour_kept == pytest.approx(kept / mask.sum())
    assert (report.native_volume_mm3, report.volume_mm3) == (1000.0 * mask.sum(), 1000.0 * kept)
    words = f"the training box holds {100 * kept / mask.sum():.3g} % of the tumour"
    assert words in caplog.text
    assert [words in str(finding) for finding in cohort_cut.findings] == [True]
    strict = replace(cut, refuse_below={"tumour": 0.9999})
    with pytest.raises(UserError, match=rf"{words}: enlarge .* or lower data\.refuse_below\.tumour=0\.9999"):
        prepare(strict, tmp_path / "cache")


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path) -> None:
    source = cohort(tmp_path / "c")
    fresh, old = tmp_path / "cache/prepared/.fresh", tmp_path / "cache/prepared/.old"
    for folder in (fresh, old):
        folder.mkdir(parents=True)
        (folder / "image.npy").touch()
    os.utime(old, (0, 0))
    prepare(source, tmp_path / "cache")
    assert fresh.is_dir()
    assert not old.exists()


@pytest.mark.parametrize("cache_format", ["arrays", "compressed"])
def test_minmax_goes_from_minus_1_to_1_and_leaves_background_at_0(tmp_path: Path, cache_format: str) -> None:
    (subject,) = prepare(cohort(tmp_path / "c", cache_format=cache_format), tmp_path / "cache").subjects
    values = subject.load()
    image = z_scores(values.scaled("minmax"))
    assert np.array_equal(values.scaled("zscore").image, values.image)
    for channel, raw in zip(image, values.image, strict=True):
        inside = raw != 0
        low, high = raw[inside].min().astype(float), raw[inside].max().astype(float)
        assert not channel[~inside].any()
        np.testing.assert_allclose(channel[inside], 2.0 * (raw[inside] - low) / (high - low) - 1.0, atol=1e-5)
        assert (channel.min(), channel.max()) == pytest.approx((-1.0, 1.0), abs=1e-5)


def test_minmax_of_a_constant_and_of_nothing_is_finite() -> None:
    channels = [np.full((2, 2, 2), 7, np.int16), np.zeros((2, 2, 2), np.int16)]
    image = z_scores(stored(channels, np.zeros((2, 2, 2), np.uint8), "arrays").scaled("minmax"))
    assert not image.any()


def test_an_entry_that_another_process_finishes_meanwhile_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "c" / "prepared").mkdir(parents=True)
    (tmp_path / "c" / "prepared" / ".unfinished").symlink_to(tmp_path / "renamed")  # listed, and no longer there
    assert len(prepare(cohort(tmp_path / "root"), tmp_path / "c").subjects) == 1
