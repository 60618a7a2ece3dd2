"""What a run was made with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("menvae", "torch", "numpy", "scipy", "monai", "nibabel", "scikit-image", "hydra-core", "mlflow", "pydantic")


def describe_environment(device: str, num_ranks: int) -> dict[str, Any]:
    """Return versions, git commit of the source (None outside a checkout), machine, device and command."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "working_directory": str(Path.cwd()),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git_commit(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "device": device,
        "num_ranks": num_ranks,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> dict[str, Any] | None:
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return None
    try:
        commit = _git(source, "rev-parse", "HEAD")
        return {"commit": commit, "modified": bool(_git(source, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return result.stdout.strip()
