"""How a command tells its end: an exit code and, where the user can do something about it, one sentence."""

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
    RunInterruptedError,
    TrainingDivergedError,
    UserError,
    nearest,
)

_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT}
_UP_TO_THE_USER = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}
"""Errors of a file that are no bug."""

ended_elsewhere: list[int] = []
"""Exit codes of points that launchers ran in other processes: Hydra's own results do not reach the command."""


def carry_out(command: str, task: Callable[[], int]) -> int:
    """Run ``task`` and return its exit code; what a user can cause is told in one sentence on standard error.

    Args:
        command: ``train`` for ``menvae-train``.
        task: what to do.
    """
    try:
        return task()
    except (UserError, HydraException, OmegaConfBaseException, YAMLError) as error:
        return _tell(command, sentence(error), ExitCode.WRONG_INPUT)
    except OSError as error:
        if error.errno not in _DISK_IS_FULL and (error.errno not in _UP_TO_THE_USER or error.filename is None):
            raise
        where = f"'{error.filename}': " if error.filename else ""
        return _tell(command, where + str(error.strerror), ExitCode.WRONG_INPUT, everyone=True)
    except TrainingDivergedError as error:
        return _tell(command, sentence(error), 1)
    except RunInterruptedError as error:
        return _tell(command, f"stopped by {error}; the same command goes on", ExitCode.INTERRUPTED)
    except KeyboardInterrupt:
        return _tell(
            command, "stopped at once; the same command goes on from what is written already", ExitCode.INTERRUPTED
        )
    except OtherRankFailedError:
        return 1


def leave(code: int, *, at_once: bool = False) -> NoReturn:
    """End this process; all is written, so that a rank of several leaves without a shutdown of the interpreter.

    So does a command that has only looked at something: to take torch down takes half as long as to import it.

    `torch.nn.parallel.DistributedDataParallel` keeps its process group for good. The threads of the group may still ask
    for the interpreter that is being shut down, and C++ then aborts ("terminate called without an active exception").

    Args:
        code: exit code.
        at_once: whether nothing is left to be done at the end of the interpreter: no thread, no temporary folder.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not at_once:
        sys.exit(code)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _tell(command: str, text: str, code: int, *, everyone: bool = False) -> int:
    """Say it, on rank 0 unless the ranks may have different things to say; return ``code``."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        sys.stderr.write(f"menvae-{command}: {text}\n")
    elif everyone:
        sys.stderr.write(f"menvae-{command}: rank {rank} on {socket.gethostname()}: {text}\n")
    return code


def sentence(error: Exception) -> str:
    """Return one line that says what is wrong with the input."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}: '{option}' is not an option; {nearest(option, error.options)}"
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"'{mark.name}', line {mark.line + 1}, column {mark.column + 1}: not YAML: {error.problem}"
    if isinstance(error, OverrideParseException):
        why = str(error).partition("\n")[0]
        if why.startswith("Lexer"):
            why = "it holds a character that Hydra knows in quotes only"
        return (
            f"argument '{error.override}' cannot be read: {why}; a value with brackets, commas, = or letters beyond "
            "ASCII stands in quotes within quotes, such as 'data.root=\"/data/MRI (3 T)\"'"
        )
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
            known = [str(name) for name in cause.parent_node if name not in ("hydra", "_target_")]
            where = re.match(r"In '.*?': ", str(error))  # a file that a group's option named
            allowed = nearest(str(cause.key), known) if known else "there is none; with a + before it, it is added"
            return f"{where.group() if where else ''}{cause.full_key}: no such key; {allowed}"
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
    if isinstance(error.__cause__, OmegaConfBaseException):  # Hydra says where, OmegaConf what
        return f"{text}: {str(error.__cause__).splitlines()[0]}"
    return text
