"""Several trackers at once, one of them broken, one of somebody else, and one that comes later."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runs import TRACKED, finished_sweep_in_mlflow, gates, only_run, train

from menvae.errors import UserError
from menvae.registry import register, unregister
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import DatasetInput, Status, Tracker, TrackerContext, TrackingSettings
from menvae.tracking.trackers import Trackers, bind_trackers

pytestmark = pytest.mark.usefixtures("forked_jobs")

NO_MLFLOW = "~tracker@tracking.trackers.mlflow"


class Notebook(Tracker):
    """Writes down which calls it gets, and fails in one of them."""

    calls: list[tuple[str, str]] = []  # noqa: RUF012

    def __init__(self, context: TrackerContext, *, fails_in: str = "") -> None:
        self._name, self._fails_in = context.run_name, fails_in

    @property
    def address(self) -> str:
        return "notebook"

    def _note(self, call: str) -> None:
        self.calls.append((self._fails_in, call))
        if call == self._fails_in:
            raise OSError(28, "No space left on device")

    def start(
        self, params: Mapping[str, Any], tags: Mapping[str, str], log: LocalLog, datasets: Sequence[DatasetInput] = ()
    ) -> None:
        self._note("start")

    def log(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        self._note(f"log {epoch}")

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        self._note("artifacts")

    def finish(self, status: Status, tags: Mapping[str, str] | None = None, *, patience_s: float | None = None) -> bool:
        self._note("finish")
        return True


@pytest.fixture
def notebook() -> Iterator[list[tuple[str, str]]]:
    register("tracker", "notebook")(Notebook)
    Notebook.calls.clear()
    yield Notebook.calls
    unregister("tracker", "notebook")


CALLS = ["start", "log 1", "artifacts", "log 2", "finish"]


@pytest.mark.parametrize("fails_in", CALLS)
def test_one_that_fails_costs_no_other(
    notebook: list[tuple[str, str]], tmp_path: Path, fails_in: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TrackingSettings(
        trackers={
            "broken": {"name": "notebook", "fails_in": fails_in},
            "whole": {"name": "notebook"},
            "files": {"name": "files"},
        }
    )
    context = TrackerContext(settings=settings, output_dir=tmp_path, run_dir=tmp_path / "run", run_name="a_run")
    trackers = Trackers.of(context)
    trackers.start({"seed": 1}, {}, LocalLog(tmp_path / "run"))
    trackers.log(1, {"a": 1.0}, {})
    trackers.log_artifacts([Path("config.yaml")])
    trackers.log(2, {"a": 2.0}, {})
    assert trackers.finish("FINISHED") == {"whole", "files"}
    assert [call for which, call in notebook if which == fails_in] == CALLS[: CALLS.index(fails_in) + 1]
    assert [call for which, call in notebook if not which] == CALLS
    assert pd.read_csv(tmp_path / "tracked" / "runs.csv")["metrics.a"].tolist() == [2.0]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("tracker 'broken' failed: OSError: [Errno 28] No space left on device; the run continues")


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ({"name": "mlflwo"}, "tracking.trackers.mine: 'mlflwo' is not registered; did you mean 'mlflow'?"),
        (
            {"name": "files", "foldr": "x"},
            "tracking.trackers.mine.foldr: no such key of 'files'; did you mean 'folder'",
        ),
        ({}, "tracking.trackers.mine.name: None is not a registered tracker"),
    ],
)
def test_wrong_configurations_are_refused(configuration: dict[str, str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        bind_trackers(TrackingSettings(trackers={"mine": configuration}))
    assert words in str(caught.value)


def test_runs_go_to_the_trackers_of_their_configuration_also_to_one_that_comes_later(
    prepared_cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    files = "+tracker@tracking.trackers.files=files"
    train(tmp_path, TRACKED, NO_MLFLOW, files, "trainer.max_epochs=1")
    run = only_run(tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    rows = pd.read_csv(tmp_path / "tracked" / "runs.csv", index_col="name")
    assert rows.loc[run.name, "status"] == "FINISHED"
    assert rows.loc[run.name, "params.trainer.max_epochs"] == 1
    for name, gate in gates(run).items():
        if gate["value"] is not None:
            assert rows.loc[run.name, f"metrics.gate/{name}"] == pytest.approx(gate["value"], rel=1e-12)
    status = json.loads((run / "status.json").read_text())
    assert (status["trackers"], status["tracked"]) == (["files"], True)

    later = (
        "+tracker@tracking.trackers.later=files",
        f"tracking.trackers.later.folder={tmp_path}/later",
    )
    said = train(tmp_path, TRACKED, NO_MLFLOW, files, *later, "trainer.max_epochs=1").stderr
    assert "nothing to train" in said
    assert only_run(tmp_path) == run, "trackers are no part of a run's identity"
    again = pd.read_csv(tmp_path / "later" / "runs.csv", index_col="name")
    metrics = [column for column in rows if column.startswith("metrics.")]
    assert again.loc[run.name, metrics].tolist() == rows.loc[run.name, metrics].tolist()
    assert json.loads((run / "status.json").read_text())["trackers"] == ["files", "later"]


def test_trackers_get_a_sweep_that_ran_without_them(prepared_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(prepared_cache)
    both = (TRACKED, "+tracker@tracking.trackers.files=files")
    sweep = ("-m", "loss.lambda_dcor=1,2", "trainer.max_epochs=1")
    train(tmp_path, *sweep)
    store = tmp_path / "mlflow.db"
    assert not store.exists()
    assert not (tmp_path / "tracked").exists()
    said = train(tmp_path, *sweep, *both).stderr
    assert "sending 2 finished runs to trackers that lack them" in said
    (folder,) = (path for path in (tmp_path / "sweeps").iterdir() if path.is_dir())
    rows = pd.read_csv(tmp_path / "tracked" / "runs.csv", index_col="name")
    assert len(rows) == 3
    assert set(rows["status"]) == {"FINISHED"}
    assert rows.loc[folder.name, "tags.menvae.kind"] == "sweep"
    points = rows[rows["sweep"] == folder.name]
    assert sorted(points["params.loss.lambda_dcor"]) == [1, 2]
    finished_sweep_in_mlflow(tmp_path, 2)
    written = store.stat().st_mtime_ns
    again = train(tmp_path, *sweep, *both).stderr
    assert "sending" not in again
    assert store.stat().st_mtime_ns == written, "nothing was left to do"
