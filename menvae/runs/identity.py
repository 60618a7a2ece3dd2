"""Identity of a run: a hash of everything that determines its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from menvae.composition.canonical import canonical, source_class

OUTSIDE = (
    "output_dir",
    "tracking",
    "sweep",
    "trainer.resume",
    "trainer.extend",
    "trainer.keep_optimizer",
    "trainer.num_workers",
    "trainer.activation_checkpointing",
    "trainer.tune",
    "trainer.cuda_graphs",
    "trainer.auto_batch",
    "trainer.profile",
    "trainer.devices",
    "trainer.time_limit_min",
    "gates.strict",
    "pictures.parts",
)
"""Keys that affect only where results go, how they are kept, or how the same results are computed; and
``trainer.devices`` and ``trainer.extend``, because the number of ranks and the parent enter the hash separately. The
source declares those of ``data.*``."""


def outside_keys(source: str) -> tuple[str, ...]:
    """Return the dotted keys that do not belong to the identity of a run.

    Args:
        source: name of its data source, which declares some (`menvae.data.source.DataSource.outside_identity`).

    Raises:
        UserError: the source is not registered.

    >>> set(outside_keys("table")) - set(OUTSIDE) == {"data.null_values", "data.path", "data.unsup_run"}
    True
    """
    return (*OUTSIDE, *sorted(f"data.{key}" for key in source_class(source).outside_identity))


def run_hash(config: Mapping[str, Any], data_hash: str, targets_hash: str, num_ranks: int = 1, start: str = "") -> str:
    """Return ten hexadecimal digits that identify a composed configuration with its data.

    Args:
        config: resolved configuration, plain values.
        data_hash: hash of the prepared cohort.
        targets_hash: hash of normaliser and residualiser.
        num_ranks: number of ranks; the joined batch grows with it.
        start: digests of the checkpoints that the run starts from, if any.

    >>> a = run_hash({"seed": 1, "output_dir": "/a"}, "d", "t")
    >>> a == run_hash({"output_dir": "/b", "seed": 1}, "d", "t"), a == run_hash({"seed": 2}, "d", "t")
    (True, False)
    >>> run_hash({"loss": {"lambda_dcor": 5}}, "d", "t") == run_hash({"loss": {"lambda_dcor": 5.0}}, "d", "t")
    True
    """
    inside = as_typed(canonical(config))  # a copy
    for key in outside_keys(inside["data"]["name"]) if "data" in inside else OUTSIDE:
        *parents, last = key.split(".")
        node: Any = inside
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    text = json.dumps([inside, data_hash, targets_hash, num_ranks, start], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def is_outside(key: str, outside: Iterable[str]) -> bool:
    """Return whether a dotted key does not affect the result of a run.

    Args:
        key: dotted configuration key.
        outside: the keys that do not belong to the identity of the run.

    >>> [is_outside(key, outside_keys("brats")) for key in ("tracking.uri", "data.warn_below.brain", "seed")]
    [True, True, False]
    """
    return any(key == one or key.startswith(f"{one}.") for one in outside)


def as_typed(value: Any) -> Any:
    """Normalise a configuration value, so that 5 and 5.0, which mean the same, are equal.

    >>> as_typed({"lambda_dcor": 5.0, "betas": [0.9, 1.0]})
    {'lambda_dcor': 5, 'betas': [0.9, 1]}
    """
    if isinstance(value, Mapping):
        return {key: as_typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_typed(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
