"""The axes of a sweep: where they are written, and the points that they span."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from menvae.composition.settings import SweepSettings

_OF_TABLE = "sweep.points"
"""Tag of the keys that a table of points gives."""

_MOST_POINTS = 1_000_000
_BARE = re.compile(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z_][\w./-]*", re.IGNORECASE)
"""Text that needs no quotes in Hydra's grammar."""


def settings_of(config: DictConfig) -> SweepSettings:
    """Return the settings of a sweep; raises `UserError`."""
    from menvae.composition.settings import SweepSettings
    from menvae.registry import validated

    section = config.get("sweep")
    content = OmegaConf.to_container(section, resolve=True) if isinstance(section, DictConfig) else None
    if not isinstance(content, dict):
        return SweepSettings()  # composing the first point says what is wrong
    return validated(SweepSettings, {str(key): value for key, value in content.items()}, "sweep")


def overrides_of_sweep(
    loader: ConfigLoader, arguments: Sequence[str], settings: SweepSettings, of_files: Mapping[str, Any] | None = None
) -> list[Override]:
    """Return every override of a sweep once: those of its space, its files, its command line and its table.

    Of several for one key, the last counts, but a key of the table must not be given elsewhere too.

    Args:
        loader: Hydra's loader.
        arguments: overrides of the command line.
        settings: settings of the sweep.
        of_files: ``hydra.sweeper.params``.

    Raises:
        HydraException: an override is not in Hydra's grammar.
        UserError: the table or the space is invalid, or a setting of the sweep itself is swept.
    """
    from menvae.composition.settings import SHARED_BY_POINTS
    from menvae.errors import UserError

    parser = OverridesParser.create(config_loader=loader)
    space = parser.parse_overrides([f"{key}={values}" for key, values in settings.space.items()])
    for override in space:
        if not override.is_sweep_override():
            raise UserError(
                f"sweep.space: '{override.input_line}' is not a space; use choice(...), range(...), 1..5, zip(...) or, "
                "in a search, interval(...)"
            )
    params = parser.parse_overrides([f"{key}={value}" for key, value in (of_files or {}).items()])
    others = [*space, *params, *parser.parse_overrides(list(arguments))]
    table = _overrides_of_table(parser, settings.points) if settings.points is not None else []
    given = {_plain_key(override): override for override in others}
    for override in table:
        if (other := given.get(_plain_key(override))) is not None:
            raise UserError(
                f"{_plain_key(override)} is given twice: as a column of '{settings.points}' and as "
                f"'{other.input_line}'; leave one of them out"
            )
    found = {override.get_key_element(): override for override in (*others, *table)}
    for override in found.values():
        key = _plain_key(override)
        if override.is_sweep_override() and re.split(r"[./@]", key)[0] in SHARED_BY_POINTS:
            typed = f"column of '{settings.points}'" if _is_of_table(override) else f"axis '{override.input_line}'"
            raise UserError(f"{key}: the {typed} is not allowed, because {key} is a setting of the whole sweep")
    return list(found.values())


def check_columns(
    overrides: Sequence[Override], settings: SweepSettings, composed: Callable[[Sequence[str]], object]
) -> None:
    """Check that the columns of a table are keys, by composing the first point.

    Args:
        overrides: the overrides of the sweep.
        settings: its settings.
        composed: composes a point.

    Raises:
        HydraException: the point cannot be composed for another reason.
        UserError: a column is no key.
    """
    from menvae.apps.outcome import sentence
    from menvae.errors import UserError

    if settings.points is None:
        return
    have_values = [one for one in overrides if not one.is_sweep_override() or one.is_discrete_sweep()]
    try:
        composed([_texts(override)[0] for override in in_order_of_effect(have_values, settings)])
    except (HydraException, OmegaConfBaseException) as error:
        why = sentence(error)
        key = why.partition(":")[0]
        columns = [_plain_key(override) for override in overrides if _is_of_table(override)]
        if "no such key" in why and any(f"{column}.".startswith(f"{key}.") for column in columns):
            raise UserError(f"sweep.points: '{settings.points}' has an unknown column, {why}") from None
        raise


