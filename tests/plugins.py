"""Packages of third parties, laid out as pip leaves them, for tests that need a part of somebody else."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from runs import Started

TROUBLE = '''"""A term that is 0, and makes trouble where and while it is told to."""

import os
import time
from pathlib import Path

import torch
from torch import Tensor

from menvae import collectives
from menvae.registry import register
from menvae.terms import Term


@register("term", "trouble")
class Trouble(Term):
    """Fails in a training step, on one rank, as long as a flag file exists; what the file says is the fault.

    A step with a fault, be it to wait until the file is gone, says so with a file beside it.
    """

    scalars = ("trouble",)

    def __init__(self, context, *, flag: str = "", rank: int = 0, step: int = 1) -> None:
        super().__init__()
        self.flag, self.rank, self.step = Path(flag), rank, step
        self.num_steps = 0

    def forward(self, batch, output) -> dict[str, Tensor]:
        self.num_steps += self.training
        due = self.training and self.num_steps >= self.step and collectives.rank() == self.rank
        fault = self.flag.read_text() if due and self.flag.is_file() else "none"
        if fault != "none":
            self.flag.with_suffix(".waiting").touch()
        if fault == "raise":
            raise ZeroDivisionError("a fault of the trouble term")
        if fault == "die":
            os.kill(os.getpid(), 9)
        if fault == "hang":
            time.sleep(3600)
        if fault == "memory":
            raise MemoryError
        if fault == "slow":
            time.sleep(3)
        while fault == "wait" and self.flag.is_file():
            time.sleep(0.05)
        return {"trouble": 0.0 * output.posterior.mean.sum()}
'''
TROUBLE_CONF = "name: trouble\nflag: ''\nrank: 0\nstep: 1\n"


def write_package(site: Path, name: str, module: str, files: Mapping[str, str]) -> Path:
    """Write a package with an entry point for its parts into ``site``, a folder to put on PYTHONPATH, and return that.

    Args:
        site: folder, made if missing.
        name: of the package.
        module: in the package, whose import registers the parts.
        files: {path in the package: content}.
    """
    everything = {f"{name}/{path}": text for path, text in files.items()} | {
        f"{name}/__init__.py": "",
        f"{name}-0.1.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n",
        f"{name}-0.1.dist-info/entry_points.txt": f"[menvae.parts]\n{name} = {name}.{module}\n",
    }
    for path, text in everything.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    return site


def install_example(site: Path) -> Path:
    """Install ``tests/plugin_example`` into ``site`` as its user would, without a registry, and return that."""
    source = Path(__file__).parent / "plugin_example"
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]  # hatchling is an extra of the tests
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", str(site), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return site


def write_trouble(site: Path) -> Path:
    """Write the package with the term ``trouble``; see `trouble` for its overrides."""
    return write_package(site, "troubleplugin", "terms", {"terms.py": TROUBLE, "conf/term/trouble.yaml": TROUBLE_CONF})


def wait_until_held(flag: Path, process: Started) -> None:
    """Wait until a step hangs or waits, as the flag file says, in a process that has not ended."""
    while not flag.with_suffix(".waiting").exists():
        assert process.poll() is None
        time.sleep(0.1)


def trouble(flag: Path | str, **more: int) -> list[str]:
    """Return the overrides that add the term to a run."""
    values = {"flag": flag, **more}
    added = ["+term@loss.terms.trouble=trouble", "+loss.lambda_trouble=1"]
    return [*added, *(f"loss.terms.trouble.{key}={value}" for key, value in values.items())]
