"""``menvae-parts``: every registered part, with its origin, tunables and reference."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

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
    table = Table("group", "name", "origin", "what it is", "tunables (default)", "reference")
    for part in parts():
        if group in (None, part.group):
            table.add_row(part.group, part.name, part.origin, part.summary, _tunables(part), part.reference)
    console = Console()
    console.print(table if console.is_terminal else table, soft_wrap=False)


def _tunables(part: Part) -> str:
    return "\n".join(
        f"{name} (required)" if default is ... else f"{name} ({default})" for name, (_, default) in part.tunables.items()
    )
