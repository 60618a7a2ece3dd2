"""Folds divide patients into test splits that are disjoint, complete, of equal size and of similar volumes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from menvae.data.batches.folds import Folds
from menvae.data.batches.splits import Split, VisitRecord, split_subjects, warn_of_small_splits
from menvae.data.sources.phantom import PhantomSource
from menvae.data.tables.tabular import split_groups
from menvae.errors import UserError
from menvae.runs.identity import run_hash


def visits(num_patients: int, seed: int = 0) -> list[VisitRecord]:
    """Return one to three visits of each patient; the first visit of patient i has one of the volumes 0, 1, ..."""
    random = np.random.default_rng(seed)
    volumes = random.permutation(num_patients)
    return [
        VisitRecord(
            f"p{patient:03d}-{visit}", f"p{patient:03d}", float(volumes[patient]) + 1000.0 * visit, 90.0 * visit
        )
        for patient in range(num_patients)
        for visit in range(random.integers(1, 4))
    ]


def patients_of(splits: dict[str, Split], split: str) -> set[str]:
    return {name.partition("-")[0] for name, of in splits.items() if of == split}


@pytest.mark.parametrize(("num_patients", "count"), [(50, 5), (53, 5), (20, 3), (7, 2), (12, 11), (9, 9)])
def test_folds_are_a_partition_of_patients_into_test_splits_of_similar_volumes(num_patients: int, count: int) -> None:
    records = visits(num_patients)
    splits = [split_subjects(records, 0.05, 0.3, 7, Folds(fold, count)) for fold in range(count)]
    tests = [patients_of(one, "test") for one in splits]
    assert Counter(name for test in tests for name in test) == dict.fromkeys({one.patient_id for one in records}, 1)
    assert {len(test) for test in tests} <= {num_patients // count, -(-num_patients // count)}
    volume = {one.patient_id: one.volume_mm3 for one in records if one.subject_id.endswith("-0")}
    for test in tests:
        blocks = Counter(int(volume[name]) // count for name in test)  # volumes are ranks
        assert all(blocks[block] == 1 for block in range(num_patients // count))


@pytest.mark.parametrize("count", [4, None])
def test_validation_comes_from_the_other_patients_and_visits_stay_together(count: int | None) -> None:
    records = visits(24)
    for fold in range(4):
        splits = split_subjects(records, 0.25, 0.0, 7, Folds(fold, count))
        assert splits == split_subjects(records[::-1], 0.25, 0.0, 7, Folds(fold, count))
        by_split = {split: patients_of(splits, split) for split in ("train", "val", "test")}
        num_test = 1 if count is None else 6
        assert {split: len(names) for split, names in by_split.items()} == {
            "train": 18 - num_test,
            "val": 6,
            "test": num_test,
        }
        assert len(set.union(*by_split.values())) == 24


def test_leaving_one_out_follows_the_identifiers() -> None:
    records = visits(6)
    for fold in range(6):
        splits = split_subjects(records, 0.2, 0.0, 7, Folds(fold, None))
        assert patients_of(splits, "test") == {f"p{fold:03d}"}


def test_another_seed_or_number_makes_other_folds() -> None:
    records = visits(60)
    seven = split_subjects(records, 0.1, 0.0, 7, Folds(0, 5))
    assert patients_of(seven, "test") != patients_of(split_subjects(records, 0.1, 0.0, 8, Folds(0, 5)), "test")
    assert patients_of(seven, "test") != patients_of(split_subjects(records, 0.1, 0.0, 7, Folds(1, 5)), "test")


def test_groups_of_a_table() -> None:
    groups = np.repeat(np.arange(23), 4)
    splits = np.stack([split_groups(groups, 0.1, 0.3, 42, Folds(fold, 5)) for fold in range(5)])
    assert np.array_equal(np.sum(splits == "test", axis=0), np.ones(92))
    assert np.array_equal(splits[:, ::4], splits[:, 3::4])
    assert Counter(np.sum(splits == "test", axis=1).tolist()) == {20: 3, 16: 2}
    assert np.sum(splits == "val", axis=1).tolist() == [8] * 5
    alone = [split_groups(groups, 0.1, 0.3, 42, Folds(fold, None)) for fold in range(23)]
    assert [set(groups[one == "test"].tolist()) for one in alone] == [{fold} for fold in range(23)]


@pytest.mark.parametrize(
    ("fold", "count", "num_patients", "sentence"),
    [
        (5, 5, 20, "data.fold: 5 is not allowed; data.num_folds=5 has the folds 0 to 4"),
        (0, 5, 4, "data.num_folds: 5 folds need at least 5 subjects, but there are 4"),
        (9, None, 9, "data.fold: 9 is not allowed; 9 subjects have the folds 0 to 8"),
        (0, 2, 2, "data: 2 subjects are too few for 1 in validation, 1 in test and one in training"),
    ],
)
def test_folds_that_cannot_be(fold: int, count: int | None, num_patients: int, sentence: str) -> None:
    records = [VisitRecord(f"s{index}", f"s{index}", 1.0) for index in range(num_patients)]
    with pytest.raises(UserError) as error:
        split_subjects(records, 0.1, 0.1, 1, Folds(fold, count))
    assert str(error.value).startswith(sentence)


def test_a_source_knows_its_folds_before_it_reads_data() -> None:
    with pytest.raises(UserError, match=r"data.fold: 3 is not allowed; data.num_folds=3 has the folds 0 to 2"):
        PhantomSource(fold=3, num_folds=3)
    assert PhantomSource(fold=3, num_folds="patients").folds == Folds(3, None)
    assert PhantomSource(num_folds=3).folds is None


def test_a_fold_of_one_is_meant(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_small_splits(["train", "train", "val", "val", "test"], 0.1, folds=Folds(0, None))
    assert not caplog.messages


@pytest.mark.parametrize("name", ["phantom", "table"])
def test_hashes_of_runs_without_folds_stay_and_folds_are_others(name: str) -> None:
    def hashed(**keys: object) -> str:
        return run_hash({"data": {"name": name, "split_seed": 42, **keys}}, "data", "targets")

    assert hashed(fold=None, num_folds=5) == hashed(fold=None, num_folds=10) == hashed()
    keys = [(fold, count) for fold in (0, 1) for count in (5, 10)]
    assert len({hashed(), *(hashed(fold=fold, num_folds=count) for fold, count in keys)}) == 5
    without, other = (hashed(fold=0, num_folds=5, test_fraction=share) for share in (0.1, 0.2))
    assert without == other
    assert hashed(test_fraction=0.1) != hashed(test_fraction=0.2)
