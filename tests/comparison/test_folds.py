"""Folds are replicates, and their predictions are pooled: against SciPy, and against the same numbers without folds."""

from __future__ import annotations

import csv
import io
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from stores import MadeRun, copy_of, fill, tracked

from menvae.comparison.compare import ComparisonSettings, compare
from menvae.comparison.differences import with_false_discovery_rate
from menvae.comparison.export import write_configurations, write_runs
from menvae.comparison.out_of_fold import MOST_UNITS, read_fold, units_of, with_out_of_fold
from menvae.comparison.page import write_page
from menvae.comparison.replicates import overlap
from menvae.comparison.results import Comparison, Difference
from menvae.comparison.summaries import mean_interval, p_value
from menvae.comparison.table import answers
from menvae.comparison.tracked_runs import RunStore, TrackedRun
from menvae.comparison.words import out_of_fold_words
from menvae.errors import UserError
from menvae.metrics import Floats
from menvae.tracking.tracker import TrackingSettings

FEW = {"r2": (">", 0.5), "dcor": ("<", 0.4)}


def fold_run(fold: int | None, seed: int = 0, weight: float = 5.0, **more: Any) -> TrackedRun:
    """Return a run of a fold, whose targets are those of the fold."""
    params = {
        "loss.lambda_dcor": weight,
        "seed": seed,
        "data.fold": fold,
        "data.num_folds": 5,
        **more.pop("params", {}),
    }
    more = {"targets_hash": f"t{fold}", **more}
    return tracked(params, {"r2": more.pop("r2", 0.6), "dcor": 0.3}, FEW, **more)


def compared(*runs: TrackedRun, **keys: Any) -> Comparison:
    return compare(runs, ComparisonSettings(**keys))


# --- grouping ---------------------------------------------------------------------------------------------------------


def test_folds_and_seeds_of_a_configuration_are_one_result_though_each_fold_has_targets_of_its_own() -> None:
    runs = [fold_run(fold, seed, weight) for weight in (0, 5) for fold in range(5) for seed in (0, 1)]
    comparison = compared(*runs)
    (cohort,) = comparison.cohorts
    assert [key.name for key in comparison.keys] == ["loss.lambda_dcor"]
    assert [len(one.runs) for one in cohort.configurations] == [10, 10]
    assert list(cohort.configurations[0].gates["r2"].values)[:3] == [
        "seed 0, fold 0",
        "seed 0, fold 1",
        "seed 0, fold 2",
    ]
    assert len(cohort.targets_hashes) == 5
    assert comparison.replicates.words == "seeds and folds"
    assert all(effect.balanced for effect in cohort.effects)


def test_a_configuration_without_some_folds_is_of_the_same_cohort_and_paired_by_fold() -> None:
    values = {0: 0.9, 1: 0.7, 2: 0.8}
    runs = [fold_run(fold, weight=0, r2=r2) for fold, r2 in values.items()]
    runs += [fold_run(fold, weight=5, r2=r2 - 0.1 * fold) for fold, r2 in values.items() if fold]
    (cohort,) = compared(*runs, baseline={"loss.lambda_dcor": 5}).cohorts
    (row,) = cohort.differences.values()
    assert (row["r2"].num_shared, row["r2"].mean) == (2, pytest.approx(0.15))
    assert not cohort.effects[0].balanced


def test_other_targets_of_the_same_folds_are_another_cohort() -> None:
    ours = [fold_run(fold) for fold in range(3)]
    theirs = [fold_run(fold, params={"targets.missing": "zero"}, targets_hash=f"zero{fold}") for fold in range(2)]
    comparison = compared(*ours, *theirs)
    assert [len(cohort.runs) for cohort in comparison.cohorts] == [3, 2]
    assert "Nothing is compared across them" in comparison.notes[0]
    assert "targets of 3 splits" in comparison.notes[0]


def test_a_configuration_with_two_targets_for_one_fold_joins_none_of_them() -> None:
    runs = [fold_run(0), fold_run(1), fold_run(0, targets_hash="of another version")]
    assert [len(cohort.runs) for cohort in compared(*runs).cohorts] == [1, 1, 1]


def test_a_run_without_folds_is_not_one_of_them() -> None:
    comparison = compared(*(fold_run(fold) for fold in (None, 0, 1)))
    assert [len(cohort.runs) for cohort in comparison.cohorts] == [2, 1]
    assert comparison.keys == ()


