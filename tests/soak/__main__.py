"""Tries to break menvae at random: overrides, damaged files and kills; prints one table and fails if anything failed.

- ``configurations`` checked in this process, and ``commands``: accepted, or refused in one sentence
- ``entries`` of a cache, ``checkpoints`` and ``states`` of runs and sweeps, damaged: repaired, reported in one
  sentence, or without effect
- ``training`` and ``preparation`` killed (SIGKILL): the same command ends as if it had not been killed

``python tests/soak`` does all, in half an hour on two cores; ``python tests/soak configurations=100 training`` some.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import argparse
import logging
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # of tests

import torch
from commands import commands
from damages import checkpoints, entries, states
from kills import preparation, training
from overrides import configurations
from rich.console import Console
from rich.table import Table
from tally import Tally

Part = Callable[[Tally, random.Random, Path], None]

PARTS: dict[str, tuple[Part, int]] = {
    "configurations": (configurations, 2000),
    "commands": (commands, 200),
    "entries": (entries, 500),
    "checkpoints": (checkpoints, 500),
    "states": (states, 200),
    "training": (training, 25),
    "preparation": (preparation, 10),
}
"""Parts, and the number of trials of each."""

_MOST_BYTES = 12 << 30


def main() -> int:
    """Run the parts, print the table, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART[=NUM]", help=f"default: {' '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = [(name, num) for name, _, num in (text.partition("=") for text in options.parts or PARTS)]
    if unknown := {name for name, _ in chosen} - PARTS.keys():
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))  # also of the commands
    torch.set_num_threads(1)
    logging.getLogger("menvae").setLevel(logging.CRITICAL)
    sys.stdout.write(f"seed {options.seed}\n")
    tallies = []
    for name, num in chosen:
        task, default = PARTS[name]
        with tempfile.TemporaryDirectory() as folder, Tally(name, int(num or default)) as tally:
            task(tally, random.Random(options.seed), Path(folder))
        tallies.append(tally)
    Console(width=None if sys.stdout.isatty() else 120).print(_table(tallies, options.seed))
    return int(any(tally.failures for tally in tallies))


def _table(tallies: list[Tally], seed: int) -> Table:
    table = Table(title=f"make soak, seed {seed}", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column, justify in (("part", "left"), ("tried", "right"), ("failed", "right"), ("min", "right"), ("", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for tally in tallies:
        failed = tally.failures.total()
        numbers = (str(tally.ends.total() + failed), str(failed), f"{tally.seconds / 60:.1f}")
        table.add_row(tally.part, *numbers, tally.counts, style="red" if failed else None)
    return table


if __name__ == "__main__":
    sys.exit(main())
