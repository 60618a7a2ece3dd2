"""Studies of real runs: pruned by their median, told as failed, several objectives, interrupted and resumed."""

from __future__ import annotations

import signal
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from hydra_plugins.menvae_launchers.optuna_sweeper import OptunaSweeper
from optuna.distributions import FloatDistribution, IntDistribution
from plugins import trouble, write_trouble
from runs import menvae_sweep, start, train

from menvae.composition.settings import SweepSettings
from menvae.studies import open_storage

pytestmark = pytest.mark.usefixtures("forked_jobs")

SEARCH = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.batch=2", "hydra.launcher.num_parallel=2")
HALVING = "hydra.sweeper.pruner=halving"
SPACE = ("loss.lambda_vol=tag(log,interval(1,16))", "model.partitions.vol=choice(2,3,4)")


def study_of(output_dir: Path) -> optuna.Study:
    (journal,) = output_dir.glob("sweeps/*/study/journal.log")
    return optuna.load_study(study_name=journal.parents[1].name, storage=open_storage(str(journal)))


def states(output_dir: Path) -> Counter[str]:
    return Counter(trial.state.name for trial in study_of(output_dir).get_trials())


@pytest.fixture
def output_dir(tmp_path: Path, prepared_cache: Path) -> Path:
    output_dir = tmp_path / "outputs"
    output_dir.mkdir()
    (output_dir / "cache").symlink_to(prepared_cache)
    return output_dir


def test_a_study_that_prunes_is_interrupted_and_goes_on_to_its_number_of_trials(output_dir: Path) -> None:
    options = ("hydra.sweeper.pruner=median", "hydra.sweeper.startup_trials=2", "hydra.sweeper.warmup_epochs=0")
    overrides = (*SEARCH, *options, *SPACE, "hydra.sweeper.n_trials=4", "+sweep.objectives={sem/vol_r2: maximize}")
    process = start(output_dir, *overrides)
    process.read_until("2 finished")
    while len(list((output_dir / "runs").iterdir())) < 4:  # until the second batch has begun
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.output.read()
    assert states(output_dir)["RUNNING"] == 2
    done = train(output_dir, *overrides)
    trials = study_of(output_dir).get_trials()
    assert [trial.number for trial in trials] == list(range(4))
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    assert "the best trial:" in done.stdout
    points = list(output_dir.glob("sweeps/*/points/*"))
    assert len(points) == 4, "no trial was run under two names"
    assert len(list((output_dir / "runs").iterdir())) == 4
    again = train(output_dir, *overrides)
    assert states(output_dir).total() == 4
    assert "to run" not in again.stderr


