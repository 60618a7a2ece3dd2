"""Subjects that lack modalities: prepared with what there is, known as such in batches, and told."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from menvae.data.batches.dataset import SubjectDataset, collate
from menvae.data.batches.order import Draw
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import prepare
from menvae.data.phantom.head import MODALITIES, phantom_subject, write_subject
from menvae.data.sources.brats import BratsSource
from menvae.data.sources.phantom import PhantomSource
from menvae.data.sources.phantom_growth import PhantomGrowthSource
from menvae.data.targets.normalizer import TargetNormalizer, TargetSettings
from menvae.errors import UserError
from menvae.preparation.intensities import cohort_intensities
from menvae.preparation.quality import Kind, Limits, judge_cohort

SPACING = (10.0, 10.0, 10.0)
FIRST, SECOND = "phantom-00003", "phantom-00004"
Make = Callable[..., BratsSource]


@pytest.fixture
def cohort(tmp_path: Path) -> Make:
    """Two phantoms in the BraTS layout, whose listed files are removed."""

    def made(*without: str, allow: bool = True, **settings: object) -> BratsSource:
        root = tmp_path / "root"
        shutil.rmtree(root, ignore_errors=True)
        for index in (3, 4):
            write_subject(phantom_subject(0, index, SPACING), root)
        for name in without:
            (root / name.rsplit("-", 1)[0] / f"{name}.nii.gz").unlink()
        how = "allow" if allow else "fail"
        keys = {"root": str(root), "roi_size": (16, 16, 16), "spacing_mm": SPACING, "missing_modalities": how}
        return BratsSource(**{**keys, **settings})

    return made


def dataset(prepared: Cohort) -> SubjectDataset:
    settings = TargetSettings(residualise={})
    normalizer = TargetNormalizer.fit([subject.features for subject in prepared.subjects], settings, ["vol_total"])
    return SubjectDataset(prepared.subjects, normalizer, {"vol": ["vol_total"]})


@pytest.mark.parametrize("cache_format", ["arrays", "compressed"])
@pytest.mark.parametrize("spacing", [SPACING, (12.0, 11.0, 13.0)])
def test_what_is_there_is_prepared_as_ever(
    cohort: Make, tmp_path: Path, cache_format: str, spacing: tuple[float, float, float]
) -> None:
    settings = {"cache_format": cache_format, "spacing_mm": spacing, "box": "center"}
    whole = prepare(cohort(**settings), tmp_path / "cache").subjects
    lacking = prepare(cohort(f"{FIRST}-t2f", **settings), tmp_path / "cache").subjects
    assert [subject.missing_channels for subject in lacking] == [(2,), ()]
    assert lacking[1].key == whole[1].key
    assert lacking[0].features == whole[0].features
    ours, reference = lacking[0].load(), whole[0].load()
    assert not ours.image[2].any()
    for channel in (0, 1, 3):
        np.testing.assert_array_equal(ours.image[channel], reference.image[channel])
        assert (ours.mean[channel], ours.sd[channel]) == (reference.mean[channel], reference.sd[channel])


def test_batches_say_which_modalities_there_are(cohort: Make, tmp_path: Path) -> None:
    lacking = dataset(prepare(cohort(f"{FIRST}-t2f", f"{FIRST}-t1c"), tmp_path / "cache"))
    batch = collate([lacking[Draw(0, 0)], lacking[Draw(1, 0)]])
    assert batch.available is not None
    assert batch.available.tolist() == [[False, True, False, True], [True] * 4]
    inputs = batch.to(torch.device("cpu")).inputs
    assert torch.equal(inputs[0].flatten(1).any(dim=1), batch.available[0])
    assert torch.isfinite(inputs).all()
    alone = collate([lacking[Draw(1, 0)]])  # what a batch holds follows from its dataset: ranks must agree
    assert alone.available is not None
    assert alone.available.all()
    whole = dataset(prepare(cohort(), tmp_path / "cache"))
    assert collate([whole[Draw(0, 0)]]).available is None


def test_a_file_that_is_added_later_is_prepared_and_one_that_goes_too(cohort: Make, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    lacking = prepare(cohort(f"{FIRST}-t2f"), cache)
    whole = prepare(cohort(), cache)
    assert whole.subjects[0].missing_channels == ()
    assert whole.subjects[0].load().image[2].any()
    again = prepare(cohort(f"{FIRST}-t2f"), cache)
    assert lacking.data_hash == again.data_hash != whole.data_hash
    other = prepare(cohort(f"{FIRST}-t1n"), cache)
    assert other.subjects[0].key not in {lacking.subjects[0].key, whole.subjects[0].key}


def test_the_key_of_a_whole_subject_does_not_depend_on_what_is_allowed(cohort: Make, tmp_path: Path) -> None:
    strict = prepare(cohort(allow=False), tmp_path / "cache")
    assert prepare(cohort(), tmp_path / "cache").data_hash == strict.data_hash


def test_it_is_a_note_each_time(cohort: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = cohort(f"{FIRST}-t2f", f"{FIRST}-t1c", f"{SECOND}-t2f")
    for _ in range(2):
        findings = prepare(source, tmp_path / "cache").findings
        assert [(found.file, found.problem, found.is_fault) for found in findings] == [
            (f"{FIRST}-t1c.nii.gz, {FIRST}-t2f.nii.gz", "are missing", False),
            (f"{SECOND}-t2f.nii.gz", "is missing", False),
        ]
    assert f"note: subject '{SECOND}': {SECOND}-t2f.nii.gz is missing: the subject is used with" in caplog.text


@pytest.mark.parametrize(
    ("without", "spoil", "words"),
    [
        ([f"{FIRST}-seg"], None, f"{FIRST}-seg.nii.gz is missing"),
        ([f"{FIRST}-{name}" for name in MODALITIES], None, "t1c.nii.gz, .*-t2w.nii.gz are missing"),
        ([f"{FIRST}-t2f"], "t1n", f"{FIRST}-t1n.nii.gz is empty"),
        ([], "t2f", f"{FIRST}-t2f.nii.gz is empty"),
    ],
)
def test_damage_no_mask_and_nothing_at_all_stay_faults(
    cohort: Make, tmp_path: Path, without: list[str], spoil: str | None, words: str
) -> None:
    source = cohort(*without)
    if spoil:
        (Path(source.root) / FIRST / f"{FIRST}-{spoil}.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match=words):
        prepare(source, tmp_path / "cache")
    left = prepare(replace(source, on_error="skip"), tmp_path / "cache")
    assert [subject.subject_id for subject in left.subjects] == [SECOND]


def test_by_default_it_is_a_fault(cohort: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{FIRST}-t2f.nii.gz is missing: add it"):
        prepare(cohort(f"{FIRST}-t2f", allow=False), tmp_path / "cache")


def test_brain_is_where_any_present_modality_has_a_signal(cohort: Make, tmp_path: Path) -> None:
    small = {"roi_size": (8, 8, 8), "box": "brain", "refuse_below": {"tumour": 0.0, "brain": 0.0}}
    whole = prepare(cohort(**small), tmp_path / "cache").subjects[0]
    lacking = prepare(cohort(f"{FIRST}-t1c", f"{FIRST}-t1n", **small), tmp_path / "cache").subjects[0]
    assert lacking.box == whole.box  # all modalities of a phantom have one head
    assert 0.0 < lacking.box.brain_kept < 1.0


def test_quality_notes_it_and_judges_the_others(cohort: Make, tmp_path: Path) -> None:
    prepared = prepare(cohort(f"{FIRST}-t2f"), tmp_path / "cache")
    intensities = cohort_intensities(prepared.subjects, tmp_path / "cache")
    rows = {row.subject_id: row for row in judge_cohort(prepared, None, intensities, MODALITIES, Limits())}
    assert list(rows[FIRST].channels) == ["t1c", "t1n", "t2w"]
    assert list(rows[SECOND].channels) == list(MODALITIES)
    assert f"{FIRST}-t2f.nii.gz is missing" in rows[FIRST].words
    assert not any(reason.kind == Kind.INTENSITY for reason in rows[FIRST].reasons)


def phantoms(probability: float, **settings: object) -> PhantomSource:
    keys = {"num_subjects": 13, "roi_size": (16, 16, 16), "spacing_mm": SPACING, "modality_missing": probability}
    return PhantomSource(**{**keys, "missing_modalities": "allow", **settings})


def missing(source: PhantomSource, cache: Path) -> list[tuple[str, ...]]:
    return [subject.missing for subject in source.subjects(cache, lambda items, *_: items)]


def test_phantoms_lack_modalities_by_seed(prepared_cache: Path) -> None:
    half = missing(phantoms(0.5), prepared_cache)
    assert half == missing(phantoms(0.5), prepared_cache)
    assert missing(phantoms(0.5, num_subjects=12), prepared_cache) == half[:12]
    assert all(
        set(fewer) <= set(more) for fewer, more in zip(missing(phantoms(0.2), prepared_cache), half, strict=True)
    )
    assert 0.3 < sum(map(len, half)) / (4 * len(half)) < 0.6
    assert all(len(names) == 3 for names in missing(phantoms(0.999), prepared_cache))
    assert not any(missing(phantoms(0.0), prepared_cache))
    pair = missing(phantoms(0.5, modalities=("t2w", "t1c")), prepared_cache)
    assert all(len(names) < 2 and set(names) <= set(all_names) for names, all_names in zip(pair, half, strict=True))
    prepared = prepare(phantoms(0.5), prepared_cache)
    found = [tuple(MODALITIES[channel] for channel in subject.missing_channels) for subject in prepared.subjects]
    assert found == half


def test_phantoms_that_lack_modalities_must_be_allowed_to() -> None:
    with pytest.raises(UserError, match=r"data\.modality_missing: 0\.5 is not allowed with .*choose allow"):
        phantoms(0.5, missing_modalities="fail")


def test_visits_lack_modalities_independently(tmp_path: Path) -> None:
    keys = {"roi_size": (16, 16, 16), "spacing_mm": SPACING, "num_patients": 2, "visits": (3, 3), "two_visits": 0.0}
    source = PhantomGrowthSource(**keys, modality_missing=0.5, missing_modalities="allow")
    visits = source.subjects(tmp_path, lambda items, *_: items)
    assert len({visit.missing for visit in visits}) > 1
    assert [visit.patient_id for visit in visits] == ["phantom-00000"] * 3 + ["phantom-00001"] * 3


def test_a_file_that_was_not_fetched_is_no_missing_modality(cohort: Make, tmp_path: Path) -> None:
    source = cohort(f"{FIRST}-t2f")
    (tmp_path / "root" / FIRST / f"{FIRST}-t2f.nii.gz").symlink_to("../../.git/annex/objects/x.nii.gz")
    for _ in range(2):  # also once the descriptions of the other files are cached
        with pytest.raises(UserError, match=rf"{FIRST}-t2f\.nii\.gz is a link to a file that does not exist: fetch it"):
            prepare(source, tmp_path / "cache")
    kept = prepare(replace(source, on_error="skip"), tmp_path / "cache")
    assert [subject.subject_id for subject in kept.subjects] == [SECOND]
