"""How a command ends: with an exit code and, for errors that the user can fix, one sentence."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from menvae.errors import (
    ExitCode,
    OtherRankFailedError,
    OutOfMemoryError,
    RunInterruptedError,
    TrainingDivergedError,
    UserError,
    nearest,
)

_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT}
_USER_CAN_FIX = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG),
    *(errno.EIO, errno.ESTALE),  # of a failing disk, and of a network file system
}
"""File errors that are not bugs."""

_RESUMES = {"train", "prepare", "sweep"}
"""Commands that go on where they were stopped."""
_BEGINS_ANEW = "the same command begins anew"

only_looked: list[bool] = []
"""One True if a launcher has only shown a plan, which leaves no thread or temporary folder behind."""

ended_elsewhere: list[int] = []
"""Exit codes of points that launchers ran in other processes; Hydra does not pass its results to the command."""


def carry_out(command: str, task: Callable[[], int]) -> int:
    """Run ``task`` and return its exit code; report errors that a user can cause in one sentence on standard error.

    Args:
        command: ``train`` for ``menvae-train``.
        task: function that returns an exit code.
    """
    try:
        return task()
    except (UserError, HydraException, OmegaConfBaseException, YAMLError) as error:
        return report(command, sentence(error), ExitCode.WRONG_INPUT)
    except OSError as error:
        if error.errno not in _DISK_IS_FULL and (error.errno not in _USER_CAN_FIX or error.filename is None):
            raise
        where = f"'{error.filename}': " if error.filename else ""
        return report(command, where + str(error.strerror), ExitCode.WRONG_INPUT, on_all_ranks=True)
    except (TrainingDivergedError, OutOfMemoryError) as error:
        return report(command, sentence(error), 1)
    except RunInterruptedError as error:
        again = "run the same command again to resume" if command in _RESUMES else _BEGINS_ANEW
        return report(command, f"stopped by {error}; {again}", ExitCode.INTERRUPTED)
    except KeyboardInterrupt:
        resume = "run the same command again to resume from what is already written"
        again = resume if command in _RESUMES else _BEGINS_ANEW
        return report(command, f"stopped at once; {again}", ExitCode.INTERRUPTED)
    except OtherRankFailedError:
        return 1


def leave(code: int, *, at_once: bool = False) -> NoReturn:
    """End this process; one of several ranks skips interpreter shutdown, as everything is written already.

    `torch.nn.parallel.DistributedDataParallel` never releases its process group. During shutdown the threads of the
    group may still need the interpreter, and C++ then aborts ("terminate called without an active exception").

    Args:
        code: exit code.
        at_once: whether to skip interpreter shutdown in a single process too: unloading torch takes half as long as
            importing it. Only for processes without threads and temporary folders.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not at_once:
        sys.exit(code)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def report(command: str, text: str, code: int, *, on_all_ranks: bool = False) -> int:
    """Write ``text`` to standard error, on rank 0 or on all ranks, and return ``code``."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        sys.stderr.write(f"menvae-{command}: {text}\n")
    elif on_all_ranks:
        sys.stderr.write(f"menvae-{command}: rank {rank} on {socket.gethostname()}: {text}\n")
    return code


def _of_parent(error: OmegaConfBaseException) -> str:
    """Return what to add about a key of another option of a group, which the run of ``trainer.extend`` may have."""
    group, _, key = (error.full_key or "").partition(".")
    if not key or not any(argument.startswith("trainer.extend=") for argument in sys.argv):
        return ""
    return f"; give the options of the run that trainer.extend names too, such as {group}=<name>"


def sentence(error: Exception) -> str:
    """Return a one-line message that says what is wrong with the input."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}: '{option}' is not an option; {nearest(option, error.options)}"
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"'{mark.name}', line {mark.line + 1}, column {mark.column + 1}: invalid YAML: {error.problem}"
    if isinstance(error, OverrideParseException):
        lines = str(error).splitlines()
        call = re.match(r"\w+ while evaluating '(.*)': (?!Unknown function)(.*)", lines[1]) if len(lines) > 1 else None
        if call and call[1].startswith("choice(") and "NoneType" in call[2]:
            values = call[1].removeprefix("choice(").removesuffix(")")
            return f"argument '{error.override}': choice does not accept null; list the values without it: ={values}"
        if call:
            return f"argument '{error.override}': '{call[1]}' is invalid: {call[2]}"
        why = lines[0]
        if why.startswith("Lexer"):
            why = "it contains a character that Hydra accepts only in quotes"
        return (
            f"argument '{error.override}' cannot be parsed: {why}; put a value with brackets, commas, = or non-ASCII "
            "letters in quotes within quotes, such as 'data.root=\"/data/MRI (3 T)\"'"
        )
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
            known = [str(name) for name in cause.parent_node if name not in ("hydra", "_target_")]
            where = re.match(r"In '.*?': ", str(error))  # the file of a group's option
            allowed = nearest(str(cause.key), known) if known else "the section is empty; put + before a key to add it"
            return f"{where.group() if where else ''}{cause.full_key}: no such key; {allowed}{_of_parent(cause)}"
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    if several := re.match(r"\s*(?:Sweep parameters|Ambiguous value for argument) '(.*?)'", str(error)):
        key, _, values = several[1].partition("=")
        return (
            f"'{several[1]}': a key with several values makes a sweep: add -m; a list is written "
            f"'{key}=[{values}]', a text '{key}=\"{values}\"'"
        )
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
    if isinstance(error.__cause__, OmegaConfBaseException):  # Hydra names the place, OmegaConf the fault
        return f"{text}: {str(error.__cause__).splitlines()[0]}"
    return text
