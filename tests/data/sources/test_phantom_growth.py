"""Phantom patients over time: the curve, what stays and what changes between visits, and the files."""

from __future__ import annotations

import csv
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp  # type: ignore[import-untyped]

from menvae.data.batches.cohort_splits import visits
from menvae.data.cache.cohort import Cohort
from menvae.data.cache.prepare import prepare
from menvae.data.cache.trajectories import DAYS_PER_YEAR, trajectories
from menvae.data.phantom import anatomy, growth, head, tumour
from menvae.data.phantom.distributions import GROWTH_DISTRIBUTIONS, draw_value
from menvae.data.phantom.growth import KINDS, Kind, phantom_kind, phantom_schedule, read_volume_mm3
from menvae.data.phantom.growth import phantom_growth as growth_of
from menvae.data.phantom.head import ED, MODALITIES, NCR, PhantomSubject, phantom_subject
from menvae.data.phantom.tumour import PhantomVisit
from menvae.data.sources import phantom_growth
from menvae.data.sources.brats import BratsSource
from menvae.data.sources.phantom_growth import PhantomGrowthSource
from menvae.data.workers import unseen
from menvae.errors import UserError
from menvae.statistics.gompertz import Gompertz

FINE = (4.0, 4.0, 4.0)
COARSE = (10.0, 10.0, 10.0)

# --- the curve ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "capacity", "rate"), [(8e3, 9e4, 0.3), (9e4, 8e3, 0.3), (5e3, 5e3, 1.0)])
def test_the_closed_form_solves_the_equation(first: float, capacity: float, rate: float) -> None:
    curve = Gompertz(first, capacity, rate)
    years = np.linspace(0.0, 12.0, 7)
    solved = solve_ivp(
        lambda _, v: rate * v * np.log(capacity / v), (0, 12), [first], t_eval=years, rtol=1e-9, atol=1e-6
    )
    np.testing.assert_allclose([curve.volume_mm3(float(year)) for year in years], solved.y[0], rtol=1e-6)


def test_a_half_life_on_the_logarithm() -> None:
    curve = Gompertz(math.exp(2.0), math.exp(10.0), math.log(2.0))
    assert [math.log(curve.volume_mm3(year)) for year in (0.0, 1.0, 2.0)] == pytest.approx([2.0, 6.0, 8.0])
    with pytest.raises(ValueError, match="capacity_mm3 must be positive, got 0"):
        Gompertz(1.0, 0.0, 1.0)


def test_curves_lie_within_their_table_and_grow() -> None:
    curves = [growth_of(3, index) for index in range(300)]
    assert curves[7] == growth_of(3, 7) != growth_of(4, 7)
    rows = {row.parameter: row.values for row in GROWTH_DISTRIBUTIONS}
    drawn = {
        "growth_rate": [curve.rate_per_year for curve in curves],
        "growth_capacity": [curve.capacity_mm3 / 1000 for curve in curves],
        "growth_first_share": [curve.first_mm3 / curve.capacity_mm3 for curve in curves],
    }
    assert set(drawn) == set(rows)
    for name, values in drawn.items():
        median, _, low, high = rows[name]
        assert low - 1e-9 <= min(values) <= max(values) <= high + 1e-9
        assert np.median(values) == pytest.approx(median, rel=0.12)
    assert all(curve.volume_mm3(1.0) > curve.first_mm3 for curve in curves)


def test_a_longer_schedule_begins_like_a_shorter_one() -> None:
    schedules = [phantom_schedule(0, index, (3, 6), (120, 720)) for index in range(200)]
    assert {len(days) for days in schedules} == {3, 4, 5, 6}
    gaps = np.concatenate([np.diff(days) for days in schedules])
    assert all(days[0] == 0 for days in schedules)
    assert gaps.min() >= 120
    assert gaps.max() <= 720
    assert gaps.std() > 150, "irregular: uniform on 600 days has an sd of 173"
    long = phantom_schedule(0, 5, (9, 9), (120, 720))
    assert long[:3] == phantom_schedule(0, 5, (3, 3), (120, 720))


