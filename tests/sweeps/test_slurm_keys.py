"""Keys of ``hydra/launcher=slurm`` that need no cluster."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from menvae.errors import UserError
from menvae.sweeps.runners import build_runner
from menvae.sweeps.runners.slurm import SlurmRunner


def _runner(**keys: Any) -> SlurmRunner:
    runner = build_runner({"runner": "slurm", **keys})
    assert isinstance(runner, SlurmRunner)
    return runner


@pytest.mark.parametrize(
    ("typed", "minutes"),
    [
        *((90, 90), ("90", 90), ("90:30", 91), ("12:00:00", 720)),
        *(("00:00:59", 1), ("1-12", 2160), ("2-12:30", 3630), ("1-00:00:01", 1441)),
    ],
)
def test_time_limits_as_for_sbatch(typed: object, minutes: int) -> None:
    assert _runner(timeout_min=typed).timeout_min == minutes


@pytest.mark.parametrize("typed", ["noon", "", "1:2:3:4", "-5", "1-", 0, "0", 1.5])
def test_other_time_limits_are_refused(typed: object) -> None:
    with pytest.raises(UserError, match=r"^hydra\.launcher\.timeout_min: .* is not allowed; it should be "):
        _runner(timeout_min=typed)


@pytest.mark.parametrize(
    ("key", "value"), [("account", 1.1), ("comment", False), ("environment", {"A": 1.1}), ("name", True)]
)
def test_text_that_yaml_has_changed_is_refused(key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^hydra\.launcher\.{key}.* it should be text: put it in quotes"):
        _runner(**{key: value})


@pytest.mark.parametrize("name", ["A B", "1X", "", "A-B", "A=B", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_names_that_no_variable_can_have_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^hydra\.launcher\.environment.* it should be the name of a variable"):
        _runner(environment={name: "1"})


def test_text_may_look_like_a_whole_number() -> None:
    runner = _runner(account=4711, environment={"A": 1, "B": "010"})
    assert (runner.account, runner.environment) == ("4711", {"A": "1", "B": "010"})


@pytest.mark.skipif(shutil.which("srun") is None, reason="submitit needs srun")
@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({}, ["#SBATCH --requeue"]),
        ({"requeue": False}, []),
        ({"requeue": None, "exclusive": True}, ["#SBATCH --exclusive"]),
        ({"begin": "16:00", "nice": 0}, ["#SBATCH --begin=16:00", "#SBATCH --nice=0", "#SBATCH --requeue"]),
    ],
)
def test_options_of_sbatch(given: dict[str, Any], lines: list[str], tmp_path: Path) -> None:
    runner = _runner(additional_parameters=given)
    runner.folder = tmp_path
    text = runner._executor()._executor._make_submission_file_text("true", "0")
    found = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    options = ("requeue", "exclusive", "begin", "nice")
    assert sorted(line for line in found if line.partition("--")[2].partition("=")[0] in options) == lines
