"""Copies of subjects under other identifiers, as files of a cohort: no gate sees them, preparation must."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
from drawn_cohort import DrawnCohort

from menvae.data.batches.cohort_splits import split_cohort
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import prepare
from menvae.data.sources.brats import BratsSource

_SIZES = (30, 6, 0)
_SPACING_MM = 8.0
_SEEDS = range(5)


def input_check_passes() -> bool:
    """Whether a copy of a subject goes unnoticed in a cohort, or a copy of its files is judged in another split.

    Six subjects have a copy with other noise, a tenth of the standard deviation, and two more a copy of their files.

    Raises:
        AssertionError: subjects that are no copies are taken for some.
    """
    with tempfile.TemporaryDirectory() as folder:
        cohort, originals = _prepared(Path(folder))
        likenesses = {one.subject_id: (*one.same_images, *one.similar_images) for one in cohort.subjects}
        alone = likenesses.keys() - originals.keys() - set(originals.values())
        assert not any(likenesses[name] for name in alone), likenesses
        splits = [split_cohort(cohort, 0.2, 0.2, seed) for seed in _SEEDS]
    copied_files = {copy: original for copy, original in originals.items() if copy.startswith("c")}
    together = all(split[copy] == split[original] for split in splits for copy, original in copied_files.items())
    return not (together and all(original in likenesses[copy] for copy, original in originals.items()))


def _prepared(folder: Path) -> tuple[Cohort, Mapping[str, str]]:
    """Write and prepare a cohort; return it and copy -> original."""
    drawn = DrawnCohort(0, _SIZES, noise_sd=0.05, twins=True)
    for split, letter in (("train", "a"), ("val", "b")):
        subjects = drawn.splits[split]
        for row, (image, mask) in enumerate(zip(subjects.images, subjects.masks, strict=True)):
            _write(folder / "cohort" / f"{letter}{row:02d}", image[0].numpy(), mask[0].numpy())
    originals = {f"b{row:02d}": f"a{row:02d}" for row in range(_SIZES[1])}
    for row in (10, 11):
        copy, original = f"c{row}", f"a{row}"
        (folder / "cohort" / copy).mkdir()
        for part in ("t1c", "seg"):
            paths = (folder / "cohort" / name / f"{name}-{part}.nii.gz" for name in (original, copy))
            shutil.copy(*paths)
        originals[copy] = original
    source = BratsSource(
        root=str(folder / "cohort"),
        roi_size=(16, 16, 16),
        spacing_mm=(_SPACING_MM,) * 3,
        modalities=("t1c",),
        refuse_below={"tumour": 0.0, "brain": 0.0},
    )
    return prepare(source, folder / "cache", num_workers=1), originals


def _write(folder: Path, image: np.ndarray, mask: np.ndarray) -> None:
    """Write an image and its tumour, in a margin of background."""
    folder.mkdir(parents=True)
    for part, values in (("t1c", 100.0 + 20.0 * image), ("seg", 3 * mask)):
        voxels = np.pad(values, 2).astype(np.uint8 if part == "seg" else np.float32)
        file = nibabel.nifti1.Nifti1Image(voxels, np.diag([_SPACING_MM] * 3 + [1.0]))
        nibabel.save(file, folder / f"{folder.name}-{part}.nii.gz")
