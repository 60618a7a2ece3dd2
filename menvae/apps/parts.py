"""``menvae-parts``: list every registered part, with its origin, tunables and reference."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from menvae.errors import ExitCode, nearest
from menvae.groups import GROUPS

if TYPE_CHECKING:
    from rich.text import Text

    from menvae.registry import Part


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="menvae-parts", description="List the parts that configurations can name.")
    parser.add_argument("group", nargs="?", help=f"only this group: {', '.join(GROUPS)}")
    group = parser.parse_args().group
    if group is not None and group not in GROUPS:
        sys.stderr.write(f"menvae-parts: group '{group}' does not exist; {nearest(group, GROUPS)}\n")
        sys.exit(ExitCode.WRONG_INPUT)
    from menvae.apps.outcome import carry_out

    if code := carry_out("parts", lambda: _show([group] if group else list(GROUPS))):
        sys.exit(code)


def _show(groups: Sequence[str]) -> int:
    from rich.console import Console
    from rich.text import Text

    from menvae.registry import parts

    console = Console(soft_wrap=True)
    registered = parts()
    for name in groups:
        console.print(Text(name, style="bold"))
        for part in registered:
            if part.group == name:
                console.print(_entry(part))
    return ExitCode.DONE


def _entry(part: Part) -> Text:
    """Return name, origin and summary, a line per tunable with its default, and the reference."""
    from rich.text import Text

    text = Text.assemble("  ", (part.name, "cyan"), f"  ({part.origin})  {part.summary}")
    for name, (_, default) in part.tunables.items():
        text.append(f"\n      {name}: {'required' if default is ... else _written(default)}", style="dim")
    if part.reference:
        text.append(f"\n      reference: {part.reference}", style="dim")
    return text


def _written(value: object) -> str:
    """Return a default in the syntax of YAML and the command line.

    >>> _written({"name": "mlp", "widths": (64, 32), "order": None, "normed": False})
    '{name: mlp, widths: [64, 32], order: null, normed: false}'
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_written(item)}' for key, item in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_written, value))}]"
    return str(value)
