"""Trials that pause at rungs: which go on, from their checkpoints, on one machine, after a kill and after failures."""

from __future__ import annotations

import json
import logging
import random
import re
import signal
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hydra_plugins.menvae_launchers.optuna_sweeper import OptunaSweeper
from optuna.distributions import FloatDistribution
from plugins import trouble, write_trouble
from runs import menvae_sweep, only_run, start, train

from menvae.composition.settings import SweepSettings
from menvae.errors import UserError
from menvae.interruption import stop_requests
from menvae.registry import register, unregister
from menvae.studies import open_storage
from menvae.sweeps.campaign import Campaign
from menvae.sweeps.halving import Halving
from menvae.sweeps.plan import PlannedPoint
from menvae.sweeps.runners import Fate, JobState, Runner
from menvae.sweeps.status import PointStatus, sweep_status
from menvae.sweeps.sweep import Point, Submission, Sweep
from menvae.sweeps.trials import OVERRIDES, PASSED, begin_again, reporting
from menvae.tracking.tracker import TrackingSettings
from menvae.training.settings import TrainerSettings

pytestmark = pytest.mark.usefixtures("forked_jobs")

LOSS = "val_epoch/loss"


def halving(pruner: Any = "halving", **keys: Any) -> Halving:
    """Rungs of 2, 6 and 18 epochs; one in three goes on."""
    rules: dict[str, Any] = {
        "min_epochs": 2,
        "reduction_factor": 3,
        "metric": LOSS,
        "trainer": TrainerSettings(max_epochs=30),
    }
    return Halving(pruner=pruner, **{**rules, **keys})


def study_of(values: Sequence[Mapping[int, float]], direction: str = "minimize") -> optuna.Study:
    """Return a study of running trials, each with {rung: value}."""
    study = optuna.create_study(study_name="study", direction=direction, sampler=optuna.samplers.RandomSampler(seed=0))
    for reported in values:
        trial = study.ask()
        trial.set_user_attr(OVERRIDES, [])
        for rung, value in reported.items():
            trial.report(value, rung)
    return study


