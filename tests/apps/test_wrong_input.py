"""What a user can do wrong: one sentence on standard error, exit code 2, no traceback."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import menvae_sweep

from menvae.apps import parts, sweep, train

PREFIX = "menvae-train: "

WRONG = [
    # found while composing
    (["loss.lambda_dcorr=3"], "loss.lambda_dcorr: no such key; did you mean 'lambda_dcor'?"),
    (["modle.z_dim=3"], "modle: no such key; did you mean 'model'?"),
    (["trainer.max_epoch=3"], "trainer.max_epoch: no such key; did you mean 'max_epochs'?"),
    (["encoder=resnt"], "encoder: 'resnt' is not an option; did you mean 'resnet'?"),
    (["experiment=semivae_run5"], "experiment: 'semivae_run5' is not an option; did you mean 'semivae_run6'?"),
    (["schedule@loss.schedules.vol=linea"], "schedule: 'linea' is not an option; did you mean 'linear'?"),
    (["modell=semivae"], "modell: no such key; did you mean 'model'?"),
    (
        ["trainer.max_epochs=[1"],
        "argument 'trainer.max_epochs=[1' cannot be parsed: no viable alternative at input '[1'; put",
    ),
    (
        ["data.root=/data/M\u00fcller"],
        "argument 'data.root=/data/M\u00fcller' cannot be parsed: it contains a character that",
    ),
    (["data.root=/data (3 T)"], "argument 'data.root=/data (3 T)' cannot be parsed: mismatched input"),
    (["encoder.base_filters=${nope}"], "encoder.base_filters: Interpolation key 'nope' not found"),
    (["hydra.launcher.num_parallel=two"], "hydra.launcher.num_parallel: 'two' is not allowed"),
    (
        ["site=example"],
        "hydra.launcher.partition: no such key of 'hydra.launcher'; known: gpus_per_run, num_parallel, points_per_gpu",
    ),
    (["encoder=3"], "encoder: 3 is not an option"),
    (["encoder=null"], "encoder: null is not an option"),
    (["loss=[]"], "loss: a value is required"),
    (["~encoder"], "encoder: a value is required"),
    (["trainer=null"], "trainer: None is not allowed"),
    (["-m", "~data", "seed=1,2"], "data: a value is required"),
    (["-m", "trainer=3", "seed=1,2"], "trainer: 3 is not allowed"),
    (["output_dir=null"], "output_dir: None is not allowed; it should be a path"),
    (["output_dir='~nosuchuser'"], "output_dir: '~nosuchuser' names the home directory of an unknown user"),
    (["seed=12345678901234567890"], "seed: 12345678901234567890 is not allowed; it does not fit into 64 bits"),
    (["--run", "--multirun"], "the command line cannot be composed: Only one of --run, --multirun"),
    (["seed=1..3"], "'seed=1..3': a key with several values makes a sweep: add -m; a list is written 'seed=[1..3]'"),
    (["seed=1,2"], "'seed=1,2': a key with several values makes a sweep: add -m; a list is written 'seed=[1,2]'"),
    (["sweep.points=table.csv"], "sweep.points=table.csv: belongs to a sweep, of one run or more: add -m"),
    (["+sweep.where=seed>1"], "+sweep.where='seed>1': belongs to a sweep"),
    (["-m", "output_dir=a,b"], "output_dir: the axis 'output_dir=a,b' is not allowed, because output_dir is a setting"),
    (["-m", "tracking.uri=a,b"], "tracking.uri: the axis 'tracking.uri=a,b' is not allowed"),
    (["sweep.objectives={loss: minimize}"], "sweep.objectives.loss: no such key; the section is empty; put +"),
    (["++optimizer.betas.extra=3"], "optimizer.betas.extra: no such key; a list has entries 0, 1, ..."),
    (["++data.roi_size.a.b=3"], "data.roi_size.a.b: no such key; a list has entries 0, 1, ..."),
    (["hydra.run=???"], "hydra.run: a value is required"),
    (["hydra.launcher=null"], "hydra.launcher: None is not allowed; choose one with hydra/launcher=<name>"),
    # found when the experiment is checked
    (["name=null"], "name: None is not allowed; it names a folder"),
    (["+spurious=1"], "spurious: no such key"),
    (["+encoder.widht=1"], "encoder.widht: no such key of 'resnet'"),
    (["encoder.name=foo"], "encoder: 'foo' is not registered; known: branched, "),
    (["trainer.max_epochs=-1"], "trainer.max_epochs: -1 is not allowed"),
    (["trainer.max_epochs=many"], "trainer.max_epochs: 'many' is not allowed"),
    (["trainer.precision=fp8"], "trainer.precision: 'fp8' is not allowed"),
    (["encoder.base_filters=12"], "encoder.base_filters: 12 is not allowed"),
    (["model.partitions.vol=-3"], "model.partitions.vol: -3 is not allowed"),
    (["model.partitions.residual=3"], "model.partitions: vol=24, loc=8, shape=12, residual=3 sum to 47"),
    (["model.z_dim=40"], "model.partitions: vol=24, loc=8, shape=12 sum to 44, which leaves no dimension"),
    (["data.roi_size=[32,32,30]"], "data.roi_size: [32, 32, 30] has a side of 30"),
    (["data.roi_size=[32,32]"], "data.roi_size.2: a value is required"),
    (["data=brats"], "data.root: a value is required; give it as data.root=..."),
    (["experiment=lithology_vae", "data=table"], "data.columns: a value is required; give it as data.columns=..."),
    (["experiment=lithology_vae", "encoder=resnet"], "encoder=resnet needs volumes, but the data are rows of a table"),
    (["data=lithology"], "encoder=resnet needs volumes, but the data are rows of a table"),
    (["data=brats", "data.root=/nowhere"], "data.root: folder '/nowhere' does not exist"),
    (
        ["data=brats", "data.root=/nowhere", "data.box=resize"],
        "data.spacing_mm: [1.0, 1.0, 1.0] is not allowed with data.box=resize, which chooses the spacing of every im",
    ),
    (
        ["data=brats", "data.root=/nowhere", "data.spacing_mm=null", "data.box=center"],
        "data.spacing_mm: null is not allowed with data.box=center; give three sides in mm",
    ),
    (
        ["data=brats", "data.root=/nowhere", "data.spacing_mm=null"],
        "data.spacing_mm: null is not allowed with data.box=brain; give three sides in mm",
    ),
    (["data=brats", "data.root=/nowhere", "data.box=resize", "data.spacing_mm=null"], "data.root: folder '/nowhere'"),
    (["data.box=middle"], "data.box: 'middle' is not allowed"),
    (["data.cache_format=zip"], "data.cache_format: 'zip' is not allowed"),
    (["data.refuse_below.tumour=1.5"], "data.refuse_below.tumour: 1.5 is not allowed"),
    (["+data.warn_below.tumor=0.5"], "data.warn_below.tumor"),
    (["loss.terms.kl.free_bits=-0.1"], "loss.terms.kl.free_bits: -0.1 is not allowed; it should be greater than or"),
    (["loss.lambda_vol=-1"], "loss.lambda_vol: -1.0 is not allowed"),
    (["loss.lambda_vol=much"], "loss.lambda_vol: 'much' is not allowed"),
    (["+loss.lambda_new=1"], "loss.lambda_new: no term returns a scalar 'new'"),
    (
        ["loss.terms.kl.partitions=[resdual]"],
        "loss.terms.kl: partition 'resdual' does not exist; did you mean 'residual'?",
    ),
    (
        ["model=vae"],
        "loss.terms.vol: partition 'vol' does not exist; known: residual; use loss=vae, dip or tcvae",
    ),
    (
        ["+model.supervision.residual=[vol_total]"],
        "model.supervision.residual: no term of the loss reads these targets; add +head@model.heads.residual=mlp",
    ),
    (["loss.terms=3"], "loss.terms: 3 is not allowed"),
    (
        ["model.supervision.vol=[vol_totl]"],
        "model.supervision.vol: data=phantom has no target 'vol_totl'; did you mean 'vol_total'?",
    ),
    (["model.inverse_heads.vol.dropout=7"], "model.inverse_heads.vol.dropout: 7 is not allowed"),
    (["+model.inverse_heads.vol.typo=3"], "model.inverse_heads.vol.typo: no such key of 'mlp'; known: dropout"),
    (["model.heads.vol.dropout=7", "loss.lambda_vol=0"], "model.heads.vol.dropout: 7 is not allowed"),
    (
        ["+head@model.heads.foo=mlp"],
        "model.heads.foo: partition 'foo' does not exist; known: loc, residual, shape, vol",
    ),
    (
        ["+model.partitions.vol_loc=4", "+model.partitions.age=4", "+model.partitions.loc_age=4"],
        "metrics: correlation has two values with the key 'indep/corr_vol_loc_age', because names of partitions",
    ),
    (["+model.supervision.foo=[vol_total]"], "model.supervision.foo: partition 'foo' does not exist; known: loc, res"),
    (["decoder=auxiliary"], "decoder=auxiliary outputs [16, 16, 16], but data.roi_size is [32, 32, 32]"),
    (["auxiliary_decoder=auxiliary"], "auxiliary_decoder: 'auxiliary' is not allowed; choose one with decoder@"),
    (["loss.terms.kl=kl"], "loss.terms.kl: 'kl' is not allowed; choose one with term@loss.terms.kl=<name>"),
    (["trainer=3"], "trainer: 3 is not allowed; set its keys, trainer.<key>=..."),
    (["trainer.channels_last=1"], "trainer.channels_last: 1 is not allowed"),
    (["data.label_map.et=2"], "data.label_map: 2 cannot be both ed and et"),
    (["data.on_error=stop"], "data.on_error: 'stop' is not allowed"),
    (["data.modalities=[t1c,t1c]"], "data.modalities: t1c appears twice"),
    # found before the data are loaded
    (["tracking.uri=nowhere"], "tracking.uri=nowhere is not a tracking store"),
    (["tracking.uri=ftp://me:secret@host"], "tracking.uri=ftp://me:***@host is not a tracking store"),
    (["trainer.resume=/nowhere.ckpt"], "trainer.resume: checkpoint '/nowhere.ckpt' does not exist"),
    (["trainer.init_from=/nowhere.ckpt"], "trainer.init_from: '/nowhere.ckpt' does not exist"),
    (["trainer.init_from=/proc/version"], "'/proc/version' is not a menvae checkpoint"),
    (["output_dir=/proc/nowhere"], "output_dir: cannot write to '/proc/nowhere'"),
    (["seed=x"], "seed: 'x' is not allowed"),
]


def assert_one_sentence(text: str, words: str) -> None:
    assert text.startswith(PREFIX + words), text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text


@pytest.mark.parametrize(("overrides", "words"), WRONG, ids=[" ".join(overrides) for overrides, _ in WRONG])
def test_one_sentence(
    overrides: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; this puts it back
    monkeypatch.setattr(sys, "argv", ["menvae-train", *overrides])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2
    captured = capfd.readouterr()
    assert_one_sentence(captured.err, words)
    assert captured.out == ""
    assert not (tmp_path / "outputs" / "runs").exists()
    assert not (tmp_path / "outputs" / "cache" / "phantom").exists()


def test_a_key_of_another_option_may_be_one_of_the_run_to_extend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    hint = "; give the options of the run that trainer.extend names too, such as data=<name>"
    for extending in (["trainer.extend=lithology_vae_0123456789"], []):
        monkeypatch.setattr(sys, "argv", ["menvae-train", *extending, "data.num_rows=700"])
        with pytest.raises(SystemExit) as ended:
            train.main()
        assert ended.value.code == 2
        told = capfd.readouterr().err
        assert_one_sentence(told, "data.num_rows: no such key; did you mean 'num_folds'? known: ")
        assert told.rstrip().endswith(hint) == bool(extending)


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("prepare", ["~data"], "data: a value is required"),
        ("prepare", ["targets=null"], "targets: null is not an option"),
        ("compare", ["~tracking"], "tracking: a value is required"),
        ("compare", ["html=null"], "html: None is not allowed; it should be a path"),
        ("sweep", ["status", "~output_dir"], "output_dir: a value is required"),
        ("sweep", ["watch"], "output_dir: '"),
        ("sweep", ["watch", "sweeps.name=a"], "watch: sweeps.name: no such key; did you mean 'sweep.name'?"),
        ("sweep", ["watch", "a_sweep"], "watch: 'a_sweep' is no key; a sweep is chosen with sweep.name=NAME"),
        ("sweep", ["watch", "--every", "0"], "watch: --every: '0' is not allowed; it should be 0.5 to 3600 seconds"),
        ("sweep", ["watch", "--every=often"], "watch: --every: 'often' is not allowed"),
        ("sweep", ["watch", "--html"], "watch: --html: a value is required"),
        ("sweep", ["watch", "--once=1"], "watch: --once: takes no value"),
        ("sweep", ["stop"], "stop: give points, by their numbers or the names of their runs, or --all"),
        ("sweep", ["stop", "3", "--all"], "stop: give points, by their numbers or the names of their runs, or --all"),
        ("sweep", ["stop", "3"], "output_dir: '"),
        ("sweep", ["retry", "--cause"], "retry: --cause: a value is required, such as out_of_memory"),
        ("sweep", ["retry", "trainer.batch_size=4"], "'trainer.batch_size=4': retry repeats points with the same conf"),
        ("sweep", ["retry", "--cause=lost"], "output_dir: '"),
    ],
    ids=str,
)
def test_sections_of_other_commands(
    command: str,
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", [f"menvae-{command}", *arguments])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"menvae.apps.{command}").main()
    assert ended.value.code == 2
    text = capfd.readouterr().err
    assert text.startswith(f"menvae-{command}: {words}"), text
    assert text.count("\n") == 1, text


def test_keys_removed_from_a_sweep_have_their_defaults(tmp_path: Path) -> None:
    table = ["experiment=lithology_vae", "data=lithology", "data.num_rows=600", "data.num_holes=6", "seed=1,2"]
    removed = ["~trainer.resume", "~sweep.objectives", "~sweep.cost"]
    plans = [menvae_sweep(tmp_path, "plan", *table, *extra) for extra in ([], removed)]
    names = [set(re.findall(r"lithology_vae_[0-9a-f]{10}", plan)) for plan in plans]
    assert names[0] == names[1]
    assert len(names[0]) == 2, plans[0]


def test_a_value_that_no_point_can_have_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    table = ["experiment=lithology_vae", "data=lithology", "data.num_rows=600", "data.num_holes=6"]
    monkeypatch.setattr(sys, "argv", ["menvae-train", "-m", *table, "trainer.devices=x,3000", "tracking.enabled=false"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 1
    told = capfd.readouterr().err
    assert "trainer.devices=x: trainer.devices: 'x' is not allowed" in told
    assert "trainer.devices=3000: this machine has" in told
    assert "Traceback" not in told
    monkeypatch.setattr(sys, "argv", ["menvae-sweep", "status"])
    with pytest.raises(SystemExit) as ended:
        sweep.main()
    assert ended.value.code == 1
    shown = capfd.readouterr().out
    assert re.search(r"trainer\.devices=x +cannot run", shown), shown
    assert "1 failed, 1 cannot run" in shown


@pytest.mark.parametrize("verb", ["plan", "-m"])
def test_what_no_point_can_have_is_said_once(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    command = sweep if verb == "plan" else train
    monkeypatch.setattr(sys, "argv", ["menvae", verb, "experiment=lithology_vae", "seed=1..3", "trainer.max_epochs=-1"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    captured = capfd.readouterr()
    assert (captured.out + captured.err).count("trainer.max_epochs: -1 is not allowed") == 1
    assert not (tmp_path / "outputs" / "sweeps").exists() or not any((tmp_path / "outputs" / "sweeps").glob("*/"))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("loss: {a: ???}", "', line 2, column 11: invalid YAML: expected the node content"),
        ("loss:\n  a: 1\n  a: 2", "', line 4, column 3: invalid YAML: found duplicate key a"),
    ],
)
def test_own_file_that_is_not_yaml(
    lines: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(f"# @package _global_\n{lines}\n")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["menvae-train", "--config-dir", str(tmp_path), "experiment=mine"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2
    assert_one_sentence(capfd.readouterr().err, f"'{file}{words}")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss.lambda_dcorr=3"], "loss.lambda_dcorr: no such key"),
        (["data=brats", "data.root=/nowhere"], "data.root: folder '/nowhere' does not exist"),
    ],
    ids=str,
)
def test_real_command(overrides: list[str], words: str, tmp_path: Path) -> None:
    program = "from menvae.apps.train import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *overrides], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert_one_sentence(done.stderr, words)
    assert done.stdout == ""


def test_sweep_tries_every_point_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["menvae-train", "-m", "encoder.base_filters=3,5"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 1
    told = capfd.readouterr().err
    assert all(f"encoder.base_filters={n}: encoder.base_filters: {n} is not allowed" in told for n in (3, 5))
    assert not (tmp_path / "outputs" / "mlflow.db").exists()


def test_a_sweep_that_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["menvae-train", "-m", "seed=1,2", f"output_dir={tmp_path}/file/outputs"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2
    assert_one_sentence(capfd.readouterr().err, f"'{tmp_path}/file/outputs/sweeps': Not a directory")


@pytest.mark.parametrize("arguments", [["hydra.run.dir=/proc/x"], ["-m", "seed=1,2", "hydra.sweep.dir=/proc/x"]])
def test_folders_of_hydra_that_cannot_be(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["menvae-train", *arguments, f"output_dir={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 2
    key = arguments[-1].partition("=")[0]
    assert_one_sentence(capfd.readouterr().err, f"'/proc/x': No such file or directory; menvae does not need {key}")


def test_parts_lists_every_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["menvae-parts", "decoder"])
    parts.main()
    text = capsys.readouterr().out
    for words in ("sbd", "transposed", "auxiliary", "(menvae)", "base_filters: 16", "Watters et al. 2019"):
        assert words in text


def test_parts_shows_defaults_as_they_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["menvae-parts", "encoder"])
    parts.main()
    text = capsys.readouterr().out
    for words in (
        "order: null",
        "hierarchical: false",
        "widths: [64, 32]",
        "trained: {name: resnet, base_filters: 16,",
    ):
        assert words in text


def test_parts_of_an_unknown_group(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["menvae-parts", "decodr"])
    with pytest.raises(SystemExit) as ended:
        parts.main()
    assert ended.value.code == 2
    assert "did you mean 'decoder'" in capsys.readouterr().err


def test_folder_of_the_installed_command_is_on_the_path() -> None:
    assert os.access(Path(sys.executable).parent / "menvae-train", os.X_OK)
