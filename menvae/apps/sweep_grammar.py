"""What menvae adds to Hydra's grammar of a sweep, on command lines and in files alike.

``seed=1..5`` are the whole numbers from 1 to 5, alone or in a list: ``seed=1..3,7``. Keys with ``zip(...)`` advance
together: ``loss.lambda_dcor=zip(1,5) model.partitions.vol=zip(16,24)`` has two points, not four;
``tag(name,zip(...))`` keeps several such groups apart. ``sweep.where`` and ``sweep.until`` take a condition without
further quotes.

Annotations are not postponed here, because Hydra checks the arguments of functions against them.
"""

import re
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser import overrides_parser
from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, ValueType

from menvae.apps.command_line import hydra_text
from menvae.errors import UserError

_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")
_CONDITION = re.compile(r"(\+{0,2}sweep\.(?:where|until)=)(.*)", re.DOTALL)
_QUOTED = re.compile(r"""\s*(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|null|)\s*""", re.DOTALL)
_IN_QUOTES = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_CALLS_ZIP = re.compile(r"\bzip\(")
_IS_ZIP = re.compile(r"[^=]*=\s*(?:tag\((?:\s*[\w.-]+\s*,)*\s*)?zip\(")
_MOST_VALUES = 100_000


@dataclass
class ZipSweep(ChoiceSweep):
    """The values of a key that advances together with the other keys that have the same `tags`."""


class SweepParser(OverridesParser):
    """Hydra's parser with the additions of menvae."""

    @classmethod
    def create(cls, config_loader: ConfigLoader | None = None) -> "SweepParser":
        """Return a parser."""
        functions = create_functions()
        functions.register(name="zip", func=_zip)
        return cls(functions, config_loader)

    def parse_rule(self, s: str, rule_name: str) -> Any:
        """Parse a text.

        Raises:
            HydraException: the text is not in the grammar.
            UserError: a range counts down, or ``zip(...)`` stands inside something else.
        """
        if rule_name != "override":
            return super().parse_rule(s, rule_name)
        parsed = super().parse_rule(_with_quoted_condition(s), rule_name)
        assert isinstance(parsed, Override)
        return _expanded(parsed)


def install() -> None:
    """Make Hydra read all overrides with `SweepParser`."""
    overrides_parser.OverridesParser.create = SweepParser.create  # type: ignore[method-assign]


def _zip(*values: Any) -> ZipSweep:
    """Return the values, with those of ranges and choices among them one by one."""
    items: list[Any] = []
    for value in values:
        is_shuffled = isinstance(value, ChoiceSweep | RangeSweep) and value.shuffle
        if isinstance(value, IntervalSweep | ZipSweep) or is_shuffled:
            raise ValueError("zip(...) takes values, range(...) and choice(...)")
        if isinstance(value, RangeSweep):
            items += value.range()
        elif isinstance(value, ChoiceSweep):
            items += value.list
        else:
            items.append(value)
    if not items:
        raise ValueError("zip(...) needs values")
    return ZipSweep(list=items)


def _with_quoted_condition(text: str) -> str:
    """Put the value of a condition into quotes, because the grammar has no ``<``, ``=`` and the like without them.

    >>> _with_quoted_condition("sweep.where=seed<=3"), _with_quoted_condition("seed=3")
    ("sweep.where='seed<=3'", 'seed=3')
    """
    found = _CONDITION.fullmatch(text)
    if found is None or _QUOTED.fullmatch(found[2]):
        return text
    return found[1] + hydra_text(found[2])


def _expanded(override: Override) -> Override:
    """Return an override with the numbers of its ranges in place of ``1..5``; raises `UserError`."""
    value, text = override._value, override.input_line or ""
    if isinstance(value, ChoiceSweep):
        unquoted = _IN_QUOTES.sub("", text)
        if _CALLS_ZIP.search(unquoted) and not _IS_ZIP.match(unquoted):
            raise UserError(
                f"{override.get_key_element()}: zip(...) is not allowed inside a function other than tag(name,zip(...))"
            )
        numbers = [_range_of(item, override) or (item,) for item in value.list]
        return replace(override, _value=replace(value, list=list(chain.from_iterable(numbers))))
    numbers_of_key = _range_of(value, override)
    if numbers_of_key is None:
        return override
    sweep = RangeSweep(start=numbers_of_key.start, stop=numbers_of_key.stop)
    return replace(override, value_type=ValueType.RANGE_SWEEP, _value=sweep)


def _range_of(value: object, override: Override) -> range | None:
    """Return the whole numbers that ``1..5`` means, or None for another value; raises `UserError`."""
    found = _RANGE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    first, last = int(found[1]), int(found[2])
    if last < first:
        raise UserError(f"{override.get_key_element()}: '{value}' contains no value; write {last}..{first}")
    if last - first >= _MOST_VALUES:
        raise UserError(f"{override.get_key_element()}: '{value}' has more than {_MOST_VALUES:,} values")
    return range(first, last + 1)
