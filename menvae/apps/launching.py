"""What a command does about launchers: which ones may launch, and where a single run trains."""

from __future__ import annotations

import os
import subprocess
from typing import Any, cast

from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from menvae.errors import UserError, nearest

HERE = "local"
"""The runner that runs points on this machine; only for others does it matter that a single run is not launched."""

_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_FIRST_PORT, _NUM_PORTS = 20_000, 12_000  # below those that kernels use for outgoing connections


def check_launcher(section: DictConfig) -> None:
    """Check that a sweep uses a launcher of menvae: others would run its points without plan, status and retry.

    Hydra's basic sweeper is refused too, as `PointsSweeper` does the same and masks passwords.

    Args:
        section: Hydra's section of a composed configuration.

    Raises:
        UserError: the launcher belongs to Hydra or to another package, or an override has replaced its section; or the
            sweeper is Hydra's basic one.
    """
    if not OmegaConf.is_dict(section.launcher):
        raise UserError(f"hydra.launcher: {section.launcher!r} is not allowed; choose one with hydra/launcher=<name>")
    if "runner" not in section.launcher:
        from menvae.registry import parts_of

        chosen = section.runtime.choices.get("hydra/launcher")
        raise UserError(
            f"hydra/launcher: '{chosen}' is not a launcher of menvae, which would not know its runs; "
            f"{nearest(str(chosen), [part.name for part in parts_of('runner')])}"
        )
    if OmegaConf.is_dict(section.sweeper) and section.sweeper.get("_target_") == _BASIC_SWEEPER:
        raise UserError(
            "hydra/sweeper: 'basic' is not allowed, because it writes passwords to multirun.yaml; use points, which "
            "runs the same points"
        )


def check_single_run(section: HydraConf) -> str:
    """Check that a single run was not meant for a launcher.

    Args:
        section: Hydra's section of the configuration.

    Returns:
        A sentence to log if a file has chosen a launcher, which a single run does not use; else nothing.

    Raises:
        UserError: a launcher or a setting of a sweep was typed.
    """
    typed = cast(list[str], OmegaConf.to_container(cast(Any, section.overrides.task), resolve=False))
    for text in typed:
        if text.lstrip("+").startswith("sweep."):
            raise UserError(f"{text}: belongs to a sweep, of one run or more: add -m, or leave it out to train one run")
    launcher = section.launcher
    if section.mode == RunMode.MULTIRUN or "runner" not in launcher or launcher.runner == HERE:
        return ""
    chosen = section.runtime.choices["hydra/launcher"]
    if any(text.startswith("hydra/launcher=") for text in section.overrides.hydra):
        raise UserError(
            f"hydra/launcher={chosen} launches sweeps, of one run or more: add -m, or leave it out to train here"
        )
    return f"this run trains here; -m launches it with hydra/launcher={chosen}"


def join_tasks_of_srun() -> None:
    """Make the tasks of one ``srun`` the ranks of one run, as `torchrun` would: each finds its rank in the environment.

    Without this, every task would train the same run, and all but one would find it locked.

    Raises:
        UserError: the tasks run on several nodes, whose names are not known.
    """
    step = os.environ
    if int(step.get("SLURM_STEP_NUM_TASKS", "1")) < 2 or "WORLD_SIZE" in step:
        return
    nodes = _host_names(step["SLURM_STEP_NODELIST"])
    number = int(step["SLURM_JOB_ID"]) * 17 + int(step["SLURM_STEP_ID"])  # steps at the same time differ
    step["MASTER_ADDR"], step["MASTER_PORT"] = nodes[0], str(_FIRST_PORT + number % _NUM_PORTS)
    step["RANK"], step["LOCAL_RANK"] = step["SLURM_PROCID"], step["SLURM_LOCALID"]
    step["WORLD_SIZE"] = step["SLURM_STEP_NUM_TASKS"]  # last: it says that the others are set


def _host_names(nodes: str) -> list[str]:
    """Return the names in SLURM's list of nodes, such as ``node[1-2]``; raises `UserError`."""
    if not set(nodes) & {"[", ","}:
        return [nodes]  # containers have no scontrol, and one node needs none
    try:
        ask = ["scontrol", "show", "hostnames", nodes]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"srun: the tasks on {nodes} cannot train one run, because scontrol, which names the first node, fails "
            f"({error}); start them with torchrun, or run menvae-train where scontrol works"
        ) from None
