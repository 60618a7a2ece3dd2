"""Missing values: one meaning in every column and file format, and numbers that look as if they were missing."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.csv
import pytest

from menvae.data.batches.augmentation import AugmentationSettings
from menvae.data.source import DataRequest
from menvae.data.sources.table import TableSource
from menvae.data.tables.nulls import suspected_marks
from menvae.data.targets.normalizer import TargetSettings
from menvae.errors import UserError
from menvae.files import NULL_WORDS

RANDOM = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "hole": [f"H{row // 5}" for row in range(60)],
        "gamma": RANDOM.uniform(10.0, 120.0, 60).round(2),
        "grade": RANDOM.uniform(0.0, 1.0, 60).round(3),
        "rock": ["Sand", "Chalk", "Coal"] * 20,
    }
)


def source(content: pd.DataFrame, path: Path, **keys: Any) -> TableSource:
    if path.suffix == ".csv":
        content.to_csv(path, index=False)
    else:
        content.to_parquet(path)
    settings: dict[str, Any] = {"columns": ("gamma",), "target_columns": ("grade",), "label": "rock", **keys}
    return TableSource(path=str(path), **{"group": "hole", "gaps": "drop", **settings})


def test_words_are_those_of_pandas_and_pyarrow() -> None:
    read = pd.read_csv(io.StringIO("a,b\n" + "".join(f"{word},1\n" for word in sorted(NULL_WORDS))))
    assert read.a.isna().all()
    assert set(pyarrow.csv.ConvertOptions().null_values) <= NULL_WORDS


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("word", ["NA", "NaN", "NULL", "null", "N/A", "<NA>", "None", "", " NA "])
def test_words_are_missing_in_every_column_and_format(tmp_path: Path, ending: str, word: str) -> None:
    empty = FRAME.astype({"gamma": object, "grade": object})
    empty.loc[3, "gamma"] = empty.loc[7, "rock"] = empty.loc[9, "grade"] = None
    expected = source(empty.astype({"gamma": float, "grade": float}), tmp_path / "a.parquet").table()
    assert len(expected) == 59
    assert (expected.labels[6], np.flatnonzero(np.isnan(expected.targets["grade"]))) == (-1, [8])
    said = FRAME.astype({"gamma": object, "grade": object})
    said.loc[3, "gamma"] = said.loc[7, "rock"] = said.loc[9, "grade"] = word
    said = said.astype({"gamma": str, "grade": str}) if ending == "parquet" else said
    assert source(said, tmp_path / f"b.{ending}").table().hash == expected.hash


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_word_for_missing_is_no_group(tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    content = FRAME.copy()
    content.loc[4, "hole"] = "NA"
    with pytest.raises(
        UserError, match=rf"data\.group: {'line 6' if ending == 'csv' else 'row 5'} has no value in column 'hole'"
    ):
        source(content, tmp_path / f"a.{ending}").table()
    assert "column 'hole': 'NA' counts as missing" in caplog.text


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_null_values_are_gaps(tmp_path: Path, ending: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = {"gamma": [2, 8], "grade": [5], "rock": [11, 12]}
    empty, marked = FRAME.copy(), FRAME.copy()
    for column, places in rows.items():
        empty.loc[places, column] = None
        marked.loc[places, column] = "unknown" if column == "rock" else -999.9
    marked, empty = (one.astype({"gamma": kind, "grade": kind}) for one in (marked, empty))
    found = source(marked, tmp_path / f"a.{ending}", null_values=(-999.9, "unknown")).table()
    assert found.hash == source(empty, tmp_path / f"b.{ending}").table().hash
    assert len(found) == 58
    assert all("are dropped" in message for message in caplog.messages)


def test_null_values_that_are_numbers_count_among_words_too(tmp_path: Path) -> None:
    content = FRAME.assign(rock=[1, 2, -999] * 20)
    found = source(content, tmp_path / "a.parquet", null_values=(-999.0,)).table()
    assert found.classes == ("1", "2")
    assert (found.labels[2::3] == -1).all()


def test_null_values_describe_the_file_and_not_the_run() -> None:
    assert "null_values" in TableSource.outside_identity


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("column", ["gamma", "grade"])
def test_a_number_that_repeats_far_outside_is_told(
    tmp_path: Path, ending: str, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = FRAME.copy()
    content.loc[:39, column] = -999.25  # more than half
    with caplog.at_level(logging.WARNING):
        source(content, tmp_path / f"a.{ending}").table()
    low, high = content[column][40:].min(), content[column][40:].max()
    assert caplog.messages == [
        f"column '{column}': 40 of 60 values are exactly -999.25, far from all others ({low:g} to {high:g}); if it "
        "marks missing values, add it to data.null_values"
    ]


LOGNORMAL = np.exp(RANDOM.normal(3.0, 1.5, 2000))


@pytest.mark.parametrize(
    ("others", "marks"),
    [
        (FRAME.gamma, [-999.25]),
        (FRAME.gamma, [-9999.0, -999.25, 1e30]),
        (FRAME.grade + 2.3, [0.0]),  # density
        (np.arange(0.0, 5000.0, 0.5), [-999.25]),  # depth: near, but the only one below 0
        (FRAME.gamma, []),
        (LOGNORMAL, []),
        (LOGNORMAL.round(), []),
        (np.concatenate([LOGNORMAL, np.zeros(500)]), []),  # many without any
        (np.minimum(LOGNORMAL, 255.0), []),  # a detector that saturates
        (np.tile([0.0, 1.0], 50), []),
        (np.tile([0.0, 1.0], 50), [-99.0]),  # codes
        (np.tile([1.0, 2.0, 3.0, 4.0], 20), [-999.0]),
        (np.concatenate([np.tile([0.0, 1.0], 50), [-1.0] * 9]), []),  # unknown or a third code
        (np.concatenate([np.full(90, 5.0), [-999.0] * 9]), []),  # nothing to compare with
        (np.tile(np.arange(12.0), 5), []),
        (np.arange(-1.0, 30.0).repeat(4), []),  # whole degrees
        (np.array([-1.0] * 90 + [float("nan")] * 5), []),
        (np.array([]), []),
    ],
)
def test_marks_are_found_and_measurements_are_not(others: Any, marks: list[float]) -> None:
    values = np.concatenate([np.asarray(others, dtype=np.float64), np.repeat(marks, 3), [np.nan]])
    assert sorted(suspected_marks(values)) == sorted(marks)


def test_log1p_of_a_mark_does_not_lead_to_another_transform(tmp_path: Path) -> None:
    content = FRAME.copy()
    content.loc[[3, 30], "gamma"] = -999.25
    of = source(content, tmp_path / "a.csv", transforms={"gamma": "log1p"})
    request: dict[str, Any] = {"cache": tmp_path, "supervision": {}, "batch_size": 8, "seed": 0}
    with pytest.raises(UserError) as caught:
        of.load(DataRequest(targets=TargetSettings(), augmentation=AugmentationSettings(), **request))
    assert str(caught.value) == (
        "data.transforms.gamma: log1p is undefined for -999.25 in line 5; values must be above -1; if it marks missing "
        "values, add it to data.null_values"
    )
