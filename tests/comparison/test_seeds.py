"""Seeds are replicates; the test split is shown, and chooses nothing."""

from __future__ import annotations

import csv
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy import stats
from stores import TARGETS, MadeRun, fill, gates_of, tracked

from menvae.comparison.compare import ComparisonSettings, compare
from menvae.comparison.export import write_configurations, write_runs
from menvae.comparison.judged import Judged, read_evaluation, read_gates
from menvae.comparison.page import write_page
from menvae.comparison.results import Comparison
from menvae.comparison.summaries import summarise
from menvae.comparison.table import answers
from menvae.comparison.tracked_runs import RunStore, TrackedRun
from menvae.comparison.words import largest_leaks, leak_words, shown_verdicts
from menvae.tracking.tracker import TrackingSettings

GOOD: dict[str, float | None] = {
    name: target + (0.1 if comparison == ">" else -0.1) for name, (comparison, target) in TARGETS.items()
}
LEAK = {"partition": "loc", "own_r2": None, "p_value": 0.01, "n": 40}
LEAKS = [
    {**LEAK, "target": "loc_x", "source": "vol", "probe": "ridge", "r2": 0.4, "conditional": 0.4, "null": 0.1},
    {**LEAK, "target": "loc_x", "source": "vol", "probe": "quadratic", "r2": 0.48, "conditional": 0.48, "null": 0.2},
    {**LEAK, "target": "loc_y", "source": "vol", "probe": "ridge", "r2": 0.05, "conditional": 0.05, "null": 0.1},
    {**LEAK, "target": "loc_z", "source": "residual", "probe": "ridge", "r2": 0.8, "conditional": 0.8, "null": 0.1},
    {**LEAK, "target": "loc_z", "source": "shape", "probe": "ridge", "r2": None, "conditional": None, "null": None},
    {**LEAK, "target": "loc_x", "source": "loc", "probe": "ridge", "r2": 0.9, "conditional": 0.9, "null": 0.1},
]


def evaluation(value: float, leaks: Any = LEAKS) -> dict[str, Any]:
    found = {"value": value, "low": value - 0.1, "high": value + 0.2, "n": 40, "reason": ""}
    nothing = {"value": None, "low": None, "high": None, "n": 0, "reason": "undefined"}
    metrics = {"metrics": {"sem/vol_r2": found, "diag/nothing": nothing}}
    return {"splits": {"val": {**metrics, "leaks": leaks}, "test": metrics}}


def compared(*runs: TrackedRun) -> Comparison:
    return compare(runs, ComparisonSettings())


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- over the seeds ---------------------------------------------------------------------------------------------------


def test_interval_over_seeds_is_scipys() -> None:
    values = [0.91, 0.88, 0.95, 0.90]
    interval = summarise({str(seed): value for seed, value in enumerate(values)}).interval
    expected = stats.t.interval(0.95, 3, statistics.fmean(values), statistics.stdev(values) / math.sqrt(4))
    assert interval == pytest.approx(expected)
    assert summarise({"0": 0.9, "1": None}).interval is None


def test_seeds_that_pass_are_counted_on_each_split() -> None:
    runs = [
        tracked({"seed": 0}, GOOD, test_values=GOOD),
        tracked({"seed": 1}, GOOD, test_values={**GOOD, "vol_r2": 0.1}),
        tracked({"seed": 2}, {**GOOD, "loc_r2": None}, test_values=GOOD),
    ]
    (one,) = compared(*runs).rows
    assert (one.verdicts("vol_r2", "val"), one.verdicts("vol_r2", "test")) == ({"pass": 3}, {"pass": 2, "fail": 1})
    assert one.verdicts("loc_r2", "val") == {"pass": 2, "not computed": 1}
    assert (shown_verdicts(one, "vol_r2", "val"), shown_verdicts(one, "vol_r2", "test")) == ("3/3", "2/3")
    assert one.num_runs_passed == 1, "both splits must pass"
    assert one.test_gates["vol_r2"].mean == pytest.approx((0.95 + 0.1 + 0.95) / 3)
    assert (one.test_gates_passed, one.test_gates_judged) == (pytest.approx(20 / 3), 7)


# --- the test split ---------------------------------------------------------------------------------------------------


