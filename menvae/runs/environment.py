"""The environment of a run: versions, code hash, machine."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from menvae.registry import ENTRY_POINT_GROUP

PACKAGES = ("menvae", "torch", "numpy", "scipy", "nibabel", "scikit-image", "hydra-core", "mlflow", "pydantic")

_ASIDE = frozenset(
    {"apps", "comparison", "conformance", "console", "pictures", "preparation", "presentation", "sweeps", "tracking"}
)
"""Subpackages that no loss, metric or weight of a run depends on."""


def describe_environment(device: str, num_ranks: int) -> dict[str, Any]:
    """Return versions, git commit (None outside a checkout), code hash, machine, device and command."""
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
    """Return a hash of the code that the results of a run depend on.

    It covers menvae's modules, except those that only launch, report, compare, draw or track (`_ASIDE`), and the
    versions of plugins and of the packages that menvae computes with. Modules are hashed as syntax trees: comments,
    docstrings and formatting do not matter.
    """
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(meaning_of_code(package, _ASIDE))
    plugins = {point.module.partition(".")[0] for point in entry_points(group=ENTRY_POINT_GROUP)}
    versions = {name: _version(name) for name in (*PACKAGES, *sorted(plugins))}
    digest.update(json.dumps(versions, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def meaning_of_code(package: Path, aside: Collection[str] = ()) -> bytes:
    """Return a digest (32 bytes) of the syntax trees of a package's modules, without docstrings.

    Args:
        package: folder of the package.
        aside: top-level subfolders to exclude.
    """
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0] not in aside:
            tree = ast.parse(path.read_bytes())
            _remove_docstrings(tree.body)
            digest.update(f"{name.as_posix()}\0{ast.dump(tree)}\0".encode())
    return digest.digest()


def _remove_docstrings(statements: list[ast.stmt]) -> None:
    """Remove strings that are statements from a block and its nested blocks, in place."""
    statements[:] = [
        each
        for each in statements
        if not (
            isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str)
        )
    ]
    for each in statements:
        for block in ("body", "orelse", "finalbody"):
            _remove_docstrings(getattr(each, block, []))


def describe_process() -> dict[str, Any]:
    """Return what identifies this process: host, process id and, in a SLURM job, the job id."""
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
