"""Results of pure functions, kept for the next call with the same content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Once:
    """Calls functions of plain values once for each content of their arguments.

    The functions must depend on nothing else, and their results must not be changed. What they raise is not kept.

    >>> once = Once()
    >>> once(list, [1]) is once(list, [1]), once(list, [1]) is once(list, [1.0])
    (True, False)
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, str], Any] = {}

    def __call__(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """Return the result of a function.

        Args:
            function: the function.
            arguments: its arguments, which are compared by what `repr` says of them: 1, 1.0 and "1" differ.
            keywords: its keyword arguments.
        """
        key = (function, repr((arguments, keywords)))
        if key not in self._known:
            self._known[key] = function(*arguments, **keywords)
        found: T = self._known[key]
        return found
