"""Gates are data: which are judged, by what, what is said of those that are not, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from menvae.composition.experiment import Experiment
from menvae.errors import UserError
from menvae.evaluation.gates import NO_TEST_SPLIT, Gate, GateTable, JudgedGates, evaluate_gates
from menvae.gates import ADDED, NUMBERS, GateSettings, Target, canonical, check_gates
from menvae.latent import LatentLayout
from menvae.metrics import Metric, MetricContext, SplitRecord, build_metrics
from menvae.metrics.pairs import pairs
from menvae.runs.identity import run_hash
from menvae.statistics.distance_correlation import u_distance_correlations_sqr
from menvae.statistics.estimate import Estimate

Compose = Callable[..., DictConfig]

RATIOS = {"mean_z_ratio", "shuffled_ratio"}
TODAY = {
    "vol_r2": 0.85,
    "loc_r2": 0.91,
    "shape_r2": 0.40,
    "max_dcor": 0.35,
    "residual_active_units": 0.60,
    "mean_z_ratio": 1.5,
    "shuffled_ratio": 1.3,
    "strict": False,
}
"""As ``gates.*`` was when every gate was a number."""


def judged(
    sizes: dict[str, int],
    metrics: Mapping[str, float | None],
    num_subjects: int = 100,
    supervision: Mapping[str, Sequence[str]] | None = None,
    gates: Mapping[str, Any] = TODAY,
) -> GateTable:
    if supervision is None:
        supervision = {name: [f"{name}_total"] for name in sizes if name in ("vol", "loc", "shape")}
    context = MetricContext(LatentLayout(sizes), ("t1c",), (8, 8, 8), supervision)
    """Judge by ``gates``, without those that were added later."""
    targets = GateSettings.from_config({**dict.fromkeys(ADDED), **gates}).targets
    built = build_metrics({}, context)
    return evaluate_gates(estimated(metrics, built), targets, built, supervision, num_subjects)


def estimated(values: Mapping[str, float | None], metrics: Sequence[Metric]) -> dict[str, Estimate]:
    """Return values without intervals, with the reasons that metrics give in general."""
    absent = {key: metric.absent for metric in metrics for key in metric.names()}
    return {
        key: Estimate(value, None, None, 100, "" if value is not None else absent.get(key, "none"))
        for key, value in values.items()
    }


@pytest.mark.parametrize(
    ("sizes", "listed"),
    [
        ({"vol": 2, "loc": 1, "shape": 2, "residual": 3}, {"vol_r2", "loc_r2", "shape_r2", "max_dcor", "residual"}),
        ({"vol": 2, "residual": 3}, {"vol_r2", "max_dcor", "residual"}),
        ({"residual": 3}, {"residual"}),
        ({"one": 2, "two": 2}, {"max_dcor"}),
    ],
    ids=["all", "one supervised", "one", "others"],
)
def test_a_gate_is_listed_where_the_model_has_what_it_judges(sizes: dict[str, int], listed: set[str]) -> None:
    table = judged(sizes, {})
    assert {gate.name.removesuffix("_active_units") for gate in table.gates} == listed | RATIOS
    others = set(NUMBERS) - {gate.name for gate in table.gates}
    assert set(table.not_applicable) == set(JudgedGates({"val": table}).as_dict()["not_applicable"]) == others
    assert all(name in table.note for name in others)


def test_the_note_says_what_is_not_judged() -> None:
    note = "gates skipped because they do not apply to this model: vol_r2, loc_r2, shape_r2, max_dcor"
    assert judged({"residual": 3}, {}).note == note
    small = judged({"residual": 3}, {}, 5).note
    assert small.startswith("only 5 validation subjects: ")
    assert small.endswith(note)
    assert judged({"vol": 2, "loc": 1, "shape": 2, "residual": 3}, {}).note == ""


@pytest.mark.parametrize("supervision", [{}, {"vol": []}], ids=["no targets", "an empty list"])
def test_a_partition_without_targets_has_no_r2_to_judge(supervision: dict[str, list[str]]) -> None:
    table = judged({"vol": 2, "residual": 3}, {}, supervision=supervision)
    assert "vol_r2" in table.not_applicable
    assert "vol_r2" in table.note
    assert table.unjudged == ()
    own = {"mine": {"metric": "sem/residual_r2", "above": 0.5}}
    metrics = build_metrics({}, MetricContext(LatentLayout({"residual": 3}), ("t1c",), (8, 8, 8), supervision))
    with pytest.raises(UserError, match=r"gates\.mine\.metric: 'sem/residual_r2' is not a metric of this model"):
        check_gates(GateSettings.from_config(own).targets, metrics)


def test_a_supervised_partition_without_a_gate_is_named() -> None:
    """A partition that is renamed does not lose its gate unnoticed."""
    supervision = {"volume": ["vol_total"], "loc": ["loc_x", "loc_y"], "empty": []}
    table = judged({"volume": 2, "loc": 2, "empty": 1}, {}, supervision=supervision)
    assert table.unjudged == ("volume",)
    assert JudgedGates({"val": table}).as_dict()["unjudged"] == ["volume"]
    assert "volume is supervised, but no gate checks it: add +gates.volume_r2={metric: sem/volume_r2" in table.note
    own = {"mine": {"metric": "sem/vol_total_r2", "above": 0.5}}
    assert judged({"volume": 2, "loc": 2}, {}, supervision=supervision, gates={**TODAY, **own}).unjudged == ()


def test_words_for_what_has_no_value() -> None:
    metrics = {"indep/dcor_vol_residual": None, "sem/vol_r2": None, "diag/au_frac_residual": None}
    gates = {gate.name: gate for gate in judged({"vol": 1, "residual": 4}, metrics, 1).gates}
    assert (
        gates["max_dcor"].reason
        == "1 validation subject; the estimator needs at least 4 patients and partitions that vary"
    )
    of_r2 = (
        "1 validation subject; no head predicts it, or fewer than 3 subjects (for most targets of a partition, 10) "
        "have targets that vary"
    )
    assert gates["vol_r2"].reason == of_r2
    assert gates["residual_active_units"].reason == "1 validation subject; a single subject has no variance"
    nothing = "1 validation subject; no other subject's z to decode, or every reconstruction is perfect"
    assert gates["mean_z_ratio"].reason == nothing
    assert not any(gate.passed for gate in gates.values())


@pytest.mark.parametrize(
    ("value", "comparison", "passed"),
    [
        *((0.5, ">", False), (0.51, ">", True), (0.5, "<", False), (0.49, "<", True), (0.51, "<", False)),
        *((None, "<", False), (math.nan, "<", False), (math.nan, ">", False), (math.inf, ">", False)),
    ],
)
def test_a_gate_is_met_by_a_value_beyond_its_bound(value: float | None, comparison: Any, passed: bool) -> None:
    assert Gate("mine", "a/key", value, 0.5, comparison).passed == passed


@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [(0.6, 0.8, "pass", "fail"), (0.2, 0.4, "fail", "pass"), (0.4, 0.6, "undecided", "undecided")],
)
def test_a_gate_is_met_by_an_interval_beyond_its_bound(low: float, high: float, above: str, below: str) -> None:
    value = 0.5 * (low + high) + 0.01
    gates = [Gate("mine", "a/key", value, 0.5, comparison, low=low, high=high) for comparison in (">", "<")]  # type: ignore[arg-type]
    assert [gate.verdict for gate in gates] == [above, below]
    assert [gate.passed for gate in gates] == [above == "pass", below == "pass"]


def test_a_value_of_few_patients_is_undecided_in_a_split_of_many() -> None:
    targets = {"mine": Target(metric="sem/vol_total_r2", above=0.5)}
    few = {"sem/vol_total_r2": Estimate(0.9, None, None, 6, "an interval needs at least 10 patients; there are 6")}
    metrics = build_metrics({}, context_of("vol", "loc", vol=["vol_total"]))
    (of_many,) = evaluate_gates(few, targets, metrics, {}, 60, 20).gates
    assert (of_many.verdict, of_many.reason) == ("undecided", "an interval needs at least 10 patients; there are 6")
    table = evaluate_gates(few, targets, metrics, {}, 60, 6)
    assert (table.gates[0].verdict, table.gates[0].reason) == ("pass", "")
    assert table.note.endswith("; judged by their values alone, no gate can be trusted")
    constant = {"sem/vol_total_r2": Estimate(1.0, None, None, 20, "all resamples gave 1")}
    assert evaluate_gates(constant, targets, metrics, {}, 60, 20).gates[0].verdict == "pass"


def test_the_run_passes_if_every_split_does() -> None:
    good, bad = (GateTable((Gate("mine", "a/key", value, 0.5, ">"),), f"note of {value}") for value in (0.9, 0.1))
    alone = JudgedGates({"val": good}).as_dict()
    assert (alone["passed"], alone["note"]) == (True, f"note of 0.9; {NO_TEST_SPLIT}")
    both = JudgedGates({"val": good, "test": bad}).as_dict()
    assert (both["passed"], both["note"], both["gates"][0]["verdict"]) == (False, "note of 0.9", "pass")
    assert (both["test"]["passed"], both["test"]["gates"][0]["verdict"]) == (False, "fail")
    assert JudgedGates({"val": good, "test": good}).passed


def test_the_note_on_chance_is_right_for_the_largest_of_all_pairs() -> None:
    layout = LatentLayout({"vol": 24, "loc": 8, "shape": 12, "residual": 20})
    metrics = build_metrics({}, MetricContext(layout, ("t1c",), (8, 8, 8)))
    note = evaluate_gates({}, {}, metrics, {}, 40).note
    told = re.search(r"the largest \|dCor\| of (\d+) pairs about (\S+)", note)
    assert told is not None
    assert int(told[1]) == len(pairs(layout)) == 6
    torch.manual_seed(0)
    largest = []
    for _ in range(400):
        squares = u_distance_correlations_sqr(
            list(layout.split(torch.randn(40, layout.z_dim, dtype=torch.float64)).values())
        )
        squares.fill_diagonal_(0.0)
        largest.append(float(squares.abs().max().sqrt()))
    assert float(told[2]) == pytest.approx(np.quantile(largest, 0.95), abs=0.03)


def test_gates_read_the_metrics_that_they_name() -> None:
    sizes = {"vol": 2, "loc": 1, "shape": 2, "residual": 4}
    values = {meaning["metric"]: 0.1 * number for number, meaning in enumerate(NUMBERS.values(), start=3)}
    table = judged(
        sizes,
        {**values, "val_epoch/ssim_t1c": 0.9},
        gates={**TODAY, "sharp": {"metric": "val_epoch/ssim_t1c", "above": 0.8}},
    )
    found = {gate.name: (gate.metric, gate.value, gate.target, gate.comparison, gate.passed) for gate in table.gates}
    assert found["vol_r2"] == ("sem/vol_r2", pytest.approx(0.3), 0.85, ">", False)
    assert found["shape_r2"] == ("sem/shape_r2", pytest.approx(0.5), 0.40, ">", True)
    assert found["max_dcor"] == ("indep/max_dcor", pytest.approx(0.6), 0.35, "<", False)
    assert found["residual_active_units"] == ("diag/au_frac_residual", pytest.approx(0.7), 0.60, ">", True)
    assert found["sharp"] == ("val_epoch/ssim_t1c", 0.9, 0.8, ">", True)
    assert list(found) == [*NUMBERS, "sharp"]
    assert not table.passed


def test_gates_of_the_decoder_and_of_leaks_are_there_without_being_written_and_null_removes_one() -> None:
    sizes = {"vol": 2, "loc": 1, "shape": 2, "residual": 3}
    supervision = {"vol": ["vol_total"], "loc": ["loc_x"]}
    metrics = build_metrics({}, MetricContext(LatentLayout(sizes), ("t1c",), (8, 8, 8), supervision))
    targets = GateSettings.from_config({**TODAY, "mean_image_ratio": None}).targets
    values = estimated({"diag/reads_vol_tumour": 1.2, "leak/max": 0.2}, metrics)
    table = evaluate_gates(values, targets, metrics, supervision, 100)
    found = {gate.name: (gate.metric, gate.comparison, gate.target, gate.passed) for gate in table.gates}
    assert found["decoder_reads_vol"] == ("diag/reads_vol_tumour", ">", 1.05, True)
    assert found["decoder_reads_residual"] == ("diag/reads_residual", ">", 1.05, False)
    assert found["leak_max"] == ("leak/max", "<", 0.10, False)
    assert "mean_image_ratio" not in found
    assert canonical({**TODAY, **ADDED}) == TODAY


# --- configuration ----------------------------------------------------------------------------------------------------


def test_numbers_mean_what_the_configuration_spells_out(compose_train: Compose) -> None:
    spelt_out = OmegaConf.to_container(compose_train().gates)
    assert isinstance(spelt_out, dict)
    assert all(isinstance(spelt_out[name], dict) for name in NUMBERS)
    assert canonical(spelt_out) == TODAY
    assert GateSettings.from_config(spelt_out) == GateSettings.from_config(TODAY)


@pytest.mark.parametrize(
    ("overrides", "number"),
    [(["gates.vol_r2=0.9"], 0.9), (["gates.vol_r2.above=0.9"], 0.9), (["experiment=semivae_run6"], 0.85), ([], 0.85)],
)
def test_a_gate_as_a_number_and_spelt_out_is_the_same_run(
    overrides: list[str], number: float, compose_train: Compose
) -> None:
    experiment = Experiment.from_config(compose_train(*overrides))
    expected = {**TODAY, "vol_r2": number}
    assert experiment.config["gates"] == expected
    assert "metrics" not in experiment.config
    assert experiment.settings["gates"].targets["vol_r2"].bound == number
    raw = OmegaConf.to_container(compose_train(*overrides), resolve=True)
    assert isinstance(raw, dict)
    del raw["metrics"]
    assert run_hash(raw, "d", "t") == run_hash({**raw, "gates": expected}, "d", "t")
    assert run_hash({**raw, "metrics": {}}, "d", "t") == run_hash(raw, "d", "t")
    assert run_hash({**raw, "metrics": {"dcor": None}}, "d", "t") != run_hash(raw, "d", "t")


def test_a_gate_of_ones_own_is_one_line(compose_train: Compose) -> None:
    experiment = Experiment.from_config(
        compose_train("+gates.mine={metric: sem/vol_ed_r2, above: 1}", "gates.loc_r2=null")
    )
    target = experiment.settings["gates"].targets["mine"]
    assert (target.metric, target.bound, target.comparison, target.optional) == ("sem/vol_ed_r2", 1.0, ">", False)
    assert "loc_r2" not in experiment.settings["gates"].targets
    assert experiment.config["gates"]["mine"] == {"metric": "sem/vol_ed_r2", "above": 1}


def test_a_plugin_may_ship_gates(compose_train: Compose, tmp_path: Path) -> None:
    (tmp_path / "gates").mkdir()
    (tmp_path / "gates" / "sharp.yaml").write_text("sharp: {metric: val_epoch/ssim_t1c, above: 0.8}\nvol_r2: 0.7\n")
    experiment = Experiment.from_config(compose_train("+gates=sharp", f"hydra.searchpath=[file://{tmp_path}]"))
    targets = experiment.settings["gates"].targets
    assert targets["sharp"].metric == "val_epoch/ssim_t1c"
    assert targets["vol_r2"].bound == 0.7
    assert set(targets) == {*NUMBERS, *ADDED, "sharp"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+gates.mine={metric: sem/voll_r2, above: 1}"], ["gates.mine.metric", "sem/voll_r2", "'sem/vol_r2'"]),
        (["+gates.mine={metric: sem/class_accuracy, above: 1}"], ["gates.mine.metric", "sem/class_accuracy"]),
        (["+gates.mine={metric: sem/vol_r2, above: 1, below: 2}"], ["gates.mine", "both", "above: <number>"]),
        (["+gates.mine={metric: sem/vol_r2}"], ["gates.mine", "neither", "above: <number>"]),
        (["+gates.mine={above: 1}"], ["gates.mine.metric", "required"]),
        (["+gates.mine={metric: sem/vol_r2, above: inf}"], ["gates.mine.above", "inf", "finite"]),
        (["+gates.mine={metric: sem/vol_r2, abov: 1}"], ["gates.mine.abov", "'above'"]),
        (["+gates.mine=0.5"], ["gates.mine", "metric: <key>"]),
        (["gates.vol_r2=high"], ["gates.vol_r2", "'high'", "above: <number>"]),
        (["gates.vol_r2=true"], ["gates.vol_r2", "True", "above: <number>"]),
        (["gates.vol_r2=nan"], ["gates.vol_r2", "nan", "finite"]),
        (["+gates.mine={metric: indep/max_dcor, above: 0.5}"], ["gates.mine.above", "0.5", "use below"]),
        (["+gates.mine={metric: sem/vol_r2, below: 0.5}"], ["gates.mine.below", "0.5", "use above"]),
        (["gates.strict=1"], ["gates.strict", "1", "true or false"]),
        (["gates=3"], ["gates", "3", "metric: <key>"]),
        (["+metrics.decoder_ratio=null"], ["gates.mean_z_ratio.metric", "diag/mean_z_ratio"]),
    ],
)
def test_what_is_no_gate_is_refused_in_one_sentence(
    overrides: list[str], words: list[str], compose_train: Compose
) -> None:
    with pytest.raises(UserError) as caught:
        Experiment.from_config(compose_train(*overrides))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(words[0])
    for word in words:
        assert word in str(caught.value)


def test_a_wrong_metric_is_answered_with_the_closest_few(compose_train: Compose) -> None:
    with pytest.raises(UserError) as caught:
        Experiment.from_config(compose_train("+gates.mine={metric: sem/vol_edd_r2, above: 1}"))
    hint = str(caught.value).partition("; ")[2]
    assert hint.startswith("did you mean 'sem/vol_ed_r2'? the closest of ")
    assert hint.endswith("; menvae-parts metric lists all")
    named = hint.partition(": ")[2].partition(";")[0].split(", ")
    assert len(named) == 5
    assert {"sem/vol_ed_r2", "sem/vol_et_r2", "sem/vol_r2"} <= set(named)


def test_a_metric_without_a_direction_may_be_bounded_from_either_side(compose_train: Compose) -> None:
    sides = ("+gates.low={metric: diag/z_std, above: 0.5}", "+gates.high={metric: diag/z_std, below: 2}")
    assert len(Experiment.from_config(compose_train(*sides)).settings["gates"].targets) == len(NUMBERS) + len(ADDED) + 2


def test_a_renamed_partition_is_told_before_training(compose_train: Compose) -> None:
    renamed = [
        "~model.partitions.vol",
        "+model.partitions.volume=24",
        "~model.supervision.vol",
        "+model.supervision.volume=[vol_total]",
        "~model.heads.vol",
        "+head@model.heads.volume=mlp",
        "~model.inverse_heads.vol",
        "loss.terms.vol.partition=volume",
        "+loss.lambda_volume=1",
        "~loss.lambda_vol",
        "~loss.schedules.vol",
    ]
    advice = Experiment.from_config(compose_train(*renamed)).advice
    assert [
        sentence for sentence in advice if sentence.startswith("gates: volume is supervised, but no gate checks it")
    ]
    assert not [sentence for sentence in Experiment.from_config(compose_train()).advice if "gates:" in sentence]


def test_what_a_gate_means_is_what_its_metric_measures_whatever_it_is_called() -> None:
    gates = {
        "spread_r2": {"metric": "diag/au_frac_loc", "above": 0.5},
        "used": {"metric": "diag/mean_z_ratio", "above": 1.5},
        "volume": {"metric": "sem/vol_r2", "above": 0.8},
        "pair": {"metric": "indep/dcor_vol_loc", "below": 0.3},
    }
    table = judged({"vol": 2, "loc": 1}, {}, supervision={"vol": ["vol_total"]}, gates=gates)
    assert {gate.name: gate.meaning for gate in table.gates} == {
        "spread_r2": "Fraction of loc dimensions that vary between subjects.",
        "used": "Error with the mean training latent instead of z, divided by the error with the subject's own z.",
        "volume": "Mean R² of the vol targets.",
        "pair": "Distance correlation of vol and loc; 0 means independence.",
    }


def test_values_of_one_metric_have_sentences_of_their_own() -> None:
    supervision = {"vol": ["vol_total"], "loc": ["loc_x"]}
    for size in ((8, 8, 8), ()):
        context = MetricContext(
            LatentLayout({"vol": 2, "loc": 1, "residual": 3}), ("t1c", "t1n"), size, supervision, True
        )
        meanings = [metric.meaning(key) for metric in build_metrics({}, context) for key in metric.names()]
        assert len(meanings) > 30
        assert sorted(set(meanings)) == sorted(meanings)


def context_of(*partitions: str, **supervision: list[str]) -> MetricContext:
    return MetricContext(LatentLayout(dict.fromkeys(partitions, 2)), ("t1c",), (8, 8, 8), supervision)


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (context_of("vol", "loc", vol=["vol", "vol_ed"]), "r2 has two values with the key 'sem/vol_r2'"),
        (context_of("vol", "loc", vol=["loc"], loc=["loc_x"]), "r2 has two values with the key 'sem/loc_r2'"),
        (
            context_of("vol", "loc", vol=["loc_x"], loc=["loc_x", "a"]),
            "coverage has two values with the key 'calib/loc_x_coverage95'",
        ),
        (context_of("vol", vol=["a", "a"]), "coverage has two values with the key 'calib/a_coverage95'"),
        (context_of("a_b", "c", "a", "b_c"), "correlation has two values with the key 'indep/corr_a_b_c'"),
    ],
    ids=["a target and its partition", "a target and another partition", "one target twice", "in one list", "pairs"],
)
def test_two_values_never_share_a_key(context: MetricContext, words: str) -> None:
    with pytest.raises(UserError) as caught:
        build_metrics({}, context)
    assert str(caught.value).startswith(f"metrics: {words}, because names of partitions or targets clash; ")
    assert "\n" not in str(caught.value)


def test_a_metric_says_what_its_names_and_its_values_are() -> None:
    class Nameless(Metric):
        def compute(self, record: SplitRecord) -> dict[str, float | None]:
            return {}

    class Valueless(Metric):
        def names(self) -> list[str]:
            return []

    for incomplete, missing in ((Nameless, "names"), (Valueless, "compute")):
        with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
            incomplete(context_of("vol"))


def test_the_only_target_of_a_partition_may_have_its_name() -> None:
    found = [key for metric in build_metrics({}, context_of("vol", "loc", vol=["vol"])) for key in metric.names()]
    assert found.count("sem/vol_r2") == 1


def test_two_gates_of_one_metric_are_both_drawn() -> None:
    gates = {
        "low": {"metric": "diag/au_frac", "above": 0.2},
        "high": {"metric": "diag/au_frac", "below": 0.9},
    }
    table = judged({"vol": 2}, {}, gates=gates)
    assert JudgedGates({"val": table}).targets_by_metric == {"diag/au_frac": [0.2, 0.9]}
