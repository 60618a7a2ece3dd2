"""Missing values: words and numbers that stand for them, and numbers that look as if they did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from menvae.files import NULL_WORDS

_FEWEST_REPEATS = 3
_FEWEST_OTHERS = 10  # distinct values
_FAR = 3.0  # interquartile ranges between a mark and the nearest other value
_FAR_FROM_CODES = 10.0  # ranges of the codes
_SINGLE_PRECISION = 2.0**-23  # -999.9 in a column of float32 is not the float64 -999.9


class Nulls:
    """Decides which words and numbers of a table mean "missing"."""

    def __init__(self, null_values: Sequence[float | str] = ()) -> None:
        """Add values to `NULL_WORDS`.

        Args:
            null_values: numbers, equal to single precision, and words; both count in every column.
        """
        self.words = NULL_WORDS | {str(value).strip() for value in null_values}
        self._numbers = [number for value in null_values if (number := as_number(str(value))) is not None]

    def among_numbers(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which numbers [N] mean "missing"; NaN always does."""
        missing: NDArray[np.bool_] = np.isnan(values)
        for number in self._numbers:
            missing |= np.isclose(values, number, rtol=_SINGLE_PRECISION, atol=0.0)
        return missing

    def is_null(self, word: str) -> bool:
        """Return whether a word means "missing"; surrounding blanks do not count."""
        number = as_number(word) if self._numbers else None
        is_number = number is not None and bool(self.among_numbers(np.array([number]))[0])
        return is_number or word.strip() in self.words


def as_number(word: str) -> float | None:
    """Return the number that a word is, or None.

    >>> as_number(" -999.25"), as_number("SI")
    (-999.25, None)
    """
    try:
        return float(word)
    except ValueError:
        return None


def suspected_marks(values: NDArray[np.float64]) -> list[float]:
    """Return numbers that probably mark missing values, such as -999.25 among values from 0 to 100.

    Such a number is the smallest or the largest, occurs at least 3 times, and lies more than 3 interquartile ranges of
    the other distinct values from the nearest of them. A number below 0 need only be farther from the others than those
    are from each other, if none of them is negative. Among fewer than 10 distinct values, which are codes rather than
    measurements, only a number far below 0 counts, such as -99 among 0 and 1. The share of rows does not matter.

    Args:
        values: values of a column [N]; NaN is ignored.
    """
    rest, found = values[~np.isnan(values)], list[float]()
    while (mark := _mark_at_an_end(rest)) is not None:
        found.append(mark)
        rest = rest[rest != mark]
    return found


def _mark_at_an_end(values: NDArray[np.float64]) -> float | None:
    if not len(values):
        return None
    for end in (values.min(), values.max()):
        is_end = values == end
        if np.count_nonzero(is_end) >= _FEWEST_REPEATS and _is_far(end, np.unique(values[~is_end])):
            return float(end)
    return None


def _is_far(value: float, others: NDArray[np.float64]) -> bool:
    """Return whether a value is far from others, which are distinct and sorted."""
    if len(others) < _FEWEST_OTHERS:
        is_code = len(others) < 2 or value >= 0.0 or others[0] < 0.0
        return not is_code and bool(others[0] - value > _FAR_FROM_CODES * (others[-1] - others[0]))
    if value < 0.0 <= others[0] and others[0] - value > np.diff(others[: len(others) // 2 + 1]).max():
        return True
    low, high = np.quantile(others, (0.25, 0.75))
    return bool(max(others[0] - value, value - others[-1]) > _FAR * (high - low))
