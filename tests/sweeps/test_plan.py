"""What a sweep would run, from folders that are written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from menvae.composition.experiment import Experiment
from menvae.composition.settings import SweepSettings
from menvae.errors import UserError
from menvae.runs.identity import run_hash
from menvae.sweeps.identifier import Identifier
from menvae.sweeps.launch import loss_effect
from menvae.sweeps.plan import LossEffect, PlannedPoint, ProvisionalName, dead_knobs, plan_points, plan_table
from menvae.sweeps.sweep import Point, Sweep

TODAY = "code of today"


def _name(config: Mapping[str, Any]) -> str:
    """Name a run after its weight, so that a test can be read; refuse negative ones."""
    weight = config["loss"]["lambda_dcor"]
    if weight < 0:
        raise UserError(f"loss.lambda_dcor: {weight} is not allowed")
    return f"run_{weight:g}"


def _job(weight: float, resume: str = "auto") -> tuple[list[str], dict[str, Any]]:
    config = {"loss": {"lambda_dcor": weight}, "trainer": {"resume": resume, "max_epochs": 3}}
    return [f"loss.lambda_dcor={weight}"], config


def _plan(sweep: Sweep, *jobs: Any, **settings: Any) -> list[PlannedPoint]:
    return plan_points(sweep, jobs, _name, SweepSettings(**settings), lambda: TODAY)


def _points(planned: list[PlannedPoint]) -> list[tuple[int, str, str]]:
    """Return number, run and fate of those that have a status."""
    statuses = [point.status for point in planned if point.status is not None]
    return [(status.point.number, status.point.run, str(status.fate)) for status in statuses]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "outputs" / "sweeps" / "a_sweep")


def _write_run(sweep: Sweep, name: str, state: str = "finished", code: str | None = TODAY) -> None:
    run_dir = sweep.runs / name
    run_dir.mkdir(parents=True)
    status = {"state": state} | ({"code": code} if code else {})
    (run_dir / "status.json").write_text(json.dumps(status))


def test_points_of_a_new_sweep_and_nothing_is_written(sweep: Sweep, tmp_path: Path) -> None:
    planned = _plan(sweep, _job(0), _job(5))
    assert _points(planned) == [(0, "run_0", "not started"), (1, "run_5", "not started")]
    assert planned[1].overrides == ("loss.lambda_dcor=5",)
    assert not list(tmp_path.iterdir())


def test_a_job_that_is_an_earlier_one_is_its_duplicate(sweep: Sweep) -> None:
    planned = _plan(sweep, _job(0), _job(5), _job(0), _job(5), _job(5))
    assert [point.duplicate_of for point in planned] == [None, None, 0, 1, 1]
    assert _points(planned) == [(0, "run_0", "not started"), (1, "run_5", "not started")]


def test_five_is_five_point_zero_for_the_identity_of_runs(sweep: Sweep) -> None:
    jobs = [_job(5), _job(5.0), _job(5.5)]
    planned = plan_points(
        sweep, jobs, lambda config: run_hash(config, "data", "targets"), SweepSettings(), lambda: TODAY
    )
    assert [point.duplicate_of for point in planned] == [None, 0, None]


def test_a_configuration_that_cannot_be_costs_no_other_point(sweep: Sweep) -> None:
    planned = _plan(sweep, _job(0), _job(-1), _job(5))
    assert [point.problem for point in planned] == ["", "loss.lambda_dcor: -1 is not allowed", ""]
    assert planned[1].status is None
    assert _points(planned) == [(0, "run_0", "not started"), (1, "run_5", "not started")]


def test_resume_never_takes_names_that_are_free(sweep: Sweep) -> None:
    _write_run(sweep, "run_5")
    _write_run(sweep, "run_5_3")
    planned = _plan(sweep, _job(5, "never"), _job(5, "never"), _job(0, "never"))
    assert _points(planned) == [
        (0, "run_5_2", "not started"),
        (1, "run_5_4", "not started"),
        (2, "run_0", "not started"),
    ]
    assert [point.duplicate_of for point in planned] == [None, None, None]


def test_what_is_retried_goes_on_with_its_own_run(sweep: Sweep) -> None:
    for number, (run, state) in enumerate([("run_5", "finished"), ("run_5_2", "failed"), ("run_5_3", "finished")]):
        _write_run(sweep, run, state)
        sweep.keep(Point(number, run, ("loss.lambda_dcor=5",)))
    for resume in ("never", "auto"):
        jobs = [_job(5, resume)]
        assert _points(plan_points(sweep, jobs, _name, SweepSettings(), lambda: TODAY, ["run_5_2"])) == [
            (1, "run_5_2", "failed")
        ]
    other_ranks = plan_points(sweep, [_job(9)], _name, SweepSettings(), lambda: TODAY, ["run_5_2"])
    assert _points(other_ranks) == [(3, "run_9", "not started")]


def test_the_newest_of_several_runs_is_the_point(sweep: Sweep) -> None:
    for name in ("run_5", "run_5_2", "run_5_10", "run_50", "run_5_note"):
        _write_run(sweep, name, "interrupted")
    assert _points(_plan(sweep, _job(5))) == [(0, "run_5_10", "interrupted")]


@pytest.mark.parametrize(
    ("state", "code", "on_code_change", "run", "other_code"),
    [
        ("finished", TODAY, "warn", "run_5", False),
        ("finished", TODAY, "rerun", "run_5", False),
        ("finished", "yesterday's", "warn", "run_5", True),
        ("finished", "yesterday's", "rerun", "run_5_2", False),
        ("finished", None, "rerun", "run_5", False),
        ("interrupted", "yesterday's", "warn", "run_5", False),
        ("interrupted", "yesterday's", "rerun", "run_5", False),
    ],
)
def test_code_that_changed(
    sweep: Sweep, state: str, code: str | None, on_code_change: str, run: str, other_code: bool
) -> None:
    _write_run(sweep, "run_5", state, code)
    (planned,) = _plan(sweep, _job(5), on_code_change=on_code_change)
    fate = "not started" if run == "run_5_2" else state
    assert _points([planned]) == [(0, run, fate)]
    assert planned.other_code is other_code


def test_a_point_that_new_code_has_run_again_is_done(sweep: Sweep) -> None:
    _write_run(sweep, "run_5", code="yesterday's")
    _write_run(sweep, "run_5_2")
    assert _points(_plan(sweep, _job(5), on_code_change="rerun")) == [(0, "run_5_2", "finished")]


def test_points_keep_their_numbers_and_new_ones_continue(sweep: Sweep) -> None:
    for number, run in enumerate(("run_0", "run_5", "run_9")):
        sweep.keep(Point(number, run, ("as it was",)))
    planned = _plan(sweep, _job(1), _job(5), _job(2), _job(0))
    assert [point.overrides for point in planned] == [(f"loss.lambda_dcor={weight}",) for weight in (1, 5, 2, 0)]
    assert [(number, run) for number, run, _ in _points(planned)] == [
        (3, "run_1"),
        (1, "run_5"),
        (4, "run_2"),
        (0, "run_0"),
    ]


def test_numbers_continue_after_a_point_whose_folder_was_removed(sweep: Sweep) -> None:
    sweep.keep(Point(7, "run_0", ()))
    assert [number for number, _, _ in _points(_plan(sweep, _job(5), _job(0)))] == [8, 7]


def _effect(*terms: str, **weights: tuple[float, ...]) -> LossEffect:
    return LossEffect(weights, set(terms))


def _dead(points: Sequence[tuple[Sequence[str], LossEffect]], *keys: str) -> list[str]:
    return dead_knobs([overrides for overrides, _ in points], lambda position: points[position][1], keys)


def test_a_weight_that_changes_something_somewhere_is_alive() -> None:
    low, high = _effect("dcor", dcor=(0.0, 1.0)), _effect("dcor", dcor=(0.0, 5.0))
    points = [
        (("loss.lambda_dcor=1", "schedule=late"), _effect()),
        (("loss.lambda_dcor=5", "schedule=late"), _effect()),
        (("loss.lambda_dcor=1", "schedule=early"), low),
        (("loss.lambda_dcor=5", "schedule=early"), high),
    ]
    assert _dead(points, "loss.lambda_dcor") == []
    assert _dead(points[:2], "loss.lambda_dcor") == ["loss.lambda_dcor"]


@pytest.mark.parametrize("key", ["loss.lambda_a", "+loss.lambda_a", "++loss.lambda_a", "loss.schedules.a.start"])
def test_keys_of_weights_and_schedules(key: str) -> None:
    points = [((f"{key}={value}",), _effect(b=(1.0,))) for value in (1, 5)]
    assert _dead(points, key) == [key]
    changed = [((f"{key}={value}",), _effect("a", a=(value,))) for value in (1.0, 5.0)]
    assert _dead(changed, key) == []


def test_an_unbalanced_sweep_compares_only_what_differs_in_one_key() -> None:
    """Of 2 x 2 points one cannot be: lambda_a is compared at b=1 only, and lambda_b at a=1 only."""
    points = [
        (("loss.lambda_a=1", "loss.lambda_b=1"), _effect(a=(1.0,), b=(1.0,))),
        (("loss.lambda_a=5", "loss.lambda_b=1"), _effect(a=(5.0,), b=(1.0,))),
        (("loss.lambda_a=1", "loss.lambda_b=2"), _effect(a=(1.0,), b=(1.0,))),
    ]
    assert _dead(points, "loss.lambda_a", "loss.lambda_b") == ["loss.lambda_b"]
    never_alone = [points[1], points[2]]
    assert _dead(never_alone, "loss.lambda_a", "loss.lambda_b") == []
    assert _dead([], "loss.lambda_a") == []


def test_effects_are_asked_for_until_a_key_is_alive() -> None:
    points = [[f"loss.lambda_a={weight}", f"seed={seed}"] for seed in range(9) for weight in range(9)]
    asked: list[int] = []

    def effect_of(position: int) -> LossEffect:
        asked.append(position)
        return _effect("a", a=(float(position),))

    assert dead_knobs(points, effect_of, ["loss.lambda_a", "loss.terms.a.size", "seed"]) == []
    assert asked == [0, 1, 0]


def test_keys_outside_the_loss_are_not_judged() -> None:
    points = [((f"seed={seed}",), _effect(a=(1.0,))) for seed in (1, 2)]
    assert _dead(points, "seed") == []


Compose = Callable[..., DictConfig]


def _composed(compose_train: Compose, key: str, values: list[str], *fixed: str) -> list[tuple[list[str], LossEffect]]:
    """Compose a sweep over a key, with what the loss really makes of each point."""
    configs = [compose_train(f"{key}={value}", *fixed, "hydra/launcher=basic") for value in values]
    effects = [loss_effect(Experiment.from_config(config)) for config in configs]
    return [([f"{key}={value}"], effect) for value, effect in zip(values, effects, strict=True)]


@pytest.mark.parametrize(
    ("key", "values", "fixed", "dead"),
    [
        ("loss.lambda_dcor", ["1", "5"], [], False),
        # from epoch 6 of 15 on: epochs 5 of 5 are never there
        ("loss.lambda_dcor", ["1", "5"], ["trainer.max_epochs=5", "curriculum.scale=false"], True),
        ("loss.lambda_dcor", ["1", "5"], ["trainer.max_epochs=7", "curriculum.scale=false"], False),
        ("loss.schedules.dcor.start", ["20.0", "30.0"], [], True),
        ("loss.schedules.dcor.start", ["6.0", "8.0"], ["loss.lambda_dcor=0"], True),
        ("loss.schedules.dcor.start", ["6.0", "8.0"], [], False),
        ("loss.terms.dcor.buffer_size", ["64", "128"], [], False),
        ("loss.terms.dcor.buffer_size", ["64", "128"], ["loss.lambda_dcor=0"], True),
        ("loss.terms.dcor.buffer_size", ["64", "128"], ["loss.schedules.dcor.start=20.0"], True),
        ("curriculum.reference_epochs", ["15.0", "30.0"], [], False),
    ],
)
def test_dead_knobs_of_real_configurations(
    compose_train: Compose, key: str, values: list[str], fixed: list[str], dead: bool
) -> None:
    points = _composed(compose_train, key, values, *fixed)
    assert _dead(points, key) == ([key] if dead else [])


def test_the_table_says_what_would_be_done(sweep: Sweep) -> None:
    _write_run(sweep, "run_1")
    _write_run(sweep, "run_2", "collapsed")
    _write_run(sweep, "run_3", "interrupted")
    output = StringIO()
    planned = _plan(sweep, _job(0), _job(1), _job(2), _job(3), _job(-1), _job(1))
    Console(file=output, width=120).print(plan_table(planned))
    header, *rows = [line.split() for line in output.getvalue().splitlines()]
    assert header == ["point", "run", "plan"]
    assert [" ".join(row) for row in rows] == [
        "0 loss.lambda_dcor=0 run_0 run",
        "1 loss.lambda_dcor=1 run_1 finished: nothing to do",
        "2 loss.lambda_dcor=2 run_2 collapsed: nothing to do",
        "3 loss.lambda_dcor=3 run_3 run again (interrupted)",
        "4 loss.lambda_dcor=-1 loss.lambda_dcor: -1 is not allowed",
        "5 loss.lambda_dcor=1 duplicate of 1",
    ]


def test_brackets_of_overrides_are_no_markup() -> None:
    output = StringIO()
    Console(file=output, width=120).print(plan_table([PlannedPoint(("data.roi_size=[bold]",), {}, problem="[red]")]))
    assert "data.roi_size=[bold]" in output.getvalue()
    assert "[red]" in output.getvalue()


def test_without_data_a_plan_knows_duplicates_but_no_runs(sweep: Sweep) -> None:
    _write_run(sweep, "run_0")
    jobs = [_job(0), _job(5), _job(5.0), _job(-1), _job(5, "never")]
    planned = plan_points(sweep, jobs, lambda config: ProvisionalName(_name(config)), SweepSettings(), lambda: TODAY)
    assert [point.awaits_data for point in planned] == [True, True, False, False, True]
    assert [point.duplicate_of for point in planned] == [None, None, 1, None, None]
    assert [point.is_to_do for point in planned] == [True, True, False, False, True]
    assert "not allowed" in planned[3].problem
    output = StringIO()
    Console(file=output, width=120).print(plan_table(planned))
    assert output.getvalue().count("known once the cohort is prepared  run") == 3


@pytest.mark.parametrize(
    "key",
    ["data.refuse_below.tumour=0.5,0.9", "data.on_error=skip,fail", "data.num_subjects=8,9", "data.root=/a,/b"],
)
def test_without_data_any_key_of_the_data_tells_points_apart(
    compose_train: Compose, sweep: Sweep, tmp_path: Path, key: str
) -> None:
    """A run's name leaves some of them out, because the hash of the data takes their place."""
    name, _, values = key.partition("=")
    fixed = [f"output_dir={tmp_path}", "hydra/launcher=basic", *(["data=brats"] if name == "data.root" else [])]
    jobs = [
        (
            [f"{name}={value}"],
            OmegaConf.to_container(compose_train(*fixed, f"{name}={value}"), resolve=True),
        )
        for value in [*values.split(","), values.split(",")[0]]
    ]
    identify = Identifier(None, prepares=False)
    planned = plan_points(sweep, cast(Any, jobs), identify, SweepSettings(), lambda: TODAY)
    assert [point.duplicate_of for point in planned] == [None, None, 0]
    assert [point.problem for point in planned] == [""] * 3
