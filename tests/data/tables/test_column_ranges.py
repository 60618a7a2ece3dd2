"""Ranges in the names of columns."""

from __future__ import annotations

import pandas as pd
import pytest

from menvae.data.sources.features import FACTORS, FeatureSource, draw_features
from menvae.data.sources.table import TableSource
from menvae.data.tables.column_ranges import expanded
from menvae.errors import UserError


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("f{0..2}", ("f0", "f1", "f2")),
        ("f{08..10}_x", ("f08_x", "f09_x", "f10_x")),
        ("f{8..10}", ("f8", "f9", "f10")),
        ("{3..3}", ("3",)),
        ("f{a..b}", ("f{a..b}",)),
    ],
)
def test_ranges_are_those_of_the_shell(name: str, columns: tuple[str, ...]) -> None:
    assert expanded([name], "data.columns") == columns


@pytest.mark.parametrize("name", ["f{2..1}", "f{0..1}_{0..1}"])
def test_other_ranges_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"data\.columns: '.*' is not allowed; write one range"):
        expanded([name], "data.columns")


def test_a_table_is_read_by_range(tmp_path: object) -> None:
    path = f"{tmp_path}/table.csv"
    pd.DataFrame({"f1": [1.0, 2.0], "f2": [3.0, 4.0], "y1": [5.0, 6.0]}).to_csv(path, index=False)
    source = TableSource(path=path, columns=("f{1..2}",), target_columns=("y{1..1}",))
    assert source.channels == ("f1", "f2")
    assert source.table().values.tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert source.table().targets["y1"].tolist() == [5.0, 6.0]


def test_factors_have_unit_variance_and_independent_groups() -> None:
    _, factors = draw_features(50_000, 1, 0.0, seed=0)
    table = pd.DataFrame(factors, columns=list(FACTORS))
    assert table.var().to_numpy() == pytest.approx([1.0] * 10, abs=0.02)
    assert table.corr().loc["vol_total", "vol_ncr"] == pytest.approx(0.8, abs=0.01)
    assert table.corr().iloc[:4, 4:].abs().to_numpy().max() < 0.02


def test_unknown_factors_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.target_columns: 'loc_w' is not a factor"):
        FeatureSource(target_columns=("loc_w",))
