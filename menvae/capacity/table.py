"""What ``menvae-bench`` shows: a table of measurements, and sentences about other machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from menvae.training.phases import PHASES


def measurements_table(result: Mapping[str, Any]) -> Table:
    """Return the measurements of a result, one line per size and precision."""
    peaks = ", ".join(f"{name} {value:,.0f} GFLOP/s" for name, value in result["peaks"]["gflops"].items())
    title = f"{result['machine']['name']}: {peaks}, {result['peaks']['gb_per_s']:.0f} GB/s"
    table = Table(title=title, title_justify="left")
    for column in ("box", "precision", "steps/s", "volumes/s", "of roofline", *PHASES):
        table.add_column(column, justify="left" if column == "precision" else "right")
    for one in result["measurements"]:
        shares = [f"{one['shares'].get(phase, 0.0):.1%}" for phase in PHASES]
        numbers = [f"{one['steps_per_s']:.3g}", f"{one['volumes_per_s']:.3g}", f"{one['fraction_of_roofline']:.0%}"]
        table.add_row(f"{one['size']}^3", one["precision"], *numbers, *shares)
    return table


def comparison_lines(result: Mapping[str, Any], references: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one sentence per reference machine that has something in common with a result."""
    lines = []
    for reference in references:
        name = reference["machine"]["name"]
        ratio = result["compared"].get(name)
        if ratio is not None:
            lines.append(f"Your machine does {ratio:.0%} of {name} ({reference['date']}).")
        elif reference["model"] != result["model"]:
            lines += _of_another_model(result, reference)
    return lines


def _of_another_model(result: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """Return sentences about the published speed of another model at a size that was measured."""
    lines = []
    for theirs in reference["measurements"]:
        mine = [one for one in result["measurements"] if one["size"] == theirs["size"]]
        if mine:
            best = max(one["volumes_per_s"] for one in mine)
            what = f"{theirs['volumes_per_s']:.3g} volumes/s at {theirs['size']}^3"
            whose = f"{reference['model']} on {reference['machine']['name']}"
            lines.append(f"Beside {what} of {whose}: {best:.3g} ({reference['source']}).")
    return lines
