"""Which launcher a command uses, what it is told, and where a single run trains."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from runs import TINY, TRACKED
from runs import train as run_train

from menvae.apps import sweep, train
from menvae.apps.command_line import hydra_text
from menvae.apps.launching import join_tasks_of_srun
from menvae.errors import UserError
from menvae.sweeps.sweep import find_sweep

LITHOLOGY = ("experiment=lithology_vae", "trainer.max_epochs=1", "tracking.enabled=false")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; this puts it back


def _told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str, name: str = "train", code: int
) -> str:
    monkeypatch.setattr(sys, "argv", [f"menvae-{name}", *arguments])
    with pytest.raises(SystemExit) as ended:
        {"train": train, "sweep": sweep}[name].main()
    captured = capfd.readouterr()
    assert ended.value.code == code, captured.err
    assert "Traceback" not in captured.err
    return captured.err if code else captured.out


@pytest.mark.parametrize("launcher", ["basic", "submitit_local", "submitit_slurm"])
@pytest.mark.parametrize("command", [("train", "-m"), ("train",), ("sweep", "plan"), ("sweep", "retry")], ids=" ".join)
def test_launchers_of_others_are_refused(
    launcher: str,
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    overrides = LITHOLOGY
    if "retry" in command:
        (tmp_path / "outputs" / "sweeps" / "one").mkdir(parents=True)
        (tmp_path / "outputs" / "sweeps" / "one" / "sweep.json").write_text('{"overrides": [], "launcher": []}')
        overrides = ()
    name, *flags = command
    told = _told(monkeypatch, capfd, *flags, *overrides, f"hydra/launcher={launcher}", name=name, code=2)
    assert told.startswith(f"menvae-{name}: hydra/launcher: '{launcher}' is not a launcher of menvae"), told
    assert "local, slurm" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "outputs" / "runs").exists()
    assert not (tmp_path / "multirun").exists()


def test_a_launcher_without_m_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told = _told(monkeypatch, capfd, *LITHOLOGY, "hydra/launcher=slurm", code=2)
    assert told.startswith("menvae-train: hydra/launcher=slurm launches sweeps, of one run or more: add -m")
    assert told.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("group", ["site", "experiment"])
def test_a_file_chooses_launcher_and_sweeper(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /hydra/launcher: slurm\n  - override /hydra/sweeper: optuna\n"
        "  - _self_\nhydra: {launcher: {partition: long}}\n"
    )
    folder = ("--config-dir", str(tmp_path), "--cfg", "hydra", "-p")
    for key, value in (("launcher.runner", "slurm"), ("launcher.partition", "long"), ("sweeper.n_trials", "20")):
        assert _told(monkeypatch, capfd, f"{group}=mine", *folder, f"hydra.{key}", code=0) == f"{value}\n"
    typed = (f"{group}=mine", "hydra/launcher=slurm", "hydra/sweeper=points")
    assert "PointsSweeper" in _told(monkeypatch, capfd, *typed, *folder, "hydra.sweeper._target_", code=0)
    assert _told(monkeypatch, capfd, *folder, "hydra.launcher.runner", code=0) == "local\n"


def test_retry_launches_as_before_also_where_a_file_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [lithology_vae, _self_]\ntrainer: {max_epochs: 1}\n"
        'hydra: {launcher: {num_parallel: 2}, job: {env_set: {TOLD: "it\'s ${oc.env:HOME}"}}}\n'
    )
    wrong = ("optimizer.learning_rate=-1,-2", "tracking.enabled=false")  # no point can run
    _told(monkeypatch, capfd, "--config-dir", ".", "-m", "experiment=mine", *wrong, code=1)
    stored = tmp_path / "outputs" / "sweeps"
    assert not list(stored.glob("*/points/*"))
    show = ("retry", "--cfg", "hydra", "-p")
    assert _told(monkeypatch, capfd, *show, "hydra.launcher.num_parallel", name="sweep", code=0) == "2\n"
    told = _told(monkeypatch, capfd, *show, "hydra.job.env_set.TOLD", name="sweep", code=0)
    assert told == f"it's {os.environ['HOME']}\n"
    typed = (*show, "hydra.launcher.num_parallel", "hydra.launcher.num_parallel=3")
    assert _told(monkeypatch, capfd, *typed, name="sweep", code=0) == "3\n"
    launcher = json.loads((find_sweep(tmp_path / "outputs", None).path / "sweep.json").read_text())["launcher"]
    assert launcher[-2:] == ["++hydra.launcher.num_parallel=2", "++hydra.job.env_set.TOLD='it\\'s ${oc.env:HOME}'"]


@pytest.mark.parametrize(
    "value", [None, True, 3, 1e-05, "16:00", "it's", "a\\", "a\\'b", ["x, y", 1], {"mail-type": "END", "A_1": ["1", 2]}]
)
def test_values_survive_hydras_grammar(value: object) -> None:
    assert OverridesParser.create().parse_override(f"key={hydra_text(value)}").value() == value


def test_a_fixed_key_that_only_swept_options_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    swept = ("-m", *TINY, "loss=dip,tcvae", "sweep.action=plan")
    told = _told(monkeypatch, capfd, *swept, "loss.terms.dip.reduction=1", code=2)
    assert told.startswith("menvae-train: loss.terms.dip.reduction: only options of loss can")
    assert "type ++loss.terms.dip.reduction=1" in told
    told = _told(monkeypatch, capfd, *swept, "modle.z_dim=1", code=2)
    assert told.startswith("menvae-train: modle: no such key; did you mean 'model'?")
    for sweep_of_others in ("seed=1,2", "loss=dip,tcvae", "data.num_subjects=12,16"):
        told = _told(monkeypatch, capfd, "-m", sweep_of_others, "trainer.max_epoch=1", code=2)
        assert told.startswith("menvae-train: trainer.max_epoch: no such key; did you mean 'max_epochs'?")


def test_run_and_multirun(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    told = _told(monkeypatch, capfd, "--run", "--multirun", "seed=1,2", code=2)
    assert told.startswith("menvae-train: the command line cannot be composed: Only one of --run, --multirun")
    assert told.count("\n") == 1


def test_no_sweeper_writes_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = ("tracking.uri=http://me:hunter2@host", "+hydra.job.env_set.MLFLOW_TRACKING_PASSWORD=hunter3")
    arguments = ("-m", *secrets, "seed=1,2", "sweep.action=plan")
    told = _told(monkeypatch, capfd, *arguments, "hydra/sweeper=basic", code=2)
    assert told.startswith("menvae-train: hydra/sweeper: 'basic' is not allowed")
    run_train(tmp_path, *arguments)  # a plan ends its process
    written = (tmp_path / "sweeps" / "multirun.yaml").read_text()
    assert "http://me:***@host" in written
    assert "hunter" not in written


@pytest.mark.parametrize("key", ["name", "sweep.name"])
@pytest.mark.parametrize("value", ["a/b", "../x", "..", "''"])
def test_names_stay_in_their_folder(
    key: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for flags in [("-m",), *([()] if key == "name" else [])]:  # without -m, no sweep has a name
        told = _told(monkeypatch, capfd, *flags, *LITHOLOGY, "seed=1", f"{key}={value}", "output_dir=here/o", code=2)
        assert told.startswith(f"menvae-train: {key}: {value if value == chr(39) * 2 else repr(value)} is not allowed")
        assert told.count("\n") == 1
    assert {path.name for path in tmp_path.rglob("*")} <= {"here", "o", "sweeps", "multirun.yaml"}, "only Hydra wrote"


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("account: 010", "010"),
        ("comment: 0123", "0123"),
        ("account: 4711", "4711"),
        ("comment: '1.10'", "1.10"),
        ("timeout_min: 12:00:00", "12:00:00"),
        ("environment: {START: 12:30:00}", "12:30:00"),
        ("additional_parameters: {begin: 16:00}", "16:00"),
        ("poll_s: 05.50", "5.5"),
        ("timeout_min: 1_000", "1000"),
        ("account: 1_000", "1_000"),
        ("comment: 0x1F", "0x1F"),
        ("environment: {START: 0b11}", "0b11"),
        ("additional_parameters: {nice: +5}", "+5"),
        ("cpus_per_task: +4", "4"),
    ],
)
def test_digits_in_files(
    typed: str, read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.yaml").write_text(f"# @package hydra.launcher\n{typed}\n")
    key = ".".join(part.strip(" {}") for part in typed.split(":")[: 2 if "{" in typed else 1])
    shown = ("--config-dir", ".", "site=mine", "hydra/launcher=slurm", "--cfg", "hydra", "-p", f"hydra.launcher.{key}")
    assert _told(monkeypatch, capfd, *shown, code=0).strip() == read


@pytest.mark.usefixtures("forked_jobs")
def test_points_have_the_variables_of_env_set(prepared_cache: Path, tmp_path: Path) -> None:
    """Seen by the store that MLflow uses: without ``tracking.uri``, MLFLOW_TRACKING_URI chooses it."""
    (tmp_path / "cache").symlink_to(prepared_cache)
    store = tmp_path / "team.db"
    variable = f"+hydra.job.env_set.MLFLOW_TRACKING_URI=sqlite:///{store}"
    told = run_train(tmp_path, "-m", "seed=42", "trainer.max_epochs=1", TRACKED, variable).stderr
    assert f"MLflow store: sqlite:///{store}, from MLFLOW_TRACKING_URI" in told
    (point,) = tmp_path.glob("sweeps/*/points/*/output.log")
    assert f"MLflow store: sqlite:///{store}, from MLFLOW_TRACKING_URI" in point.read_text()
    assert store.stat().st_size
    assert not (tmp_path / "mlflow.db").exists()


def test_tasks_of_srun_without_scontrol(tmp_path: Path) -> None:
    """As in a container: one node is known, several are not."""
    step = {
        "STEP_NUM_TASKS": "2",
        "STEP_NODELIST": "gpu7",
        "JOB_ID": "3",
        "STEP_ID": "0",
        "PROCID": "1",
        "LOCALID": "1",
    }
    with pytest.MonkeyPatch.context() as environment:
        for key, value in step.items():
            environment.setenv(f"SLURM_{key}", value)
        for key in ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
            environment.setenv(key, "")  # so that it is removed in the end
            environment.delenv(key)
        environment.setenv("PATH", str(tmp_path))
        environment.setenv("SLURM_STEP_NODELIST", "gpu[7-8]")
        with pytest.raises(UserError, match=r"srun: the tasks on gpu\[7-8\] cannot train one run, because scontrol"):
            join_tasks_of_srun()
        assert "WORLD_SIZE" not in os.environ
        environment.setenv("SLURM_STEP_NODELIST", "gpu7")
        join_tasks_of_srun()
        found = {key: os.environ[key] for key in ("MASTER_ADDR", "RANK", "LOCAL_RANK", "WORLD_SIZE")}
        assert found == {"MASTER_ADDR": "gpu7", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