def paused(number: int, epochs: int, run_dir: Path = Path("run")) -> PointStatus:
    return PointStatus(Point(number, f"run_{number}", ()), Fate.PAUSED, "", run_dir, epochs, 30)


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials()]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_third_of_a_rung_goes_on_in_whatever_order_it_came(direction: str) -> None:
    for seed in range(3):
        values = [float(value) for value in random.Random(seed).sample(range(100), 28)]
        best = sorted(range(28), key=values.__getitem__, reverse=direction == "maximize")[: 28 // 3]
        study = study_of([{2: value} for value in values], direction)
        assert halving().passing(study, dict.fromkeys(range(28), 2)) == set(best)
        assert states(study) == ["RUNNING"] * 28
        assert not any(trial.system_attrs for trial in study.get_trials()), "the study is only read"


def test_the_best_of_fewer_than_three_goes_on() -> None:
    assert halving().passing(study_of([{2: 5.0}]), {0: 2}) == {0}
    assert halving().passing(study_of([{2: 5.0}, {2: 4.0}]), {0: 2, 1: 2}) == {1}
    assert halving().passing(study_of([]), {}) == set()


def test_trials_compete_with_all_that_came_as_far_before_them() -> None:
    """Each rung has the values of all trials there, of those that have gone on too, and of no failed one run again."""
    earlier = [{2: float(value)} for value in range(9)]
    earlier[0][6], earlier[1][6], earlier[2][6] = 7.0, 8.0, 9.0
    study = study_of([*earlier, {2: 2.5}, {2: 3.5}, {2: -1.0}, {2: 0.5, 6: 7.5}])
    # 13 came to the rung of 2, of which the best four go on: -1, 0, .5, 1; four to that of 6, of which the best goes on
    assert halving().passing(study, {9: 2, 10: 2, 11: 2, 12: 6}) == {11}
    study.tell(0, state=optuna.trial.TrialState.FAIL)
    begin_again(study, study.get_trials()[0])
    assert halving().passing(study, {9: 2, 10: 2, 11: 2, 12: 6}) == {11, 12}


def bracket(number: int) -> int:
    """The bracket of Optuna's Hyperband, of three: by a checksum, in shares of 9, 5 and 3 of 17 (see its source)."""
    place = zlib.crc32(f"study_{number}".encode()) % 17
    return 0 if place < 9 else 1 if place < 14 else 2


def test_a_point_that_stands_for_a_failed_one_begins_at_the_first_rung() -> None:
    study = study_of([{}])
    reporting(study, 0).set_user_attr(PASSED, 2)
    study.tell(0, state=optuna.trial.TrialState.FAIL)
    failed = study.get_trials()[0]
    again, other = (begin_again(study, failed, overrides) for overrides in (None, ["trainer.batch_size=4"]))
    assert [halving().next_rung(study.get_trials()[number]) for number in (again, other)] == [6, 2]


def test_hyperband_judges_each_bracket_from_its_own_first_rung() -> None:
    values = [float(value) for value in random.Random(1).sample(range(1000), 60)]
    members = [[number for number in range(60) if bracket(number) == which] for which in range(3)]
    assert all(len(each) > 5 for each in members)

    def best(numbers: Sequence[int]) -> set[int]:
        return set(sorted(numbers, key=values.__getitem__)[: len(numbers) // 3])

    first = halving("hyperband").passing(study_of([{2: value} for value in values]), dict.fromkeys(range(60), 2))
    assert first == best(members[0]) | {*members[1], *members[2]}
    study = study_of([{2: value, 6: value} if number in first else {2: value} for number, value in enumerate(values)])
    second = halving("hyperband").passing(study, dict.fromkeys(first, 6))
    again = best(sorted(best(members[0])))
    assert second == again | best(members[1]) | {*members[2]}


def test_a_settled_trial_waits_for_its_next_rung_or_is_pruned() -> None:
    study = study_of([{2: 1.0}, {2: 2.0}, {2: 3.0}, {}, {}])
    rules = halving()
    assert {rules.next_rung(trial) for trial in study.get_trials()} == {2}
    at_rung = {number: paused(number, 2) for number in range(4)}  # the value of the fourth is undefined
    rules.settle(study, {**at_rung, 4: paused(4, 1)}, others_ended=False)
    assert states(study) == ["RUNNING", "PRUNED", "PRUNED", "PRUNED", "RUNNING"]
    assert [rules.next_rung(study.get_trials()[number]) for number in (0, 4)] == [6, 2]
    assert [study.get_trials()[number].value for number in (1, 3)] == [2.0, None]
    rules.settle(study, {0: paused(0, 2), 4: paused(4, 1)}, others_ended=True)
    assert states(study).count("RUNNING") == 2
    rules.settle(study, {0: paused(0, 2), 4: paused(4, 1)}, others_ended=False)
    assert states(study).count("FAIL") == 2, "no launch brings them further"


def test_values_at_the_rungs_come_from_the_log_of_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"epoch": epoch, LOSS: None if epoch == 6 else epoch / 2} for epoch in range(1, 20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = study_of([{}, {}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):  # a killed process has reported, and the next one reports again
            halving().report(study, 0, paused(0, 19, tmp_path))
    assert study.get_trials()[0].intermediate_values == {2: 1.0, 18: 9.0}
    halving().report(study, 1, None)
    wrong = halving(metric="val_epoch/los")
    with pytest.raises(UserError, match="did you mean 'val_epoch/loss'"):
        wrong.report(study, 1, paused(1, 19, tmp_path))
    study.tell(0, 1.0)
    with caplog.at_level(logging.ERROR):
        wrong.report(study, 1, paused(1, 19, tmp_path))
    assert "did you mean 'val_epoch/loss'" in caplog.text
    assert not study.get_trials()[1].intermediate_values


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"min_epochs": 0}, "min_epochs: 0 is not allowed with trainer.max_epochs=30"),
        ({"min_epochs": 30}, "min_epochs: 30 is not allowed with trainer.max_epochs=30"),
        ({"reduction_factor": 1}, "reduction_factor: 1 is not allowed; it should be 2 or larger"),
        ({"trainer": TrainerSettings(max_epochs=30, validate_every_epochs=4)}, "it should be a multiple of that"),
        ({"trainer": TrainerSettings(max_epochs=30, resume="never")}, "trainer.resume: never is not allowed"),
    ],
)
def test_rungs_that_cannot_be(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")):
        halving(**keys)


FOUR = ("trainer.max_epochs=4",)
SEARCH = (
    *("-m", "hydra/sweeper=optuna", "hydra.sweeper.pruner=halving", "hydra.sweeper.reduction_factor=2"),
    *("hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=4", "hydra.sweeper.batch=4"),
    *("hydra.launcher.points_per_gpu=2", "loss.lambda_vol=tag(log,interval(1,16))"),
    "+sweep.objectives={val_epoch/recon: minimize}",
)
"""Four trials of four epochs: the better half goes on after the first, and the better one of these after the second."""


@pytest.fixture
def output_dir(tmp_path: Path, prepared_cache: Path) -> Path:
    output_dir = tmp_path / "outputs"
    output_dir.mkdir()
    (output_dir / "cache").symlink_to(prepared_cache)
    return output_dir


def stored(output_dir: Path) -> list[optuna.trial.FrozenTrial]:
    (journal,) = output_dir.glob("sweeps/*/study/journal.log")
    study = optuna.load_study(study_name=journal.parents[1].name, storage=open_storage(str(journal)))
    return study.get_trials()


def epochs(run: Path) -> int:
    return (run / "metrics.jsonl").read_bytes().count(b"\n")


def recon(run: Path, epoch: int) -> float:
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[epoch - 1])
    value: float = row["val_epoch/recon"]
    return value