def test_over_half_of_the_patients_have_two_visits() -> None:
    """Others have the visits that they would have anyway, and those two are the first of them."""
    with_two = [phantom_schedule(0, index, (3, 6), (120, 720), 0.55) for index in range(1000)]
    without = [phantom_schedule(0, index, (3, 6), (120, 720)) for index in range(1000)]
    is_two = [len(days) == 2 for days in with_two]
    assert np.mean(is_two) == pytest.approx(0.55, abs=3 * math.sqrt(0.55 * 0.45 / 1000))
    for two, days, longer in zip(is_two, with_two, without, strict=True):
        assert days == (longer[:2] if two else longer)


# --- kinds ----------------------------------------------------------------------------------------------------------

SHARES: dict[Kind, float] = {"grow": 0.59, "stand_still": 0.27, "shrink": 0.14}


def test_tumours_grow_stand_still_or_shrink_in_their_shares() -> None:
    drawn = [phantom_kind(0, index, SHARES) for index in range(2000)]
    for kind, share in SHARES.items():
        assert drawn.count(kind) / 2000 == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / 2000))
    for kind in KINDS:
        assert {phantom_kind(0, index, {kind: 1.0}) for index in range(50)} == {kind}
    more_grow = [phantom_kind(0, index, {"grow": 0.8, "stand_still": 0.2}) for index in range(50)]
    assert all(new == "grow" for new, old in zip(more_grow, drawn, strict=False) if old == "grow")


def test_the_kind_is_in_the_capacity_and_nowhere_else() -> None:
    shares = []
    for index in range(300):
        grow, still, shrink = (growth_of(3, index, kind) for kind in KINDS)
        assert grow == growth_of(3, index)
        assert grow.first_mm3 == still.first_mm3 == shrink.first_mm3
        assert grow.rate_per_year == still.rate_per_year == shrink.rate_per_year
        shares.append(shrink.capacity_mm3 / shrink.first_mm3)
        assert still.volume_mm3(5.0) == pytest.approx(still.first_mm3, rel=1e-12)
        assert grow.volume_mm3(5.0) > grow.first_mm3 > shrink.volume_mm3(5.0) > shrink.volume_mm3(50.0)
    assert 0.3 - 1e-9 <= min(shares) <= max(shares) <= 0.75 + 1e-9
    assert np.median(shares) == pytest.approx(0.5, rel=0.1)


def test_patients_that_grow_are_those_of_a_cohort_in_which_all_do() -> None:
    mixed = PhantomGrowthSource(num_patients=40).curves
    growing = PhantomGrowthSource(num_patients=40, shares={"grow": 1.0}).curves
    same = [mixed[name] == growing[name] for name in mixed]
    assert same == [phantom_kind(0, index, SHARES) == "grow" for index in range(40)]


