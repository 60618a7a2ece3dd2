"""Search spaces: from the sweeps of Hydra's grammar to the distributions of Optuna.

A search draws from the values that the same text enumerates in a sweep: a range excludes its end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_MOST_FRACTIONS = 100_000
_TAGS = {"int", "log"}


class Dimension(NamedTuple):
    """The values of one searched key, or of several that advance together.

    Attributes:
        typed: the sweep as typed, such as ``range(0,1,0.25)``.
        distribution: Optuna's distribution.
        fractions: all values of a range of fractions, as Hydra computes them; empty for other spaces.
        zipped: {drawn value: overrides} of keys that advance together; empty for a single key.
        typed_of: {key: its values as typed} of keys that advance together; empty for a single key.
    """

    typed: str
    distribution: BaseDistribution
    fractions: Sequence[float] = ()
    zipped: Mapping[str, Sequence[str]] = MappingProxyType({})
    typed_of: Mapping[str, str] = MappingProxyType({})

    def overrides(self, name: str, drawn: object) -> list[str]:
        """Return the overrides of a drawn value of the dimension called ``name``, which is the key of a single one."""
        return list(self.zipped[str(drawn)]) if self.zipped else [f"{name}={self.text(drawn)}"]

    def text(self, drawn: object) -> str:
        """Return a drawn value in Hydra's grammar."""
        if self.fractions:  # Optuna's arithmetic may differ in the last digit, which would name another run
            drawn = min(self.fractions, key=lambda value: abs(value - float(str(drawn))))
        return drawn if isinstance(drawn, str) else repr(drawn)


def dimension(override: Override) -> Dimension:
    """Return the values of a sweep.

    Args:
        override: a parsed override with ``choice``, ``a,b``, ``glob``, ``range`` or ``interval``.

    Raises:
        UserError: the sweep has no values, or values that Optuna cannot draw.
    """
    import optuna

    from menvae.errors import UserError

    value, typed = override.value(), override.get_value_string()
    try:
        if isinstance(value, RangeSweep):
            return _range(value, typed)
        if isinstance(value, IntervalSweep):
            return _interval(value, typed)
        choices: list[Any] = list(override.sweep_iterator(Transformer.encode))
        return Dimension(typed, optuna.distributions.CategoricalDistribution(choices))
    except ValueError as error:
        raise UserError(f"{override.get_key_element()}: '{typed}' cannot be searched: {error}") from None


def zipped_dimension(overrides: Sequence[Override]) -> Dimension:
    """Return the values of keys that advance together, of which there are equally many."""
    import optuna

    keys = [override.get_key_element() for override in overrides]
    rows = zip(*(override.sweep_string_iterator() for override in overrides), strict=True)
    texts = [[f"{key}={value}" for key, value in zip(keys, row, strict=True)] for row in rows]
    points = {" ".join(point): point for point in texts}
    typed_of = {override.get_key_element(): override.get_value_string() for override in overrides}
    distribution = optuna.distributions.CategoricalDistribution(list(points))
    return Dimension(" ".join(typed_of.values()), distribution, zipped=points, typed_of=typed_of)


def _range(sweep: RangeSweep, typed: str) -> Dimension:
    import optuna

    start, stop, step = _checked_range(sweep, typed)
    if "log" in sweep.tags:
        raise ValueError("only an interval can be drawn on a logarithmic scale")
    if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
        numbers = range(start, stop, step)
        low, high = sorted((numbers[0], numbers[-1]))
        return Dimension(typed, optuna.distributions.IntDistribution(low, high, step=abs(step)))
    fractions = sorted(float(value) for value in sweep.range())
    steps = sorted(_steps(start, step, len(fractions)))
    return Dimension(typed, optuna.distributions.FloatDistribution(steps[0], steps[-1], step=abs(step)), fractions)