def test_a_search_that_is_killed_between_rungs_ends_as_the_best_run_alone(output_dir: Path, tmp_path: Path) -> None:
    process = start(output_dir, *SEARCH, *FOUR)
    process.read_until("after epoch 1, 2 of 4 trials go on")
    process.send_signal(signal.SIGKILL)
    process.output.read()
    assert Counter(trial.state.name for trial in stored(output_dir)) == {"RUNNING": 2, "PRUNED": 2}
    done = train(output_dir, *SEARCH, *FOUR)
    assert "after epoch 2, 1 of 2 trials go on" in done.stderr
    assert "the best trial:" in done.stdout
    runs = sorted((output_dir / "runs").iterdir(), key=epochs, reverse=True)
    assert [epochs(run) for run in runs] == [4, 2, 1, 1]
    assert max(recon(run, 1) for run in runs[:2]) <= min(recon(run, 1) for run in runs[2:])
    assert recon(runs[0], 2) <= recon(runs[1], 2)
    log = (runs[0] / "train.log").read_text()
    assert "resuming after epoch 2 " in log
    assert [log.count(f"training: epochs {span} ") for span in ("1 to 1", "3 to 4")] == [1, 1]
    assert not (runs[1] / "gates.json").exists(), "a trial that does not go on is not evaluated"

    trials = stored(output_dir)
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 1, "PRUNED": 3}
    (best,) = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert best.intermediate_values == {1: recon(runs[0], 1), 2: recon(runs[0], 2)}
    told = menvae_sweep(output_dir, "status")
    assert told.count("after epoch") == 3
    assert "3 paused" in told
    assert "the best trial:" in told

    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "cache").symlink_to(output_dir / "cache")
    train(tmp_path / "alone", *FOUR, *best.user_attrs[OVERRIDES])
    alone = only_run(tmp_path / "alone")
    assert alone.name == runs[0].name
    for name in ("metrics.jsonl", "gates.json"):
        assert (alone / name).read_bytes() == (runs[0] / name).read_bytes()
    lone, halved = (
        torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["model"] for run in (alone, runs[0])
    )
    assert all(torch.equal(halved[key], value) for key, value in lone.items())

    again = train(output_dir, *SEARCH, *FOUR)
    assert "to run" not in again.stderr
    loser = next(trial for trial in trials if trial.state.name == "PRUNED" and len(trial.intermediate_values) == 1)
    finished = train(output_dir, *FOUR, *loser.user_attrs[OVERRIDES])
    assert "resuming after epoch 1 " in finished.stderr
    assert sorted(map(epochs, (output_dir / "runs").iterdir())) == [1, 2, 4, 4]


