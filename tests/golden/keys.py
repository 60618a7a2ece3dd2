"""Every configuration key: of the composed commands, and of every option of every group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from golden.internals import configuration_folder
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from shrunk import composed, names

FILE = Path(__file__).parent / "keys.txt"
COMMANDS = ("train", "prepare", "compare", "encode", "grow", "evaluate", "sweep", "sync")
EXTEND_TRAIN = ("bench", "plan_resources")
"""Commands whose configuration is that of training with keys of their own, which are listed."""
LAUNCHERS = ("local", "slurm")
AS_WRITTEN = ("experiment", "sweep")
"""Groups whose files override what others bring: the keys that a file itself holds are listed."""
_OF_OTHERS = ("hydra", "site")


def keys() -> list[str]:
    """Return ``command: dotted.key`` and ``group=option: dotted.key``, sorted."""
    found = [f"{command}: {key}" for command in COMMANDS for key in _keys_of(composed(config=command))]
    of_train = set(_keys_of(composed()))
    for command in EXTEND_TRAIN:
        found += [f"{command}: {key}" for key in _keys_of(composed(config=command)) if key not in of_train]
    conf = configuration_folder("menvae") or Path()
    groups = sorted(
        path.name for path in conf.iterdir() if path.is_dir() and path.name not in (*AS_WRITTEN, *_OF_OTHERS)
    )
    for group in groups:
        for option in names(group):
            found += [f"{group}={option}: {key}" for key in _keys_of(composed(config=f"{group}/{option}"))]
    for group in AS_WRITTEN:
        for option in names(group):
            written = OmegaConf.load(conf / group / f"{option}.yaml")
            assert isinstance(written, DictConfig)
            found += [f"{group}={option}: {key}" for key in _keys_of(written) if key != "defaults"]
    for launcher in LAUNCHERS:
        found += [f"hydra/launcher={launcher}: {key}" for key in _of_launcher(f"hydra/launcher={launcher}")]
    for site in names("site"):
        found += [f"site={site}: {key}" for key in _of_launcher("hydra/launcher=slurm", f"site={site}")]
    return sorted(found)


def _of_launcher(*overrides: str) -> list[str]:
    conf = configuration_folder("menvae") or Path()
    with initialize_config_dir(str(conf), version_base="1.3"):
        whole = compose("train", list(overrides), return_hydra_config=True)
    return sorted(_flattened(OmegaConf.to_container(whole.hydra.launcher, resolve=False), ""))


def _keys_of(configuration: DictConfig) -> list[str]:
    return sorted(_flattened(OmegaConf.to_container(configuration, resolve=False), ""))


def _flattened(content: Any, prefix: str) -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def differences(found: list[str]) -> list[str]:
    """Return a line for each key that is new, and for each that is gone."""
    before = set(FILE.read_text().splitlines())
    return [f"gone: {key}" for key in sorted(before - set(found))] + [
        f"new:  {key}" for key in found if key not in before
    ]
