"""Tables of plain text for the terminal, which may have thousands of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.control import strip_control_codes
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

MOST_ROWS_OF_RICH = 200
"""Rich takes about a millisecond for each row; tables with more rows than this are laid out here."""
_GAP = "  "


def listing(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """Return a table without lines, whose cells are folded where the terminal is too narrow.

    Args:
        columns: headers.
        rows: cells of each row, without markup: brackets are common in overrides and errors.
    """
    if len(rows) > MOST_ROWS_OF_RICH:
        return _Listing(columns, rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


@dataclass(frozen=True)
class _Listing:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [[strip_control_codes(cell).replace("\n", " ") for cell in row] for row in self.rows]
        natural = [max(map(_width, column)) for column in zip(self.columns, *rows, strict=True)]
        widths = fitting(natural, options.max_width - len(_GAP) * (len(natural) - 1))
        bold = Style(bold=True)
        for line in _lines(self.columns, widths):
            yield Segment(f"{line}\n", bold)
        for row in rows:
            for line in _lines(row, widths):
                yield Segment(f"{line}\n")


def fitting(widths: Sequence[int], room: int) -> list[int]:
    """Return widths of columns that fit together: the widest are narrowed first.

    >>> fitting([3, 40, 10], 60), fitting([3, 40, 10], 33), fitting([3, 40, 10], 15)
    ([3, 40, 10], [3, 20, 10], [3, 6, 6])
    """
    found = list(widths)
    while (excess := sum(found) - room) > 0 and (widest := max(found)) > 1:
        next_widest = max((width for width in found if width < widest), default=1)
        most = max(next_widest, widest - -(-excess // found.count(widest)))
        found = [min(width, most) for width in found]
    return found


def _lines(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Return the lines of a row."""
    folded = [_folded(cell, width) for cell, width in zip(cells, widths, strict=True)]
    lines = []
    for number in range(max(map(len, folded))):
        parts = [column[number] if number < len(column) else "" for column in folded]
        padded = (part + " " * (width - _width(part)) for part, width in zip(parts, widths, strict=True))
        lines.append(_GAP.join(padded).rstrip())
    return lines


def _folded(text: str, width: int) -> list[str]:
    if _width(text) <= width:
        return [text]
    if not text.isascii():
        return chop_cells(text, width)
    return [text[first : first + width] for first in range(0, len(text), width)]


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)