def _is_of_table(override: Override) -> bool:
    from menvae.apps.sweep_grammar import ZipSweep

    value = override.value() if override.is_sweep_override() else None
    return isinstance(value, ZipSweep) and value.tags == {_OF_TABLE}


def in_order_of_effect(overrides: Sequence[Override], settings: SweepSettings) -> list[Override]:
    """Return the overrides with those of ``sweep.space`` last, so that none on the command line changes its values."""
    of_space = {f"{key}={values}" for key, values in settings.space.items()}
    return sorted(overrides, key=lambda override: override.input_line in of_space)


def groups_of(overrides: Sequence[Override]) -> list[list[int]]:
    """Return the positions of the overrides that advance together, a group per axis; fixed ones are alone.

    Raises:
        UserError: keys of one group have different numbers of values.
    """
    from menvae.apps.sweep_grammar import ZipSweep
    from menvae.errors import UserError

    groups: dict[object, list[int]] = {}
    for position, override in enumerate(overrides):
        value = override.value() if override.is_sweep_override() else None
        together = frozenset(value.tags) if isinstance(value, ZipSweep) else position
        groups.setdefault(together, []).append(position)
    for positions in groups.values():
        members = [overrides[position] for position in positions]
        if len(members) == 1:
            continue
        counts = {override.get_key_element(): sum(1 for _ in override.sweep_iterator()) for override in members}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{key} has {count}" for key, count in counts.items())
            raise UserError(f"zip(...): keys that advance together need as many values each, but {listed}")
    return list(groups.values())


def points_of(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of every point, in Hydra's grammar and in the given order; the last axis advances first.

    Raises:
        UserError: a key has no list of values, zipped keys have different numbers of values, or there are too many
            points.
    """
    from menvae.errors import UserError

    groups = groups_of(overrides)
    texts = [_texts(override) for override in overrides]
    num = math.prod(len(texts[positions[0]]) for positions in groups)
    if num > _MOST_POINTS:
        raise UserError(f"the axes span {num:,} points; a sweep has {_MOST_POINTS:,} at most")
    axes = [list(zip(*(texts[position] for position in positions), strict=True)) for positions in groups]
    order = [position for positions in groups for position in positions]
    return [_ordered(order, itertools.chain.from_iterable(chosen)) for chosen in itertools.product(*axes)]


def _ordered(order: Sequence[int], texts: Iterable[str]) -> list[str]:
    return [text for _, text in sorted(zip(order, texts, strict=True))]


def _texts(override: Override) -> list[str]:
    """Return the override with each of its values."""
    from menvae.errors import UserError

    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise UserError(
            f"{key}: '{override.get_value_string()}' has no list of values, and needs a sweeper that searches: "
            "hydra/sweeper=optuna"
        )
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _overrides_of_table(parser: OverridesParser, points: str) -> list[Override]:
    """Return the columns of a table as overrides that advance together; raises `UserError`."""
    from menvae.apps.points_table import read_points
    from menvae.apps.sweep_grammar import ZipSweep
    from menvae.configuration import path_of
    from menvae.errors import UserError

    found = []
    for column, values in read_points(path_of(points, "sweep.points")).items():
        try:
            parsed = parser.parse_override(f"{column}=null")
        except HydraException:
            raise UserError(f"sweep.points: '{points}' has a column '{column}', which is no key") from None
        sweep = ZipSweep(tags={_OF_TABLE}, list=[_element(value) for value in values])
        override = replace(parsed, value_type=ValueType.CHOICE_SWEEP, _value=sweep, config_loader=parser.config_loader)
        typed = f"{column}=zip({','.join(override.sweep_string_iterator())})"
        found.append(replace(override, input_line=typed))
    return found


def _element(value: Any) -> Any:
    """Return a plain value as an element of Hydra's grammar, in which text keeps being text.

    >>> _element("sbd"), _element("5").text, _element([1, "a"])
    ('sbd', '5', [1, 'a'])
    """
    if isinstance(value, Mapping):
        return {key: _element(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_element(item) for item in value]
    if isinstance(value, str) and not _BARE.fullmatch(value):
        return QuotedString(value, Quote.single)
    return value


def _plain_key(override: Override) -> str:
    return override.get_key_element().lstrip("+~")
