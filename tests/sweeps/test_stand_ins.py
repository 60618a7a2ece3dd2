"""Points that run in place of failed ones: planned, counted, and found again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from rich.console import Console

from menvae.composition.settings import SweepSettings
from menvae.errors import UserError
from menvae.runs.job import Job
from menvae.studies import Trial, open_storage
from menvae.sweeps.causes import cause_of, of_cause
from menvae.sweeps.changes import overrides_with, with_changes
from menvae.sweeps.plan import PlannedPoint, plan_points, plan_table
from menvae.sweeps.runners import Fate
from menvae.sweeps.status import PointStatus, sweep_status
from menvae.sweeps.sweep import Point, Submission, Sweep
from menvae.sweeps.trials import OVERRIDES, RetriedTrials, journal, trials_of
from menvae.sweeps.words import fate_counts, status_table

CONFIG: dict[str, Any] = {
    "trainer": {"batch_size": 8, "max_epochs": 3, "resume": "auto", "gradient_clip": None},
    "model": {"name": "vae", "z_dim": 16},
    "data": {"roi_size": [16, 16, 16]},
    "sweep": {"objectives": {}},
}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "outputs" / "sweeps" / "a_sweep")


def config_of(batch_size: int, z_dim: int = 16) -> dict[str, Any]:
    return {
        **CONFIG,
        "trainer": {**CONFIG["trainer"], "batch_size": batch_size},
        "model": {"name": "vae", "z_dim": z_dim},
    }


def name_of(config: Mapping[str, Any]) -> str:
    return f"vae_{config['trainer']['batch_size']}_{config['model']['z_dim']}"


def keep(
    sweep: Sweep, number: int, batch_size: int, state: str, z_dim: int = 16, stands_for: Sequence[str] = ()
) -> Point:
    """Write a point with its job and its run."""
    config = config_of(batch_size, z_dim)
    submission = Submission("local", "999999999", str(sweep.path / "no.log"))
    point = Point(number, name_of(config), (f"trainer.batch_size={batch_size}",), (submission,), "", tuple(stands_for))
    sweep.prepare(point, config)
    run_dir = sweep.runs / point.run
    run_dir.mkdir(parents=True, exist_ok=True)
    reason = {"reason": "out of memory"} if state == "failed" else {}
    (run_dir / "status.json").write_text(json.dumps({"state": state, **reason}))
    return point


def plan(sweep: Sweep, batch_sizes: Sequence[int], runs: Sequence[str] = ()) -> list[PlannedPoint]:
    jobs = [([f"trainer.batch_size={size}"], config_of(size)) for size in batch_sizes]
    settings = SweepSettings(action="retry", cause="lost", changes=("a=1",)) if runs else SweepSettings()
    return plan_points(sweep, jobs, name_of, settings, lambda: "code", runs)


def status_of(sweep: Sweep, run: str) -> PointStatus:
    return next(status for status in sweep_status(sweep) if status.point.run == run)


def test_a_changed_point_is_a_new_one_that_says_what_it_stands_for(sweep: Sweep) -> None:
    keep(sweep, 0, 8, "failed")
    (planned,) = plan(sweep, [4], ["vae_8_16"])
    assert planned.status is not None
    assert (planned.status.point.number, planned.status.point.run) == (1, "vae_4_16")
    assert planned.status.point.stands_for == ("vae_8_16",)
    sweep.prepare(planned.status.point, planned.config)
    assert status_of(sweep, "vae_4_16").point == planned.status.point
    assert Job.read(sweep.job_file(planned.status.point)).stands_for == ("vae_8_16",)
    old, new = sweep_status(sweep)
    assert (old.fate, old.stand_in, old.has_failed) == (Fate.OUT_OF_MEMORY, 1, False)
    assert (new.fate, new.stands_for, new.stand_in) == (Fate.NOT_STARTED, (0,), None)
    assert fate_counts([old, new]) == "1 replaced, 1 not started"
    output = StringIO()
    Console(file=output, width=150).print(status_table([old, new]))
    assert "point 1 stands for it" in output.getvalue()
    assert "trainer.batch_size=4 (stands for 0)" in output.getvalue()


def test_an_unchanged_result_changes_no_point(sweep: Sweep) -> None:
    """Such as that of trainer.auto_batch, which is no part of the name of a run."""
    keep(sweep, 0, 8, "failed")
    (planned,) = plan(sweep, [8], ["vae_8_16"])
    assert planned.status is not None
    assert (planned.status.point.number, planned.status.point.stands_for) == (0, ())


def test_points_that_become_one_are_all_replaced_by_it(sweep: Sweep) -> None:
    for number, size in enumerate((16, 8)):
        keep(sweep, number, size, "failed")
    first, second = plan(sweep, [4, 4], ["vae_16_16", "vae_8_16"])
    assert first.status is not None
    assert second.duplicate_of == 0
    assert first.status.point.stands_for == ("vae_16_16", "vae_8_16")


def test_a_point_of_the_sweep_may_stand_for_another(sweep: Sweep) -> None:
    keep(sweep, 0, 8, "failed")
    keep(sweep, 1, 4, "finished")
    (planned,) = plan(sweep, [4], ["vae_8_16"])
    assert planned.status is not None
    assert (planned.status.point.number, planned.status.fate) == (1, Fate.FINISHED)
    assert planned.status.point.stands_for == ("vae_8_16",)


def test_two_points_never_stand_for_each_other(sweep: Sweep) -> None:
    keep(sweep, 0, 8, "failed")
    keep(sweep, 1, 4, "failed", stands_for=["vae_8_16"])
    (planned,) = plan(sweep, [8], ["vae_4_16"])
    assert planned.problem == "with these values it is point 0, which has failed before; give other values"
    assert planned.status is None


def test_the_same_command_plans_what_stands_for_a_point(sweep: Sweep) -> None:
    keep(sweep, 0, 8, "failed")
    keep(sweep, 1, 4, "failed", stands_for=["vae_8_16"])
    keep(sweep, 2, 2, "interrupted", stands_for=["vae_4_16"])
    planned = plan(sweep, [8, 4, 16, 2])
    assert planned[0].status is not None
    assert planned[0].status.point.run == "vae_2_16"
    assert planned[0].config == sweep.config(planned[0].status.point)
    assert [point.duplicate_of for point in planned] == [None, 0, None, 0]
    assert planned[2].status is not None
    assert planned[2].status.point.number == 3
    output = StringIO()
    Console(file=output, width=150).print(plan_table(planned[:1]))
    assert "run again (interrupted); point 2 stands for it" in output.getvalue()


def test_a_point_that_has_finished_after_all_needs_no_other(sweep: Sweep) -> None:
    keep(sweep, 0, 8, "finished")
    keep(sweep, 1, 4, "failed", stands_for=["vae_8_16"])
    (planned,) = plan(sweep, [8])
    assert planned.status is not None
    assert planned.status.point.number == 0
    assert status_of(sweep, "vae_8_16").stand_in is None


def test_a_stand_in_without_a_configuration_is_one_sentence(sweep: Sweep) -> None:
    keep(sweep, 0, 8, "failed")
    stand_in = keep(sweep, 1, 4, "failed", stands_for=["vae_8_16"])
    sweep.job_file(stand_in).unlink()
    (planned,) = plan(sweep, [8])
    assert planned.problem.startswith("job file '")


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_study_knows_which_values_its_trial_had(sweep: Sweep, has_ended: bool) -> None:
    """A trial that has failed, or whose point was stopped before the study was told."""
    import optuna

    journal(sweep).parent.mkdir(parents=True)
    study = optuna.create_study(study_name="search", storage=open_storage(str(journal(sweep))))
    old = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    old.set_user_attr(OVERRIDES, ["trainer.batch_size=8"])
    if has_ended:
        study.tell(old, state=optuna.trial.TrialState.FAIL)
    point = keep(sweep, 0, 8, "interrupted")
    sweep.prepare(point, config_of(8), Trial(str(journal(sweep)), "search", old.number, "", "none", 0, 0))
    (trial,) = RetriedTrials(sweep, [point], [("trainer.batch_size=4",)]).trials
    assert trial is not None
    (counted,) = trials_of(study)
    assert (counted.number, counted.state.name, counted.params) == (trial.number, "RUNNING", old.params)
    assert counted.user_attrs[OVERRIDES] == ["trainer.batch_size=4"]
    assert study.trials[old.number].state.name == "FAIL", "it does not run for ever"


def test_changed_configurations(sweep: Sweep) -> None:
    changed = with_changes(CONFIG, ["trainer.batch_size=4", "trainer.gradient_clip=0.5", "data.roi_size=[32,32,32]"])
    assert changed["trainer"] == {"batch_size": 4, "max_epochs": 3, "resume": "auto", "gradient_clip": 0.5}
    assert changed["data"] == {"roi_size": [32, 32, 32]}
    assert changed["model"] == CONFIG["model"]
    assert CONFIG["trainer"]["batch_size"] == 8, "the original is not touched"
    assert with_changes(CONFIG, ["+model.extra=1"])["model"]["extra"] == 1
    assert with_changes(CONFIG, []) == CONFIG
    assert overrides_with(("+a.b=1", "seed=1"), ["a.b=2"]) == ("a.b=2", "seed=1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("trainer.batch_sice=4", "trainer.batch_sice: no such key of the points that failed; did you mean"),
        ("trainer.batch_size=4,2", "'trainer.batch_size=4,2' has several values; retry takes one for each key"),
        ("~trainer.batch_size", "'~trainer.batch_size' removes a key; retry only changes values"),
        ("model=semivae", "'model=semivae' chooses an option; retry only changes values of keys"),
        ("term@loss.terms.kl=kl", "'term@loss.terms.kl=kl' chooses an option"),
        ("output_dir=there", "'output_dir=there' belongs to the whole sweep"),
        ("sweep.name=other", "'sweep.name=other' belongs to the whole sweep"),
        ("tracking.enabled=false", "'tracking.enabled=false' belongs to the whole sweep"),
    ],
)
def test_what_cannot_be_changed(change: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        with_changes(CONFIG, [change])
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_a_change_that_is_no_override() -> None:
    with pytest.raises(HydraException):
        with_changes(CONFIG, ["trainer.batch_size=["])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"changes": ("a=1",), "action": "retry"}, "sweep.changes: needs sweep.cause"),
        ({"cause": "lost"}, "sweep.cause: only a retry has one; give menvae-sweep retry --cause lost"),
    ],
)
def test_settings_of_a_retry_alone(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SweepSettings(**settings)


def failed(fate: Fate, reason: str = "") -> PointStatus:
    return PointStatus(Point(0, "run", ()), fate, reason, None, 0, None)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (failed(Fate.OUT_OF_MEMORY), "out_of_memory"),
        (failed(Fate.NODE_FAILED, "ValueError: of no account"), "node_failed"),
        (failed(Fate.FAILED, "ZeroDivisionError: by zero"), "ZeroDivisionError"),
        (failed(Fate.FAILED, "menvae.errors.TrainingDivergedError: loss is nan"), "TrainingDivergedError"),
        (failed(Fate.FAILED, "KeyError"), "KeyError"),
        (failed(Fate.FAILED, "menvae-train: data.root: folder '/nowhere' does not exist"), "failed"),
        (failed(Fate.FAILED, "an Error: within"), "failed"),
        (failed(Fate.LOST, "ended by signal 9 (Killed)"), "lost"),
    ],
)
def test_causes(status: PointStatus, cause: str) -> None:
    assert cause_of(status) == cause


def test_points_of_one_cause() -> None:
    memory, zero, lost = failed(Fate.OUT_OF_MEMORY), failed(Fate.FAILED, "ZeroDivisionError: x"), failed(Fate.LOST)
    every = [memory, zero, lost]
    assert of_cause(every, "out_of_memory") == of_cause(every, "out of memory") == [memory]
    assert of_cause(every, "ZeroDivisionError") == of_cause(every, "failed") == [zero]
    assert of_cause(every, "preempted") == []
    with pytest.raises(UserError, match=r"--cause: 'out_of_memry' is no cause .*did you mean 'out_of_memory'\?"):
        of_cause(every, "out_of_memry")
    with pytest.raises(UserError, match="'cannot_run' is no cause of a failure"):
        of_cause(every, "cannot_run")
