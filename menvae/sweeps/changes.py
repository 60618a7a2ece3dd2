"""Points with other values of some keys: what a retry with changed keys runs in place of failed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from menvae.composition.settings import SHARED_BY_POINTS
from menvae.errors import UserError, nearest
from menvae.runs.reading import flat, value_at
from menvae.sweeps.sweep import key_of


def with_changes(config: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return a composed configuration with other values of some keys.

    Files of ``conf/`` are not read again, so that nothing else changes; values that were interpolated from a changed
    key stay as they are.

    Args:
        config: composed configuration, plain values.
        changes: overrides of existing keys; those with a ``+`` may add one.

    Raises:
        HydraException: an override is not in Hydra's grammar.
        UserError: it does not set one key of the points to one value.
    """
    if not changes:
        return dict(config)
    changed = OmegaConf.create(dict(config))
    for override in OverridesParser.create().parse_overrides(list(changes)):
        _check(override, config)
        OmegaConf.update(changed, override.key_or_group, override.value(), merge=True, force_add=True)
    return cast(dict[str, Any], OmegaConf.to_container(changed, resolve=True))


def overrides_with(overrides: Sequence[str], changes: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides of a point with those that change it, which replace others of the same key.

    >>> overrides_with(("trainer.batch_size=8", "seed=1"), ["trainer.batch_size=4", "trainer.precision=bf16"])
    ('trainer.batch_size=4', 'seed=1', 'trainer.precision=bf16')
    """
    by_key = {key_of(text): text for text in changes}
    replaced = {key_of(text) for text in overrides} & by_key.keys()
    kept = [by_key.get(key_of(text), text) for text in overrides]
    return (*kept, *(text for key, text in by_key.items() if key not in replaced))


def _check(override: Override, config: Mapping[str, Any]) -> None:
    """Check that an override sets one key of a configuration to one value; raises `UserError`."""
    key, text = override.key_or_group, override.input_line
    if override.is_delete():
        raise UserError(f"'{text}' removes a key; retry only changes values")
    if override.is_sweep_override():
        raise UserError(f"'{text}' has several values; retry takes one for each key")
    if key.split(".")[0] in SHARED_BY_POINTS:
        raise UserError(f"'{text}' belongs to the whole sweep; retry changes keys of its points")
    known, value = value_at(config, key), override.value()
    if "/" in key or override.package is not None or (isinstance(known, Mapping) and not isinstance(value, dict)):
        raise UserError(f"'{text}' chooses an option; retry only changes values of keys")
    keys = dict(flat(config))
    if known is None and key not in keys and not (override.is_add() or override.is_force_add()):
        raise UserError(f"{key}: no such key of the points that failed; {nearest(key, keys, 'menvae-train --cfg job')}")
