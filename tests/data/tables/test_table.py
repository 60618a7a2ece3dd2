"""Tables: what they are read from, how they are scaled and split, and what is said of wrong ones."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from menvae.data.batches.augmentation import AugmentationSettings
from menvae.data.source import Data, DataRequest
from menvae.data.sources.lithology import COLUMNS, LithologySource, draw_holes
from menvae.data.sources.table import TableSource
from menvae.data.tables.rows import RowLoader
from menvae.data.tables.scaler import TableScaler, signed_log
from menvae.data.tables.table_file import Table
from menvae.data.tables.tabular import TabularSource, row_names, split_groups
from menvae.data.targets.normalizer import TargetSettings
from menvae.errors import UserError

COLUMNS_OF_FRAME = ("density", "susceptibility", "gamma")
TRANSFORMS: dict[str, Any] = {"susceptibility": "signed_log", "gamma": "log1p"}


def in_format(words: str, ending: str) -> str:
    """Words about a CSV file, which has lines, or a Parquet file, which has rows: ``{line 2|row 1}``."""
    return re.sub(r"\{(.*?)\|(.*?)\}", r"\1" if ending == "csv" else r"\2", words)


def frame(num_rows: int = 40, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "hole": [f"H{row // 5}" for row in range(num_rows)],
            "density": random.normal(2.7, 0.1, num_rows),
            "susceptibility": random.normal(0.0, 300.0, num_rows),
            "gamma": random.uniform(0.0, 200.0, num_rows),
            "rock": random.choice(["granite", "basalt", "tuff"], num_rows),
        }
    )


def saved(content: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        content.to_csv(path, index=False)
    else:
        content.to_parquet(path)
    return path


def source(path: Path, **keys: Any) -> TableSource:
    settings: dict[str, Any] = {"columns": COLUMNS_OF_FRAME, "transforms": TRANSFORMS, "label": "rock", **keys}
    return TableSource(path=str(path), **settings)


def load(of: TabularSource, **more: Any) -> Data:
    wishes: dict[str, Any] = {"cache": Path(), "supervision": {}, "batch_size": 8, "seed": 0, **more}
    return of.load(DataRequest(targets=TargetSettings(), augmentation=AugmentationSettings(), **wishes))


def test_signed_log_is_the_closed_form() -> None:
    found = signed_log(np.array([-(math.e - 1.0), 0.0, math.e - 1.0, 1e-9]))
    np.testing.assert_allclose(found, [-1.0, 0.0, 1.0, 1e-9], rtol=1e-7)


def test_scaler_is_that_of_the_training_rows_alone(tmp_path: Path) -> None:
    content = frame()
    data = load(source(saved(content, tmp_path / "a.csv"), group="hole"))
    is_training = np.array([split == "train" for split in data.splits.values()])
    raw = content[list(COLUMNS_OF_FRAME)].to_numpy()
    expected = raw.copy()
    expected[:, 1] = np.sign(raw[:, 1]) * np.log(1.0 + np.abs(raw[:, 1]))
    expected[:, 2] = np.log(1.0 + raw[:, 2])
    mean, sd = expected[is_training].mean(axis=0), expected[is_training].std(axis=0)
    scaler = TableScaler.from_dict(json.loads(json.dumps(data.description)))
    assert scaler.hash == data.targets_hash == data.description["hash"]
    np.testing.assert_allclose(scaler.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(scaler.sd, sd, rtol=1e-12)
    (rows,) = data.embedded.rows.epoch(0)  # type: ignore[union-attr]
    np.testing.assert_allclose(rows.inputs.numpy(), ((expected - mean) / sd).astype(np.float32), rtol=1e-6)


def test_a_constant_column_is_told_and_becomes_0(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(frame().assign(density=2.5), tmp_path / "a.parquet")
    (batch,) = load(source(path)).val.epoch(0)
    assert (batch.inputs[:, 0] == 0.0).all()
    assert "column 'density' is constant over" in caplog.text


def test_csv_and_parquet_of_the_same_content_are_the_same(tmp_path: Path) -> None:
    content = frame()
    content.loc[3, "rock"] = None
    ours, theirs = (load(source(saved(content, tmp_path / name), group="hole")) for name in ("a.csv", "b.parquet"))
    assert ours.data_hash == theirs.data_hash
    assert ours.targets_hash == theirs.targets_hash
    assert ours.splits == theirs.splits
    assert ours.classes == theirs.classes == ("basalt", "granite", "tuff")
    assert ours.embedded is not None
    assert ours.embedded.labels[3] == -1


@pytest.mark.parametrize("change", ["density", "rock", "hole"])
def test_another_content_has_another_hash(tmp_path: Path, change: str) -> None:
    ours = load(source(saved(frame(), tmp_path / "a.csv"), group="hole"))
    other = frame()
    other.loc[7, change] = {"density": 2.7000001, "rock": "marble", "hole": "H99"}[change]
    assert load(source(saved(other, tmp_path / "b.csv"), group="hole")).data_hash != ours.data_hash


def test_embeddings_of_a_run_that_read_no_classes_are_of_the_same_rows(tmp_path: Path) -> None:
    path = saved(frame(), tmp_path / "a.csv")
    plain, other = (load(source(path, label=None, **keys)) for keys in ({}, {"columns": ["gamma"], "transforms": {}}))
    for data in (plain, other):
        assert data.embedded is not None
        folder = tmp_path / data.embedded.rows_hash
        folder.mkdir()
        np.savez(folder / "embeddings.npz", unsup=np.zeros((40, 2)), rows_hash=np.array(data.embedded.rows_hash))
        if data is plain:
            embedded = load(source(path, group="hole", unsup_run=str(folder))).embedded
            assert embedded is not None
            assert embedded.others["unsup"].shape == (40, 2)
        else:
            with pytest.raises(UserError, match="belongs to another table"):
                load(source(path, group="hole", unsup_run=str(folder)))


def test_whole_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    content = frame().assign(rock=[10, 2, None, 1] * 10)  # pandas makes floats of them
    ours, theirs = (load(source(saved(content, tmp_path / name))) for name in ("a.csv", "b.parquet"))
    assert ours.classes == ("1", "2", "10")
    assert ours.data_hash == theirs.data_hash


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"columns": ["density", "gama"], "transforms": {}}, "has no column 'gama'; did you mean 'gamma'"),
        ({"label": "rok"}, "has no column 'rok'; did you mean 'rock'"),
        (
            {"columns": ["hole"], "transforms": {}},
            "column 'hole' contains 'H0' in {line 2|row 1}, which is not a finite number",
        ),
        ({"transforms": {"susceptibility": "log1p"}}, "data.transforms.susceptibility: log1p is undefined for -"),
        ({"transforms": {"gama": "log1p"}}, "data.transforms: 'gama' is not a column; did you mean 'gamma'"),
        ({"columns": []}, "data.columns: at least one is needed"),
        ({"columns": ["gamma", "gamma"], "transforms": {}}, "data.columns: gamma appears twice"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "40 rows are too few for 24 in validation, 16 in test and one"),
        ({"val_fraction": 0.01}, "the val split has only one row"),
        ({"unsup_run": "nowhere"}, "data.unsup_run: 'nowhere/embeddings.npz' does not exist"),
    ],
)
def test_wrong_keys_are_told_in_one_sentence(tmp_path: Path, ending: str, keys: dict[str, Any], words: str) -> None:
    path = saved(frame(), tmp_path / f"a.{ending}")
    with pytest.raises(UserError) as caught:
        load(source(path, **keys))
    assert in_format(words, ending) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("row", "column", "value", "words"),
    [
        (4, "gamma", None, "1 of 40 rows have missing values, the first in {line 6|row 5}, column 'gamma'"),
        (4, "gamma", -1.0, "data.transforms.gamma: log1p is undefined for -1 in {line 6|row 5}"),
        (39, "density", math.inf, "column 'density' contains 'inf' in {line 41|row 40}, which is not a finite number"),
        (2, "hole", None, "data.group: {line 4|row 3} has no value in column 'hole'"),
    ],
)
def test_wrong_values_are_told_with_their_row(
    tmp_path: Path, ending: str, row: int, column: str, value: float | None, words: str
) -> None:
    content = frame()
    content.loc[row, column] = value
    with pytest.raises(UserError) as caught:
        load(source(saved(content, tmp_path / f"a.{ending}"), group="hole"))
    assert in_format(words, ending) in str(caught.value)


def test_a_word_among_numbers_is_told_with_its_row(tmp_path: Path) -> None:
    path = saved(frame().astype({"gamma": object}), tmp_path / "a.csv")
    lines = path.read_text().splitlines()
    lines[30] = lines[30].replace(lines[30].split(",")[3], "<5")
    path.write_text("\n".join(lines))
    problem = "column 'gamma' contains '<5' in line 31, which is not a finite number"
    with pytest.raises(UserError, match=f"{problem}; if it marks missing values, add it to data.null_values"):
        load(source(path))


def test_a_time_is_no_number(tmp_path: Path) -> None:
    content = frame().assign(gamma=pd.Timestamp("2024-01-31"))
    with pytest.raises(UserError, match="column 'gamma' contains '2024-01-31"):
        load(source(saved(content, tmp_path / "a.csv")))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xlsx", b"x", "its name must end in .csv, .tsv or .parquet"),
        ("a.csv", b"", "cannot be read as a table"),
        ("a.parquet", b"PAR1 no", "cannot be read as a table"),
        ("a.csv", b"density,susceptibility,gamma,rock\n1,2\n", "cannot be read as a table"),
        ("a.csv", b"density,susceptibility,gamma,rock\n", "contains no rows"),
        ("a.csv", b"density,susceptibility,gamma,rock\n1,2,3,a\n1,2,3,a\n", "column 'rock' has too few classes (1)"),
        ("a.csv", b"density,susceptibility,gamma,rock\n1,2,3,a\n", "column 'rock' has too few classes (1)"),
        ("missing.csv", None, "does not exist"),
    ],
)
def test_wrong_files_are_told_in_one_sentence(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(source(tmp_path / name))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_that_lack_a_number_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = frame()
    content.loc[[4, 9], "gamma"] = None
    data = load(source(saved(content, tmp_path / "a.csv"), gaps="drop"))
    assert len(data.splits) == 38
    assert "2 of 40 rows have missing values and are dropped" in caplog.text


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_that_are_left_out_leave_no_class_and_no_group(tmp_path: Path, ending: str) -> None:
    content = frame()
    content["rock"] = ["10", "2"] * 20
    whole = content.copy()
    whole.loc[[4, 9], "gamma"] = None
    whole.loc[[4, 9], "rock"] = "amber"  # a word, so that the others are whole numbers only without it
    whole.loc[4, "hole"] = "A0"  # before all others
    whole.loc[9, "hole"] = None
    keys = {"label": "rock", "group": "hole"}
    dropped = source(saved(whole, tmp_path / f"a.{ending}"), gaps="drop", **keys).table()
    cleaned = source(saved(content.drop(index=[4, 9]), tmp_path / f"b.{ending}"), **keys).table()
    assert dropped.classes == ("2", "10")
    assert dropped.labels.tolist() == ([1, 0] * 20)[:4] + ([1, 0] * 20)[5:9] + ([1, 0] * 20)[10:]
    assert dropped.groups.tolist() == [0] * 4 + [1] * 4 + [row // 5 for row in range(10, 40)]
    assert dropped.hash == cleaned.hash


def test_classes_of_rows_that_are_left_out_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("density,gamma,rock\n1,2,x\n2,3,x\n3,,y\n")
    with pytest.raises(UserError, match=r"column 'rock' has too few classes \(1\); at least 2 are needed"):
        source(tmp_path / "a.csv", columns=["density", "gamma"], transforms={}, gaps="drop").table()


def test_a_row_without_a_group_is_told_by_its_place_in_the_file(tmp_path: Path) -> None:
    content = frame()
    content.loc[2, "gamma"] = None
    content.loc[6, "hole"] = None
    with pytest.raises(UserError, match=r"data\.group: line 8 has no value in column 'hole'"):
        source(saved(content, tmp_path / "a.csv"), gaps="drop", group="hole").table()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("twice", ["density", "rock", "hole"])
def test_a_column_that_stands_twice_is_told(tmp_path: Path, ending: str, twice: str) -> None:
    content = pa.Table.from_pandas(frame(), preserve_index=False)
    content = content.append_column(twice, content[twice]).append_column("other", content["gamma"])
    content = content.append_column("other", content["gamma"])  # is not read, so that it does not matter
    path = tmp_path / f"a.{ending}"
    (pyarrow.csv.write_csv if ending == "csv" else pyarrow.parquet.write_table)(content, path)
    with pytest.raises(UserError) as caught:
        load(source(path, group="hole"))
    assert str(caught.value) == f"data.path: '{path}' has 2 columns named '{twice}'; rename all but one"
    rest = {"columns": [name for name in ("density", "gamma") if name != twice], "transforms": {}}
    assert len(source(path, **{**rest, "label": None}).table()) == 40


def test_splits_are_made_of_whole_groups() -> None:
    groups = np.repeat(np.arange(20), 7)
    splits = split_groups(groups, 0.1, 0.2, seed=3)
    of_groups = [set(splits[groups == group]) for group in range(20)]
    assert all(len(found) == 1 for found in of_groups)
    assert [sum(found == {name} for found in of_groups) for name in ("train", "val", "test")] == [14, 2, 4]
    assert (split_groups(groups, 0.1, 0.2, seed=3) == splits).all()
    assert (split_groups(groups, 0.1, 0.2, seed=4) != splits).any()


def test_rows_of_a_group_are_of_one_patient(tmp_path: Path) -> None:
    content = frame()
    path = saved(content, tmp_path / "a.csv")
    hole_of = dict(zip(row_names(len(content)).tolist(), content["hole"], strict=True))
    data = load(source(path, group="hole"))
    for loader in (data.train, data.val, data.test):
        assert loader is not None
        for batch in loader.epoch(1):
            assert batch.patient_id == tuple(hole_of[name] for name in batch.subject_id)
    assert all(batch.patient_id == () for batch in load(source(path)).train.epoch(0))
    holes = LithologySource(num_rows=60, num_holes=12).table()
    assert holes.group_of_row is not None
    assert holes.group_of_row[[0, 4, 5, 59]].tolist() == ["hole-01", "hole-01", "hole-02", "hole-12"]


def test_labels_are_hidden_in_training_alone(caplog: pytest.LogCaptureFixture) -> None:
    few = LithologySource(num_rows=400, num_holes=20, num_classes=5, labelled_fraction=0.1)
    data = load(few)
    assert data.embedded is not None
    assert (data.embedded.labels >= 0).all()
    labels = np.concatenate([batch.labels for batch in data.train.epoch(0)])
    assert np.count_nonzero(labels >= 0) == round(0.1 * data.num_training_subjects)
    assert all((batch.labels >= 0).all() for batch in data.val.epoch(0))  # type: ignore[union-attr]


def test_a_class_that_cannot_be_learnt_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = frame()
    probe = load(source(saved(content, tmp_path / "a.csv")))
    row = next(place for place, split in enumerate(probe.splits.values()) if split == "val")
    content.loc[row, "rock"] = "amber"
    with caplog.at_level(logging.WARNING):
        load(source(saved(content, tmp_path / "a.csv")))
    assert "1 of 4 classes have no labelled training row and cannot be learnt, such as 'amber'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load(source(saved(content, tmp_path / "a.csv")), learns_classes=False)
    assert "amber" not in caplog.text


@pytest.mark.parametrize(("num_rows", "sizes"), [(16, [8, 8]), (17, [8, 9]), (18, [8, 8, 2]), (7, [7]), (9, [9])])
def test_no_batch_is_a_single_row(num_rows: int, sizes: list[int]) -> None:
    inputs = np.arange(num_rows, dtype=np.float32).reshape(-1, 1)
    loader = RowLoader(inputs, None, row_names(num_rows), 8, seed=0)
    batches = list(loader.epoch(5))
    assert [len(batch) for batch in batches] == sizes
    assert loader.steps_per_epoch == len(sizes)
    assert sorted(float(value) for batch in batches for value in batch.inputs[:, 0]) == list(range(num_rows))
    assert all(
        int(name.removeprefix("row-")) == value + 1
        for batch in batches
        for name, value in zip(batch.subject_id, batch.inputs[:, 0], strict=True)
    )


def test_validation_rows_are_not_in_the_order_of_the_hole() -> None:
    (batch,) = load(LithologySource(num_rows=400, num_holes=20)).val.epoch(0)
    assert list(batch.subject_id) != sorted(batch.subject_id)


def test_drawn_table_is_what_it_says() -> None:
    table: Table = draw_holes(6000, 139, 60, seed=0)
    assert table.columns == COLUMNS
    assert len(table.classes) == 139
    assert table.values.shape == (6000, 6)
    assert np.isfinite(table.values).all()
    assert (table.values[:, 2:] >= 0.0).all()
    assert (table.values[:, 1] < 0.0).any()
    assert table.values[:, 3:].max() <= 255.0
    counts = np.sort(np.bincount(table.labels, minlength=139))
    assert counts[-1] > 10 * max(1, counts[70]), "some classes are common and most are rare"
    assert np.mean(table.labels[1:] == table.labels[:-1]) > 0.8, "neighbours are alike"
    assert len(np.unique(table.groups)) == 60
    assert draw_holes(6000, 139, 60, seed=0).hash == table.hash
    assert draw_holes(6000, 139, 60, seed=1).hash != table.hash


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"columns": ("density",), "transforms": {}}, "data.columns: unknown column 'density'"),
        ({"num_holes": 60, "num_rows": 100}, "data.num_holes: 60 is not allowed with data.num_rows=100"),
    ],
)
def test_what_is_not_drawn_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        LithologySource(**keys)


def with_targets(path: Path, **keys: Any) -> tuple[pd.DataFrame, TableSource]:
    """A table whose gamma and susceptibility are targets, of which some are missing."""
    content = frame(60)
    content.loc[[3, 10, 11], "gamma"] = np.nan
    content.loc[[10, 40], "susceptibility"] = np.nan
    chosen: dict[str, Any] = {"columns": ("density",), "target_columns": ("gamma", "susceptibility"), "label": None}
    return content, source(saved(content, path), **{**chosen, **keys})


SUPERVISION = {"target": ["gamma"], "other": ["susceptibility", "gamma"]}


def test_targets_are_z_scores_by_the_training_rows_and_what_is_missing_is_not_observed(tmp_path: Path) -> None:
    content, of = with_targets(tmp_path / "a.csv")
    data = load(of, supervision=SUPERVISION)
    split = np.array(list(data.splits.values()))
    expected = {
        "gamma": np.log(1.0 + content["gamma"].to_numpy()),
        "susceptibility": np.sign(content["susceptibility"]) * np.log(1.0 + content["susceptibility"].abs()),
    }
    z_scores = {}
    for name, values in expected.items():
        training = values[split == "train"]
        z_scores[name] = (np.asarray(values) - np.nanmean(training)) / np.nanstd(training)
    rows = {name: number for number, name in enumerate(data.splits)}
    for loader, wanted in ((data.train, "train"), (data.val, "val")):
        seen = []
        for batch in loader.epoch(1):
            chosen = [rows[name] for name in batch.subject_id]
            seen += chosen
            for partition, names in SUPERVISION.items():
                truth = np.stack([z_scores[name][chosen] for name in names], axis=1)
                np.testing.assert_array_equal(batch.observed[partition].numpy(), ~np.isnan(truth))
                np.testing.assert_allclose(batch.targets[partition].numpy(), np.nan_to_num(truth), rtol=1e-5, atol=1e-6)
        assert sorted(seen) == np.flatnonzero(split == wanted).tolist()
    assert data.targets is not None
    assert data.targets.raw["row-11"] == {"gamma": None, "susceptibility": None}
    assert of.targets["gamma"].unit == "log1p"


def test_targets_may_be_residualised(tmp_path: Path) -> None:
    content, of = with_targets(tmp_path / "a.csv", transforms=None)
    settings = TargetSettings(residualise={"gamma": ["susceptibility"]})
    request = DataRequest(
        cache=tmp_path,
        supervision={"target": ["gamma"]},
        targets=settings,
        augmentation=AugmentationSettings(),
        batch_size=100,
        seed=0,
    )
    data = of.load(request)
    both = content[["gamma", "susceptibility"]].notna().all(axis=1).to_numpy()
    training = both & (np.array(list(data.splits.values())) == "train")
    slope, intercept = np.polyfit(content["susceptibility"][training], content["gamma"][training], 1)
    residual = content["gamma"] - slope * content["susceptibility"] - intercept
    (batch,) = data.train.epoch(0)
    rows = [int(name.removeprefix("row-")) - 1 for name in batch.subject_id]
    observed = batch.observed["target"][:, 0].numpy()
    assert observed.tolist() == both[rows].tolist()
    found = batch.targets["target"][:, 0].numpy()[observed]
    np.testing.assert_allclose(found, (residual / residual[training].std(ddof=0)).to_numpy()[rows][observed], atol=1e-5)


def test_targets_count_in_the_hashes_and_their_absence_does_not(tmp_path: Path) -> None:
    content, of = with_targets(tmp_path / "a.csv")
    without = load(with_targets(tmp_path / "b.csv", target_columns=(), transforms=None)[1])
    ours = load(of, supervision=SUPERVISION)
    assert without.targets is None
    assert ours.data_hash != without.data_hash
    assert ours.targets_hash != without.targets_hash
    content.loc[0, "gamma"] += 1.0
    saved(content, tmp_path / "a.csv")
    changed = load(of, supervision=SUPERVISION)
    assert (changed.data_hash == ours.data_hash, changed.targets_hash == ours.targets_hash) == (False, False)
    identity = with_targets(tmp_path / "c.csv", transforms=None)[1].identity
    assert identity["data.target_columns"] == "gamma (none), susceptibility (none)"
    assert set(with_targets(tmp_path / "d.csv", target_columns=(), transforms=None)[1].identity) == {"data.columns"}


@pytest.mark.parametrize(
    ("keys", "supervision", "words"),
    [
        ({}, {"target": ["gama"]}, "model.supervision.target: this source has no target 'gama'; did you mean 'gamma'?"),
        (
            {"target_columns": (), "transforms": None},
            {"target": ["gamma"]},
            "has no target 'gamma'; it has no targets as configured",
        ),
        ({"target_columns": ("gamma", "gamma")}, {}, "data.target_columns: gamma appears twice"),
        ({"target_columns": ("gold",), "transforms": None}, {"target": ["gold"]}, "has no column 'gold'"),
        (
            {"target_columns": ("rock",), "transforms": None},
            {"target": ["rock"]},
            "column 'rock' contains '.*' in line 2, which is not a finite",
        ),
        ({"transforms": {"gama": "log1p"}}, {}, "data.transforms: 'gama' is not a column; did you mean 'gamma'?"),
        (
            {"transforms": {"susceptibility": "log1p"}},
            {"target": ["susceptibility"]},
            "data.transforms.susceptibility: log1p is undefined for",
        ),
    ],
)
def test_targets_that_cannot_be_are_refused(
    tmp_path: Path, keys: dict[str, Any], supervision: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        load(with_targets(tmp_path / "a.csv", **keys)[1], supervision=supervision)
