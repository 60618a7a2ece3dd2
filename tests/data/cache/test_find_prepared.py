"""What a look into the cache finds is what preparation returns, and a look changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from menvae.data.cache.prepare import Preparable, find_prepared, prepare
from menvae.data.phantom.head import phantom_subject, write_subject
from menvae.data.sources.brats import BratsSource
from menvae.data.sources.phantom import PhantomSource
from menvae.data.sources.phantom_growth import PhantomGrowthSource
from menvae.errors import UserError

SPACING = (10.0, 10.0, 10.0)
BOX = (16, 16, 16)


@pytest.mark.parametrize(
    "source",
    [
        PhantomSource(num_subjects=3, roi_size=BOX, spacing_mm=SPACING),
        PhantomGrowthSource(num_patients=2, visits=(2, 2), roi_size=BOX, spacing_mm=SPACING),
        PhantomSource(
            num_subjects=3, roi_size=BOX, spacing_mm=SPACING, modality_missing=0.5, missing_modalities="allow"
        ),
    ],
)
def test_drawn_cohorts(source: Preparable, tmp_path: Path) -> None:
    assert find_prepared(source, tmp_path / "cache") is None
    assert not (tmp_path / "cache").exists()
    prepared = prepare(source, tmp_path / "cache")
    files = sorted(tmp_path.rglob("*"))
    assert find_prepared(source, tmp_path / "cache") == prepared
    assert sorted(tmp_path.rglob("*")) == files


def test_a_larger_cohort_is_not_drawn(tmp_path: Path) -> None:
    prepare(PhantomSource(num_subjects=2, roi_size=BOX, spacing_mm=SPACING), tmp_path)
    assert find_prepared(PhantomSource(num_subjects=3, roi_size=BOX, spacing_mm=SPACING), tmp_path) is None


def test_files_with_a_fault(tmp_path: Path) -> None:
    root, cache = tmp_path / "files", tmp_path / "cache"
    for index in range(3):
        folder = write_subject(phantom_subject(0, index, SPACING), root)
    (folder / f"{folder.name}-t1c.nii.gz").write_bytes(b"no volume")

    def source(on_error: str) -> BratsSource:
        return BratsSource(root=str(root), roi_size=BOX, spacing_mm=SPACING, box="center", on_error=on_error)  # type: ignore[arg-type]

    assert find_prepared(source("skip"), cache) is None
    prepared = prepare(source("skip"), cache)
    assert len(prepared.subjects) == 2
    found = find_prepared(source("skip"), cache)
    assert found is not None
    assert (found.data_hash, found.subjects) == (prepared.data_hash, prepared.subjects)
    with pytest.raises(UserError, match="1 of 3 subjects cannot be used"):
        find_prepared(source("fail"), cache)
    (folder / f"{folder.name}-t1c.nii.gz").write_bytes(b"no volume either")
    assert find_prepared(source("skip"), cache) is None
