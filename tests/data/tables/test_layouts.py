"""The same table in the layouts that programs write, and what it says of those it cannot read."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from menvae.data.sources.table import TableSource
from menvae.data.tables.table_file import Table
from menvae.errors import UserError

FRAME = pd.DataFrame(
    {
        "hole": [f"H{row // 4}" for row in range(24)],
        "density": [2.5 + row / 100 for row in range(24)],
        "gamma": [float(row * row) for row in range(23)] + [0.125],
        "rock": ["Sand", "Chalk", "Coal"] * 8,
    }
)


def read(path: Path, **keys: Any) -> Table:
    settings: dict[str, Any] = {"columns": ("density", "gamma"), "label": "rock", "group": "hole", **keys}
    return TableSource(path=str(path), **settings).table()


@pytest.fixture
def expected() -> Table:
    groups = np.repeat(np.arange(6), 4)
    labels = np.tile([2, 0, 1], 8)  # Chalk, Coal, Sand
    values = FRAME[["density", "gamma"]].to_numpy()
    return Table(("density", "gamma"), values, labels, ("Chalk", "Coal", "Sand"), groups)


@pytest.mark.parametrize(
    "how",
    [{"sep": ","}, {"sep": ";"}, {"sep": ";", "decimal": ","}, {"sep": "\t"}, {"sep": "\t", "decimal": ","}],
    ids=str,
)
@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.csv.gz", "a.tsv"])
def test_csv_of_every_layout_is_the_same_table(tmp_path: Path, expected: Table, name: str, how: dict[str, str]) -> None:
    FRAME.to_csv(tmp_path / name, index=False, **how)  # type: ignore[call-overload]
    assert read(tmp_path / name).hash == expected.hash


def test_a_separator_may_be_part_of_other_names(tmp_path: Path, expected: Table) -> None:
    FRAME.assign(**{"a;b;c;d;e;f": 1}).to_csv(tmp_path / "a.csv", index=False)
    FRAME.assign(**{"a,b,c,d,e,f": 1}).to_csv(tmp_path / "b.csv", index=False, sep=";")
    assert read(tmp_path / "a.csv").hash == read(tmp_path / "b.csv").hash == expected.hash


def test_a_decimal_comma_is_no_separator_of_thousands(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("density;gamma\n1.234,5;1\n2,5;1\n")
    with pytest.raises(UserError, match=r"column 'density' contains '1\.234,5' in line 2"):
        read(tmp_path / "a.csv", label=None, group=None)


def test_two_decimal_marks_in_one_column_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("hole;density;rock\nA;2,5;x\nA;-999.25;y\nB;2,7;x\nB;2,6;y\n")
    with pytest.raises(
        UserError,
        match=r"'2,5' in line 2, with a decimal comma, but '-999\.25' in line 3, with a decimal point; .*null_values$",
    ):
        read(tmp_path / "a.csv", columns=("density",))
    known = read(tmp_path / "a.csv", columns=("density",), null_values=(-999.25,), gaps="drop")
    np.testing.assert_array_equal(known.values[:, 0], [2.5, 2.7, 2.6])
    (tmp_path / "b.csv").write_text('hole,density,rock\nA,"2,5",x\nB,"2,7",y\n')
    with pytest.raises(UserError, match="'2,5' in line 2, with a decimal comma; separate the columns by semicolons"):
        read(tmp_path / "b.csv", columns=("density",))


def test_rows_are_named_by_their_lines_in_the_file(tmp_path: Path) -> None:
    """The header, a row of units, empty lines and cells of two lines count; Parquet has rows only."""
    (tmp_path / "a.csv").write_text('hole,density,rock\n,g/cm3,\n\nA,2.5,"x\ny"\nA,2.6,z\n\nB,wet,z\n')
    with pytest.raises(UserError, match="contains 'wet' in line 8, "):
        read(tmp_path / "a.csv", columns=("density",))
    (tmp_path / "b.csv").write_text("hole,density,rock\nA,2.5,x\n,2.5,y\n")
    with pytest.raises(UserError, match=r"data\.group: line 3 has no value in column 'hole'"):
        read(tmp_path / "b.csv", columns=("density",))
    pd.DataFrame({"hole": ["A", "B"], "density": ["2.5", "wet"], "rock": ["x", "y"]}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(UserError, match="contains 'wet' in row 2, "):
        read(tmp_path / "c.parquet", columns=("density",))


def test_booleans_are_the_same_classes_in_every_format(tmp_path: Path) -> None:
    values = FRAME.assign(rock=[row % 3 == 0 for row in range(24)])
    values.to_parquet(tmp_path / "a.parquet")
    expected = read(tmp_path / "a.parquet")
    assert expected.classes == ("False", "True")
    for how in (str, str.lower, str.upper):
        values.assign(rock=values.rock.map(lambda one, how=how: how(str(one)))).to_csv(tmp_path / "a.csv", index=False)
        assert read(tmp_path / "a.csv").hash == expected.hash


@pytest.mark.parametrize("row", ["-;g/cm3;gAPI;", ";g/cm3;;", "unit;10^-3 kg;%;word"])
def test_a_row_of_units_is_skipped_and_said(
    tmp_path: Path, expected: Table, row: str, caplog: pytest.LogCaptureFixture
) -> None:
    header, *rows = FRAME.to_csv(index=False, sep=";").splitlines()
    (tmp_path / "a.csv").write_text("\n".join([header, row, *rows]))
    assert read(tmp_path / "a.csv").hash == expected.hash
    assert f"the first row after the header holds units, such as '{row.split(';')[1]}', and is skipped" in caplog.text


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("H0,<5,1.5,Sand", "column 'density' contains '<5' in line 2"),
        ("H0,<5,>9.5,Sand", "column 'density' contains '<5' in line 2"),
        ("H0,,,Sand", "1 of 25 rows have missing values, the first in line 2, column 'density'"),
        ("H0,NA,NA,Sand", "1 of 25 rows have missing values, the first in line 2, column 'density'"),
    ],
)
def test_a_first_row_of_data_is_no_row_of_units(tmp_path: Path, cells: str, words: str) -> None:
    header, *rows = FRAME.to_csv(index=False).splitlines()
    (tmp_path / "a.csv").write_text("\n".join([header, cells, *rows]))
    with pytest.raises(UserError, match=words):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize("index", [["hole"], ["hole", "density"], ["rock"], ["gamma"], None])
def test_columns_of_an_index_are_columns(tmp_path: Path, expected: Table, index: list[str] | None) -> None:
    (FRAME.set_index(index) if index else FRAME).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").hash == expected.hash


def test_large_integers_stay_exact_beside_missing_ones(tmp_path: Path) -> None:
    rocks = pd.array([2**60, 2**60 + 1, None, 2**60] * 6, dtype="Int64")
    FRAME.assign(rock=rocks).to_parquet(tmp_path / "a.parquet")
    FRAME.assign(rock=rocks).to_csv(tmp_path / "a.csv", index=False)
    ours, theirs = read(tmp_path / "a.parquet"), read(tmp_path / "a.csv")
    assert ours.classes == theirs.classes == (str(2**60), str(2**60 + 1))
    assert ours.hash == theirs.hash


def test_bytes_in_parquet_are_text(tmp_path: Path, expected: Table) -> None:
    """As Spark and some databases write text."""
    FRAME.assign(rock=FRAME["rock"].str.encode("utf-8")).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").hash == expected.hash
    FRAME.assign(rock=[b"Gr\xe8s", b"Coal"] * 12).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet' cannot be read as a table: Invalid UTF8"):
        read(tmp_path / "b.parquet")


def test_a_folder_of_parquet_is_one_table(tmp_path: Path, expected: Table) -> None:
    folder = tmp_path / "holes"
    (folder / "_temporary").mkdir(parents=True)
    for number, (_, rows) in enumerate(FRAME.groupby("hole")):
        rows.to_parquet(folder / f"part-{number:05d}.{'PARQUET' if number % 2 else 'snappy.parquet'}")
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_temporary/a.parquet", "README.txt"):
        (folder / name).write_text("x")
    assert read(folder).hash == expected.hash


def test_folders_may_be_named_after_a_column(tmp_path: Path, expected: Table) -> None:
    folder = tmp_path / "density=1" / "holes"  # only folders below the table are columns
    folder.mkdir(parents=True)
    FRAME.to_parquet(folder, partition_cols=["hole"])
    assert read(folder).hash == expected.hash


def test_files_of_a_folder_may_lack_columns(tmp_path: Path) -> None:
    first, second = FRAME[:12].assign(gamma=np.arange(12), density=None, rock=None), FRAME[12:]
    first.drop(columns="rock").to_parquet(tmp_path / "a.parquet")  # gamma holds integers, density only nulls
    second.to_parquet(tmp_path / "b.parquet")
    found = read(tmp_path, columns=("gamma",), target_columns=("density",))
    np.testing.assert_array_equal(found.values[:, 0], [*np.arange(12), *second.gamma])
    np.testing.assert_array_equal(found.targets["density"], [*[np.nan] * 12, *second.density])
    assert (found.labels[:12] == -1).all()
    assert (found.labels[12:] >= 0).all()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "hole,density,gamma,rock\nH1,1,2,gr\u00e8s\n".encode("latin-1"), "is not UTF-8; save it as CSV in"),
        ("a.csv", "hole,density,gamma,rock\nH1,1,\u00b52,a\n".encode("latin-1"), "is not UTF-8; save it as CSV in"),
        ("a.csv", "hole,density,gamma,rock\nH1,1,2,a\n".encode("utf-16"), "is not UTF-8; save it as CSV in"),
        ("a.csv", b"", "cannot be read as a table: it has no header"),
        ("a.csv", b"hole;density;gama;rock\nH1;1;2;a\n", "has no column 'gamma'; did you mean 'gama'?"),
        ("a.csv.gz", gzip.compress(b"hole,gamma\nH1,2\n" * 9, mtime=0)[:30], "cannot be read as a table"),
        ("a.csv.gz", b"hole", "cannot be read as a table"),
        ("folder", None, "is a folder without .parquet files"),
        ("a.xlsx", b"x", "its name must end in .csv, .tsv or .parquet"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_that_are_not_read_may_have_another_encoding(tmp_path: Path, expected: Table) -> None:
    content = FRAME.assign(**{"Schl\u00fcssel": "gr\u00e8s"})
    content.to_csv(tmp_path / "a.csv", index=False, encoding="latin-1")
    assert read(tmp_path / "a.csv").hash == expected.hash


def test_cells_may_be_long(tmp_path: Path, expected: Table) -> None:
    FRAME.assign(outline="POLYGON" * 30_000).to_csv(tmp_path / "a.csv", index=False)
    assert read(tmp_path / "a.csv").hash == expected.hash


def test_layouts_are_read_without_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FRAME.to_csv(tmp_path / "a.csv", index=False, sep=";", decimal=",")
    with caplog.at_level(logging.WARNING):
        read(tmp_path / "a.csv")
    assert not caplog.records
