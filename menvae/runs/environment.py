"""The environment of a run: versions, code hash, machine."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from menvae.errors import UserError
from menvae.files import read_json, write_json
from menvae.fingerprints import distributions, state_of, user_cache
from menvae.groups import ENTRY_POINT_GROUP, places_of
from menvae.masking import without_passwords

_COMPUTING = ("torch", "numpy", "scipy", "nibabel", "scikit-image", "transformers", "triton")
"""Packages that losses, metrics or weights of a run are computed with. Those that only read, store or decompress data
are not among them: the hash of the data covers what they return."""
_PACKAGES = ("menvae", *_COMPUTING, "monai", "hydra-core", "mlflow", "pydantic")
"""Packages whose versions ``environment.json`` lists."""

_ASIDE = frozenset(
    {
        *("apps", "capacity", "comparison", "conformance", "console", "encoding", "forecasting", "growth"),
        *("pictures", "preparation", "presentation", "resources", "sweeps", "tracking"),
    }
)
"""Subpackages that no loss, metric or weight of a run depends on."""

_DIGEST = re.compile("[0-9a-f]{64}")


def describe_environment(device: str, num_ranks: int, num_threads: int) -> dict[str, Any]:
    """Return versions, git commit (None outside a checkout), code hash, machine, device, threads and command."""
    return {
        "command": without_passwords(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "working_directory": str(Path.cwd()),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": _git_commit(),
        "code": code_hash(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "num_threads": num_threads,  # on a CPU, sums depend on it in their last digits
        "device": device,
        "num_ranks": num_ranks,
    }


@lru_cache
def code_hash() -> str:
    """Return a hash of the code that the results of a run depend on; see `hash_of_code`."""
    return _kept_hash_of_code(Path(__file__).resolve().parents[1])


def _kept_hash_of_code(menvae: Path) -> str:
    """Return `hash_of_code`, without parsing the packages that have not changed since the last call.

    Parsing all modules takes seconds. What each package means is therefore kept in the user's cache.
    """
    place = hashlib.sha256(os.fsencode(menvae)).hexdigest()[:16]
    kept: dict[str, Any] = {}  # state of a package: digest of its modules
    with suppress(OSError, UserError, RuntimeError):  # it may be damaged, and a user may have no home
        kept = read_json(user_cache() / f"code_{place}.json", {})
    used: dict[str, str] = {}

    def meaning_of(package: Path, aside: Collection[str] = ()) -> bytes:
        state = f"{platform.python_version()} {state_of([package], '.py')}"
        known = str(kept.get(state))
        used[state] = known if _DIGEST.fullmatch(known) else meaning_of_code(package, aside).hex()
        return bytes.fromhex(used[state])

    found = hash_of_code(menvae, meaning_of)
    if used != kept:
        with suppress(OSError, RuntimeError):
            memo = user_cache() / f"code_{place}.json"
            memo.parent.mkdir(parents=True, exist_ok=True)
            write_json(memo, used)
    return found


@lru_cache
def state_of_code() -> str:
    """Return a text that changes with any module of menvae or of a plugin, with Python and with installed packages."""
    plugins = {point.module.partition(".")[0] for point in entry_points(group=ENTRY_POINT_GROUP)}
    places = [Path(__file__).resolve().parents[1], *(place for name in sorted(plugins) for place in places_of(name))]
    parts = [platform.python_version(), state_of(places, ".py"), *distributions(map(os.path.abspath, sys.path))]
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def hash_of_code(menvae: Path, meaning_of: Callable[..., bytes] | None = None) -> str:
    """Return a hash of menvae, its plugins, and the versions of Python and the packages that it computes with.

    Modules are hashed as syntax trees: comments, docstrings and formatting do not matter. The syntax tree of a module
    depends on the minor version of Python, which is part of the hash because results may depend on it too. A plugin
    enters with the version of its distribution, for compiled code, and with its source, for editable installations.

    Args:
        menvae: folder of the package, without the subpackages that only launch, compare, draw or track.
        meaning_of: returns what `meaning_of_code` does; None: that itself.

    Returns:
        16 hexadecimal digits.
    """
    meaning_of = meaning_of or meaning_of_code
    versions: dict[str, str | None] = {name: _version(name) for name in _COMPUTING}
    versions["python"] = ".".join(platform.python_version_tuple()[:2])
    digest = hashlib.sha256(meaning_of(menvae, _ASIDE))
    plugins = {_package_and_distribution(point) for point in entry_points(group=ENTRY_POINT_GROUP)}
    for package, distribution in sorted(plugins):
        digest.update(f"{package}\0{distribution}\0".encode())
        for place in places_of(package):
            digest.update(meaning_of(place))
    digest.update(json.dumps(versions, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _package_and_distribution(plugin: EntryPoint) -> tuple[str, str]:
    """Return the top-level package of a plugin, and name and version of the distribution that installed it."""
    distribution = f"{plugin.dist.name} {plugin.dist.version}" if plugin.dist is not None else ""
    return plugin.module.partition(".")[0], distribution


def meaning_of_code(package: Path, aside: Collection[str] = ()) -> bytes:
    """Return a digest (32 bytes) of the syntax trees of a package's modules, without docstrings.

    A file that is not valid Python, such as a compiled module or a template, enters with its bytes.

    Args:
        package: folder of the package, or the file of a single module.
        aside: top-level subfolders to exclude.
    """
    digest = hashlib.sha256()
    folder = package.parent if package.is_file() else package
    for path in [package] if package.is_file() else sorted(package.rglob("*.py")):
        name = path.relative_to(folder)
        if name.parts[0] not in aside:
            digest.update(name.as_posix().encode() + b"\0" + _meaning_of_module(path.read_bytes()) + b"\0")
    return digest.digest()


def _meaning_of_module(source: bytes) -> bytes:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # ValueError: null bytes
        return source
    return ast.dump(_WithoutDocstrings().visit(tree)).encode("utf-8", "surrogatepass")


class _WithoutDocstrings(ast.NodeTransformer):
    """Removes strings that are statements."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


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
