"""Errors that a user can cause and fix, and the exit codes that scripts rely on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum

_MOST_LISTED = 25  # names in a hint that can say which command lists them all
_CLOSEST = 5
_ALIKE = 0.5  # of all letters; below, names have little in common


class ExitCode(IntEnum):
    """Exit codes of every menvae command; any other code is a bug in menvae."""

    DONE = 0
    WRONG_INPUT = 2
    GATES_NOT_MET = 3
    COLLAPSED = 4
    INTERRUPTED = 75


class UserError(ValueError):
    """The user's configuration or data is wrong; the message is one sentence: what, where, what is allowed."""


class FoldError(UserError):
    """A fold of a cross-validation does not exist; the remaining points of its sweep would not cover all patients."""


class RunInterruptedError(BaseException):
    """A run was asked to stop and can resume later; like KeyboardInterrupt, it does not derive from Exception.

    Attributes:
        reason: ``SIGTERM`` and the like, or ``time limit of 30 min``.
    """

    def __init__(self, reason: str, where: str = "") -> None:
        """Args: reason: see above. where: such as ``epoch 3``."""
        super().__init__(f"{reason} in {where}" if where else reason)
        self.reason = reason


class OtherRankFailedError(RuntimeError):
    """Another process of the same run failed; that process reports the cause."""


class OutOfMemoryError(MemoryError):
    """A run needs more memory than there is; the message says what to change."""


class TrainingDivergedError(ArithmeticError):
    """A loss or a gradient is not finite; the message names the first offending scalar or parameter."""


@contextmanager
def about(key: str) -> Iterator[None]:
    """Prefix a `UserError` with a configuration key, for code that does not know which key its values come from.

    Args:
        key: such as ``model.heads.vol``.

    >>> with about("encoder.order"):
    ...     raise UserError("partition 'lox' does not exist")
    Traceback (most recent call last):
        ...
    menvae.errors.UserError: encoder.order: partition 'lox' does not exist
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def nearest(word: str, known: Iterable[str], listed_by: str = "") -> str:
    """Return a hint such as ``did you mean 'vol'? known: loc, vol`` for a misspelt name.

    Args:
        word: the name that was not found.
        known: the names that exist.
        listed_by: command that lists them; if given, a hint about many names shows only the most similar ones.

    >>> nearest("lambda_dcorr", ["lambda_dcor", "lambda_vol"])
    "did you mean 'lambda_dcor'? known: lambda_dcor, lambda_vol"
    >>> nearest("zzz", [])
    'known: none'
    >>> nearest("sem/ed_r2", ["sem/vol_ed_r2", *"abcdefghijklmnopqrstuvwxyz"], "menvae-parts metric")
    "did you mean 'sem/vol_ed_r2'? the closest of 27: sem/vol_ed_r2; menvae-parts metric lists all"
    >>> nearest("ed_r2", ["sem/ed_r2", "sem/vol_ed_r2", *"abcdefghijklmnopqrstuvwxyz"], "menvae-parts metric")
    "did you mean 'sem/ed_r2'? the closest of 28: sem/ed_r2, sem/vol_ed_r2; menvae-parts metric lists all"
    """
    names = sorted(known)
    listing = f"known: {', '.join(names) or 'none'}"
    if listed_by and len(names) > _MOST_LISTED:
        few = difflib.get_close_matches(word, names, n=_CLOSEST, cutoff=_ALIKE)
        all_of = f"the closest of {len(names)}: {', '.join(few)}; {listed_by} lists all"
        listing = all_of if few else f"{listed_by} lists all {len(names)}"
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean '{close[0]}'? {listing}" if close else listing