def test_folds_are_swept_and_repeated_splits_are_replicates_if_the_user_says_so() -> None:
    folds = [fold_run(fold) for fold in range(2)]
    assert [key.name for key in compared(*folds, replicates=()).keys] == ["data.fold"]
    splits = [
        fold_run(fold, params={"data.split_seed": seed}, targets_hash=f"t{fold}{seed}")
        for fold in range(2)
        for seed in (1, 2)
    ]
    apart = compared(*splits)
    assert [key.name for key in apart.keys] == ["data.split_seed"]
    together = compared(*splits, replicates=("data.fold", "data.split_seed"))
    (one,) = together.rows
    assert together.keys == ()
    assert {together.replicates.repetition(run) for run in one.runs} == {"seed 0, split_seed 1", "seed 0, split_seed 2"}
    with pytest.raises(UserError, match=r"replicates: no run has a key 'data\.split'; did you mean 'data\.split_seed'"):
        compared(*splits, replicates=("data.split",))


# --- intervals and tests ----------------------------------------------------------------------------------------------


def test_the_variance_of_folds_is_that_of_nadeau_and_bengio() -> None:
    """Ten times ten-fold: the tabulated t quantile of 99 degrees of freedom, and 1 / 100 + 1 / 9 for the variance."""
    values = np.random.default_rng(0).normal(0.3, 1.0, 100).tolist()
    runs = [fold_run(fold, seed, params={"data.num_folds": 10}) for fold in range(10) for seed in range(10)]
    assert overlap(runs) == pytest.approx(1 / 9)
    half = 1.9842169515 * statistics.stdev(values) * math.sqrt(1 / 100 + 1 / 9)
    mean = statistics.fmean(values)
    assert mean_interval(values, overlap(runs)) == pytest.approx((mean - half, mean + half), rel=1e-8)
    statistic = mean / (statistics.stdev(values) * math.sqrt(1 / 100 + 1 / 9))
    assert p_value(values, overlap(runs)) == pytest.approx(2 * stats.t(99).cdf(-statistic))


def test_seeds_of_one_fold_are_independent_and_a_missing_fold_does_not_count_as_fewer_folds() -> None:
    assert overlap([fold_run(0, 0), fold_run(0, 1)]) == 0.0
    assert overlap([fold_run(None, 0), fold_run(None, 1)]) == 0.0
    assert overlap([fold_run(0), fold_run(3)]) == 1 / 4
    alone = [fold_run(fold, params={"data.num_folds": "patients"}) for fold in range(21)]
    assert overlap(alone) == 1 / 20


def test_subjects_that_validate_do_not_train() -> None:
    """Three folds of 300 subjects, of which 30 validate: 100 test and 170 train; the t quantile is tabulated."""
    params = {"data.num_folds": 3, "data.val_fraction": 0.1}
    values = [0.90, 0.93, 0.96]
    (one,) = compared(*(fold_run(fold, r2=value, params=params) for fold, value in enumerate(values))).rows
    half = 4.302652730 * 0.03 * math.sqrt(1 / 3 + 100 / 170)
    assert one.gates["r2"].interval == pytest.approx((0.93 - half, 0.93 + half))
    patients = {"data.num_folds": "patients", "data.val_fraction": 0.1}
    alone = [fold_run(fold, params=patients) for fold in range(21)]
    assert overlap(alone) == 1 / 18, "1 tests, 2 validate"


def test_folds_that_do_not_say_how_many_validate_are_named() -> None:
    (note,) = compared(*(fold_run(fold, name=f"fold_{fold}") for fold in range(3))).notes
    assert note.startswith("Intervals and tests over folds may be too narrow: runs without data.val_fraction (fold_0)")
    assert compared(*(fold_run(fold, params={"data.val_fraction": 0.1}) for fold in range(3))).notes == ()


