"""Hydra calls nothing that a configuration file names, and a retry takes only settings of a launcher from a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from menvae.apps import sweep, train
from menvae.apps.guard import launcher_overrides
from menvae.errors import UserError

CALL = "{_target_: builtins.print, _args_: [it was called]}"

FILES = {
    "callbacks": (f"hydra: {{callbacks: {{mine: {CALL}}}}}", "hydra.callbacks: not allowed"),
    "callbacks by reference": (
        f"hydra: {{callbacks: '${{name}}'}}\nname: {{mine: {CALL}}}",
        "hydra.callbacks: not allowed",
    ),
    "inside a launcher": (
        f"hydra: {{launcher: {{num_parallel: {CALL}}}}}",
        "hydra.launcher.num_parallel._target_: not allowed",
    ),
    "inside a launcher by reference": (
        f"hydra: {{launcher: {{num_parallel: '${{name}}'}}}}\nname: {CALL}",
        "hydra.launcher.num_parallel._target_: not allowed",
    ),
    "launcher": ("hydra: {launcher: {_target_: builtins.dict}}", "hydra.launcher._target_: 'builtins.dict' is not"),
    "sweeper": ("hydra: {sweeper: {_target_: builtins.dict}}", "hydra.sweeper._target_: 'builtins.dict' is not"),
    "logging factory": (
        "hydra: {job_logging: {root: {handlers: [a]}, handlers: {a: {(): builtins.dict}}}}",
        "hydra.job_logging.handlers.a.(): 'builtins.dict' is not allowed",
    ),
    "logging class": (
        "hydra: {hydra_logging: {root: {handlers: [a]}, handlers: {a: {class: builtins.dict}}}}",
        "hydra.hydra_logging.handlers.a.class: 'builtins.dict' is not allowed",
    ),
    "logging object": (
        "hydra: {job_logging: {handlers: {a: {class: logging.StreamHandler, stream: ext://this.s}}}}",
        "hydra.job_logging.handlers.a.stream: 'ext://this.s' is not allowed",
    ),
}


@pytest.mark.parametrize("flags", [[], ["-m"], ["--cfg", "job"], ["--help"]], ids=str)
@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES)
def test_a_file_that_names_code_is_refused(
    content: str,
    words: str,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    arguments = ["--config-dir", str(tmp_path), "experiment=mine"]
    monkeypatch.setattr(sys, "argv", ["menvae-train", *flags, *arguments])
    with pytest.raises(SystemExit) as ended:
        train.main()
    told = capfd.readouterr()
    assert ended.value.code == 2
    assert told.err.startswith(f"menvae-train: {words}"), told.err
    assert told.err.count("\n") == 1
    assert "it was called" not in told.out


def test_hydras_own_logging_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    options = ["hydra/job_logging=default", "hydra/hydra_logging=hydra_debug"]
    monkeypatch.setattr(sys, "argv", ["menvae-train", "--cfg", "hydra", *options])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 0, capfd.readouterr().err


STORED = [
    "--config-dir",
    "/site",
    "hydra/launcher=slurm",
    "site=mine",
    "hydra.launcher.partition=gpu",
    "hydra/sweeper=x",
]


def test_a_retry_uses_the_stored_launcher() -> None:
    kept = ["--config-dir", "/site", "hydra/launcher=slurm", "site=mine"]
    assert launcher_overrides(STORED, [], "f") == [*kept, "hydra.launcher.partition=gpu"]
    assert launcher_overrides(STORED, ["hydra.launcher.partition=cpu"], "f") == kept


@pytest.mark.parametrize(
    "text",
    [
        "+hydra.callbacks.mine._target_=builtins.print",
        "hydra.launcher._target_=builtins.print",
        "hydra.searchpath=[pkg://a]",
        "--experimental-rerun=a.pickle",
        "hydra/launcher=a,b",
        "data.root=/elsewhere",
    ],
)
def test_a_retry_takes_nothing_else_from_a_file(text: str) -> None:
    with pytest.raises(UserError, match=r"^'f' has '.*', which is no setting of a launcher"):
        launcher_overrides([*STORED, text], [], "f")


def test_a_retry_asks_for_a_masked_password() -> None:
    stored = ["hydra.launcher.environment={A: 'http://me:***@host'}"]
    with pytest.raises(UserError, match=r"^'f' keeps no passwords: give hydra.launcher.environment="):
        launcher_overrides(stored, [], "f")
    assert launcher_overrides(stored, ["hydra.launcher.environment={}"], "f") == []


def test_a_retry_of_another_users_sweep_asks_for_what_may_run_commands() -> None:
    stored = ["--config-dir", "/site", "hydra/launcher=slurm", "hydra.launcher.setup=[module load a]"]
    every = r"retry --config-dir /site hydra/launcher=slurm 'hydra.launcher.setup=\[module load a\]'$"
    with pytest.raises(UserError, match="^'f' belongs to another user, .*" + every):
        launcher_overrides(stored, [], "f", is_own=False)
    assert launcher_overrides(stored, [], "f") == stored
    assert launcher_overrides(stored, stored, "f", is_own=False) == []


def test_a_sweep_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweeps" / "theirs"
    folder.mkdir(parents=True)
    launcher = [f"+hydra.callbacks.mine={CALL}"]
    (folder / "sweep.json").write_text(json.dumps({"overrides": [], "launcher": launcher}))
    monkeypatch.setattr(sys, "argv", ["menvae-sweep", "retry", f"output_dir={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        sweep.main()
    told = capfd.readouterr()
    assert ended.value.code == 2
    assert "which is no setting of a launcher" in told.err
    assert "Traceback" not in told.err
    assert "it was called" not in told.out
