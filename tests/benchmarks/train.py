"""What training costs, as a whole: runs the benchmarks of steps, starts, sweeps, memory and estimates one by one.

Prints what they print, then a table of all goals, and writes both with date, machine and versions into
``tests/benchmarks/results/``. The exit status is 1 if a goal of one of them is missed; the others run all the same.

On two cores that do nothing else, all take less than an hour. Some goals are ratios to another checkout, such as one of
last month, and are left out without ``--beside``; ``--full`` adds 1,000 subjects to the 100 of ``loading_memory.py``.

    python tests/benchmarks/train.py --beside ../of-last-month
    python tests/benchmarks/train.py --only step tabular
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from menvae.resources.machine import describe_machine

HERE = Path(__file__).resolve().parent
BESIDE_ANOTHER = ("step", "starting", "packing")
ALONE = ("shares", "data_parallel", "tabular", "loading_memory", "resources", "on_gpu")
ALL = (*BESIDE_ANOTHER, *ALONE)
VERDICTS = ("holds", "FAILS", "noted")
"""First words of the lines that `interleaved.judged` and `interleaved.noted` print."""


@dataclass(frozen=True)
class Goal:
    """A line of the table."""

    verdict: str
    benchmark: str
    name: str
    found: str

    @classmethod
    def of(cls, benchmark: str, line: str) -> Goal | None:
        """Return the goal of a line, if it is one.

        >>> Goal.of("step", "holds  a step, plain / here: 2.1 (goal at least 2)")
        Goal(verdict='holds', benchmark='step', name='a step, plain / here', found='2.1 (goal at least 2)')
        """
        verdict, _, words = line.strip().partition(" ")
        if verdict not in VERDICTS:
            return None
        name, _, found = words.strip().rpartition(": ")
        return cls(verdict, benchmark, name, found)


def header() -> str:
    """Return date, machine and versions, and how busy the machine is."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    described = ", ".join(f"{key} {value}" for key, value in describe_machine(device).items())
    load = f"load of the last minute {os.getloadavg()[0]:.2f}"
    return f"{datetime.now(UTC).date()}: {described}, Python {platform.python_version()}, {load}\n"


def shown(text: str) -> str:
    """Print a text as it is, and return it."""
    print(text, end="", flush=True)
    return text


def arguments_of(benchmark: str, beside: Path | None, *, full: bool) -> list[str]:
    """Return the options of a benchmark."""
    arguments = ["--beside", str(beside.resolve())] if beside and benchmark in BESIDE_ANOTHER else []
    return [*arguments, "--full"] if full and benchmark == "loading_memory" else arguments


def run(benchmark: str, arguments: Sequence[str]) -> tuple[list[str], list[Goal]]:
    """Run a benchmark; return the lines that it and this function print, and its goals."""
    heading = f"{benchmark}.py{' --beside ...' if '--beside' in arguments else ''}"
    lines, goals, started = [shown(f"\n{heading}\n")], [], time.monotonic()
    command = [sys.executable, "-u", str(HERE / f"{benchmark}.py"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(shown(line))
            goal = Goal.of(benchmark, line)
            goals += [goal] if goal else []
    if process.returncode and all(goal.verdict != "FAILS" for goal in goals):
        goals.append(Goal("FAILS", benchmark, "it ended without a judgement", f"exit code {process.returncode}"))
    lines.append(shown(f"({(time.monotonic() - started) / 60:.1f} minutes)\n"))
    return lines, goals


def table(goals: Iterable[Goal]) -> str:
    """Return all goals, one a line."""
    rows = [(goal.verdict, goal.benchmark, goal.name, goal.found) for goal in goals]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\nall goals\n" + "".join(f"{line}\n" for line in lines)


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout, for the benchmarks that compare two")
    parser.add_argument("--full", action="store_true", help="1,000 subjects, about a quarter of an hour more")
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL)
    options = parser.parse_args()
    written, goals = [shown(header())], []
    if options.beside is None:
        written.append(shown("without --beside, goals that are ratios to another checkout are left out\n"))
    for benchmark in options.only:
        lines, found = run(benchmark, arguments_of(benchmark, options.beside, full=options.full))
        written += lines
        goals += found
    written.append(shown(table(goals) if goals else ""))
    part = "train" if set(options.only) == set(ALL) else "-".join(options.only)
    results = HERE / "results" / f"{datetime.now(UTC).date()}-{part}.txt"
    results.parent.mkdir(exist_ok=True)
    results.write_text("".join(written))
    failed = sum(goal.verdict == "FAILS" for goal in goals)
    print(f"\n{failed} of {len(goals)} goals missed; written to {results.name}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