def test_failed_trials_pause_again_after_a_retry(output_dir: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.write_text("raise")
    site = write_trouble(tmp_path / "site")
    search = [text.replace("=4", "=2") for text in SEARCH] + ["trainer.max_epochs=2", *trouble(flag)]
    train(output_dir, *search, code=1, site=site)
    assert Counter(trial.state.name for trial in stored(output_dir)) == {"FAIL": 2}
    flag.unlink()
    told = menvae_sweep(output_dir, "retry", site=site)
    assert "2 of these points are paused" in told
    assert Counter(trial.state.name for trial in stored(output_dir)) == {"FAIL": 2, "RUNNING": 2}
    train(output_dir, *search, site=site)
    assert Counter(trial.state.name for trial in stored(output_dir)) == {"FAIL": 2, "COMPLETE": 1, "PRUNED": 1}
    assert sorted(map(epochs, (output_dir / "runs").iterdir())) == [1, 2]


def test_a_plan_says_where_trials_pause(output_dir: Path) -> None:
    overrides = [text.replace("pruner=halving", "pruner=hyperband") for text in SEARCH]
    done = train(output_dir, *overrides, *FOUR, "sweep.action=plan")
    assert "pruner hyperband" in done.stdout
    assert "trials pause: hyperband, after 1, 2 of 4 epochs one in 2 goes on" in done.stdout


def test_a_study_has_one_set_of_rungs(tmp_path: Path) -> None:
    sweeper = OptunaSweeper(sampler="random", seed=0)
    settings, space = SweepSettings(objectives={LOSS: "minimize"}), {"x": FloatDistribution(0.0, 1.0)}

    def make(rules: Halving | None) -> None:
        sweeper.make_study(str(tmp_path / "journal.log"), "mine", settings, space, rules)

    first = halving()
    make(first)
    make(first)
    sentence = "study 'mine' has different pauses (halving, after 2, 6, 18 of 30 epochs one in 3 goes on) than this"
    for other in (halving(reduction_factor=4), halving(min_epochs=1), halving("hyperband"), None):
        with pytest.raises(UserError, match=re.escape(sentence)):
            make(other)


class _LateQueue(Runner):
    """Has a queue that knows a job only after a while, and trains one epoch then."""

    poll_s = 0.01
    lag_s = 60.0

    def submit(self, jobs: Mapping[str, Path]) -> dict[str, Submission]:
        self.looks = 0
        return {run: Submission("late", "1", "", "") for run in jobs}

    def advance(self) -> dict[str, Submission]:
        self.looks += 1
        if self.looks == 3:
            write_paused(self.folder, epochs=2)
        return {}

    def stop(self) -> None:
        pass

    @staticmethod
    def states(submissions: Mapping[str, Submission]) -> dict[str, JobState]:
        return {}


def write_paused(sweep: Path, epochs: int) -> None:
    run_dir = Sweep(sweep).runs / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.jsonl").write_text("{}\n" * epochs)
    (run_dir / "status.json").write_text(json.dumps({"state": "paused", "reason": f"after epoch {epochs} of 3"}))


def test_a_queue_that_is_late_does_not_end_the_wait_for_a_paused_point(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "sweeps" / "search")
    point = Point(0, "run", ("seed=1",))
    config = {"trainer": {"max_epochs": 3}}
    write_paused(sweep.path, epochs=1)
    runner = _LateQueue()
    runner.prepare(sweep.path, config)
    register("runner", "late")(_LateQueue)
    try:
        planned = [PlannedPoint(point.overrides, config, sweep_status(sweep, [point])[0])]
        campaign = Campaign(sweep, runner, TrackingSettings(enabled=False))
        with stop_requests() as stop:
            (status,) = campaign.carry_out(planned, stop, {})
    finally:
        unregister("runner", "late")
    assert (status.fate, status.epochs) == (Fate.PAUSED, 2)