def test_two_objectives_and_a_region_that_collapses(output_dir: Path) -> None:
    """No decoder reaches a ratio of 9 in two epochs: the watch ends every run that it may end."""
    watch = ("watch.min_ratio=9", "watch.grace=0", "watch.collapse=choice(stop,warn)")
    overrides = (*SEARCH, *SPACE, *watch, "hydra.sweeper.n_trials=2", "trainer.max_epochs=2", "hydra.sweeper.seed=1")
    train(output_dir, *overrides, "+sweep.objectives={sem/vol_r2: maximize, val_epoch/recon: minimize}")
    found = study_of(output_dir)
    assert [direction.name for direction in found.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert {trial.params["watch.collapse"] for trial in found.get_trials()} == {"stop", "warn"}
    for trial in found.get_trials():
        assert trial.state.name == ("PRUNED" if trial.params["watch.collapse"] == "stop" else "COMPLETE")


def test_a_front_of_what_passes_is_part_of_the_status(output_dir: Path) -> None:
    """The image is drawn better than by the mean; no R2 passes 2."""
    gates = ("gates.mean_image_ratio.above=0.01", "gates.vol_r2.above=2")
    overrides = (*SEARCH, *SPACE, *gates, "hydra.sweeper.n_trials=2", "trainer.max_epochs=1")
    two = "+sweep.objectives={sem/vol_r2: maximize, val_epoch/recon: minimize}"
    done = train(output_dir, *overrides, two, "sweep.constraints=[mean_image_ratio]", "sweep.name=some")
    assert "the Pareto front of what passes mean_image_ratio:" in done.stdout
    assert done.stdout.partition("the Pareto front")[2] in menvae_sweep(output_dir, "status")
    train(output_dir, *overrides, two, "sweep.constraints=[mean_image_ratio,passed]", "sweep.name=all")
    told = menvae_sweep(output_dir, "status")
    assert "the Pareto front of what passes mean_image_ratio, every gate: none does" in told
    other = train(output_dir, *overrides, two, "sweep.name=all", code=2)
    assert (
        "study 'all' has different constraints (['mean_image_ratio', 'passed']) than this search ([])" in other.stderr
    )


def test_failed_trials_are_run_again_by_retry(output_dir: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.write_text("raise")
    site = write_trouble(tmp_path / "site")
    search = (*SEARCH, *SPACE, "hydra.sweeper.n_trials=2", "trainer.max_epochs=1")
    overrides = (*search, "+sweep.objectives={sem/vol_r2: maximize}")
    train(output_dir, *overrides, *trouble(flag), code=1, site=site)
    assert states(output_dir) == {"FAIL": 2}
    flag.unlink()
    output = menvae_sweep(output_dir, "retry", site=site)
    assert "2 complete" in output
    assert "the best trial:" in output
    assert states(output_dir) == {"FAIL": 2, "COMPLETE": 2}
    trials = study_of(output_dir).get_trials()
    assert [trial.params for trial in trials[2:]] == [trial.params for trial in trials[:2]]
    done = train(output_dir, *overrides, *trouble(flag), site=site)
    assert states(output_dir).total() == 4, "the search is complete"
    assert "2 complete" in done.stdout
    assert len(list((output_dir / "runs").iterdir())) == 2


def test_failed_trials_are_run_again_by_the_same_command(output_dir: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.write_text("die")
    site = write_trouble(tmp_path / "site")
    search = (*SEARCH, *SPACE, "sweep.name=mine", "trainer.max_epochs=1", *trouble(flag))
    overrides = (*search, "+sweep.objectives={sem/vol_r2: maximize}")
    first = train(output_dir, *overrides, "hydra.sweeper.n_trials=1", code=1, site=site)
    assert "lost" in first.stderr
    assert "ended by signal 9" in first.stderr
    again = train(output_dir, *overrides, "hydra.sweeper.n_trials=1", code=1, site=site)
    assert states(output_dir) == {"FAIL": 2}
    assert "study mine: 1 fail" in again.stdout, "the trial counts once"
    flag.unlink()
    done = train(output_dir, *overrides, "hydra.sweeper.n_trials=2", site=site)
    assert states(output_dir) == {"FAIL": 2, "COMPLETE": 2}
    assert "study mine: 2 complete" in done.stdout
    assert len(list((output_dir / "runs").iterdir())) == 2


def test_a_metric_that_no_run_has_ends_the_search_at_its_first_trial(output_dir: Path) -> None:
    overrides = ("-m", "hydra/sweeper=optuna", *SPACE, "trainer.max_epochs=1")
    done = train(output_dir, *overrides, "+sweep.objectives={val_epoch/rekon: minimize}", code=2)
    assert "did you mean 'val_epoch/recon'?" in done.stderr
    assert len(list((output_dir / "runs").iterdir())) == 1


def test_trials_that_cannot_run_end_the_search(output_dir: Path) -> None:
    overrides = ("-m", "hydra/sweeper=optuna", *SPACE, "data=brats", "~data.num_subjects", "data.root=/nowhere")
    done = train(output_dir, *overrides, "+sweep.objectives={sem/vol_r2: maximize}", code=2)
    assert "the search ends, because its first trials cannot run: data.root: folder '/nowhere'" in done.stderr
    assert states(output_dir) == {"FAIL": 1}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["loss.lambda_dcor=interval(0,10)"], "sweep.objectives is empty"),
        (["+sweep.objectives={sem/vol_r2: maximize}"], "nothing to search"),
        (["sweep=balance", "hydra.sweeper.pruner=median"], "Optuna cannot prune with several objectives"),
        (["sweep=volumes", "hydra.sweeper.sampler=grid"], "loss.lambda_vol is continuous"),
        (["sweep=volumes", "hydra.sweeper.sampler=tpee"], "did you mean 'tpe'?"),
        (["sweep=volumes", "hydra.sweeper.n_trials=0"], "n_trials and batch must be 1 or larger"),
        (["sweep=volumes", "loss.lambda_vol=interval(5,1)"], "cannot be searched"),
        (["sweep=volumes", "sweep.action=plan", "loss.lambda_vol=interval(0,inf)"], "its ends must be finite"),
        (["sweep=volumes", "sweep.action=plan", "trainer.batch_size=interval(8,16)"], "use tag(int,interval(8,16))"),
        (["sweep=volumes", "trainer.batch_size=tag(log,interval(8,16))"], "use tag(int,log,interval(8,16))"),
        (["sweep=volumes", "trainer.devices=choice(null,1)"], "list the values without it: =null,1"),
        (["sweep=volumes", "trainer.devices=range(a,3)"], "'range(a,3)' is invalid"),
        (["sweep=balance", "hydra.sweeper.pruner=hyperband"], "Optuna cannot prune with several objectives"),
        (["sweep=volumes", HALVING, "hydra.sweeper.min_epochs=3"], "is not allowed with trainer.max_epochs=3"),
        (["sweep=volumes", HALVING, "trainer.max_epochs=choice(2,4)"], "compares trials after equally many epochs"),
        (["sweep=volumes", HALVING, "trainer.resume=never"], "whose trials go on from their checkpoints"),
        (["sweep=volumes", "sweep.constraints=[max_dcorr]"], "did you mean 'max_dcor'?"),
        (
            ["sweep=volumes", "sweep.constraints=[max_dcor]", "hydra.sweeper.sampler=cmaes"],
            "hydra.sweeper.sampler=cmaes does not support sweep.constraints",
        ),
        (["sweep=volumes", "hydra/launcher=basic"], "hydra/launcher: 'basic' is not a launcher of menvae"),
    ],
)
def test_what_cannot_be_searched(tmp_path: Path, overrides: list[str], sentence: str) -> None:
    done = train(tmp_path, "-m", "hydra/sweeper=optuna", *overrides, code=2)
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_grid_to_its_end_and_a_study_that_is_another(output_dir: Path) -> None:
    search = (
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.sampler=grid",
        "hydra.sweeper.batch=2",
        "trainer.max_epochs=1",
    )
    one = ("loss.lambda_dcor=choice(0,5)", "+sweep.objectives={sem/vol_r2: maximize}", "sweep.name=mine")
    done = train(output_dir, *search, *one)
    assert states(output_dir) == {"COMPLETE": 2}
    assert "the best trial:" in done.stdout
    wider = train(output_dir, *search, "loss.lambda_dcor=choice(0,5,7)", *one[1:], code=2)
    assert "has different space" in wider.stderr
    other = train(output_dir, *search, one[0], "+sweep.objectives={val_epoch/recon: minimize}", one[2], code=2)
    assert "has different objectives" in other.stderr