def test_the_test_split_ranks_nothing() -> None:
    better, worse = {**GOOD, "vol_r2": 0.99}, {**GOOD, "vol_r2": 0.9}
    bad = dict.fromkeys(TARGETS, 0.0)

    def outcome(test_of_better: dict[str, Any] | None, test_of_worse: dict[str, Any] | None) -> list[Any]:
        runs = [
            tracked({"seed": seed, "loss.lambda_dcor": weight}, values, test_values=of_test)
            for seed in (0, 1)
            for weight, values, of_test in ((1, better, test_of_better), (2, worse, test_of_worse))
        ]
        (cohort,) = compared(*runs).cohorts
        effects = [effect.means for effect in cohort.effects]
        ranks = [(one.number, one.values, one.mean_rank, one.gates_passed) for one in cohort.configurations]
        return [ranks, cohort.front, effects, cohort.differences]

    assert outcome(bad, GOOD) == outcome(GOOD, bad) == outcome(None, None)
    assert outcome(bad, GOOD)[0][0][1] == {"loss.lambda_dcor": "1"}


def test_a_run_without_a_test_split_is_judged_by_validation_and_blank_beside_others() -> None:
    runs = [
        tracked({"loss.lambda_dcor": 1}, GOOD, test_values=GOOD),
        tracked({"loss.lambda_dcor": 2}, GOOD),
    ]
    comparison = compared(*runs)
    old = next(one for one in comparison.rows if one.values["loss.lambda_dcor"] == "2")
    assert old.num_runs_passed == 1
    assert (old.test_gates_passed, shown_verdicts(old, "vol_r2", "test")) == (None, "\N{EN DASH}")
    assert comparison.splits == ("val", "test")
    assert compared(runs[1]).splits == ("val",)


# --- files of a run ---------------------------------------------------------------------------------------------------


def test_verdicts_and_intervals_are_those_of_gates_json(tmp_path: Path) -> None:
    table = gates_of(GOOD)
    table["gates"][0] |= {"low": 0.8, "high": 0.97, "verdict": "undecided", "passed": False}
    table["test"] = gates_of({**GOOD, "vol_r2": None})
    (tmp_path / "gates.json").write_text(json.dumps(table))
    judged = read_gates(tmp_path / "gates.json")
    assert (judged.gates["vol_r2"].verdict, judged.gates["vol_r2"].interval) == ("undecided", (0.8, 0.97))
    assert (judged.gates["loc_r2"].verdict, judged.gates["loc_r2"].interval) == ("pass", None), "of an earlier version"
    assert judged.test_gates["vol_r2"].verdict == "not computed"


@pytest.mark.parametrize("damaged", [None, 3, [], {}, {"gates": 3}, {"gates": [3]}, {"gates": [{"name": "vol_r2"}]}])
def test_damaged_gates_of_one_split_leave_those_of_the_other(tmp_path: Path, damaged: object) -> None:
    (tmp_path / "gates.json").write_text(json.dumps({**gates_of(GOOD), "test": damaged}))
    judged = read_gates(tmp_path / "gates.json")
    assert {name: gate.value for name, gate in judged.gates.items()} == {name: GOOD.get(name) for name in judged.gates}
    assert (len(judged.gates), judged.test_gates) == (len(gates_of(GOOD)["gates"]), {})
    (tmp_path / "gates.json").write_text(json.dumps({"gates": damaged, "test": gates_of(GOOD)}))
    judged = read_gates(tmp_path / "gates.json")
    assert (judged.gates, judged.test_gates["vol_r2"].value) == ({}, GOOD["vol_r2"])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"splits": []}', '{"splits": {"val": {}}}'])
def test_a_damaged_evaluation_leaves_the_gates(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    judged = Judged({"a": tracked().gates["vol_r2"]})
    assert read_evaluation(tmp_path / "evaluation.json", judged) == judged


def test_largest_leaks_are_foreign_and_above_their_null(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation(0.9)))
    judged = read_evaluation(tmp_path / "evaluation.json", Judged())
    run = tracked({"seed": 5}, leaks=judged.leaks)
    assert largest_leaks(run, "val") == "loc_z from residual 0.80, loc_x from vol 0.48"
    assert largest_leaks(run, "test") == largest_leaks(tracked(), "val") == ""
    assert leak_words(compared(run)) == [
        "Largest leaks of #1 (R2, validation split): loc_z from residual 0.80, loc_x from vol 0.48."
    ]
    assert leak_words(compared(tracked())) == []


