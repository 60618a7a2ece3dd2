"""A synthetic table of drill holes: measurements along each hole, with many rock classes, most of them rare.

It does not represent a real deposit, but reproduces what makes real tables hard: heavy tails of both signs, overlapping
classes, frequencies that fall like 1 / rank, intervals of similar neighbours, and holes that contain only some of the
rocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from menvae.data.tables.scaler import Transform
from menvae.data.tables.table_file import Table
from menvae.data.tables.tabular import TabularSource
from menvae.errors import UserError
from menvae.registry import Field, register

COLUMNS = ("bulk_density", "magnetic_susceptibility", "natural_gamma", "red", "green", "blue")
TRANSFORMS: dict[str, Transform] = {
    "magnetic_susceptibility": "signed_log",
    "natural_gamma": "signed_log",
    "red": "log1p",
    "green": "log1p",
    "blue": "log1p",
}
NUM_FAMILIES = 12
"""Number of rocks of which the classes are variations."""
ROWS_OF_AN_INTERVAL = 12.0
"""Mean length of an interval of one class, in rows."""


@register("data", "lithology", reference="the lithology tables of the design reports; menvae.data.sources.lithology")
@dataclass(frozen=True, kw_only=True)
class LithologySource(TabularSource):
    """A synthetic table of drill holes; splits keep holes whole.

    Attributes:
        num_rows: number of rows N.
        num_classes: number of classes; most are rare, and some have no row in a small table.
        num_holes: number of drill holes, with about equally many rows each.
        seed: seed of the table.
    """

    columns: tuple[str, ...] = COLUMNS
    transforms: dict[str, Transform] | None = field(default_factory=lambda: dict(TRANSFORMS))
    num_rows: Annotated[int, Field(ge=20)] = 6000
    num_classes: Annotated[int, Field(ge=2)] = 139
    num_holes: Annotated[int, Field(ge=3)] = 60
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        """Refuse unknown columns, and holes of fewer than 2 rows."""
        super().__post_init__()
        for key, names in (("columns", self.columns), ("target_columns", self.target_columns)):
            unknown = [name for name in names if name not in COLUMNS]
            if unknown:
                raise UserError(f"data.{key}: unknown column '{unknown[0]}'; known: {', '.join(COLUMNS)}")
        if 2 * self.num_holes > self.num_rows:
            raise UserError(
                f"data.num_holes: {self.num_holes} is not allowed with data.num_rows={self.num_rows}; a hole has at "
                "least 2 rows"
            )

    @property
    def files(self) -> Sequence[Path]:
        """Only those of another run: the table is drawn."""
        return self.files_of_others

    @property
    def gives(self) -> frozenset[str]:
        """Labels."""
        return frozenset({"labels"})

    def table(self) -> Table:
        """Draw the table."""
        whole = draw_holes(self.num_rows, self.num_classes, self.num_holes, self.seed)
        chosen = [COLUMNS.index(name) for name in self.columns]
        targets = {name: whole.values[:, COLUMNS.index(name)] for name in self.target_columns}
        return replace(whole, columns=self.columns, values=whole.values[:, chosen], targets=targets)


def draw_holes(num_rows: int, num_classes: int, num_holes: int, seed: int) -> Table:
    """Draw a table of drill holes.

    Bulk density is in g/cm^3, magnetic susceptibility in 1e-5 SI (negative for some rocks), natural gamma in API units,
    colours are in [0, 255].

    Args:
        num_rows: number of rows N.
        num_classes: number of classes K.
        num_holes: number of consecutive holes, of about N / num_holes rows each.
        seed: seed of all draws.
    """
    random = np.random.default_rng([seed, num_classes, num_holes])
    family = random.integers(NUM_FAMILIES, size=num_classes)
    rocks = random.normal(size=(NUM_FAMILIES, len(COLUMNS)))
    centres = rocks[family] + 0.5 * random.normal(size=(num_classes, len(COLUMNS)))
    spreads = random.uniform(0.15, 0.4, size=(num_classes, 1))
    frequency = 1.0 / np.arange(1.0, num_classes + 1.0)
    groups = np.arange(num_rows) * num_holes // num_rows
    labels = np.concatenate(
        [_intervals(int(size), frequency, random) for size in np.bincount(groups, minlength=num_holes)]
    )
    levels = centres[labels] + spreads[labels] * random.normal(size=(num_rows, len(COLUMNS)))
    digits = len(str(num_classes))
    classes = tuple(f"L{number:0{digits}d}" for number in range(1, num_classes + 1))
    names = tuple(f"hole-{number:0{len(str(num_holes))}d}" for number in range(1, num_holes + 1))
    numbered = labels.astype(np.int64), classes, groups.astype(np.int64)
    return Table(COLUMNS, _measured(levels), *numbered, group_names=names)


def _intervals(num_rows: int, frequency: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the classes along one hole; each hole favours some of them."""
    favoured = frequency * random.gamma(0.3, size=len(frequency)) + 1e-12
    lengths = random.geometric(1.0 / ROWS_OF_AN_INTERVAL, size=num_rows)
    chosen = random.choice(len(frequency), size=num_rows, p=favoured / favoured.sum())
    return np.repeat(chosen, lengths)[:num_rows]


def _measured(levels: np.ndarray) -> np.ndarray:
    """Transform standardised levels [N, 6] into measurements."""
    density = 2.75 + 0.25 * levels[:, 0]
    susceptibility = np.sign(levels[:, 1]) * np.expm1(2.5 * np.abs(levels[:, 1]))
    gamma = np.expm1(np.clip(4.0 + 0.8 * levels[:, 2], 0.0, None))
    colours = np.clip(np.expm1(4.6 + 0.5 * levels[:, 3:]), 0.0, 255.0)
    return np.column_stack([density, susceptibility, gamma, colours]).astype(np.float64)
