"""Ranges in the names of columns, for tables with hundreds of numbered columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from menvae.errors import UserError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expanded(names: Iterable[str], key: str) -> tuple[str, ...]:
    """Return the names with every range replaced by its columns, as the shells do.

    Args:
        names: names of columns; ``feature_{000..767}`` means 768 of them. Leading zeros set the number of digits.
        key: configuration key, for errors.

    Raises:
        UserError: a name has two ranges, or a range ends before it begins.

    >>> expanded(["age", "f{08..10}"], "data.columns")
    ('age', 'f08', 'f09', 'f10')
    """
    return tuple(column for name in names for column in _columns(name, key))


def _columns(name: str, key: str) -> Iterator[str]:
    ranges = _RANGE.findall(name)
    if not ranges:
        yield name
        return
    first, last = ranges[0]
    if len(ranges) > 1 or int(first) > int(last):
        raise UserError(f"{key}: '{name}' is not allowed; write one range from small to large, such as 'f{{000..767}}'")
    before, after = _RANGE.split(name)[0], _RANGE.split(name)[-1]
    digits = len(first) if first.startswith("0") else 0
    yield from (f"{before}{number:0{digits}d}{after}" for number in range(int(first), int(last) + 1))
