"""``menvae-sweep promote``: the experiment file of a point composes to its run, on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import shrunk
from omegaconf import OmegaConf
from runs import Started, environment

from menvae.apps import sweep
from menvae.composition.experiment import Experiment
from menvae.errors import UserError
from menvae.runs.start import run_name
from menvae.sweeps import promotion
from menvae.sweeps.sweep import Point, Sweep

pytestmark = pytest.mark.usefixtures("forked_jobs")
POINT = Point(3, "semivae_0123456789", ("loss.lambda_dcor=5",))

CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "default": (),
    "values": (
        "optimizer.learning_rate=1e-05",
        "seed=7",
        "name='0123'",
        "trainer.gradient_clip=null",
        "trainer.tune=off",
    ),
    "parts": ("decoder=transposed", "schedule@learning_rate=linear", "encoder.stem=per_modality", "update=aggressive"),
    "loss": (
        "loss=tcvae",
        "model=vae",
        "+term@loss.terms.dip=dip",
        "+loss.lambda_od=2",
        "+loss.lambda_d=0",
        "loss.lambda_recon=3",
    ),
    "gates": ("gates.vol_r2=null", "+gates.sharp={metric: val_epoch/ssim_t1c, above: 0.8}"),
    "metrics": ("+metrics.mig=null", "gates.leak_max.below=0.2"),
    "fewer partitions": ("experiment=exp3_semivae", "decoder=transposed"),
    "table": ("experiment=table_semivae", "data.target_columns=[bulk_density]", "model.partitions.target=3"),
    "classes": (
        "experiment=lithology_hybrid",
        "data=table",
        "data.path=rows.csv",
        "data.columns=[a,b]",
        "data.label=c",
    ),
    "frozen features": ("experiment=sdp",),
    "flagship": ("experiment=semivae_structured", "data=brats", "data.root=/data", "data.label_map.et=4"),
}


def name_of(config: Any) -> str:
    return run_name(Experiment.from_config(OmegaConf.create(config)), "", "", 1)


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_file_composes_to_the_run_of_its_point(tmp_path: Path, what: str) -> None:
    config = cast("dict[str, Any]", OmegaConf.to_container(shrunk.composed(*CONFIGURATIONS[what]), resolve=True))
    wanted = name_of(config)
    kept = {key: value for key, value in config.items() if key not in ("output_dir", "tracking", "sweep")}
    base = OmegaConf.to_container(shrunk.composed(*promotion.chosen_parts(config)), resolve=True)
    text = promotion.experiment_file(kept, cast("dict[str, Any]", base), ["about"])
    path = promotion.write_experiment(tmp_path, "mine", text, overwrite=False)
    assert path == tmp_path / "experiment" / "mine.yaml"
    again = shrunk.composed("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]", f"output_dir={tmp_path}")
    assert name_of(again) == wanted
    promotion.check_same_run(POINT, config, Experiment.from_config(again))
    with pytest.raises(UserError, match="point 3 cannot be written as an experiment: a file cannot reproduce its seed"):
        promotion.check_same_run(POINT, {**config, "seed": 99}, Experiment.from_config(again))


def test_a_removed_key_cannot_be_written(tmp_path: Path) -> None:
    composed = OmegaConf.to_container(shrunk.composed("~gates.max_dcor"), resolve=True)
    config = cast("dict[str, Any]", composed)
    promotion.write_experiment(tmp_path, "mine", promotion.experiment_file(config, config, []), overwrite=False)
    again = shrunk.composed("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")
    with pytest.raises(UserError, match=r"a file cannot reproduce its gates\.max_dcor$"):
        promotion.check_same_run(POINT, config, Experiment.from_config(again))


def test_another_part_still_replaces_that_of_the_file(tmp_path: Path) -> None:
    config = cast("dict[str, Any]", OmegaConf.to_container(shrunk.composed("decoder.base_filters=24"), resolve=True))
    text = promotion.experiment_file(config, config, [])
    promotion.write_experiment(tmp_path, "mine", text, overwrite=False)
    searched = f"hydra.searchpath=[file://{tmp_path}]"
    assert shrunk.composed("experiment=mine", searched).decoder.base_filters == 24
    assert shrunk.composed("experiment=mine", "decoder=transposed", searched).decoder.name == "transposed"


def test_ranks_of_a_launcher_are_part_of_the_file_and_passwords_are_refused(tmp_path: Path) -> None:
    launched = Sweep(tmp_path / "sweeps" / "mine")
    config: dict[str, Any] = {"output_dir": "/x", "tracking": {"uri": "http://me:secret@db"}, "sweep": {}, "seed": 1}
    config["trainer"] = {"devices": None, "resume": "auto", "time_limit_min": 3.0, "max_epochs": 2}
    launched.prepare(POINT, config)
    run = launched.runs / POINT.run
    run.mkdir(parents=True)
    (run / "environment.json").write_text('{"num_ranks": 2}')
    assert promotion.configuration_of(launched, POINT) == {"seed": 1, "trainer": {"devices": 2, "max_epochs": 2}}
    launched.prepare(POINT, {**config, "data": {"root": "http://me:secret@db"}})
    with pytest.raises(UserError, match="point 3 holds a password"):
        promotion.configuration_of(launched, POINT)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--config-dir: cannot write to '.*/file/experiment': Not a directory$"):
        promotion.write_experiment(tmp_path / "file", "mine", "text", overwrite=False)


def test_promoted_point_is_reported_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = ("experiment=lithology_vae", *shrunk.TINY_TABLE, "tracking.enabled=false", "pictures.num_subjects=0")
    swept = ("-m", *table, "loss.lambda_kl=0.5,1", f"output_dir={tmp_path}")
    Started("train", list(swept), environment(), both=True).ended(0)

    mine, here = tmp_path / "my settings", f"output_dir={tmp_path}"
    sweep.promote(["1", "--name", "best", "--config-dir", str(mine), here])
    assert f"menvae-train --config-dir '{mine}' experiment=best" in capsys.readouterr().out.replace("\n", " ")
    text = (mine / "experiment" / "best.yaml").read_text()
    assert "loss.lambda_kl=1" in text.splitlines()[2]
    command = ["--config-dir", str(mine), "experiment=best", here, "tracking.enabled=false"]
    assert "already finished: nothing to train" in Started("train", command, environment(), both=True).ended(0)
    assert len(list((tmp_path / "runs").iterdir())) == 2

    again = ("1", "--name=best", f"--config-dir={mine}")
    for arguments, words in (
        (again, "experiment/best.yaml' exists; set overwrite=true to replace it"),
        (("7",), "'7' is no point of sweep"),
        (("1",), "--config-dir: a value is required"),
        ((), "promote: 0 points given"),
        (("1", "--nam=a"), "promote: --nam: no such key; did you mean '--name'?"),
        (("1", "--name"), "promote: --name: a value is required"),
        (("1", "--name=7", f"--config-dir={mine}"), "--name: '7' is not allowed"),
        (("1", "--name=semivae_run6", f"--config-dir={mine}"), "'semivae_run6' is the name of an experiment of menvae"),
    ):
        with pytest.raises(SystemExit) as ended:
            sweep.promote([here, *arguments])
        assert ended.value.code == 2
        refused = capsys.readouterr().err
        assert words in refused
        assert refused.count("\n") == 1
    (mine / "experiment" / "best.yaml").write_text("")
    sweep.promote([here, *again, "overwrite=true"])
    assert (mine / "experiment" / "best.yaml").read_text() == text
