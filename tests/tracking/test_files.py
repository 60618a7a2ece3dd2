"""Plain files as a tracker: the contract of every tracker, and the table as pandas reads it."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest

from menvae.conformance import Case, TrackerConformance
from menvae.tracking.files import FilesTracker
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import ParentRun, TrackerContext, TrackingSettings


def rows_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "runs.csv", index_col="name", keep_default_na=False, na_values=[""])


class TestFiles(TrackerConformance):
    names = ("files",)

    def values(self, case: Case, context: TrackerContext) -> dict[str, float]:
        row = rows_of(context.output_dir / "tracked").loc[context.run_name].dropna()
        return {key.removeprefix("metrics."): float(row[key]) for key in row.index if key.startswith("metrics.")}


def context(output_dir: Path, name: str, parent: ParentRun | None = None) -> TrackerContext:
    run_dir = output_dir / "runs" / name
    run_dir.mkdir(parents=True, exist_ok=True)
    return TrackerContext(
        settings=TrackingSettings(), output_dir=output_dir, run_dir=run_dir, run_name=name, parent=parent
    )


def test_the_table_in_full(tmp_path: Path) -> None:
    sweep = ParentRun(tmp_path / "sweeps" / "a_sweep", "a_sweep")
    first = FilesTracker(context(tmp_path, "first", sweep), folder=str(tmp_path / "shared"))
    second = FilesTracker(context(tmp_path, "second"), folder=str(tmp_path / "shared"))
    first.start({"seed": 1, "data.root": None, "data.modalities": ["t1c"]}, {"host": "here"}, LocalLog(tmp_path))
    second.start({"seed": 2, "name": "a, b"}, {}, LocalLog(tmp_path))
    first.log(1, {"val_epoch/loss": 0.1 + 0.2}, {})
    first.finish("FINISHED", {"verdict": "done"})
    rows = rows_of(tmp_path / "shared")
    assert list(rows.index) == ["first", "second"], "in the order of their beginnings"
    assert list(rows["status"]) == ["FINISHED", "RUNNING"]
    assert rows.loc["first", "sweep"] == "a_sweep"
    assert rows.loc["first", "run_dir"] == str(tmp_path / "runs" / "first")
    assert rows.loc["first", "metrics.val_epoch/loss"] == 0.1 + 0.2
    assert list(rows.loc["first", ["params.seed", "params.data.root", "params.data.modalities"]]) == [
        *(1, "null", '["t1c"]')
    ]
    assert list(rows.loc["first", ["tags.host", "tags.verdict"]]) == ["here", "done"]
    assert rows.loc["second", "params.name"] == "a, b"
    assert rows.loc["second", ["params.data.root", "metrics.val_epoch/loss", "end_time"]].isna().all()
    start = rows.loc["first", "start_time"]
    FilesTracker(context(tmp_path, "first", sweep), folder=str(tmp_path / "shared")).start({}, {}, LocalLog(tmp_path))
    again = rows_of(tmp_path / "shared").loc["first"]
    assert (again["start_time"], again["status"], again["tags.verdict"]) == (start, "RUNNING", "done")


def track(output_dir: Path, number: int) -> None:
    tracker = FilesTracker(context(output_dir, f"run_{number:02d}"))
    tracker.start({"seed": number}, {}, LocalLog(output_dir / "runs" / f"run_{number:02d}"))
    tracker.finish("FINISHED")


def test_processes_that_end_at_once_are_all_in_the_table(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        list(pool.map(track, [tmp_path] * 16, range(16)))
    rows = rows_of(tmp_path / "tracked")
    assert sorted(rows["params.seed"]) == list(range(16))
    assert set(rows["status"]) == {"FINISHED"}


def test_the_same_run_of_two_output_directories_has_two_rows(tmp_path: Path) -> None:
    for place in ("a", "b"):
        tracker = FilesTracker(context(tmp_path / place, "run_0"), folder=str(tmp_path / "shared"))
        tracker.start({}, {"place": place}, LocalLog(tmp_path / place))
    rows = rows_of(tmp_path / "shared")
    assert list(rows["tags.place"]) == ["a", "b"]
    assert list(rows["run_dir"]) == [str(tmp_path / place / "runs" / "run_0") for place in ("a", "b")]


def test_a_run_of_an_earlier_version_keeps_its_row(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    FilesTracker(context(tmp_path / "a", "run_0"), folder=str(shared)).start({}, {"kept": "yes"}, LocalLog(tmp_path))
    (written,) = shared.glob("*.json")
    written.rename(shared / "run_0.json")  # as earlier versions named it
    for place in ("a", "b"):
        FilesTracker(context(tmp_path / place, "run_0"), folder=str(shared)).start({}, {}, LocalLog(tmp_path))
    rows = rows_of(shared)
    assert list(rows["run_dir"]) == [str(tmp_path / place / "runs" / "run_0") for place in ("a", "b")]
    assert list(rows["tags.kept"].fillna("")) == ["yes", ""]


def test_one_damaged_file_leaves_only_its_run_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b", "c"):
        FilesTracker(context(tmp_path, name), folder=str(tmp_path / "shared")).start({}, {}, LocalLog(tmp_path))
    (damaged,) = (tmp_path / "shared").glob("b.*json")
    damaged.write_text("{")
    tracker = FilesTracker(context(tmp_path, "c"), folder=str(tmp_path / "shared"))
    tracker.start({}, {}, LocalLog(tmp_path))
    assert tracker.finish("FINISHED")
    assert list(rows_of(tmp_path / "shared").index) == ["a", "c"]
    assert f"'{damaged}' is damaged: it is not JSON; the table leaves it out" in caplog.messages
