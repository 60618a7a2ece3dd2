"""What all Hydra commands share: where ``conf/`` is, what a plugin adds to it, and how errors are told.

Nothing heavy is imported here: help, ``--cfg`` and completion answer from this module and Hydra alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from menvae.errors import ExitCode, TrainingDivergedError, UserError, nearest
from menvae.registry import ENTRY_POINT_GROUP, configuration_folder

Task = Callable[[DictConfig], ExitCode]


class PluginConfigurations(SearchPathPlugin):
    """Adds the ``conf`` folder of every package that has an entry point in ``menvae.parts``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders."""
        plugins = entry_points(group=ENTRY_POINT_GROUP)
        for package in dict.fromkeys(entry_point.module.split(".", 1)[0] for entry_point in plugins):
            folder = configuration_folder(package)
            if folder is not None:
                search_path.append(provider=package, path=f"file://{folder}")


def run(config_name: str, task: Task) -> None:
    """Run ``task`` as a Hydra application and end the process with its exit code.

    Wrong input ends with one sentence on standard error and exit code 2, also where Hydra finds it; a sweep in which a
    point failed ends with 1, after all points have been tried.

    Args:
        config_name: the file in ``conf/``; the command is called ``menvae-<config_name>``.
        task: what to do with the composed configuration.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors over instead of printing them
    Plugins.instance().register(PluginConfigurations)
    codes: list[int] = []
    modes: set[RunMode | None] = set()

    def job(config: DictConfig) -> None:
        """One run or one point of a sweep; a point that fails in a known way must not keep the others from starting."""
        modes.add(HydraConfig.get().mode)
        try:
            codes.append(task(config))
        except (UserError, OmegaConfBaseException) as error:
            codes.append(_tell(config_name, error, ExitCode.WRONG_INPUT))
        except TrainingDivergedError as error:
            codes.append(_tell(config_name, error, 1))

    application = hydra.main(
        version_base="1.3", config_path=str(configuration_folder("menvae")), config_name=config_name
    )(job)
    try:
        application()
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(_tell(config_name, error, ExitCode.WRONG_INPUT))
    if RunMode.MULTIRUN in modes:
        sys.exit(int(any(code not in (ExitCode.DONE, ExitCode.GATES_NOT_MET) for code in codes)))
    sys.exit(max(codes, default=ExitCode.DONE))


def _tell(config_name: str, error: Exception, code: int) -> int:
    sys.stderr.write(f"menvae-{config_name}: {sentence(error)}\n")
    return code


def sentence(error: Exception) -> str:
    """Return one line that says what is wrong with the input."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return f"{group}: '{option}' is not an option; {nearest(option, error.options)}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
            known = [str(name) for name in cause.parent_node if name != "hydra"]
            return f"{cause.full_key}: no such key; {nearest(str(cause.key), known)}"
        cause = cause.__cause__
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {str(error).splitlines()[0]}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__
