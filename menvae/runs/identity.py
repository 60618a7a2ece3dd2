"""Identity of a run: the hash of what determines its result."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from menvae.gates import canonical

OUTSIDE = (
    "output_dir",
    "tracking",
    "sweep",
    "trainer.resume",
    "trainer.keep_optimizer",
    "trainer.num_workers",
    "trainer.activation_checkpointing",
    "trainer.devices",
    "trainer.time_limit_min",
    "gates.strict",
    "data.root",
    "data.path",
    "data.unsup_run",
    "data.patient_pattern",
    "data.dates",
    "data.on_error",
    "data.missing_modalities",
    "data.refuse_below",
    "data.warn_below",
    "pictures.parts",
)
"""Keys that say where results go, how they are kept or how the same ones are computed, and what has a value of its own
in the hash: the place of the data, whose visits they are and when, whose embeddings stand beside the run's own, which
subjects are faulty or lack files and what becomes of them, and the number of processes that train together."""


def run_hash(config: Mapping[str, Any], data_hash: str, targets_hash: str, num_ranks: int = 1, start: str = "") -> str:
    """Return ten hexadecimal digits that stand for a composed configuration and the data it met.

    Args:
        config: resolved configuration, plain values.
        data_hash: of the prepared cohort.
        targets_hash: of normaliser and residualiser.
        num_ranks: processes that train together: the joined batch grows with it.
        start: digest of the checkpoint of another run that this one begins with, if any.

    >>> a = run_hash({"seed": 1, "output_dir": "/a"}, "d", "t")
    >>> a == run_hash({"output_dir": "/b", "seed": 1}, "d", "t"), a == run_hash({"seed": 2}, "d", "t")
    (True, False)
    >>> run_hash({"loss": {"lambda_dcor": 5}}, "d", "t") == run_hash({"loss": {"lambda_dcor": 5.0}}, "d", "t")
    True
    """
    inside = copy.deepcopy(dict(config))
    for key in OUTSIDE:
        *parents, last = key.split(".")
        node: Any = inside
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    if isinstance(inside.get("gates"), Mapping):
        inside["gates"] = canonical(inside["gates"])
    for key in ("metrics", "observers"):
        if not inside.get(key):
            inside.pop(key, None)  # the hashes of runs are older than this key
    text = json.dumps([as_typed(inside), data_hash, targets_hash, num_ranks, start], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def is_outside(key: str) -> bool:
    """Whether a dotted key says nothing about the result of a run.

    >>> is_outside("tracking.uri"), is_outside("data.warn_below.brain"), is_outside("trainer.max_epochs")
    (True, True, False)
    """
    return any(key == outside or key.startswith(f"{outside}.") for outside in OUTSIDE)


def as_typed(value: Any) -> Any:
    """Return a configuration value in which 5 and 5.0, which mean the same, are the same.

    >>> as_typed({"lambda_dcor": 5.0, "betas": [0.9, 1.0]})
    {'lambda_dcor': 5, 'betas': [0.9, 1]}
    """
    if isinstance(value, Mapping):
        return {key: as_typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_typed(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
