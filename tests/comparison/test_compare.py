"""Grouping and statistics, against SciPy and by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from stores import TARGETS, sweep, tracked

from menvae.comparison.compare import ComparisonSettings, compare
from menvae.comparison.differences import difference
from menvae.comparison.results import Comparison
from menvae.comparison.summaries import mean_interval, p_value, summarise
from menvae.comparison.tracked_runs import TrackedRun
from menvae.comparison.words import difference_words, effect_words, front_words, key_words, not_judged_words
from menvae.errors import UserError

FEW = {"r2": (">", 0.5), "dcor": ("<", 0.4)}


def run(
    weight: float = 5.0, seed: int = 0, r2: float | None = 0.6, dcor: float | None = 0.3, **more: Any
) -> TrackedRun:
    params = {"loss.lambda_dcor": weight, "seed": seed, **more.pop("params", {})}
    return tracked(params, {"r2": r2, "dcor": dcor}, FEW, **more)


def compared(*runs: TrackedRun, **keys: Any) -> Comparison:
    return compare(runs, ComparisonSettings(**keys))


def synthetic() -> list[TrackedRun]:
    return [tracked(made.params, made.values) for made in sweep()]


# --- grouping ---------------------------------------------------------------------------------------------------------


def test_seeds_are_replicates() -> None:
    comparison = compared(run(0, 0, 0.5), run(0, 1, 0.6), run(0, 2, 0.7), run(5, 0, 0.1))
    assert [key.name for key in comparison.keys] == ["loss.lambda_dcor"]
    first, second = comparison.rows
    assert [run.seed for run in first.runs] == ["0", "1", "2"]
    assert first.gates["r2"].mean == pytest.approx(0.6)
    assert first.gates["r2"].deviation == pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1))
    assert second.gates["r2"].mean == 0.1
    assert second.gates["r2"].deviation is None


def test_a_single_run_is_one_configuration_and_nothing_varies() -> None:
    comparison = compared(run())
    assert comparison.keys == ()
    (only,) = comparison.rows
    assert (only.number, only.mean_rank, only.gates_passed) == (1, 1.0, 2.0)
    (cohort,) = comparison.cohorts
    assert cohort.effects == ()
    assert cohort.differences == {}
    assert key_words(comparison) == ["There is one run."]
    assert front_words(cohort) == ["There is only one configuration, so there is no trade-off."]
    assert difference_words(comparison, cohort) == []


def test_of_repeated_runs_the_latest_counts() -> None:
    old, new, other = run(0, 0, 0.1, name="old"), run(0, 0, 0.9, name="new"), run(5, 0)
    for order in ([old, new, other], [new, old, other]):
        comparison = compared(*order)
        assert [one.name for row in comparison.rows for one in row.runs if row.values["loss.lambda_dcor"] == "0"] == [
            "new"
        ]
        assert comparison.notes[0].startswith("Ignored, because a later run has the same configuration, seed and data")
        assert "old" in comparison.notes[0]


def test_the_same_number_written_otherwise_is_a_repetition() -> None:
    assert len(compared(run(5.0), run(5)).rows) == 1


def test_runs_of_other_data_are_another_cohort() -> None:
    runs = [run(weight, seed, data_hash=data) for data in ("a", "b") for weight in (0, 5) for seed in (0, 1)]
    runs.append(run(0, 0, data_hash="a", targets_hash="other"))
    comparison = compared(*runs)
    assert [(cohort.label, len(cohort.runs)) for cohort in comparison.cohorts] == [("A", 4), ("B", 4), ("C", 1)]
    assert [row.cohort for row in comparison.rows] == ["A", "A", "B", "B", "C"]
    assert [row.number for row in comparison.rows] == [1, 2, 3, 4, 5]
    assert "different data or targets" in comparison.notes[0]
    for cohort in comparison.cohorts:
        numbers = {one.number for one in cohort.configurations}
        assert set(cohort.front.members) <= numbers
        assert set(cohort.differences) <= numbers
        assert {one.data_hash for one in cohort.runs} == {cohort.data_hash}
        assert {one.targets_hash for one in cohort.runs} == set(cohort.targets_hashes)
        assert len(cohort.targets_hashes) == 1


def test_a_key_that_changes_the_data_is_swept_but_has_no_effect_within_one_data() -> None:
    comparison = compared(*(run(params={"data.num_subjects": n}, data_hash=str(n)) for n in (360, 720)))
    assert [key.name for key in comparison.keys] == ["data.num_subjects"]
    assert all(cohort.effects == () for cohort in comparison.cohorts)


def test_versions_of_the_code_and_collapsed_runs_are_named() -> None:
    commit = "c" * 40
    runs = [run(0, git_commit=commit), run(5, git_commit=f"{commit} (modified)", state="collapsed", name="flat")]
    assert compared(*runs).notes == (
        "Stopped by the collapse watch, with gates evaluated at that point: flat.",
        "The runs used 2 versions of the code (ccccccc, ccccccc (modified)).",
    )


def test_other_targets_are_said_and_the_most_demanding_is_shown() -> None:
    lax = tracked({"gates.r2": 0.5}, {"r2": 0.55, "dcor": 0.3}, FEW)
    strict = tracked({"gates.r2": 0.6, "seed": 1}, {"r2": 0.55, "dcor": 0.3}, {**FEW, "r2": (">", 0.6)})
    comparison = compared(lax, strict, ignore=("gates",))
    assert comparison.gates[0].target == 0.6
    assert comparison.rows[0].gates_passed == 1.5
    assert "different targets for r2 (0.6, 0.5)" in comparison.notes[0]


def test_gates_of_one_name_on_different_metrics_are_named() -> None:
    def bounding(metric: str, seed: int) -> TrackedRun:
        one = run(0, seed)
        return replace(one, gates={**one.gates, "r2": replace(one.gates["r2"], metric=metric)})

    (note,) = compared(bounding("sem/vol_r2", 0), bounding("sem/shape_r2", 1)).notes
    assert note.startswith("The gate r2 bounds different metrics (sem/shape_r2, sem/vol_r2)")
    assert compared(bounding("sem/vol_r2", 0), bounding("", 1)).notes == (), "earlier versions name no metric"


# --- order ------------------------------------------------------------------------------------------------------------


def test_order_of_merit_is_gates_passed_then_mean_rank() -> None:
    comparison = compared(
        run(1, 0, r2=0.9, dcor=0.5),  # passes one gate, best r2
        run(2, 0, r2=0.51, dcor=0.39),  # passes both, worst in r2
        run(3, 0, r2=0.6, dcor=0.2),  # passes both, ranks 2 and 1
        run(4, 0, r2=None, dcor=0.3),  # passes one, ranks 4 and 2
    )
    assert [row.values["loss.lambda_dcor"] for row in comparison.rows] == ["3", "2", "1", "4"]
    assert [row.mean_rank for row in comparison.rows] == [1.5, 3.0, 2.5, 3.0]


def test_configurations_that_are_equal_in_a_gate_share_the_mean_of_their_ranks() -> None:
    comparison = compared(
        run(1, 0, r2=0.6, dcor=0.3),  # ranks (2 + 3) / 2 and 2
        run(2, 0, r2=0.6, dcor=0.35),  # ranks (2 + 3) / 2 and 3
        run(3, 0, r2=0.7, dcor=0.2),  # ranks 1 and 1
    )
    found = {row.values["loss.lambda_dcor"]: row.mean_rank for row in comparison.rows}
    assert found == {"3": 1.0, "1": 2.25, "2": 2.75}


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("r2", ["1", "3", "2", "4"]),
        ("dcor", ["3", "4", "2", "1"]),
        ("loss.lambda_dcor", ["1", "2", "3", "4"]),
        ("lambda_dcor", ["1", "2", "3", "4"]),
        ("rank", ["3", "1", "2", "4"]),
        ("passed", ["3", "2", "1", "4"]),
        ("seeds", ["3", "2", "1", "4"]),
    ],
)
def test_sorted_by_a_column(sort: str, expected: list[str]) -> None:
    runs = [run(1, 0, 0.9, 0.5), run(2, 0, 0.51, 0.39), run(3, 0, 0.6, 0.2), run(4, 0, None, 0.3)]
    comparison = compared(*runs, sort=sort)
    assert [row.values["loss.lambda_dcor"] for row in comparison.rows] == expected
    assert comparison.rows[expected.index("3")].number == 1, "numbers are those of the order of merit"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sort": "dcr"}, "sort: 'dcr' is not a column; did you mean 'dcor'"),
        ({"front": ("r2", "cor")}, "front: 'cor' is not a gate; did you mean 'dcor'"),
        ({"baseline": "run_"}, "baseline: no configuration matches 'run_'; .*name or MLflow id"),
        (
            {"baseline": {"loss.lambda_dcor": 7}},
            r"no configuration matches loss\.lambda_dcor=7; swept keys: .* \(0, 5\)",
        ),
        ({"baseline": {"model.name": "semivae"}}, "2 configurations match model.name=semivae; specify more of"),
        ({"ignore": ("nothing",)}, "ignore: no run has a key 'nothing'"),
    ],
)
def test_a_wrong_setting_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compared(run(0), run(5), **keys)


# --- differences ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=2, max_size=10))
@settings(deadline=None)
def test_mean_interval_is_scipys(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = np.array(pairs).T
    if np.ptp(ours - theirs) < 1e-6:
        return  # SciPy has no interval for differences without spread
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = difference(summarise(dict(enumerate_text(ours))), summarise(dict(enumerate_text(theirs))))
    assert found.num_shared == len(pairs)
    assert found.mean == pytest.approx(float(np.mean(ours - theirs)), abs=1e-12)
    assert found.interval == pytest.approx((float(expected.low), float(expected.high)), rel=1e-7, abs=1e-9)
    assert found.p_value == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-5, abs=1e-12)


def enumerate_text(values: Any) -> list[tuple[str, float]]:
    return [(str(place), float(value)) for place, value in enumerate(values)]


def test_interval_of_equal_differences_has_no_width_and_of_one_there_is_none() -> None:
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)
    assert mean_interval([0.5]) is None
    assert mean_interval([]) is None


def test_only_shared_seeds_with_values_are_paired() -> None:
    one = summarise({"0": 1.0, "1": 2.0, "2": None, "3": 9.0})
    other = summarise({"3": None, "2": 5.0, "1": 1.5, "0": 0.25, "7": 0.0})
    found = difference(one, other)
    assert (found.num_shared, found.mean) == (2, 0.625)


def test_equal_configurations_are_not_tested_and_a_constant_difference_is_certain() -> None:
    assert p_value([0.0, 0.0, 0.0]) is None
    assert p_value([0.5, 0.5]) == 0.0
    assert p_value([0.5]) is None


def test_differences_of_a_whole_sweep_are_scipys() -> None:
    comparison = compare(synthetic(), ComparisonSettings())
    (cohort,) = comparison.cohorts
    assert cohort.baseline.number == 1
    for one in cohort.configurations[1:]:
        for gate in ("vol_r2", "max_dcor"):
            ours, theirs = (list(row.gates[gate].values.values()) for row in (one, cohort.baseline))
            expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
            assert cohort.differences[one.number][gate].interval == pytest.approx(tuple(expected))
    assert "3 seeds" not in difference_words(comparison, cohort)[0]
    assert "paired t" in difference_words(comparison, cohort)[0]


@pytest.mark.parametrize("seeds", [(0,), (7, 8, 9)])
def test_below_two_shared_seeds_no_interval_can_be_given(seeds: tuple[int, ...]) -> None:
    comparison = compared(run(0, 0), run(0, 1), *(run(5, seed) for seed in seeds))
    (cohort,) = comparison.cohorts
    (row,) = cohort.differences.values()
    assert all(one.interval is None for one in row.values())
    assert "There are no intervals" in difference_words(comparison, cohort)[0]


@pytest.mark.parametrize("baseline", [{"lambda_dcor": 5.0}, {"loss.lambda_dcor": "5"}, "five", "f" * 32, "f" * 8])
def test_baseline_of_ones_own(baseline: Any) -> None:
    runs = [run(0, 0, 0.9, 0.1), run(0, 1, 0.9, 0.1), run(5, 0, 0.2, name="five"), run(5, 1, 0.1, run_id="f" * 32)]
    (cohort,) = compared(*runs, baseline=baseline).cohorts
    assert cohort.baseline.values["loss.lambda_dcor"] == "5"
    assert cohort.differences[1]["r2"].mean == pytest.approx(0.75)


def test_a_cohort_without_the_baseline_is_compared_with_its_best() -> None:
    runs = [run(0, data_hash="a"), run(5, data_hash="a"), run(0, data_hash="b"), run(9, data_hash="b")]
    first, second = compared(*runs, baseline={"loss.lambda_dcor": 5}).cohorts
    assert first.baseline.values["loss.lambda_dcor"] == "5"
    assert second.baseline is second.configurations[0]


# --- gates without a value --------------------------------------------------------------------------------------------


def test_a_configuration_with_a_missing_value_keeps_its_mean_but_not_its_place_on_the_front() -> None:
    (cohort,) = compared(run(0, 0, 0.9, 0.1), run(0, 1, None, 0.1), run(5, 0, 0.6, 0.3)).cohorts
    partial = next(one for one in cohort.configurations if one.values["loss.lambda_dcor"] == "0")
    assert (partial.gates["r2"].mean, partial.gates["r2"].missing) == (0.9, 1)
    assert cohort.front.excluded == {partial.number: ("r2",)}
    assert any(f"#{partial.number} cannot be placed" in sentence for sentence in front_words(cohort))


def test_gates_without_a_value_are_neither_passed_nor_failed() -> None:
    comparison = compared(run(0, 0, None, 0.1), run(0, 1, 0.9, 0.1), run(5, 0, None, 0.3), run(5, 1, None, 0.3))
    judged = {one.values["loss.lambda_dcor"]: one.gates_judged for one in comparison.rows}
    assert judged == {"0": 1.5, "5": 1.0}
    assert not_judged_words(comparison) == ['Without a value (n/a), and not counted in "passed": r2 (3 of 4 runs).']
    assert not_judged_words(compared(run(0, 0), run(5, 0))) == []


def test_a_single_gate_has_no_front() -> None:
    (cohort,) = compared(run(0, 0, None, 0.1), run(5, 0, None, 0.3)).cohorts
    assert cohort.front.members == ()
    assert front_words(cohort)[-1] == (
        "There is no Pareto front: only one gate, dcor, has values, and a single gate has no trade-off."
    )
    (cohort,) = compared(run(0, 0, 0.9, 0.1), run(5, 0, None, 0.3)).cohorts
    assert cohort.front.members == ()
    assert "only one configuration has a value for every gate" in front_words(cohort)[-1]


def test_a_gate_that_no_run_has() -> None:
    comparison = compared(run(0, 0, None), run(0, 1, None), run(5, 0, None), run(5, 1, None))
    (cohort,) = comparison.cohorts
    assert cohort.front.unmeasured == ("r2",)
    assert comparison.rows[0].gates["r2"].mean is None
    assert cohort.effects[0].ranges["r2"] is None
    assert cohort.differences[2]["r2"].mean is None


def test_front_of_a_sweep_is_over_the_wanted_gates() -> None:
    (cohort,) = compare(synthetic(), ComparisonSettings(front=("vol_r2", "max_dcor"))).cohorts
    means = {one.number: (one.gates["vol_r2"].mean, one.gates["max_dcor"].mean) for one in cohort.configurations}
    expected = [
        number
        for number, (r2, dcor) in means.items()
        if not any(a >= r2 and b <= dcor and (a, b) != (r2, dcor) for a, b in means.values())
    ]
    assert list(cohort.front.members) == sorted(expected)
    assert cohort.front.hypervolume > 0


# --- effects ----------------------------------------------------------------------------------------------------------


def test_effects_of_a_balanced_sweep_are_means_over_runs() -> None:
    runs = synthetic()
    comparison = compare(runs, ComparisonSettings())
    (cohort,) = comparison.cohorts
    assert [effect.key.name for effect in cohort.effects] == ["model.partitions.vol", "loss.lambda_dcor"]
    assert all(effect.balanced for effect in cohort.effects)
    assert effect_words(comparison, cohort) == []
    for effect, gate in product(cohort.effects, TARGETS):
        means = {
            value: np.mean(
                [one.gates[gate].value for one in runs if float(one.params[effect.key.name]) == float(value)]
            )
            for value in effect.key.values
        }
        assert {value: row[gate] for value, row in effect.means.items()} == pytest.approx(means)
        assert effect.ranges[gate] == pytest.approx(max(means.values()) - min(means.values()))


@pytest.mark.parametrize("left_out", [[0], [1, 4]], ids=str)
def test_an_unbalanced_design_is_said(left_out: list[int]) -> None:
    full = [run(weight, seed, params={"model.z_dim": z}) for weight in (0, 5) for z in (64, 128) for seed in (0, 1)]
    (cohort,) = compared(*full).cohorts
    assert all(effect.balanced for effect in cohort.effects)
    comparison = compared(*(one for place, one in enumerate(full) if place not in left_out))
    (cohort,) = comparison.cohorts
    assert not any(effect.balanced for effect in cohort.effects)
    assert effect_words(comparison, cohort)[0].startswith("Unbalanced: model.z_dim, loss.lambda_dcor.")


def test_other_seeds_are_unbalanced_too() -> None:
    (cohort,) = compared(run(0, 0), run(0, 1), run(5, 0), run(5, 2)).cohorts
    assert not cohort.effects[0].balanced


def test_summary_of_nothing() -> None:
    summary = summarise({"0": None})
    assert (summary.mean, summary.deviation, summary.missing) == (None, None, 1)
