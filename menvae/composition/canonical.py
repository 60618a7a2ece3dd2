"""The canonical form of a configuration, which ``config.yaml`` and the hash of a run share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from menvae.gates import canonical as canonical_gates
from menvae.registry import lookup

if TYPE_CHECKING:
    from menvae.data.source import DataSource  # and with it torch, which menvae-compare does not need

OPTIONAL = ("metrics", "observers")
"""Keys that configurations of older runs do not have."""


def source_class(name: str) -> type[DataSource]:
    """Return the class of a registered data source; raises `UserError` for an unknown name."""
    return cast("type[DataSource]", lookup("data", name, "data").factory)


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in which different ways to write the same settings are equal.

    The data source rewrites ``data``, the gates are written as `menvae.gates.canonical` does, and empty sections that
    older configurations lack are removed. Sections that are absent stay absent.

    Args:
        config: resolved configuration, plain values; it is not changed.

    Raises:
        UserError: the data source is not registered.

    >>> canonical({"seed": 1, "gates": {"vol_r2": {"metric": "sem/vol_r2", "above": 0.9, "optional": True}}})
    {'seed': 1, 'gates': {'vol_r2': 0.9}}
    >>> canonical({"seed": 1, "metrics": {}, "observers": None}) == canonical({"seed": 1})
    True
    """
    found = {key: value for key, value in config.items() if value or key not in OPTIONAL}
    if "data" in found:
        found["data"] = source_class(found["data"]["name"]).canonical(found["data"])
    if isinstance(found.get("gates"), Mapping):
        found["gates"] = canonical_gates(found["gates"])
    return found
