"""Conformance suite of trackers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from menvae.conformance.suite import Case, PartConformance
from menvae.runs.directory import RUNS
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import DatasetInput, ParentRun, Tracker, TrackerContext, TrackingSettings

_PARAMS: Mapping[str, Any] = {
    "seed": 1,
    "loss.lambda_dcor": 0.5,
    "data.modalities": ["t1c", "t1n"],
    "data.root": None,
    "model.partitions": {"vol": 24},
    "trainer.compile": False,
    "note": 'two\nlines, and "quotes"',
}
_TIMINGS = {"time/train_s": 0.25}
_DATASET = DatasetInput("phantom", "0123456789abcdef", "/somewhere", "training")


class TrackerConformance(PartConformance):
    """`TrackerContext` -> `Tracker`, whose store is complete once it reports so, whichever process sent the data.

    Attributes:
        patience_s: seconds to wait for a store that does not respond.
    """

    group = "tracker"
    patience_s: ClassVar[float] = 60.0

    @pytest.fixture
    def output_dir(self, tmp_path: Path) -> Path:
        """Return the output folder of all runs of a test; a subclass may create an empty store there."""
        return tmp_path / "outputs"

    def values(self, case: Case, context: TrackerContext) -> Mapping[str, float]:
        """Return {metric: last value} of a run, read from the tracker's store."""
        raise NotImplementedError

    def context(self, output_dir: Path, name: str = "a_run", parent: ParentRun | None = None) -> TrackerContext:
        """Return the context of a run, whose directory exists."""
        run_dir = output_dir / RUNS / name
        run_dir.mkdir(parents=True, exist_ok=True)
        return TrackerContext(
            settings=TrackingSettings(), output_dir=output_dir, run_dir=run_dir, run_name=name, parent=parent
        )

    def begin(self, case: Case, context: TrackerContext, tags: Mapping[str, str] | None = None) -> Tracker:
        """Return a tracker that has started a run, as a new process does."""
        tracker: Tracker = case.bound()(context)
        assert isinstance(tracker, Tracker)
        tracker.start(_PARAMS, {"menvae.run": context.run_name, **(tags or {})}, LocalLog(context.run_dir), [_DATASET])
        return tracker

    def end(self, tracker: Tracker) -> None:
        """Finish a run, and check that all of it has arrived."""
        assert tracker.finish("FINISHED", {"menvae.state": "finished"}, patience_s=self.patience_s)

    def test_says_where_a_run_goes(self, case: Case, output_dir: Path) -> None:
        first, second = (case.bound()(self.context(output_dir, name)) for name in ("a_run", "another"))
        assert first.address
        assert "\n" not in first.address
        assert first.address == second.address, "the address must be that of the store, not of a run"

    def test_a_run_arrives(self, case: Case, output_dir: Path) -> None:
        context = self.context(output_dir)
        log = LocalLog(context.run_dir)
        log.append(1, _metrics(1), _TIMINGS)  # by a process without a tracker
        tracker = self.begin(case, context)
        for epoch in (2, 3):
            log.append(epoch, _metrics(epoch), _TIMINGS)
            tracker.log(epoch, _metrics(epoch), _TIMINGS)
        (context.run_dir / "config.yaml").write_text("seed: 1\n")
        tracker.log_artifacts([context.run_dir / "config.yaml", Path("metrics.csv")])
        self.end(tracker)
        assert self.values(case, context) == _expected(3)

    def test_the_next_process_sends_the_rest(self, case: Case, output_dir: Path) -> None:
        context = self.context(output_dir)
        log = LocalLog(context.run_dir)
        stopped = self.begin(case, context)
        log.append(1, _metrics(1), _TIMINGS)
        stopped.log(1, _metrics(1), _TIMINGS)
        assert stopped.finish("KILLED", patience_s=self.patience_s)
        log.append(2, _metrics(2), _TIMINGS)
        self.end(self.begin(case, context))
        assert self.values(case, context) == _expected(2)
        self.end(self.begin(case, context))
        assert self.values(case, context) == _expected(2), "data sent twice must count once"

    def test_runs_do_not_mix(self, case: Case, output_dir: Path) -> None:
        contexts = [self.context(output_dir, name) for name in ("a_run", "another")]
        trackers = [self.begin(case, context) for context in contexts]
        for number, tracker in enumerate(trackers, start=1):
            tracker.log(1, {"val_epoch/loss": float(number)}, {})
        for tracker in trackers:
            self.end(tracker)
        assert [self.values(case, context)["val_epoch/loss"] for context in contexts] == [1.0, 2.0]

    def test_a_sweep_and_a_point_of_it(self, case: Case, output_dir: Path) -> None:
        parent = ParentRun(output_dir / "sweeps" / "a_sweep", "a_sweep")
        parent.folder.mkdir(parents=True)
        of_sweep = TrackerContext(
            settings=TrackingSettings(), output_dir=output_dir, run_dir=parent.folder, run_name=parent.name
        )
        tracker: Tracker = case.bound()(of_sweep)
        tracker.start({}, parent.tags, LocalLog(parent.folder))
        point = self.context(output_dir, "a_point", parent)
        begun = self.begin(case, point)
        begun.log(1, _metrics(1), {})
        self.end(begun)
        self.end(tracker)
        assert self.values(case, of_sweep) == {}
        assert self.values(case, point)["val_epoch/loss"] == 1.0

    def test_names_of_any_kind_cost_no_other_value(self, case: Case, output_dir: Path) -> None:
        context = self.context(output_dir)
        tracker = self.begin(case, context)
        tracker.log(1, {"sem/volume (mm³)_r2": 0.5, "k" * 300: 1.0, "a//b": 2.0, "../c": 3.0, "plain": 4.0}, {})
        self.end(tracker)
        values = self.values(case, context)
        assert values["plain"] == 4.0
        assert len(values) == 5

    def test_the_files_of_the_run_stay_as_they_are(self, case: Case, output_dir: Path) -> None:
        context = self.context(output_dir)
        log = LocalLog(context.run_dir)
        log.append(1, _metrics(1), _TIMINGS)
        before = {path: path.read_bytes() for path in context.run_dir.iterdir()}
        tracker = self.begin(case, context)
        tracker.log_artifacts([Path("metrics.jsonl")])
        self.end(tracker)
        assert {path: path.read_bytes() for path in before} == before

    def test_refuses_artifacts_of_elsewhere(self, case: Case, output_dir: Path) -> None:
        tracker = self.begin(case, self.context(output_dir))
        with pytest.raises(ValueError, match="not in the run directory"):
            tracker.log_artifacts([output_dir.parent / "thesis.tex"])
        self.end(tracker)


def _metrics(epoch: int) -> dict[str, float | None]:
    """Return the metrics of an epoch, some of them without a value in some or all epochs."""
    return {
        "val_epoch/loss": 1.0 / epoch,
        "sem/vol_r2": None if epoch == 2 else 0.5 * epoch,
        "diag/grad_norm": math.nan,
        "diag/loss_scale": math.inf,
    }


def _expected(last_epoch: int) -> dict[str, float]:
    return {
        "val_epoch/loss": 1.0 / last_epoch,
        "sem/vol_r2": 0.5 if last_epoch < 3 else 1.5,
        "time/train_s": 0.25,
    }
