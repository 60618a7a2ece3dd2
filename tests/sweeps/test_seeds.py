"""``sweep.until`` adds seeds until the interval of a metric over replicates is narrow enough, or none are left."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from runs import TINY, menvae_sweep, train
from scipy import stats

from menvae.composition.settings import SweepSettings
from menvae.composition.until import Until
from menvae.errors import UserError
from menvae.sweeps.runners import Fate
from menvae.sweeps.seeds import AddedSeeds
from menvae.sweeps.status import PointStatus
from menvae.sweeps.sweep import Point


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(vol_r2)<0.05", Until("vol_r2", 0.05)),
        (" interval( sem/vol_r2 ) < 5e-2 ", Until("sem/vol_r2", 0.05)),
        ("interval(indep/dcor_vol_loc)<1", Until("indep/dcor_vol_loc", 1.0)),
    ],
)
def test_wanted_intervals(text: str, expected: Until) -> None:
    assert SweepSettings(until=text).wanted_interval == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vol_r2<0.05",
        "interval(vol_r2)",
        "interval()<1",
        "interval(a)<0",
        "interval(a)<-1",
        "interval(a)<1e",
        "interval(a)<=1",
    ],
)
def test_intervals_that_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"sweep\.until: '.*' is not allowed; write interval\(METRIC\)<WIDTH"):
        SweepSettings(until=text)


class Study:
    """Points whose runs have the given values, as a sweep would add them."""

    def __init__(self, folder: Path, until: str, most: int = 10) -> None:
        self.folder, self.number = folder, 0
        self.seeds = AddedSeeds(Until.parse(until, "sweep.until"), most, self.is_kept)

    def run(self, *overrides: str, value: float | None, fate: Fate = Fate.FINISHED) -> None:
        """Add a point."""
        keys = dict(text.split("=") for text in overrides)
        self.number += 1
        run_dir = self.folder / f"run_{self.number}"
        run_dir.mkdir()
        gate = {"name": "vol_r2", "value": value, "target": 0.5, "comparison": ">", "passed": True}
        (run_dir / "gates.json").write_text(json.dumps({"gates": [gate]}))
        metric = {"value": value, "low": None, "high": None}
        described = {"splits": {"val": {"metrics": {"sem/vol_r2": metric}}}}
        (run_dir / "evaluation.json").write_text(json.dumps(described))
        point = Point(self.number, run_dir.name, tuple(text for text in overrides if text != "name=a"))
        config = {"seed": int(keys.get("seed", 42)), "data": self.data(keys)}
        self.seeds.add(overrides, config, PointStatus(point, fate, "", run_dir, 1, 1))

    @staticmethod
    def is_kept(overrides: Sequence[str]) -> bool:
        """The condition of the sweep, ``not (a == 3 and seed == 8)``."""
        return not {"a=3", "seed=8"} <= set(overrides)

    @staticmethod
    def data(keys: Mapping[str, str]) -> dict[str, float | None]:
        share = {"val_fraction": float(keys["data.val_fraction"])} if "data.val_fraction" in keys else {}
        return {"fold": int(keys["data.fold"]), "num_folds": 2, **share} if "data.fold" in keys else {"fold": None}


def test_a_seed_is_added_to_each_configuration_until_its_interval_is_narrow(tmp_path: Path) -> None:
    """The t quantile of 1 degree of freedom is 12.7, that of 2 is 4.30."""
    study = Study(tmp_path, "interval(vol_r2)<0.05")
    study.run("name=a", "loss.lambda_dcor=0", "seed=1", value=0.900)
    study.run("name=a", "loss.lambda_dcor=5", "seed=1", value=0.500)
    both = [["name=a", f"loss.lambda_dcor={weight}", "seed=2"] for weight in (0, 5)]
    assert study.seeds.next_points() == both
    study.run(*both[0], value=0.902)  # 2 x 12.7 x 0.0014 / sqrt 2 = 0.0254
    study.run(*both[1], value=0.520)  # ten times as wide
    assert study.seeds.next_points() == [["name=a", "loss.lambda_dcor=5", "seed=3"]]
    study.run("name=a", "loss.lambda_dcor=5", "seed=3", value=0.510)
    values = [0.50, 0.52, 0.51]
    width = 2.0 * stats.t.ppf(0.975, 2) * statistics.stdev(values) / math.sqrt(3)
    assert width == pytest.approx(0.0497, abs=1e-4)
    assert study.seeds.next_points() == []


def test_all_folds_of_a_seed_are_added_and_what_they_share_widens_the_interval(tmp_path: Path) -> None:
    """Without the correction, the interval of these four runs would be narrower than 0.05."""
    study = Study(tmp_path, "interval(sem/vol_r2)<0.05")
    values = {(1, 0): 0.90, (1, 1): 0.92, (2, 0): 0.91, (2, 1): 0.93}
    for (seed, fold), value in list(values.items())[:2]:
        study.run(f"seed={seed}", f"data.fold={fold}", value=value)
    assert study.seeds.next_points() == [["data.fold=0", "seed=2"], ["data.fold=1", "seed=2"]]
    for (seed, fold), value in list(values.items())[2:]:
        study.run(f"data.fold={fold}", f"seed={seed}", value=value)
    half = stats.t.ppf(0.975, 3) * statistics.stdev(values.values())
    assert 2.0 * half * math.sqrt(1 / 4) < 0.05 < 2.0 * half * math.sqrt(1 / 4 + 1)
    assert study.seeds.next_points() == [["data.fold=0", "seed=3"], ["data.fold=1", "seed=3"]]


def test_seeds_end_at_the_most_and_at_a_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path, "interval(vol_r2)<0.05", most=3)
    study.run("a=1", "seed=7", value=0.1)
    study.run("a=1", "seed=8", value=0.9)
    study.run("a=2", "seed=7", value=0.1)
    study.run("a=2", "seed=8", value=0.9, fate=Fate.OUT_OF_MEMORY)
    study.run("a=3", "seed=7", value=None)
    study.run("a=4", "seed=7", value=None)
    with caplog.at_level(logging.INFO, logger="menvae"):
        assert study.seeds.next_points() == [["a=1", "seed=9"], ["a=4", "seed=8"]]
    assert [text.partition(":")[0] for text in caplog.messages] == ["a=1", "a=4"], "a=3 is left out, and not announced"
    study.run("a=1", "seed=9", value=0.5)
    study.run("a=4", "seed=8", value=None)
    assert study.seeds.next_points() == [["a=4", "seed=9"]]
    study.run("a=4", "seed=9", value=None)
    assert study.seeds.next_points() == []
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="menvae"):
        study.seeds.log_end()
    first, *rest = caplog.messages
    assert first == "sweep.until: not all intervals are narrow enough (0 of 4 are)"
    assert rest[0].startswith("a=1: vol_r2 has an interval of 1.99 over 3 runs; sweep.max_seeds=3 is reached")
    assert rest[1] == "a=2: vol_r2 has no interval over 1 run; not all runs have finished"
    assert rest[2] == "a=3: vol_r2 has no interval over 0 runs; sweep.where leaves out seed 8"


def test_folds_that_train_on_fewer_than_all_others_have_a_wider_interval(tmp_path: Path) -> None:
    """Of 2 folds with a fifth for validation: 50 of 100 test, 30 train, and not 50."""
    study = Study(tmp_path, "interval(vol_r2)<0.4")
    values = [0.90, 0.92, 0.91, 0.93]
    for value, (seed, fold) in zip(values, [(1, 0), (1, 1), (2, 0), (2, 1)], strict=True):
        study.run(f"seed={seed}", f"data.fold={fold}", "data.val_fraction=0.2", value=value)
    widths = [
        2.0 * stats.t.ppf(0.975, 3) * statistics.stdev(values) * math.sqrt(1 / 4 + 50 / trained) for trained in (50, 30)
    ]
    for wanted, adds in ((widths[1] * 1.001, False), (widths[1] * 0.999, True), (widths[0] * 1.001, True)):
        study.seeds._until = Until("vol_r2", wanted)
        assert bool(study.seeds.next_points()) is adds, wanted


def test_a_metric_that_no_run_has_is_refused(tmp_path: Path) -> None:
    study = Study(tmp_path, "interval(vol_r)<0.05")
    study.run("seed=1", value=0.5)
    with pytest.raises(UserError, match=r"sweep\.until: no run has a gate or metric 'vol_r'; did you mean 'vol_r2'"):
        study.seeds.next_points()


def seeds_of(output_dir: Path) -> list[int]:
    return sorted(yaml.safe_load(path.read_text())["seed"] for path in output_dir.glob("runs/*/config.yaml"))


def test_a_sweep_adds_seeds_and_goes_on_where_it_was(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    train(tmp_path, "trainer.max_epochs=1", "seed=3")
    command = ("-m", "trainer.max_epochs=0,1", "seed=3", "sweep.max_seeds=2")
    said = train(tmp_path, *command, "sweep.until=interval(mean_z_ratio)<1e-12", code=1).stderr
    assert seeds_of(tmp_path) == [3, 4]
    assert "over 1 run; adding seed 4" in said
    assert "sweep.max_seeds=2 is reached" in said
    (sweep,) = tmp_path.glob("sweeps/*/")
    assert len(list((sweep / "points").iterdir())) == 2
    (refused,) = json.loads((sweep / "refused.json").read_text())["points"]
    assert refused["overrides"] == ["trainer.max_epochs=0", "seed=3"], "of an earlier batch"
    said = train(tmp_path, *command, "sweep.until=interval(mean_z_ratio)<1e12", code=1).stderr
    assert "over 2 runs" not in said, "it is narrow enough"
    assert "not all intervals are narrow enough (1 of 2 are)" in said
    assert seeds_of(tmp_path) == [3, 4]


def test_what_cannot_be_repeated_is_one_sentence(tmp_path: Path) -> None:
    until = "sweep.until=interval(vol_r2)<0.05"
    zipped = menvae_sweep(tmp_path, "plan", *TINY, "seed=zip(1,2)", "loss.lambda_dcor=zip(0,5)", until, code=2)
    assert zipped.startswith("menvae-sweep: sweep.until: seed advances together with loss.lambda_dcor")
    searched = menvae_sweep(tmp_path, "plan", *TINY, "hydra/sweeper=optuna", "sweep=volumes", until, code=2)
    assert searched.startswith("menvae-sweep: sweep.until: a search repeats no trial")
    many = menvae_sweep(tmp_path, "plan", *TINY, "seed=1..3", "sweep.max_seeds=2", until, code=2)
    assert many == (
        "menvae-sweep: sweep.max_seeds: 2 is not allowed; the sweep begins with 3 seeds of a configuration\n"
    )
    nope = menvae_sweep(tmp_path, "plan", *TINY, "seed=1,2", "sweep.until=interval(vol_r)<0.05", code=2)
    assert nope.startswith("menvae-sweep: sweep.until: no point of the sweep has a gate or metric 'vol_r'; did you")
    assert not (tmp_path / "runs").exists()
    planned = menvae_sweep(tmp_path, "plan", *TINY, "seed=1,2", until)
    assert "sweep.until: a run adds seeds to these, up to 10 of a configuration" in planned
