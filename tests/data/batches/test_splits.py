"""Splits: whole patients, exact shares, and volumes that are spread alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from menvae.data.batches.splits import VisitRecord, split_subjects, warn_of_small_splits
from menvae.errors import UserError


def patients(volumes: Sequence[float]) -> list[VisitRecord]:
    """One visit a patient."""
    return [VisitRecord(f"s{index:03d}", f"s{index:03d}", volume) for index, volume in enumerate(volumes)]


def largest_gap(part: Sequence[float], whole: Sequence[float]) -> float:
    """Largest distance between the cumulative distributions of a part and of the whole (Kolmogorov-Smirnov)."""
    places = np.sort(whole)
    shares = [np.searchsorted(np.sort(values), places, side="right") / len(values) for values in (part, whole)]
    return float(np.abs(shares[0] - shares[1]).max())


def test_shares_are_exact_and_the_order_of_records_does_not_count() -> None:
    records = patients(np.random.default_rng(0).lognormal(3.0, 0.9, 100).tolist())
    splits = split_subjects(records, 0.2, 0.1, seed=1)
    assert list(splits) == [record.subject_id for record in records]
    assert Counter(splits.values()) == {"train": 70, "val": 20, "test": 10}
    assert splits == split_subjects(records[::-1], 0.2, 0.1, seed=1)
    assert splits != split_subjects(records, 0.2, 0.1, seed=2)


def test_a_cohort_too_small_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^data: 3 subjects are too few for 3 in validation, 0 in test and one in train"
    ):
        split_subjects(patients([1.0, 2.0, 3.0]), 0.9, 0.0, seed=1)
    visits = [VisitRecord(f"a-{index}", "a", 1.0) for index in range(9)]
    with pytest.raises(UserError, match=r"^data: 1 patient is too few for 1 in validation"):
        split_subjects(visits, 0.1, 0.0, seed=1)


def test_every_stratum_of_validation_gives_one_patient() -> None:
    records = patients([float(index) for index in range(60)])
    for seed in range(20):
        splits = split_subjects(records, 0.2, 0.0, seed)
        strata = [int(record.volume_mm3) // 5 for record in records if splits[record.subject_id] == "val"]
        assert strata == list(range(12))


def test_volumes_are_spread_more_evenly_than_by_a_permutation() -> None:
    """Over 200 seeds: one patient of each of n strata is at most 1/n from the whole, a permutation much more."""
    volumes = np.random.default_rng(4).lognormal(3.0, 0.9, 120)
    records = patients(volumes.tolist())
    ours: dict[str, list[float]] = {"val": [], "test": [], "train": []}
    theirs: dict[str, list[float]] = {"val": [], "test": [], "train": []}
    means: list[float] = []
    for seed in range(200):
        splits = split_subjects(records, 0.1, 0.1, seed)
        order = np.random.default_rng(seed).permutation(len(volumes))
        permuted = {"val": order[:12], "test": order[12:24], "train": order[24:]}
        for split, gaps in ours.items():
            part = [record.volume_mm3 for record in records if splits[record.subject_id] == split]
            gaps.append(largest_gap(part, volumes.tolist()))
            theirs[split].append(largest_gap(volumes[permuted[split]].tolist(), volumes.tolist()))
        means.append(np.mean([np.log(r.volume_mm3) for r in records if splits[r.subject_id] == "val"]).item())
    assert max(ours["val"]) <= 1 / 12 + 1e-9
    for split in ours:
        assert np.mean(ours[split]) < 0.5 * np.mean(theirs[split]), split
    # the mean of ln V of 12 drawn at random has the sd of ln V / sqrt(12)
    assert np.std(means) < 0.4 * np.log(volumes).std() / np.sqrt(12)
    assert np.mean(means) == pytest.approx(np.log(volumes).mean(), abs=0.02)


def test_every_patient_has_the_same_chance() -> None:
    records = patients([float(index % 7) for index in range(40)])
    drawn: Counter[str] = Counter()
    for seed in range(400):
        drawn.update(name for name, split in split_subjects(records, 0.25, 0.25, seed).items() if split != "train")
    # 400 draws with probability 1/2 (a test patient comes from a stratum of 3): sd 10
    assert all(140 < drawn[record.subject_id] < 260 for record in records)


def test_the_volume_of_a_patient_is_that_of_the_first_visit() -> None:
    volumes = [float(volume) for volume in range(30)]
    others = np.random.default_rng(0).permutation(30).tolist()

    def visits(first: list[float], later: list[float], days: float | None) -> list[VisitRecord]:
        """The later visit of a patient is the earlier by identifier."""
        by_days = [
            VisitRecord(f"p{index:02d}-b", f"p{index:02d}", volume, None if days is None else 0.0)
            for index, volume in enumerate(first)
        ]
        return by_days + [VisitRecord(f"p{i:02d}-a", f"p{i:02d}", volume, days) for i, volume in enumerate(later)]

    def strata(records: list[VisitRecord]) -> list[int]:
        splits = split_subjects(records, 1 / 3, 0.0, seed=5)
        return [i // 3 for i in range(30) if splits[f"p{i:02d}-a"] == "val"]

    assert strata(visits(volumes, others, 90.0)) == list(range(10))
    assert strata(visits(others, volumes, 90.0)) != list(range(10))
    assert strata(visits(others, volumes, None)) == list(range(10)), "without days, the first by identifier"


cohorts = st.lists(
    st.tuples(st.integers(0, 25), st.sampled_from([0.0, 10.0, 10.0, 250.0, 4e4]), st.none() | st.floats(0, 3000)),
    min_size=1,
    max_size=60,
).map(lambda rows: [VisitRecord(f"v{i:02d}", f"p{p}", volume, days) for i, (p, volume, days) in enumerate(rows)])


@settings(max_examples=200, deadline=None)
@given(cohorts, st.floats(0.01, 0.9), st.floats(0.0, 0.5), st.integers(0, 50), st.randoms())
def test_what_holds_for_every_cohort(
    records: list[VisitRecord], val_fraction: float, test_fraction: float, seed: int, random: np.random.Generator
) -> None:
    num_patients = len({record.patient_id for record in records})
    num_val, num_test = max(1, round(val_fraction * num_patients)), round(test_fraction * num_patients)
    if num_val + num_test >= num_patients:
        with pytest.raises(UserError, match="too few"):
            split_subjects(records, val_fraction, test_fraction, seed)
        return
    splits = split_subjects(records, val_fraction, test_fraction, seed)
    assert list(splits) == sorted(record.subject_id for record in records)
    homes = {(record.patient_id, splits[record.subject_id]) for record in records}
    assert len(homes) == num_patients, "visits of a patient are in one split"
    counts = Counter(split for _, split in homes)
    assert (counts["val"], counts["test"]) == (num_val, num_test)
    assert counts["train"] == num_patients - num_val - num_test
    mixed = list(records)
    random.shuffle(mixed)  # type: ignore[arg-type]
    assert split_subjects(mixed, val_fraction, test_fraction, seed) == splits


def test_empty_and_single_splits_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_small_splits(["train", "train", "val"], 0.1)
    empty, single = (record.getMessage() for record in caplog.records)
    assert empty.startswith("data.test_fraction: 0.1 of 3 subjects rounds to none, so the test split is empty")
    assert single.startswith("data: the val split has one subject, which alone decides its metrics")
    caplog.clear()
    warn_of_small_splits(["train", "train", "val", "val"], 0.0)
    warn_of_small_splits(["train", "train", "val", "val", "test", "test"], 0.3)
    assert not caplog.records
