"""Common base of all Hydra commands: the path of ``conf/``, the folders that plugins add, and error reporting.

Nothing heavy is imported here: help, ``--cfg`` and completion need only this module and Hydra.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import entry_points
from pathlib import Path

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig

from menvae.apps import completion, guard, sweep_grammar
from menvae.apps.command_line import composing, hydra_text
from menvae.apps.configuration_files import read_digits_as_typed
from menvae.apps.outcome import carry_out, ended_elsewhere, leave, only_looked
from menvae.errors import ExitCode
from menvae.groups import ENTRY_POINT_GROUP, configuration_folder

Task = Callable[[DictConfig], int]


class PluginConfigurations(SearchPathPlugin):
    """Adds the ``conf`` folder of every package that has an entry point in ``menvae.parts``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders."""
        plugins = entry_points(group=ENTRY_POINT_GROUP)
        for package in dict.fromkeys(entry_point.module.split(".", 1)[0] for entry_point in plugins):
            folder = configuration_folder(package)
            if folder is not None:
                search_path.append(provider=package, path=f"file://{folder}")


def run(config_name: str, task: Task, command: str | None = None, *, imports_most: bool = False) -> None:
    """Run ``task`` as a Hydra application and end the process with its exit code.

    Wrong input, whether menvae or Hydra detects it, ends with one sentence on standard error and exit code 2; a sweep
    with a failed point ends with exit code 1, after all points have been tried.

    Args:
        config_name: name of the file in ``conf/``.
        task: function of the composed configuration that returns an exit code.
        command: ``train`` for ``menvae-train``; None: ``config_name``.
        imports_most: whether the task spends most of its time importing: garbage collection then stays off.
    """
    command = command or config_name
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    _prepare()
    codes: list[int] = []
    ended_elsewhere.clear()
    only_looked.clear()
    modes: set[RunMode | None] = set()

    def job(config: DictConfig) -> None:
        """Run one job or one point of a sweep; a point that fails in a known way must not stop the others."""
        if not imports_most:
            gc.enable()
        modes.add(HydraConfig.get().mode)
        codes.append(carry_out(command, lambda: task(config)))
        if codes[-1] == ExitCode.INTERRUPTED:
            sys.exit(ExitCode.INTERRUPTED)  # without starting the remaining points

    def application() -> int:
        with composing(sys.argv[1:], _groups):
            hydra.main(version_base="1.3", config_path=str(configuration_folder("menvae")), config_name=config_name)(
                job
            )()
        if RunMode.MULTIRUN in modes or ended_elsewhere:
            return int(any(code not in (ExitCode.DONE, ExitCode.GATES_NOT_MET) for code in codes + ended_elsewhere))
        return max(codes, default=ExitCode.DONE)

    gc.disable()  # composing and imports make little garbage, and collecting it takes a tenth of the time
    with _help_wrapped():
        code = carry_out(command, application)
    leave(code, at_once=any(only_looked))


def composed(config_name: str, overrides: Sequence[str], folder: Path | None = None) -> DictConfig:
    """Compose what a command would run with, without running it.

    Args:
        config_name: name of the file in ``conf/``.
        overrides: the overrides.
        folder: a folder of configuration files of the user, as of ``--config-dir``; None: without one.

    Raises:
        HydraException: they cannot be composed.
    """
    _prepare()
    searched = [] if folder is None else [f"hydra.searchpath=[{hydra_text(f'file://{folder}')}]"]
    with hydra.initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
        return hydra.compose(config_name, [*overrides, *searched])


def _prepare() -> None:
    """Let Hydra read the files of plugins, digits as typed and all axes, and refuse configurations that name code."""
    Plugins.instance().register(PluginConfigurations)
    read_digits_as_typed()
    guard.install()
    sweep_grammar.install()


def _groups() -> list[str]:
    """Return the names of the groups in ``conf/``."""
    folder = configuration_folder("menvae")
    return [] if folder is None else [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir()]


@contextmanager
def _help_wrapped() -> Iterator[None]:
    if not {"-h", "--help"} & set(sys.argv[1:]):
        yield
        return
    written = io.StringIO()
    try:
        with redirect_stdout(written):
            yield
    finally:
        sys.stdout.write(completion.wrapped(written.getvalue()))
