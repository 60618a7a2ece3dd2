"""How a command tells its end: an exit code and, where the user can do something about it, one sentence."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from menvae.errors import (
    ExitCode,
    OtherRankFailedError,
    RunInterruptedError,
    TrainingDivergedError,
    UserError,
    nearest,
)

_UP_TO_THE_USER = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT}
"""Errors of a file that are no bug: its owner, its disk."""

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
    except (UserError, HydraException, OmegaConfBaseException) as error:
        return _tell(command, sentence(error), ExitCode.WRONG_INPUT)
    except OSError as error:
        if error.errno not in _UP_TO_THE_USER or error.filename is None:
            raise
        return _tell(command, f"'{error.filename}': {error.strerror}", ExitCode.WRONG_INPUT)
    except TrainingDivergedError as error:
        return _tell(command, sentence(error), 1)
    except RunInterruptedError as error:
        return _tell(command, f"stopped by {error}; the same command goes on", ExitCode.INTERRUPTED)
    except KeyboardInterrupt:
        return _tell(
            command, "stopped at once; the same command goes on from the last checkpoint", ExitCode.INTERRUPTED
        )
    except OtherRankFailedError:
        return 1


def _tell(command: str, text: str, code: int) -> int:
    if os.environ.get("RANK", "0") == "0":  # the other ranks have the same to say
        sys.stderr.write(f"menvae-{command}: {text}\n")
    return code


def sentence(error: Exception) -> str:
    """Return one line that says what is wrong with the input."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}: '{option}' is not an option; {nearest(option, error.options)}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
            known = [str(name) for name in cause.parent_node if name not in ("hydra", "_target_")]
            where = re.match(r"In '.*?': ", str(error))  # a file that a group's option named
            allowed = nearest(str(cause.key), known) if known else "put + before what is to be added"
            return f"{where.group() if where else ''}{cause.full_key}: no such key; {allowed}"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error.__cause__, OmegaConfBaseException):  # Hydra says where, OmegaConf what
        lines += [": " + str(error.__cause__).splitlines()[0]]
    return " ".join(lines).replace(" : ", ": ") or type(error).__name__
