"""Command lines of ``menvae-sweep``: those without Hydra, and what a retry adds to one of ``menvae-train``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from menvae.errors import UserError, nearest

_FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-path", "-cp")


def typed(
    verb: str, arguments: Sequence[str], keys: Sequence[str], switches: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Read the command line of a verb that does not use Hydra.

    Args:
        verb: such as ``promote``.
        arguments: what follows it.
        keys: keys and flags that have a value, besides ``sweep.name`` and ``output_dir``.
        switches: flags without a value, which get ``true``.

    Returns:
        Words that are neither; {key or flag: value}, with a default of ``output_dir``.

    Raises:
        UserError: a key does not exist, or lacks its value.

    >>> typed("promote", ["3", "--name", "best", "output_dir=there"], ["--name"])
    (['3'], {'output_dir': 'there', '--name': 'best'})
    """
    known = (*keys, *switches, "sweep.name", "output_dir")
    given: dict[str, str] = {"output_dir": "./outputs"}
    words, rest = [], list(arguments)
    while rest:
        key, separator, value = rest.pop(0).partition("=")
        if not separator and not key.startswith("-"):
            words.append(key)
            continue
        if key not in known:
            raise UserError(f"{verb}: {key}: no such key; {nearest(key, known)}")
        if key in switches:
            if separator:
                raise UserError(f"{verb}: {key}: takes no value")
            given[key] = "true"
            continue
        if not separator and not rest:
            raise UserError(f"{verb}: {key}: a value is required")
        given[key] = (value if separator else rest.pop(0)).strip("\"'")
    return words, given


@dataclass
class RetryArguments:
    """The command line of a retry.

    Attributes:
        output_dir: where the sweep is.
        name: name of the sweep; None for the latest.
        cause: of the failed points that are to run; None for all.
        flags: flags of Hydra, with their values.
        launcher: overrides of the launcher.
        changes: overrides of the points.
    """

    output_dir: str = "./outputs"
    name: str | None = None
    cause: str | None = None
    flags: list[str] = field(default_factory=list)
    launcher: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, arguments: Sequence[str]) -> RetryArguments:
        """Read a command line.

        Raises:
            UserError: ``--cause`` lacks its value, or keys change without it.

        >>> read = RetryArguments.read(["--cause", "lost", "trainer.batch_size=4", "site=mine", "sweep.name=a"])
        >>> read.cause, read.changes, read.launcher, read.name
        ('lost', ['trainer.batch_size=4'], ['site=mine'], 'a')
        """
        found, rest = cls(), list(arguments)
        others = []
        while rest:
            key, separator, value = rest.pop(0).partition("=")
            if key == "--cause":
                if not separator and not rest:
                    raise UserError("retry: --cause: a value is required, such as out_of_memory")
                found.cause = (value if separator else rest.pop(0)).strip("\"'")
            elif separator and key == "sweep.name":
                found.name = value.strip("\"'")  # quotes are for Hydra's grammar
            elif separator and key == "output_dir":
                found.output_dir = value.strip("\"'")
            else:
                others.append(key + separator + value)
        found.flags, overrides = parted(others)
        for override in overrides:
            of_launcher = override.lstrip("+~").startswith(("hydra", "site="))
            (found.launcher if of_launcher else found.changes).append(override)
        if found.changes and found.cause is None:
            raise UserError(
                f"'{found.changes[0]}': retry repeats points with the same configuration, and only the launcher can be "
                "changed; with --cause CAUSE, the points that failed so run with changed keys"
            )
        return found


def parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return flags of a command line, with their values, and its overrides.

    >>> parted(["--config-dir", "conf", "site=mine", "--cfg", "hydra", "hydra.launcher.num_parallel=2"])
    (['--config-dir', 'conf', '--cfg', 'hydra'], ['site=mine', 'hydra.launcher.num_parallel=2'])
    """
    flags: list[str] = []
    overrides: list[str] = []
    expects_value = False
    for argument in arguments:
        is_flag = argument.startswith("-")
        (flags if is_flag or expects_value else overrides).append(argument)
        expects_value = is_flag and argument in _FLAGS_WITH_VALUE
    return flags, overrides