def test_other_readers_agree_on_large_tumours_and_less_on_small_ones() -> None:
    """A boundary 0.4 mm (sd) farther out: 3 x 0.4 mm over the radius, for a logarithm."""
    for volume_ml, sd in ((1.0, 0.193), (10.0, 0.0898), (50.0, 0.0525)):
        volume_mm3 = 1000.0 * volume_ml
        errors = [math.log(read_volume_mm3(0, index, 0, volume_mm3) / volume_mm3) for index in range(1500)]
        assert np.std(errors) == pytest.approx(sd, rel=0.06)
        assert abs(np.mean(errors)) < 3 * sd / math.sqrt(1500)
    first, second = (np.array([read_volume_mm3(0, index, visit, 1e4) for index in range(500)]) for visit in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15, "each visit has an error of its own"


# --- visits ---------------------------------------------------------------------------------------------------------


@cache
def followed(index: int, spacing_mm: tuple[float, float, float] = FINE) -> list[tuple[float, PhantomSubject]]:
    """(Wanted volume in mm^3, visit) of one patient."""
    curve = growth_of(0, index)
    wanted = [curve.volume_mm3(day / DAYS_PER_YEAR) for day in phantom_schedule(0, index, (3, 5), (120, 720))]
    return [
        (volume, phantom_subject(0, index, spacing_mm, PhantomVisit(number, volume, curve.first_mm3)))
        for number, volume in enumerate(wanted)
    ]


def realised_mm3(subject: PhantomSubject) -> float:
    """Enhancing tumour and necrotic core."""
    return float(np.isin(subject.mask, (1, 3)).sum() * np.prod(FINE))


def test_the_plain_cohort_is_what_it_was() -> None:
    """A head from before there were visits; where this changes on purpose, so must the version of the generator."""
    subject = phantom_subject(3, 5, (6.25, 6.25, 6.25))
    assert np.bincount(subject.mask.ravel(), minlength=4).tolist() == pytest.approx([32416, 25, 160, 167], abs=1)
    means = [subject.images[name].mean() for name in MODALITIES]
    assert means == pytest.approx([91.6522, 115.6881, 161.9205, 198.2757], rel=1e-4)


def test_tumours_follow_their_curves() -> None:
    """Within 6 % at every visit of five patients in six, and 15 % at all visits, with voxels of 4 mm."""
    errors = [[abs(realised_mm3(subject) / wanted - 1) for wanted, subject in followed(index)] for index in range(24)]
    worst = np.array([max(patient) for patient in errors])
    assert (worst < 0.06).mean() >= 5 / 6
    assert worst.max() < 0.15
    assert abs(np.mean([realised_mm3(s) / v - 1 for i in range(24) for v, s in followed(i)])) < 0.01, "no bias"


def test_tumours_grow_where_their_curves_do() -> None:
    for index in range(24):
        wanted = [volume for volume, _ in followed(index)]
        volumes = [realised_mm3(subject) for _, subject in followed(index)]
        assert np.all(np.diff(wanted) > 0)
        assert np.all(np.diff(volumes) > 0), index


def test_tumours_shrink_where_their_curves_do() -> None:
    """Within 15 % of the curve, as those that grow."""
    for index in range(5):
        curve = growth_of(0, index, "shrink")
        wanted = [curve.volume_mm3(year) for year in (0.0, 1.5, 4.0)]
        visits = [PhantomVisit(number, volume, curve.first_mm3) for number, volume in enumerate(wanted)]
        volumes = np.array([realised_mm3(phantom_subject(0, index, FINE, visit)) for visit in visits])
        assert np.all(np.diff(volumes) < 0), index
        np.testing.assert_allclose(volumes, wanted, rtol=0.15)


def test_the_smallest_tumour_does_not_vanish() -> None:
    """First visit, capacity and what is left of it at the lower ends of their rows; with the default voxel size."""
    first_mm3 = 0.05 * 35_000.0
    for index in range(4):
        subject = phantom_subject(0, index, (6.25, 6.25, 6.25), PhantomVisit(1, 0.3 * first_mm3, first_mm3))
        assert np.isin(subject.mask, (1, 3)).any()


def test_a_tumour_that_stands_still_has_one_mask_and_other_scans() -> None:
    curve = growth_of(0, 5, "stand_still")
    visits = [PhantomVisit(number, curve.volume_mm3(1.7 * number), curve.first_mm3) for number in range(2)]
    first, second = (phantom_subject(0, 5, COARSE, visit) for visit in visits)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert not np.array_equal(first.images["t1c"], second.images["t1c"])


def test_a_large_tumour_has_room() -> None:
    """At the largest capacity of the table most heads still hold the wanted volume."""
    largest = 160e3
    found = [phantom_subject(0, index, FINE, PhantomVisit(0, largest, largest)) for index in range(16)]
    ratios = np.array([realised_mm3(subject) / largest for subject in found])
    assert np.mean(abs(ratios - 1) < 0.05) >= 0.75
    assert ratios.min() > 0.8


def test_oedema_and_core_are_those_of_the_patient() -> None:
    with_oedema = 0
    for index in range(24):
        masks = [subject.mask for _, subject in followed(index)]
        assert len({bool((mask == ED).any()) for mask in masks}) == 1, index
        has_core = [bool((mask == NCR).any()) for mask in masks]
        assert has_core == sorted(has_core), "a core too small for a voxel appears, none vanishes"
        if (masks[0] == ED).any():
            with_oedema += 1
            ratios = [(mask == ED).sum() / np.isin(mask, (1, 3)).sum() for mask in masks]
            assert (1 + min(ratios)) / (1 + max(ratios)) > 0.85, "the volume of all labels grows alike"
    assert with_oedema >= 5


def test_the_head_stays_and_the_scanner_changes() -> None:
    (_, first), (_, second), *_ = followed(1)
    assert np.mean((first.images["t1n"] > 0) != (second.images["t1n"] > 0)) < 0.005
    healthy = (first.mask == 0) & (second.mask == 0) & (first.images["t1n"] > 0) & (second.images["t1n"] > 0)
    one, two = (subject.images["t1n"][healthy].astype(float) for subject in (first, second))
    assert np.corrcoef(one, two)[0, 1] > 0.8
    assert abs(one.mean() / two.mean() - 1) > 0.02, "gain"
    assert np.std(one / one.mean() - two / two.mean()) > 0.02, "noise"
    centroids = [np.argwhere(np.isin(subject.mask, (1, 3))).mean(axis=0) for _, subject in followed(1)]
    assert np.linalg.norm(centroids[0] - centroids[-1]) * 4.0 < 15.0


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """What is drawn of each row of the table, in order."""
    values: dict[str, list[float]] = {}
    draw = draw_value

    def remembered(rng: np.random.Generator, parameter: str, covariate: float = 1.0) -> float:
        value = draw(rng, parameter, covariate)
        values.setdefault(parameter, []).append(value)
        return value

    for module in (anatomy, growth, head, tumour):
        monkeypatch.setattr(module, "draw_value", remembered)
    return values


def test_a_visit_with_the_drawn_volume_has_the_mask_of_the_plain_phantom(drawn: dict[str, list[float]]) -> None:
    for index in range(4):
        plain = phantom_subject(2, index, COARSE)
        volume = 1000.0 * drawn["tumour_volume"][-1]
        visit = phantom_subject(2, index, COARSE, PhantomVisit(4, volume, volume))
        assert visit.subject_id == f"{plain.subject_id}-004"
        np.testing.assert_array_equal(plain.mask, visit.mask)
        np.testing.assert_array_equal(plain.images["t1c"] > 0, visit.images["t1c"] > 0)
        assert not np.array_equal(plain.images["t1c"], visit.images["t1c"])


def test_what_is_drawn_once_a_patient_and_what_at_every_visit(drawn: dict[str, list[float]]) -> None:
    draws = []
    for number in range(3):
        drawn.clear()
        phantom_subject(2, 1, COARSE, PhantomVisit(number, 3e4 + 2e4 * number, 3e4))
        draws.append({name: tuple(values) for name, values in drawn.items()})
    changing = {name for name in draws[0] if len({draw[name] for draw in draws}) > 1}
    assert changing == {"tissue_contrast", "scanner_gain", "bias_field", "noise"}
    assert all(len({draw[name] for draw in draws}) == 3 for name in changing)


# --- files ----------------------------------------------------------------------------------------------------------

SOURCE = PhantomGrowthSource(num_patients=4, visits=(2, 3), roi_size=(16, 16, 16), spacing_mm=COARSE)


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def cohort(cache_folder: Path) -> Cohort:
    return prepare(SOURCE, cache_folder)


def truth(cache_folder: Path) -> tuple[Path, list[dict[str, str]]]:
    (path,) = (cache_folder / "phantom_growth").glob("*/growth.csv")
    return path, list(csv.DictReader(path.open()))


def test_the_truth_is_written_beside_the_files(cohort: Cohort, cache_folder: Path) -> None:
    path, rows = truth(cache_folder)
    assert [row["subject_id"] for row in rows] == [subject.subject_id for subject in cohort.subjects]
    curves = SOURCE.curves
    for row, subject in zip(rows, cohort.subjects, strict=True):
        assert row["subject_id"].rpartition("-")[0] == row["patient_id"] == subject.patient_id
        assert float(row["days"]) == subject.days
        curve = curves[subject.patient_id]
        assert (float(row["a_per_year"]), float(row["capacity_mm3"])) == (curve.rate_per_year, curve.capacity_mm3)
        assert np.sign(curve.capacity_mm3 - curve.first_mm3) == {"grow": 1, "stand_still": 0, "shrink": -1}[row["kind"]]
        u = np.log(curve.capacity_mm3 / curve.first_mm3) * np.exp(-curve.rate_per_year * float(row["days"]) / 365.25)
        assert float(row["volume_mm3"]) == pytest.approx(curve.capacity_mm3 * np.exp(-u))
        radius_mm = (float(row["volume_mm3"]) / (4 / 3 * math.pi)) ** (1 / 3)
        error = abs(math.log(float(row["measured_mm3"]) / float(row["volume_mm3"])))
        assert 0.0 < error <= 3 * 1.2 / radius_mm, "a boundary moves by up to three times 0.4 mm"
        found = subject.native_features
        assert math.log(float(row["total_voxels_mm3"]) + 1) == pytest.approx(found["vol_total"])
        parts = math.expm1(found["vol_et"] or 0.0) + math.expm1(found["vol_ncr"] or 0.0)
        assert float(row["tumour_voxels_mm3"]) == pytest.approx(parts)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["growth.csv", *sorted(curves)]
    assert {row["days"] for row in rows if row["subject_id"].endswith("-000")} == {"0"}


def test_the_folder_is_a_real_cohort_with_its_table_of_dates(cohort: Cohort, cache_folder: Path) -> None:
    path, _ = truth(cache_folder)
    real = BratsSource(root=str(path.parent), dates=str(path), roi_size=(16, 16, 16), spacing_mm=COARSE)
    keys = [(s.subject_id, s.patient_id, s.days) for s in real.subjects(cache_folder, unseen)]
    assert keys == [(s.subject_id, s.patient_id, s.days) for s in cohort.subjects]


def test_what_is_there_is_kept_and_what_is_missing_is_made(
    cohort: Cohort, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SOURCE.subjects(tmp_path, unseen)
    path, rows = truth(tmp_path)
    assert path.read_bytes() == truth(cache_folder)[0].read_bytes(), "same cohort, same bytes"
    stamps = {file: file.stat().st_mtime_ns for file in path.parent.rglob("*.nii.gz")}
    path.unlink()
    SOURCE.subjects(tmp_path, unseen)
    assert truth(tmp_path)[1] == rows, "measured on the files that were there"
    assert stamps == {file: file.stat().st_mtime_ns for file in path.parent.rglob("*.nii.gz")}
    monkeypatch.setattr(phantom_growth, "run_tasks", lambda *_: pytest.fail("nothing is left to make"))
    assert len(SOURCE.subjects(tmp_path, unseen)) == len(rows)


def test_visits_become_trajectories_and_records(cohort: Cohort) -> None:
    found = trajectories(cohort.subjects[::-1])
    assert [trajectory.patient_id for trajectory in found] == [f"phantom-{index:05d}" for index in range(4)]
    for trajectory in found:
        assert trajectory.subject_ids == tuple(sorted(trajectory.subject_ids))
        assert trajectory.years[0] == 0.0
        assert all(earlier < later for earlier, later in zip(trajectory.years, trajectory.years[1:], strict=False))
    (record,) = (record for record in visits(cohort.subjects) if record.subject_id == "phantom-00002-001")
    assert (record.patient_id, record.days) == ("phantom-00002", found[2].years[1] * 365.25)
    assert record.volume_mm3 >= found[2].tumour_mm3[1] > 0


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(UserError, match=r"^data\.visits: \[5, 3\] is not allowed; give the minimum, then the maximum"):
        PhantomGrowthSource(visits=(5, 3))
    with pytest.raises(UserError, match=r"^data\.interval_days: \[90, 30\] is not allowed"):
        PhantomGrowthSource(interval_days=(90, 30))


@pytest.mark.parametrize("shares", [{"grow": 0.9, "stand_still": 0.27, "shrink": 0.14}, {"grow": 0.5}, {}])
def test_shares_that_do_not_sum_to_one_are_refused(shares: dict[Kind, float]) -> None:
    told = rf"^data\.shares: a sum of {sum(shares.values()):g} is not allowed; give shares of 0 to 1 that sum to 1$"
    with pytest.raises(UserError, match=told):
        PhantomGrowthSource(shares=shares)