def test_false_discovery_rate_is_the_step_up_procedure() -> None:
    """Benjamini & Hochberg: reject the k smallest, k the largest with p_(k) <= q k / m; here for every q at once."""
    p_values = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216, 0.9, None]
    rows = {number: {"r2": Difference(2, 0.1, (0.0, 0.2), value)} for number, value in enumerate(p_values)}
    found = [row["r2"].q_value for row in with_false_discovery_rate(rows).values()]
    known = sorted(value for value in p_values if value is not None)
    for rate in (0.01, 0.0439, 0.0441, 0.05, 0.1, 0.25):
        largest = max((k for k, value in enumerate(known, 1) if value <= rate * k / len(known)), default=0)
        assert [q is not None and q <= rate for q in found] == [place < largest for place in range(len(p_values))]
    assert found[-1] is None
    assert with_false_discovery_rate({}) == {}


def test_a_whole_comparison_corrects_for_all_of_its_tests() -> None:
    random = np.random.default_rng(1)
    runs = [fold_run(fold, weight=weight, r2=0.6 + random.normal(0, 0.05)) for weight in range(6) for fold in range(5)]
    (cohort,) = compared(*runs).cohorts
    tests = [one for row in cohort.differences.values() for one in row.values() if one.p_value is not None]
    assert len(tests) == 5, "dcor is the same in all runs, and is not tested"
    expected = stats.false_discovery_control([one.p_value for one in tests])
    assert [one.q_value for one in tests] == pytest.approx(expected)
    assert [one.is_clear for one in tests] == [value < 0.05 for value in expected]


# --- pooled predictions -----------------------------------------------------------------------------------------------


@dataclass
class Cohort:
    """Subjects with two targets, and what models of two weights and two seeds predict; all without folds.

    Attributes:
        true: [N, 2].
        predicted: (weight, seed) -> [N, 2].
        errors: (weight, seed) -> errors from the own z and from another [N, 2].
        num_folds: subject i is in fold i modulo this.
    """

    num_subjects: int = 60
    num_folds: int = 5

    def __post_init__(self) -> None:
        random = np.random.default_rng(3)
        self.true = random.normal(5.0, 2.0, (self.num_subjects, 2))
        self.predicted: dict[tuple[int, int], Floats] = {}
        self.errors: dict[tuple[int, int], Floats] = {}
        for weight, noise in ((0, 0.6), (5, 1.2)):
            for seed in (0, 1):
                self.predicted[weight, seed] = self.true + random.normal(0.0, noise, self.true.shape)
                self.errors[weight, seed] = random.uniform(1.0, 2.0, self.true.shape) * (1.0, 2.0)

    def r2(self, weight: int, rows: Any, seeds: Sequence[int] = (0, 1)) -> float:
        """Return the mean over targets and seeds of the R2 of some rows, by its definition."""
        true = self.true[rows]
        total = np.square(true - true.mean(axis=0)).sum(axis=0)
        rest = [np.square(true - self.predicted[weight, seed][rows]).sum(axis=0) for seed in seeds]
        return float(np.mean(1.0 - np.array(rest) / total))

    def ratio(self, weight: int) -> float:
        means = [self.errors[weight, seed].mean(axis=0) for seed in (0, 1)]
        return float(np.mean([foreign / own for own, foreign in means]))

    def per_subject(self, weight: int, seed: int, fold: int) -> str:
        """Return the file of the run of one fold: its test split, and others that it has seen and predicts exactly."""
        names = [
            "targets.vol.a",
            "targets.vol.b",
            "predictions.vol.a",
            "predictions.vol.b",
            "errors.mu",
            "errors.mean_z",
        ]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["subject_id", "patient_id", "split", *names, "a.true_mL"])
        for row in range(self.num_subjects):
            name, true = f"s{row:03d}", self.true[row].tolist()
            if row % self.num_folds == fold:
                predicted, errors = self.predicted[weight, seed][row], self.errors[weight, seed][row]
                writer.writerow([name, name, "test", *true, *predicted.tolist(), *errors.tolist(), 7.0])
            else:
                writer.writerow([name, name, "val", *true, *true, 0.0, 100.0, 7.0])
        return text.getvalue()

    def run(self, weight: int, seed: int, fold: int, **more: Any) -> MadeRun:
        params = {"loss.lambda_dcor": weight, "seed": seed, "data.fold": fold, "data.num_folds": self.num_folds}
        return MadeRun(
            params,
            {"vol_r2": 0.9 - 0.01 * weight + 0.001 * fold + 0.002 * seed, "mean_z_ratio": 2.0, "max_dcor": 0.3},
            tags={"menvae.targets_hash": f"t{fold}"},
            targets={"vol_r2": (">", 0.85), "mean_z_ratio": (">", 1.5), "max_dcor": ("<", 0.35)},
            metrics={"vol_r2": "sem/vol_r2", "mean_z_ratio": "diag/mean_z_ratio", "max_dcor": "indep/max_dcor"},
            **{"per_subject": self.per_subject(weight, seed, fold), **more},
        )