def test_a_grid_of_zipped_keys_is_searched_to_the_end_of_what_meets_the_condition(output_dir: Path) -> None:
    zipped = ("loss.lambda_dcor=zip(0,5,7)", "model.partitions.vol=zip(4,5,6)", "sweep.where=model.partitions.vol != 5")
    search = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", "hydra.sweeper.batch=3")
    objective = "+sweep.objectives={sem/vol_r2: maximize}"
    train(output_dir, *search, *zipped, objective, "trainer.max_epochs=1", "hydra.launcher.points_per_gpu=2")
    counted = [trial for trial in study_of(output_dir).get_trials() if trial.state.name == "COMPLETE"]
    assert sorted(trial.user_attrs["overrides"] for trial in counted) == [
        ["loss.lambda_dcor=0", "model.partitions.vol=4"],
        ["loss.lambda_dcor=7", "model.partitions.vol=6"],
    ]
    none = train(output_dir, *search, *zipped[:2], objective, "sweep.where=model.partitions.vol > 6", code=2)
    assert none.stderr.endswith("sweep.where: no point of 3 meets 'model.partitions.vol > 6'\n")


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "nsga2"])
def test_samplers_propose_what_is_searched(sampler: str, tmp_path: Path) -> None:
    space = {"x": FloatDistribution(1.0, 16.0, log=True), "n": IntDistribution(2, 4)}
    sweeper = OptunaSweeper(sampler=sampler, seed=0, n_trials=9, batch=1, pruner="none")
    settings = SweepSettings(objectives={"sem/vol_r2": "maximize"})
    study = sweeper.make_study(str(tmp_path / "journal.log"), "study", settings, space)
    for _ in range(6):
        trial = study.ask(space)
        assert 1.0 <= trial.params["x"] <= 16.0
        assert trial.params["n"] in (2, 3, 4)
        study.tell(trial, trial.params["x"])
    again = sweeper.make_study(str(tmp_path / "journal.log"), "study", settings, space)
    assert again.best_value == max(trial.value or 0.0 for trial in study.get_trials())
    assert again.ask(space).number == 6
