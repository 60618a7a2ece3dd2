"""``menvae-parts``: every registered part, with its origin, tunables and reference."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.text import Text

from menvae.errors import ExitCode, nearest
from menvae.registry import GROUPS, Part, parts


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="menvae-parts", description="List the parts that configurations can name.")
    parser.add_argument("group", nargs="?", help=f"only this group: {', '.join(GROUPS)}")
    group = parser.parse_args().group
    if group is not None and group not in GROUPS:
        sys.stderr.write(f"menvae-parts: group '{group}' does not exist; {nearest(group, GROUPS)}\n")
        sys.exit(ExitCode.WRONG_INPUT)
    console = Console(soft_wrap=True)
    for name in [group] if group else GROUPS:
        console.print(Text(name, style="bold"))
        for part in parts():
            if part.group == name:
                console.print(_entry(part))


def _entry(part: Part) -> Text:
    """Three lines: name and origin, what it is, tunables with defaults."""
    text = Text.assemble("  ", (part.name, "cyan"), f"  ({part.origin})  {part.summary}")
    for name, (_, default) in part.tunables.items():
        text.append(f"\n      {name}: {'required' if default is ... else default}", style="dim")
    if part.reference:
        text.append(f"\n      reference: {part.reference}", style="dim")
    return text