def pooled(output_dir: Path, runs: Sequence[MadeRun], **keys: Any) -> tuple[Comparison, RunStore]:
    fill(output_dir, runs)
    store = RunStore.open(TrackingSettings(), output_dir)
    return with_out_of_fold(compare(store.runs()[0], ComparisonSettings(**keys)), store), store


@pytest.fixture(scope="module")
def whole(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, RunStore]:
    """All folds of two weights and two seeds."""
    cohort = Cohort()
    runs = [cohort.run(weight, seed, fold) for weight in (0, 5) for seed in (0, 1) for fold in range(5)]
    return pooled(copy_of(empty_store, tmp_path_factory.mktemp("folds")), runs)


def bootstrapped(statistic: Callable[[Any], float], num: int = 60, resamples: int = 1000) -> tuple[float, float]:
    """Return SciPy's BCa interval of a statistic of rows."""
    rows = (np.arange(num),)
    options = {"n_resamples": resamples, "method": "BCa", "rng": np.random.default_rng(0), "vectorized": False}
    found = stats.bootstrap(rows, statistic, **options).confidence_interval
    return float(found.low), float(found.high)


def test_pooled_predictions_are_those_without_folds(whole: tuple[Comparison, RunStore]) -> None:
    made, everyone = Cohort(), np.arange(60)
    (cohort,) = whole[0].cohorts
    for one in cohort.configurations:
        weight = int(one.values["loss.lambda_dcor"])
        found = cohort.out_of_fold[one.number]
        assert (found.num_subjects, found.num_patients) == (60, 60)
        r2 = found.metrics["sem/vol_r2"]
        each = [made.r2(weight, everyone, [seed]) for seed in (0, 1)]
        assert list(r2.values.items()) == [("seed 0", pytest.approx(each[0])), ("seed 1", pytest.approx(each[1]))]
        assert (r2.mean, r2.deviation) == (pytest.approx(statistics.fmean(each)), pytest.approx(statistics.stdev(each)))
        expected = bootstrapped(lambda rows, weight=weight: made.r2(weight, rows))
        assert r2.interval == pytest.approx(expected, rel=1e-6)
        assert found.metrics["diag/mean_z_ratio"].mean == pytest.approx(made.ratio(weight))
        assert "indep/max_dcor" not in found.metrics
        assert not any(key.startswith("val_epoch/") for key in found.metrics)


def test_differences_of_pooled_predictions_are_of_the_same_subjects(whole: tuple[Comparison, RunStore]) -> None:
    made = Cohort()
    (cohort,) = whole[0].cohorts
    assert cohort.baseline.values["loss.lambda_dcor"] == "0"
    assert cohort.out_of_fold[1].differences == {}
    found = cohort.out_of_fold[2].differences
    assert set(found) == {"vol_r2", "mean_z_ratio"}

    def change(rows: Any) -> float:
        return made.r2(5, rows) - made.r2(0, rows)

    r2 = found["vol_r2"]
    assert (r2.num_shared, r2.mean) == (2, pytest.approx(change(np.arange(60))))
    assert r2.interval == pytest.approx(bootstrapped(change, resamples=5000), rel=1e-6)
    assert r2.p_value is not None
    assert r2.p_value < 0.01
    ratio = found["mean_z_ratio"]
    assert ratio.p_value is not None
    adjusted = stats.false_discovery_control([r2.p_value, ratio.p_value])
    assert [r2.q_value, ratio.q_value] == pytest.approx(adjusted)
    assert r2.is_clear


