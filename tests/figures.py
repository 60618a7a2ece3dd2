"""Figures of the specification, compared with what an experiment composes."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

NO_SUCH_KEY = "no such key"


def assert_figures(composed: DictConfig, figures: Mapping[str, Any]) -> None:
    """Compare {key: value}; a key that does not exist is not None, and a mapping is compared whole."""
    found = {}
    for key in figures:
        value = OmegaConf.select(composed, key, default=NO_SUCH_KEY)
        found[key] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    assert found == dict(figures)


def changes(composed: DictConfig, reference: DictConfig) -> dict[str, Any]:
    """Return {key: value} of what differs from a reference; `NO_SUCH_KEY` is the value of what only that has."""
    ours, theirs = _leaves(composed), _leaves(reference)
    keys = [*ours, *(key for key in theirs if key not in ours)]
    found = {key: ours.get(key, NO_SUCH_KEY) for key in keys}
    return {key: value for key, value in found.items() if value != theirs.get(key, NO_SUCH_KEY)}


def _leaves(composed: DictConfig) -> dict[str, Any]:
    """Return {dotted key: value} of all that is no mapping, or an empty one."""
    leaves: dict[str, Any] = {}

    def collect(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict) and value:
                collect(value, f"{prefix}{key}.")
            else:
                leaves[f"{prefix}{key}"] = value

    content = OmegaConf.to_container(composed)
    assert isinstance(content, dict)
    collect({str(key): value for key, value in content.items()}, "")
    return leaves
