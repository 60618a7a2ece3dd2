"""Variants of one training configuration."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from menvae.composition.experiment import Experiment
from menvae.data.phantom import FIELD_OF_VIEW_MM
from menvae.errors import UserError

BOX = "data.roi_size"
COARSEST_MM = 10.0
"""Largest voxel of a phantom."""


def without_own_keys(composed: DictConfig, own: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the training configuration of a command that extends ``conf/train.yaml``, and the command's own keys."""
    training = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    return training, {key: training.pop(key) for key in own if key in training}


def variant(training: Mapping[str, Any], changes: Mapping[str, Any]) -> Experiment:
    """Return the experiment of a configuration with other values.

    Args:
        training: plain values of ``conf/train.yaml``.
        changes: dotted key -> value; a key that the configuration lacks is skipped, as some parts have no width.

    Raises:
        UserError: the configuration is invalid.
    """
    changed = copy.deepcopy(dict(training))
    for key, value in changes.items():
        *parents, last = key.split(".")
        node: Any = changed
        for parent in parents:
            node = node.get(parent, {}) if isinstance(node, Mapping) else {}
        if last in node:
            node[last] = value
    return Experiment.from_config(OmegaConf.create(changed))


def box_changes(training: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Return the changes that give a cubic box, of a phantom with its whole field of view.

    Raises:
        UserError: the data are no volumes, or the side is not one of a box.
    """
    if "roi_size" not in training.get("data", {}):
        raise UserError(f"sizes: the data are rows of a table, which have no box; choose data=phantom, not {side}")
    changes: dict[str, Any] = {BOX: [side] * 3}
    if training["data"].get("name") == "phantom":
        changes["data.spacing_mm"] = None if side * COARSEST_MM >= FIELD_OF_VIEW_MM else [COARSEST_MM] * 3
    return changes