def test_only_configurations_in_tables_are_pooled(
    whole: tuple[Comparison, RunStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison, store = whole
    monkeypatch.setattr("menvae.comparison.words.MOST_ROWS", 1)
    again = with_out_of_fold(comparison, store)
    assert again.cohorts[0].out_of_fold == {1: comparison.cohorts[0].out_of_fold[1]}
    assert again.notes[-1] == "Predictions are pooled over folds only of the 1 of 2 configurations in tables."


def test_another_scale_of_a_fold_would_show(whole: tuple[Comparison, RunStore], tmp_path: Path) -> None:
    """Targets are pooled as they are, not by the z-score of each fold, which would hide that folds differ."""
    path = tmp_path / "per_subject.csv"
    path.write_text(Cohort().per_subject(0, 0, 3))
    fold = read_fold(path)
    assert fold is not None
    assert fold.columns["targets.vol.a"] == pytest.approx(Cohort().true[3::5, 0])
    assert set(fold.subjects) == {f"s{row:03d}" for row in range(3, 60, 5)}
    assert "a.true_mL" not in fold.columns


@pytest.mark.parametrize("text", ["", "subject_id\ns1\n", "subject_id,patient_id,split,errors.mu\ns1,s1,test,many\n"])
def test_a_damaged_file_is_not_pooled(output_dir: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "per_subject.csv").write_text(text)
    assert read_fold(tmp_path / "per_subject.csv") is None
    assert read_fold(tmp_path / "nothing.csv") is None
    made = Cohort()
    runs = [
        made.run(0, 0, fold, **({"per_subject": text, "name": "damaged"} if fold == 1 else {})) for fold in range(5)
    ]
    comparison, _ = pooled(output_dir, runs)
    (cohort,) = comparison.cohorts
    assert (cohort.out_of_fold[1].num_subjects, cohort.out_of_fold[1].missing) == (48, {"seed 0": ("1",)})
    assert "#1: fold 1 is missing for seed 0, so that not all subjects are pooled." in out_of_fold_words(
        comparison, cohort
    )
    assert comparison.notes[-1].endswith("without a readable test split in per_subject.csv: damaged.")


def test_only_subjects_that_all_seeds_have_judged_are_averaged(output_dir: Path) -> None:
    made = Cohort()
    runs = [made.run(weight, seed, fold) for weight in (0, 5) for seed in (0, 1) for fold in range(5)]
    runs = [
        run
        for run in runs
        if (run.params["loss.lambda_dcor"], run.params["seed"], run.params["data.fold"]) != (5, 1, 2)
    ]
    comparison, _ = pooled(output_dir, runs)
    (cohort,) = comparison.cohorts
    kept = np.flatnonzero(np.arange(60) % 5 != 2)
    assert cohort.out_of_fold[2].metrics["sem/vol_r2"].mean == pytest.approx(made.r2(5, kept))
    assert cohort.out_of_fold[1].metrics["sem/vol_r2"].mean == pytest.approx(made.r2(0, np.arange(60)))
    difference = cohort.out_of_fold[2].differences["vol_r2"]
    assert difference.mean == pytest.approx(made.r2(5, kept) - made.r2(0, kept))


def test_a_fold_that_one_seed_lacks_is_named_though_no_configuration_has_more(output_dir: Path) -> None:
    """60 subjects in 3 folds: without fold 2 of one of two seeds, 20 of them are judged by one seed only."""
    made = Cohort(num_folds=3)
    comparison, store = pooled(
        output_dir, [made.run(0, seed, fold) for seed in (0, 1) for fold in range(3) if (seed, fold) != (1, 2)]
    )
    (cohort,) = comparison.cohorts
    assert cohort.out_of_fold[1].num_subjects == 40
    said = "#1: fold 2 is missing for seed 1: 20 of 60 subjects are not pooled."
    assert said in out_of_fold_words(comparison, cohort)
    page = write_page(comparison, [], store, output_dir / "index.html").read_text()
    assert said in page
    assert "40 of 60" in page
    folds = page.split('id="folds"')[1].split("</section>")[0]
    assert ">difference<" not in folds, "there is nothing to differ from"


def test_one_patient_at_a_time_has_an_r2_only_when_pooled(output_dir: Path) -> None:
    made = Cohort(num_subjects=12, num_folds=12)
    comparison, _ = pooled(output_dir, [made.run(0, 0, fold) for fold in range(12)])
    (cohort,) = comparison.cohorts
    found = cohort.out_of_fold[1].metrics["sem/vol_r2"]
    assert found.mean == pytest.approx(made.r2(0, np.arange(12), [0]))
    assert found.interval == pytest.approx(bootstrapped(lambda rows: made.r2(0, rows, [0]), 12), rel=1e-6)
    assert found.deviation is None


def test_the_same_predictions_are_not_tested(output_dir: Path) -> None:
    made = Cohort()
    made.predicted[5, 0] = made.predicted[0, 0]
    comparison, _ = pooled(output_dir, [made.run(weight, 0, fold) for weight in (0, 5) for fold in range(5)])
    (cohort,) = comparison.cohorts
    same = cohort.out_of_fold[2].differences["vol_r2"]
    assert (same.mean, same.interval, same.p_value, same.q_value) == (0.0, None, None, None)


def test_many_patients_are_resampled_in_groups_of_equal_size() -> None:
    names = [f"p{number}" for number in range(3 * MOST_UNITS)]
    units = units_of([*names, *names])
    assert units[: len(names)] == units[len(names) :], "visits stay together"
    assert set(np.bincount(units).tolist()) == {6}
    assert len(set(units)) == MOST_UNITS


# --- output -----------------------------------------------------------------------------------------------------------


def test_terminal_and_page_show_pooled_predictions(whole: tuple[Comparison, RunStore], tmp_path: Path) -> None:
    comparison, store = whole
    console = Console(width=180, record=True, file=(tmp_path / "out.txt").open("w"))
    for answer in answers(comparison, []):
        console.print(answer)
    text = console.export_text()
    r2 = Cohort().r2(0, np.arange(60))
    (row,) = [line.split() for line in text.split("Out of fold")[1].splitlines() if line.split()[:2] == ["1", "60"]]
    assert float(row[2]) == pytest.approx(r2, abs=1e-3)
    for words in (
        "mean and standard deviation over the seeds and folds",
        "corrected for training subjects that folds share",
        "each subject is judged by the model that has not seen it",
        "such as latents, which each fold has of its own: max_dcor.",
        "adjustment for 2 tests (false discovery rate, Benjamini and Hochberg)",
    ):
        assert words in " ".join(text.split()), words
    page = write_page(comparison, [], store, tmp_path / "index.html").read_text()
    for words in ("What do all folds say together?", "out-of-fold-table-A", 'href="#folds"', "seed 1, fold 4"):
        assert words in page, words


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_files_have_folds_and_full_precision(whole: tuple[Comparison, RunStore], tmp_path: Path) -> None:
    made, everyone = Cohort(), np.arange(60)
    runs = rows_of(write_runs(whole[0], tmp_path / "runs.csv"))
    assert {(row["seed"], row["data.fold"]) for row in runs} == {(str(s), str(f)) for s in (0, 1) for f in range(5)}
    best, other = rows_of(write_configurations(whole[0], tmp_path / "configurations.csv"))
    assert (best["seeds"], best["runs"], best["out_of_fold/subjects"]) == ("2", "10", "60")
    key = "out_of_fold/sem/vol_r2"
    assert float(other[key]) == pytest.approx(made.r2(5, everyone))
    assert float(other[f"{key}/difference"]) == pytest.approx(made.r2(5, everyone) - made.r2(0, everyone))
    assert best[f"{key}/difference"] == best["vol_r2/difference"] == ""
    assert float(other["vol_r2/difference"]) == pytest.approx(-0.05)
    assert 0.0 <= float(other["vol_r2/difference/p"]) <= float(other["vol_r2/difference/q"]) < 0.05


def test_without_folds_nothing_is_pooled_and_torch_is_not_needed(sweep_dir: Path) -> None:
    runs, _ = RunStore.open(TrackingSettings(), sweep_dir).runs()
    comparison = compare(runs, ComparisonSettings())
    assert not comparison.replicates.has_folds
    assert comparison.replicates.words == "seeds"
    (cohort,) = comparison.cohorts
    assert cohort.out_of_fold == {}
    asked = "import sys, menvae.comparison.compare, menvae.comparison.export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


def test_a_mean_of_groups_is_as_sure_as_that_of_their_patients() -> None:
    values: Floats = np.random.default_rng(0).exponential(size=4 * MOST_UNITS)
    units = np.array(units_of([str(number) for number in range(len(values))]))
    means = np.array([values[units == unit].mean() for unit in range(MOST_UNITS)])
    assert means.std() / math.sqrt(MOST_UNITS) == pytest.approx(values.std() / math.sqrt(len(values)), rel=0.1)
