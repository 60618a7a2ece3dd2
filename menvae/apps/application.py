"""The start of a command that Hydra composes: a completion or help that needs no Hydra, or else the command itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from menvae.apps import completion

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(config_name: str, task: Callable[[DictConfig], int], command: str | None = None) -> None:
    """Complete a command line or print help, or run ``task`` as `menvae.apps.hydra_application.run` does.

    Args:
        config_name: name of the file in ``conf/``.
        task: function of the composed configuration that returns an exit code; its module imports no Hydra.
        command: ``train`` for ``menvae-train``; None: ``config_name``.
    """
    if completion.is_answered(config_name):
        return
    from menvae.apps import hydra_application

    hydra_application.run(config_name, task, command)
