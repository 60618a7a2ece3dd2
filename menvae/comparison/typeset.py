r"""The table of configurations for documents: Markdown, and LaTeX with booktabs.

Both have the mean and the standard deviation over the replicates of every gate of the validation split, and the best
mean of each gate in bold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from menvae.comparison.results import Comparison, Summary
from menvae.comparison.swept_keys import natural
from menvae.comparison.words import (
    PLUS_MINUS,
    best_of,
    key_words,
    shortened,
    shortened_words,
    shown_passed,
    shown_summary,
    shown_value,
    wanted,
)
from menvae.files import write_text

_LATEX: Final = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "\N{EN DASH}": "--",
    PLUS_MINUS: r"\textpm{}",
}


def write_markdown(comparison: Comparison, path: Path) -> Path:
    """Write the table of configurations in the Markdown of GitHub; return ``path``."""
    table = _table(comparison)
    heads = [markdown(column.head) for column in table.columns]
    sides = [":--" if column.is_text else "--:" for column in table.columns]
    rows = table.rows(lambda text, is_best: f"**{markdown(text)}**" if is_best else markdown(text))
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, sides, *rows)]
    return write_text(path, "\n".join([*lines, "", markdown(" ".join(table.notes)), ""]))


def write_latex(comparison: Comparison, path: Path) -> Path:
    r"""Write the table of configurations as a ``tabular`` to ``\input``; return ``path``."""
    table = _table(comparison)
    lines = [f"% {note}" for note in (*table.notes, r"It needs \usepackage{booktabs}.")]
    lines.append(rf"\begin{{tabular}}{{{''.join('l' if column.is_text else 'r' for column in table.columns)}}}")
    lines += [r"\toprule", _latex_row([latex(column.head) for column in table.columns]), r"\midrule"]
    for place, row in enumerate(table.rows(_latex_cell)):
        lines += [r"\midrule"] * (place in table.breaks)
        lines.append(_latex_row(row))
    return write_text(path, "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""]))


def markdown(text: str) -> str:
    r"""Escape a text for a cell of a Markdown table.

    >>> markdown("a|b_c<i>*x*")
    'a\\|b\\_c\\<i\\>\\*x\\*'
    """
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", _one_line(text))


def latex(text: str) -> str:
    r"""Escape a text for LaTeX.

    >>> latex("max_dcor < 50 % & $x^2$")
    'max\\_dcor \\textless{} 50 \\% \\& \\$x\\textasciicircum{}2\\$'
    """
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


@dataclass(frozen=True)
class _Column:
    """A column of texts, and which of its rows are the best."""

    head: str
    texts: Sequence[str]
    best: Sequence[bool]
    is_text: bool = False

    @classmethod
    def plain(cls, head: str, texts: Sequence[str], is_text: bool = False) -> _Column:
        """Return a column without a best row."""
        return cls(head, texts, [False] * len(texts), is_text)


@dataclass(frozen=True)
class _Typeset:
    """A table, the rows before which a cohort begins, and notes."""

    columns: Sequence[_Column]
    breaks: frozenset[int]
    notes: Sequence[str]

    def rows(self, cell: Callable[[str, bool], str]) -> list[list[str]]:
        """Return the cells of every row, made of text and whether it is the best."""
        count = len(self.columns[0].texts)
        return [[cell(column.texts[place], column.best[place]) for column in self.columns] for place in range(count)]


def _table(comparison: Comparison) -> _Typeset:
    rows, cohorts = shortened(comparison).rows, {cohort.label: cohort for cohort in comparison.cohorts}
    columns = [_Column.plain("#", [str(one.number) for one in rows])]
    if len(cohorts) > 1:
        columns.append(_Column.plain("data", [one.cohort for one in rows], is_text=True))
    for key in comparison.keys:
        is_text = any(natural(value)[0] for value in key.values)
        columns.append(_Column.plain(key.label, [shown_value(one.values[key.name]) for one in rows], is_text))
    columns.append(_Column.plain(f"{comparison.replicates.noun}s", [str(len(one.runs)) for one in rows]))
    columns.append(_Column.plain("passed", [shown_passed(one) for one in rows]))
    for gate in comparison.gates:
        best = [one.number in best_of(cohorts[one.cohort], gate) for one in rows]
        columns.append(_Column(f"{gate.name} {wanted(gate)}", [_spread(one.gates[gate.name]) for one in rows], best))
    notes = [
        *key_words(comparison),
        *shortened_words(comparison),
        f"Mean {PLUS_MINUS} standard deviation over the {comparison.replicates.words}, validation split; bold: best "
        "mean of the gate; in its head: its target.",
    ]
    breaks = frozenset(place for place in range(1, len(rows)) if rows[place].cohort != rows[place - 1].cohort)
    return _Typeset(columns, breaks, notes)


def _spread(summary: Summary) -> str:
    """Return a mean with its deviation, with a space on both sides of the sign."""
    return shown_summary(summary).replace(PLUS_MINUS, f"{PLUS_MINUS} ")


def _latex_cell(text: str, is_best: bool) -> str:
    """Return a cell; numbers are in mathematics, for the length of a minus."""
    if re.fullmatch(rf"[-+]?[\d.,]+(e[-+]?\d+)?( {PLUS_MINUS} [\d.,]+(e[-+]?\d+)?)?", text):
        number = text.replace(",", "{,}").replace(PLUS_MINUS, r"\pm")
        return rf"$\mathbf{{{number}}}$" if is_best else f"${number}$"
    return rf"\textbf{{{latex(text)}}}" if is_best else latex(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"