def check_ranges(overrides: Sequence[Override]) -> None:
    """Check that each range of a sweep has the values that its text promises.

    Hydra 1.3.8 adds up the binary values of fractions, so that a range may include its end, and it adds a value beyond
    the start of a range that it sorts downwards.

    Raises:
        UserError: a range is endless or empty, or Hydra enumerates other values.
    """
    from menvae.errors import UserError

    for override in overrides:
        value = override.value() if override.is_sweep_override() else None
        if isinstance(value, RangeSweep):
            typed = override.get_value_string()
            try:
                _checked_range(value, typed)
            except ValueError as error:
                raise UserError(f"{override.get_key_element()}: '{typed}' cannot be swept: {error}") from None


def _checked_range(sweep: RangeSweep, typed: str) -> tuple[float, float, float]:
    """Return start, stop and step; raises `ValueError` as `check_ranges` says."""
    start, stop, step = sweep.start, sweep.stop, sweep.step
    assert start is not None
    assert stop is not None
    if not all(math.isfinite(number) for number in (start, stop, step)):
        raise ValueError("its numbers must be finite")
    if step == 0:
        raise ValueError("its step is 0")
    if (stop - start) / step <= 0:
        raise ValueError("it contains no value")
    if re.search(r"\bsort\(", typed) and step < 0:
        raise ValueError("Hydra sorts ranges wrongly; write range with a negative step")
    if isinstance(sweep.range(), range):
        return start, stop, step
    if (stop - start) / step > _MOST_FRACTIONS:
        raise ValueError(f"it contains more than {_MOST_FRACTIONS} values; use interval in a search")
    *_, last = sweep.range()
    if abs(last - stop) < 1e-9 * abs(step):
        raise ValueError(
            f"Hydra includes its end {stop:g} by a rounding error; write range({start:g},{stop - step / 2:g},{step:g}) "
            "or list the values"
        )
    return start, stop, step


def _interval(sweep: IntervalSweep, typed: str) -> Dimension:
    import optuna

    low, high, is_log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("its ends must be finite")
    if unknown := sorted(sweep.tags - _TAGS):
        raise ValueError(f"tag '{unknown[0]}' has no meaning; known: {', '.join(sorted(_TAGS))}")
    if "int" in sweep.tags or (isinstance(low, int) and isinstance(high, int)):  # int(interval(...)) converts the ends
        return Dimension(typed, optuna.distributions.IntDistribution(math.ceil(low), math.floor(high), log=is_log))
    return Dimension(typed, optuna.distributions.FloatDistribution(low, high, log=is_log))


def _steps(low: float, step: float, num: int) -> list[float]:
    """Return equidistant numbers without binary rounding errors, as Optuna computes them.

    >>> _steps(0.0, 0.1, 4)
    [0.0, 0.1, 0.2, 0.3]
    """
    return [float(Decimal(str(low)) + index * Decimal(str(step))) for index in range(num)]


def grid(space: Mapping[str, BaseDistribution]) -> dict[str, list[Any]]:
    """Return all values of each key.

    Raises:
        UserError: a key is continuous.
    """
    import optuna

    from menvae.errors import UserError

    values: dict[str, list[Any]] = {}
    for key, distribution in space.items():
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            values[key] = list(distribution.choices)
        elif isinstance(distribution, optuna.distributions.IntDistribution):
            values[key] = list(range(distribution.low, distribution.high + 1, distribution.step))
        elif isinstance(distribution, optuna.distributions.FloatDistribution) and distribution.step is not None:
            num = round((distribution.high - distribution.low) / distribution.step) + 1
            values[key] = _steps(distribution.low, distribution.step, num)
        else:
            raise UserError(f"hydra.sweeper.sampler=grid: {key} is continuous; use choice(...) or range(...)")
    return values


def fraction_and_whole(values: Dimension) -> tuple[str, str] | None:
    """Return a fraction of a space and a whole number beside it, as texts; None if one of them does not exist."""
    import optuna

    if not isinstance(values.distribution, optuna.distributions.FloatDistribution):
        return None
    low, high, fractions = values.distribution.low, values.distribution.high, values.fractions
    middle = fractions[len(fractions) // 2] if fractions else (low + high) / 2
    whole = min(max(round(middle), math.ceil(low)), math.floor(high))
    if whole < low or low == high:
        return None
    if not fractions:
        middle = whole + min(0.25, (high - whole) / 2) if whole < high else whole - min(0.25, (whole - low) / 2)
    return repr(middle), str(whole)