# --- output -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, RunStore]:
    """Three seeds that were judged on both splits, and a run of an earlier version."""
    from stores import copy_of

    output_dir = copy_of(empty_store, tmp_path_factory.mktemp("mixed"))
    bad = {**GOOD, "vol_r2": 0.1}
    runs = [
        MadeRun({"seed": seed}, GOOD, test_values=bad if seed else GOOD, evaluation=evaluation(0.7 + 0.1 * seed))
        for seed in (0, 1, 2)
    ]
    fill(output_dir, [*runs, MadeRun({"loss.lambda_dcor": 1}, GOOD)])
    store = RunStore.open(TrackingSettings(), output_dir)
    return compare(store.runs()[0], ComparisonSettings()), store


def test_csv_of_runs_has_both_splits_and_intervals(mixed: tuple[Comparison, RunStore], tmp_path: Path) -> None:
    rows = {row["seed"] + row["loss.lambda_dcor"]: row for row in read_csv(write_runs(mixed[0], tmp_path / "a.csv"))}
    new, failed, old = rows["05.0"], rows["15.0"], rows["421"]
    assert (new["vol_r2/verdict"], new["test/vol_r2/verdict"], new["passed"]) == ("pass", "pass", "True")
    assert (failed["test/vol_r2"], failed["test/vol_r2/verdict"], failed["passed"]) == ("0.1", "fail", "False")
    assert (failed["gates_passed"], failed["test_gates_passed"]) == ("7", "6")
    figures = [failed[f"final/val/sem/vol_r2{end}"] for end in ("", "/low", "/high")]
    assert [float(value) for value in figures] == pytest.approx([0.8, 0.7, 1.0])
    assert failed["largest_leaks"] == "loc_z from residual 0.80, loc_x from vol 0.48"
    blank = ("test/vol_r2", "test/vol_r2/verdict", "test_gates_passed", "largest_leaks", "final/val/sem/vol_r2")
    assert {old[name] for name in blank} == {""}
    assert (old["vol_r2/verdict"], old["passed"]) == ("pass", "True")


def test_csv_of_configurations_is_over_the_seeds(mixed: tuple[Comparison, RunStore], tmp_path: Path) -> None:
    rows = {row["loss.lambda_dcor"]: row for row in read_csv(write_configurations(mixed[0], tmp_path / "a.csv"))}
    new, old = rows["5"], rows["1"]
    assert (new["seeds"], new["runs_passed"], old["seeds"], old["runs_passed"]) == ("3", "1", "1", "1")
    assert [new[f"test/vol_r2/{verdict}"] for verdict in ("pass", "fail", "undecided")] == ["1", "2", "0"]
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t quantile of 2 degrees of freedom, as in any table
    names = ["final/val/sem/vol_r2" + ending for ending in ("", "/sd", "/low", "/high")]
    assert [float(new[name]) for name in names] == pytest.approx([0.8, 0.1, 0.8 - half, 0.8 + half])
    assert {old[name] for name in ("test/vol_r2", "vol_r2/sd", "vol_r2/low", *names)} == {""}
    assert not any(name.endswith(("/low/low", "/high/sd")) for name in new)


def test_terminal_and_page_show_verdicts_of_both_splits(mixed: tuple[Comparison, RunStore], tmp_path: Path) -> None:
    comparison, store = mixed
    console = Console(width=160, record=True, file=(tmp_path / "out.txt").open("w"))
    for answer in answers(comparison, []):
        console.print(answer)
    text = console.export_text()
    lines = [line.split() for line in text.splitlines()]
    order = [one.values["loss.lambda_dcor"] for one in comparison.rows]
    cells = {"5": ["3/3", "1/3"], "1": ["pass", "\N{EN DASH}"]}
    assert ["vol_r2", ">", "0.85", *cells[order[0]], *cells[order[1]]] in lines
    page = write_page(comparison, [], store, tmp_path / "index.html").read_text()
    for words in ("How much do the seeds differ?", "test passed", "largest leaks", "test: 0.1, fail"):
        assert words in page
