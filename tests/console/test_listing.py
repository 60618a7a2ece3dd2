"""Tables of thousands of rows say what those of rich say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from menvae.console.listing import MOST_ROWS_OF_RICH, listing

COLUMNS = ("", "point", "fate")
ROWS = [
    (str(number), f"seed={number} data.roi_size=[bold]{'x' * (number % 40)}", "running" if number % 3 else "")
    for number in range(MOST_ROWS_OF_RICH + 50)
]


def _printed(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    output = StringIO()
    Console(file=output, width=width).print(listing(COLUMNS, rows))
    return output.getvalue().splitlines()


def test_many_rows_look_like_few() -> None:
    few = [line.rstrip() for line in _printed(ROWS[:MOST_ROWS_OF_RICH], 200)]
    many = _printed(ROWS, 200)
    assert many[: len(few)] == few
    assert len(many) == len(ROWS) + 1


@pytest.mark.parametrize("width", [60, 30, 12])
def test_where_a_terminal_is_narrow_nothing_is_lost(width: int) -> None:
    lines = _printed(ROWS, width)
    assert max(map(len, lines)) <= width
    assert sorted("".join(lines).replace(" ", "")) == sorted("".join([*COLUMNS, *map("".join, ROWS)]).replace(" ", ""))


def test_wide_characters_and_line_ends() -> None:
    rows = [("1", "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 30, "two\nlines\x07")] * (MOST_ROWS_OF_RICH + 1)
    lines = _printed(rows, 40)
    assert max(map(cell_len, lines)) <= 40
    assert "\x07" not in "".join(lines)
    assert "".join(lines).count("\N{CJK UNIFIED IDEOGRAPH-6F22}") == 30 * len(rows)


def test_ten_thousand_rows_take_a_moment() -> None:
    rows = [
        (str(number), "loss.lambda_kl=0.5 optimizer.learning_rate=0.001", "not started") for number in range(10_000)
    ]
    started = time.process_time()
    _printed(rows, 10_000)
    assert time.process_time() - started < 3.0
