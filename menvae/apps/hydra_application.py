"""What all Hydra commands share: where ``conf/`` is, what a plugin adds to it, and how errors are told.

Nothing heavy is imported here: help, ``--cfg`` and completion answer from this module and Hydra alone.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from menvae.errors import ExitCode, TrainingDivergedError, UserError, nearest
from menvae.registry import ENTRY_POINT_GROUP

Task = Callable[[DictConfig], ExitCode]


def config_folder() -> Path:
    """Return the folder of the configuration: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


class PluginConfigurations(SearchPathPlugin):
    """Adds the ``conf`` folder of every package that has an entry point in ``menvae.parts``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders."""
        for entry_point in entry_points(group=ENTRY_POINT_GROUP):
            package = entry_point.module.split(".", 1)[0]
            specification = find_spec(package)
            for location in (specification.submodule_search_locations or []) if specification else []:
                if (Path(location) / "conf").is_dir():
                    search_path.append(provider=package, path=f"file://{Path(location) / 'conf'}")


def run(config_name: str, task: Task) -> None:
    """Run ``task`` as a Hydra application and end the process with its exit code.

    Wrong input ends with one sentence on standard error and exit code 2, also where Hydra finds it; a sweep in which a
    point failed ends with 1.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors over instead of printing them
    Plugins.instance().register(PluginConfigurations)
    codes: list[ExitCode] = []

    def job(config: DictConfig) -> None:
        codes.append(task(config))

    application = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)(job)
    try:
        application()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {sentence(error)}\n")
        sys.exit(ExitCode.WRONG_INPUT)
    except TrainingDivergedError as error:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {error}\n")
        sys.exit(1)
    sys.exit(max(codes, default=ExitCode.DONE))


def sentence(error: Exception) -> str:
    """Return one line that says what is wrong with the input."""
    cause: BaseException | None = error
    key = re.search(r"Key '([^']+)' is not in struct", str(error))
    while cause is not None and key:
        parent = getattr(cause, "parent_node", None)
        full_key = getattr(cause, "full_key", None)
        if isinstance(parent, DictConfig) and full_key:
            return f"{full_key}: no such key; {nearest(key.group(1), [str(name) for name in parent])}"
        cause = cause.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__
