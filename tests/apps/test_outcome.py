"""How commands end."""

import pytest

from menvae.apps.outcome import carry_out
from menvae.errors import ExitCode, RunInterruptedError


def stop() -> int:
    raise RunInterruptedError("SIGINT")


def stop_at_once() -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize("task", [stop, stop_at_once])
@pytest.mark.parametrize(
    ("command", "resumes"), [("train", True), ("prepare", True), ("grow", False), ("encode", False)]
)
def test_only_commands_that_resume_say_so(command, resumes, task, capsys) -> None:
    assert carry_out(command, task) == ExitCode.INTERRUPTED
    told = capsys.readouterr().err
    assert told.startswith(f"menvae-{command}: stopped ")
    assert ("run the same command again to resume" in told) == resumes
    assert ("the same command begins anew" in told) != resumes
