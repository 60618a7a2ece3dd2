"""The configuration keys that differ between runs: the swept keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from menvae.comparison.tracked_runs import TrackedRun
from menvae.errors import UserError, nearest
from menvae.runs.identity import OUTSIDE, as_typed, is_outside, outside_keys

ABSENT = ""
"""Value of a key that a run does not have."""
MOST_TYPED = 10
"""A key with more values is taken for one that a search has drawn."""
_MOST_DIGITS = 8
"""And so is one with a number of more digits than this."""


@dataclass(frozen=True)
class SweptKey:
    """A configuration key that differs between the runs.

    Attributes:
        name: dotted key.
        label: shortest unambiguous suffix of the key, for narrow columns.
        values: distinct values, in order.
        followers: keys that vary together with this one, such as those interpolated from it.
    """

    name: str
    label: str
    values: tuple[str, ...]
    followers: tuple[str, ...]


@lru_cache(maxsize=65536)
def canonical(text: str) -> str:
    """Normalise the text of a parameter, so that equal values have equal texts.

    >>> canonical("5.0"), canonical("semivae"), canonical("[1.0, 2]")
    ('5', 'semivae', '[1, 2]')
    """
    try:
        return json.dumps(as_typed(json.loads(text)), sort_keys=True)
    except ValueError:
        return text


def swept_keys(
    runs: Sequence[TrackedRun],
    ignore: Sequence[str] = (),
    reserved: Iterable[str] = (),
    replicates: Sequence[str] = (),
) -> tuple[SweptKey, ...]:
    """Return the keys whose values differ between runs, in the order of the configuration.

    The seed, other keys of replicates and keys outside a run's identity are excluded. The first of several keys that
    vary together represents them all; the name of a part (``decoder.name``) represents tunables that only some of the
    parts have, unless such a tunable has several values.

    Args:
        runs: the runs.
        ignore: keys or sections to leave out.
        reserved: words that labels must not use.
        replicates: keys besides the seed in which the runs of one configuration differ.
    """
    columns = _varying_columns(runs, [*ignore, *replicates])
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for name in columns:
        leader = columns[_part_that_explains(name, columns) or name]
        groups.setdefault((_pattern(leader), _order(leader)), []).append(name)
    firsts = [first for first, *_ in groups.values()]
    taken = {"seed", "seeds", "runs", "data", "passed", "rank", "front", *reserved}
    return tuple(
        SweptKey(
            name=name,
            label=_label(name, firsts, taken),
            values=tuple(sorted(set(columns[name]), key=natural)),
            followers=tuple(followers),
        )
        for name, *followers in groups.values()
    )


def _varying_columns(runs: Sequence[TrackedRun], ignore: Sequence[str]) -> dict[str, list[str]]:
    """Return key -> value in each run, of the keys that differ, in the order of the configuration."""
    order = _in_order(dict.fromkeys(key for run in reversed(runs) for key in run.params))
    alike = len({_source_of(run) for run in runs}) == 1  # then equal texts are equal settings
    columns = {
        key: [setting(run, key) for run in runs]
        for key in order
        if key != "seed"
        and not _is_ignored(key, ignore)
        and not (alike and len({run.params.get(key) for run in runs}) == 1)
    }
    return {key: column for key, column in columns.items() if len(set(column)) > 1}


def _pattern(column: Sequence[str]) -> tuple[int, ...]:
    """Return the place of the first run with the same value, for each run.

    >>> _pattern(["a", "b", "a", "c"])
    (0, 1, 0, 3)
    """
    first: dict[str, int] = {}
    return tuple(first.setdefault(value, place) for place, value in enumerate(column))


def _order(column: Sequence[str]) -> tuple[int, ...]:
    """Return the order of a column of numbers that a search has drawn, up to its direction; empty for others.

    The numbers of a random search are all different, so that equal values alone would call any two keys of it the same.

    >>> _order([str(0.1 * number) for number in range(12)]) == _order([str(9 - number) for number in range(12)])
    True
    >>> _order(["3", "1", "2"]), _order(["0.3182761", "0.1", "0.7213847123"])
    ((), (1, 0, 2))
    """
    distinct = sorted(set(column), key=natural)
    are_typed = len(distinct) <= MOST_TYPED and max(map(_num_digits, distinct)) <= _MOST_DIGITS
    if are_typed or any(natural(value)[0] for value in distinct):
        return ()
    place = {value: number for number, value in enumerate(distinct)}
    order = tuple(place[value] for value in column)
    return min(order, tuple(len(distinct) - 1 - number for number in order))


def _num_digits(value: str) -> int:
    """Return the number of significant digits of a number.

    >>> _num_digits("0.0026938830192854116"), _num_digits("1.5e-05"), _num_digits("1000")
    (17, 2, 4)
    """
    return len(value.lower().partition("e")[0].lstrip("+-0.").replace(".", ""))


def _part_that_explains(key: str, columns: Mapping[str, Sequence[str]]) -> str | None:
    """Return the name key of the part that has a tunable, if the tunable is absent or has one value in all runs."""
    if len({*columns[key]} - {ABSENT}) > 1:
        return None
    parts = key.split(".")
    for depth in range(1, len(parts)):
        part = ".".join([*parts[:depth], "name"])
        if part in columns and part != key:
            pairs = set(zip(columns[part], columns[key], strict=True))
            if len(pairs) == len({*columns[part]}):  # a part always or never has the tunable
                return part
    return None


def setting(run: TrackedRun, key: str) -> str:
    """Return the value of a key, or `ABSENT` if it does not influence the result of a run."""
    value = canonical(run.params[key]) if key in run.params else ABSENT
    if key == "trainer.resume":  # a run that resumes from another run's checkpoint is another configuration
        return ABSENT if value in ("auto", "never") else value
    return ABSENT if _is_outside_identity(key, *_source_of(run)) else value


def _source_of(run: TrackedRun) -> tuple[tuple[str, ...] | None, str | None]:
    """Return what decides which keys are outside the identity of a run: what it recorded, and its source."""
    return run.outside_identity, run.params.get("data.name")


@lru_cache(maxsize=65536)
def _is_outside_identity(key: str, recorded: tuple[str, ...] | None, source: str | None) -> bool:
    """Return whether a key is outside the identity of a run, as that recorded it: its source need not be installed."""
    if recorded is not None:
        return is_outside(key, [*OUTSIDE, *(f"data.{one}" for one in recorded)])
    try:
        return is_outside(key, OUTSIDE if source is None else outside_keys(source))
    except UserError:
        return is_outside(key, OUTSIDE)


def _in_order(keys: Iterable[str]) -> list[str]:
    """Sort the name of each part before its other keys; otherwise keep the given order."""
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        parts = key.split(".")
        for depth in range(1, len(parts) + 1):
            first.setdefault(".".join(parts[:depth]), place)

    def position(key: str) -> list[tuple[bool, int]]:
        parts = key.split(".")
        prefixes = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        return [(prefix == key and parts[-1] != "name", first[prefix]) for prefix in prefixes]

    return sorted(keys, key=position)


def _label(name: str, names: Sequence[str], reserved: set[str]) -> str:
    """Return the shortest suffix of a key that identifies it.

    >>> names = ["loss.lambda_dcor", "loss.terms.kl.name", "model.partitions.vol", "data.seed"]
    >>> [_label(name, names, {"seed"}) for name in names]
    ['lambda_dcor', 'terms.kl', 'partitions.vol', 'data.seed']
    >>> _label("decoder.name", ["decoder.name"], set())
    'decoder'
    """
    endings = {one: one.removesuffix(".name").split(".") for one in names}
    parts = endings[name]
    for length in range(1 if len(parts) < 3 else 2, len(parts) + 1):
        label = ".".join(parts[-length:])
        if label not in reserved and sum(other[-length:] == parts[-length:] for other in endings.values()) == 1:
            return label
    return name


def natural(value: str) -> tuple[int, float, str]:
    """Return a sort key: numbers by size, then words, then absent values."""
    try:
        return 0, float(value), ""
    except ValueError:
        return (2 if value == ABSENT else 1), 0.0, value


def _is_ignored(key: str, ignore: Sequence[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in ignore)


def check_keys(name: str, wanted: Sequence[str], runs: Sequence[TrackedRun], *, sections: bool = False) -> None:
    """Check that every key of a setting exists.

    Args:
        name: name of the setting, for messages.
        wanted: dotted keys.
        runs: all runs.
        sections: whether sections are allowed too.

    Raises:
        UserError: no run has it; the message suggests the nearest.
    """
    keys = {key for run in runs for key in run.params}
    for one in wanted:
        if one in keys or (sections and any(_is_ignored(key, [one]) for key in keys)):
            continue
        parent, depth = one.rpartition(".")[0], one.count(".") + 1
        siblings = {".".join(key.split(".")[:depth]) for key in keys if key.startswith(f"{parent}.")}
        near = nearest(one, siblings or {key.split(".")[0] for key in keys})
        raise UserError(f"{name}: no run has a key '{one}'; {near}")


def values_of(run: TrackedRun, keys: Sequence[SweptKey]) -> dict[str, str]:
    """Return the value of every swept key."""
    return {key.name: setting(run, key.name) for key in keys}
