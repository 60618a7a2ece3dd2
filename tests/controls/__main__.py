"""Judges models made by hand by the gates of a run, and prints one table: bad ones must be refused, healthy ones pass.

Every model encodes and decodes images that are drawn from known factors, in a way that is wrong on purpose. The gates
judge them on a validation and a test split, as at the end of training. ``python tests/controls`` judges all of them;
``python tests/controls "B'" twins`` some. Exit code 1 if a bad model passes a gate that it must fail, or a healthy one
does not pass all.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import argparse
import logging
import sys

from catalogue import CONTROLS
from drawn_cohort import FACTORS
from judging import FULL, Result, judged
from rich.console import Console
from rich.progress import track
from rich.table import Table

_console = Console(stderr=True)
_READS = "decoder_reads_"


def main() -> int:
    """Judge the controls, print the table, and return 1 if any was judged wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [control.name for control in CONTROLS]
    parser.add_argument("controls", nargs="*", metavar="CONTROL", help=f"default: all of {', '.join(names)}")
    options = parser.parse_args()
    if unknown := set(options.controls) - set(names):
        parser.error(f"unknown control: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen = [control for control in CONTROLS if control.name in options.controls or not options.controls]
    logging.getLogger("menvae").setLevel(logging.CRITICAL)
    shown = track(chosen, "judging", console=_console, disable=not _console.is_terminal)
    results = [judged(control) for control in shown]
    Console(width=None if sys.stdout.isatty() else 160).print(_table(results))
    wrong = [result.control.name for result in results if not result.is_right]
    sys.stdout.write(f"judged wrongly: {', '.join(wrong)}\n" if wrong else f"all {len(results)} judged rightly\n")
    return int(bool(wrong))


def _table(results: list[Result]) -> Table:
    title = "make controls: {} training, {} validation and {} test patients".format(*FULL)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("control", "what it is", "must fail", "also fails", "undecided", "verdict"):
        table.add_column(column)
    for result in results:
        control = result.control
        others = [name for name in result.gates("fail", "not computed") if name not in control.must_fail]
        must_fail = [name for name in result.verdicts if name in control.must_fail]
        cells = (_words(must_fail), _words(others), _words(result.gates("undecided")), result.verdict)
        style = None if result.is_right else "red"
        table.add_row(control.name, control.what, *cells, style=style)
    return table


def _words(gates: list[str]) -> str:
    """Return names of gates, those about what the decoder reads as one."""
    reads = [name.removeprefix(_READS) for name in gates if name.startswith(_READS)]
    together = _READS + {1: "".join(reads), len(FACTORS): "*"}.get(len(reads), f"{{{','.join(reads)}}}")
    return ", ".join([name for name in gates if not name.startswith(_READS)] + [together] * bool(reads)) or "-"


if __name__ == "__main__":
    sys.exit(main())
