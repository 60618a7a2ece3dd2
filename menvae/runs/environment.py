"""What a run was made with."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from menvae.registry import ENTRY_POINT_GROUP

PACKAGES = ("menvae", "torch", "numpy", "scipy", "nibabel", "scikit-image", "hydra-core", "mlflow", "pydantic")


def describe_environment(device: str, num_ranks: int) -> dict[str, Any]:
    """Return versions, git commit of the source (None outside a checkout), machine, device and command."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "working_directory": str(Path.cwd()),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git_commit(),
        "code": code_hash(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "device": device,
        "num_ranks": num_ranks,
    }


@lru_cache
def code_hash() -> str:
    """Return a hash of menvae's own code and of the versions of what it computes with and of plugins."""
    package = Path(__file__).resolve().parents[1]
    sources = {str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*.py")}
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(name.encode() + b"\0" + sources[name] + b"\0")
    plugins = {point.module.partition(".")[0] for point in entry_points(group=ENTRY_POINT_GROUP)}
    versions = {name: _version(name) for name in (*PACKAGES, *sorted(plugins))}
    digest.update(json.dumps(versions, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def describe_process() -> dict[str, Any]:
    """Return what identifies this process to somebody who looks for it: host, process id and, in a job, SLURM's id."""
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    slurm_job = f"{job}_{task}" if job and task else os.environ.get("SLURM_JOB_ID")
    return {"host": platform.node(), "process": os.getpid(), **({"slurm_job": slurm_job} if slurm_job else {})}


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
