"""A sweep while it runs, from files with known times; what is shown of it; and what is not read again."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from browser import PROGRAM, Browser
from rich.console import Console

from menvae.files import FolderLock
from menvae.studies import Trial
from menvae.sweeps.runners import Fate
from menvae.sweeps.sweep import Point, Submission, Sweep
from menvae.sweeps.trials import journal
from menvae.sweeps.watch.forecast import Clock, all_left_s, with_epochs
from menvae.sweeps.watch.loop import watch
from menvae.sweeps.watch.page import RenewedPage
from menvae.sweeps.watch.snapshot import Snapshot, Watcher
from menvae.sweeps.watch.standings import Standings
from menvae.sweeps.watch.terminal import bar, view
from menvae.sweeps.watch.words import left_words

EPOCHS = 10
OBJECTIVE = {"sem/vol_r2": "maximize"}
FRONT = {"sem/vol_r2": "maximize", "gate/max_dcor": "minimize"}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    sweep = Sweep(tmp_path / "outputs" / "sweeps" / "a_sweep")
    sweep.describe([], [])
    return sweep


class Made:
    """Writes points whose files say when what happened, in seconds before now."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.now = sweep, time.time()

    def point(
        self,
        number: int,
        state: str = "",
        *,
        seconds: Sequence[float] = (),
        overrides: tuple[str, ...] = (),
        last_ago: float = 0.0,
        began_ago: float | None = 0.0,
        ended_ago: float | None = 0.0,
        objectives: Mapping[str, str] | None = None,
        environment: Mapping[str, Any] | None = None,
        submissions: tuple[Submission, ...] = (),
        constraints: Sequence[str] = (),
        pause_after: int | None = None,
        **status: Any,
    ) -> Path:
        """Write a point whose epochs took some seconds, a sixth of them for validation; return its run directory."""
        point = Point(number, f"run_{number}", overrides or (f"seed={number}",), submissions)
        trainer = {"max_epochs": EPOCHS, "resume": "auto"}
        aims = {"objectives": dict(objectives or {}), "constraints": list(constraints)}
        trial = None if pause_after is None else Trial("journal.log", "study", number, "", "none", 5, 3, pause_after)
        self.sweep.prepare(point, {"trainer": trainer, "sweep": aims}, trial)
        run_dir = self.sweep.runs / point.run
        if not state:
            return run_dir
        run_dir.mkdir(parents=True)
        about = {"device": "cpu", "num_ranks": 1, "num_threads": 2, **(environment or {})}
        self.write(run_dir / "environment.json", about)
        timings, metrics = [], []
        for epoch, each in enumerate(seconds, start=1):
            at = self.now - last_ago - sum(seconds[epoch:])
            parts = {"time/train_s": each * 5 / 6, "time/validate_s": each / 6}
            timings.append(json.dumps({"epoch": epoch, "timestamp_ms": round(1000 * at), **parts}) + "\n")
            metrics.append(json.dumps({"epoch": epoch, "sem/vol_r2": status.get("vol_r2")}) + "\n")
        (run_dir / "timings.jsonl").write_text("".join(timings))
        (run_dir / "metrics.jsonl").write_text("".join(metrics))
        kept = {key: value for key, value in status.items() if key in ("reason", "best_epoch")}
        kept |= {} if began_ago is None else {"began_at": self.now - began_ago}
        kept |= {} if state == "running" or ended_ago is None else {"ended_at": self.now - ended_ago}
        self.write(run_dir / "status.json", {"state": state, **kept})
        if "vol_r2" in status:
            gates = [
                {"name": "vol_r2", "value": status["vol_r2"], "comparison": ">", "target": 0.8},
                {"name": "max_dcor", "value": status["dcor"], "comparison": "<", "target": 0.3},
            ]
            gates[0]["passed"], gates[1]["passed"] = status["vol_r2"] > 0.8, status["dcor"] < 0.3
            (run_dir / "gates.json").write_text(json.dumps({"gates": gates, "passed": False}))
        return run_dir

    def finished(
        self,
        number: int,
        vol_r2: float,
        dcor: float,
        objectives: Mapping[str, str] | None = None,
        *constraints: str,
        overrides: tuple[str, ...] = (),
    ) -> None:
        results = {"vol_r2": vol_r2, "dcor": dcor, "best_epoch": 1}
        overrides = overrides or (f"loss.lambda_dcor={number}",)
        aims = {"objectives": objectives, "constraints": constraints}
        self.point(number, "finished", seconds=[6.0] * EPOCHS, overrides=overrides, **aims, **results)

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a file that seems to be of long ago, as one may that was copied."""
        path.write_text(json.dumps(content))
        os.utime(path, (1.0, 1.0))


@pytest.fixture
def made(sweep: Sweep) -> Made:
    return Made(sweep)


@contextmanager
def held(*folders: Path) -> Iterator[None]:
    """Hold the locks of folders, as processes that train or launch do."""
    locks = [FolderLock(folder) for folder in folders]
    try:
        yield
    finally:
        for lock in locks:
            lock.release()


@pytest.fixture
def typical(sweep: Sweep, made: Made) -> Iterator[Snapshot]:
    """A point that has finished in 10 epochs of 6 s and 20 s more, one that runs its 5th epoch of 8 s, two others."""
    made.point(0, "finished", seconds=[6.0] * EPOCHS, last_ago=100.0, began_ago=170.0, ended_ago=80.0)
    run_dir = made.point(1, "running", seconds=[8.0] * 4, last_ago=3.0, began_ago=40.0)
    made.point(2)
    made.point(3, "failed", reason="ZeroDivisionError: by zero", ended_ago=50.0)
    with held(run_dir, sweep.path):
        yield Watcher(sweep).look()


def near(expected: float, tolerance: float = 3.0) -> Any:
    """Compare seconds; a test takes some of its own."""
    return pytest.approx(expected, abs=tolerance)


def test_time_left_of_each_point_and_of_all(typical: Snapshot) -> None:
    assert [point.status.fate for point in typical.points] == ["finished", "running", "not started", "failed"]
    left = [point.left_s for point in typical.points]
    assert left[0] is None
    assert left[1] == near(6 * 8 - 3 + 20)
    assert left[2] == near(10 * 7 + 20), "an epoch takes the median of 6 and 8 s"
    assert left[3] is None
    assert typical.left_s == near(65 + 90), "one place: the second begins when the first has ended"
    assert typical.epochs == (14, 40)
    assert left_words(typical).startswith("about 2 min ")


def test_hours_so_far_and_to_come(typical: Snapshot) -> None:
    """Two threads each: 60 + 20 s of the first, 32 + 3 s of the second; then what is left."""
    assert typical.spent_h == {"CPU": near(2 * (80 + 35) / 3600, 0.002)}
    assert typical.to_come_h == {"CPU": near(2 * (65 + 90) / 3600, 0.003)}


def test_files_of_earlier_versions_tell_no_times(sweep: Sweep, made: Made) -> None:
    """Ten epochs of 6 s have ended 100 s ago, and 4 of 8 s; when the runs began and ended is not written."""
    made.point(0, "finished", seconds=[6.0] * EPOCHS, last_ago=100.0, began_ago=None, ended_ago=None)
    with held(made.point(1, "running", seconds=[8.0] * 4, last_ago=3.0, began_ago=None), sweep.path):
        snapshot = Watcher(sweep).look()
    assert snapshot.spent_h == {"CPU": pytest.approx(2 * (60 + 32) / 3600)}
    assert snapshot.left_s == 6 * 8


def test_a_point_that_waits_for_nobody_is_not_to_come(sweep: Sweep, made: Made) -> None:
    made.point(0, "finished", seconds=[6.0] * EPOCHS)
    made.point(1)
    snapshot = Watcher(sweep).look()
    assert snapshot.is_over
    assert (snapshot.left_s, snapshot.to_come_h) == (0.0, {})
    output = shown(snapshot)
    assert "1 point has not started, and no process launches it: repeat the sweep's command" in output


def test_a_search_says_that_its_next_points_do_not_count(sweep: Sweep, made: Made) -> None:
    journal(sweep).parent.mkdir()
    words = "what the search has yet to choose is not counted"
    with held(made.point(0, "running", seconds=[8.0] * 4), journal(sweep).parent):
        assert words in shown(Watcher(sweep).look())
    assert words not in shown(Watcher(sweep).look()), "nothing searches any more"


def test_nobody_knows_how_long_the_first_epoch_takes(sweep: Sweep, made: Made) -> None:
    with held(made.point(0, "running"), sweep.path):
        snapshot = Watcher(sweep).look()
    assert (snapshot.left_s, snapshot.to_come_h) == (None, None)
    assert left_words(snapshot) == "time left unknown: no epoch has ended"
    assert "hours" in shown(snapshot)


def test_gpus_that_points_share_and_epochs_of_a_parent(sweep: Sweep, made: Made) -> None:
    """Four ranks on GPUs of which each serves two points; 3 of 5 epochs are copies of the parent's."""
    sweep.describe([], ["site=mine", "hydra.launcher.points_per_gpu=8"], ["hydra.launcher.points_per_gpu=2"])
    parent = made.point(0, "finished", seconds=[60.0] * 3)
    of_parent = {"run": parent.name, "path": f"/before/it/was/moved/runs/{parent.name}"}
    about = {"device": "cuda:0", "num_ranks": 4, "extends": of_parent}
    made.point(1, "interrupted", seconds=[60.0] * 5, environment=about)
    snapshot = Watcher(sweep).look()
    assert snapshot.spent_h["GPU"] == pytest.approx(2 * 60 * 4 / 2 / 3600)
    assert snapshot.spent_h["CPU"] == near(2 * 180 / 3600, 0.002)


def test_what_a_sweep_of_an_earlier_version_shares_is_what_was_typed(sweep: Sweep, made: Made) -> None:
    typed = ["hydra.launcher.points_per_gpu=8", "++hydra.launcher.points_per_gpu=4"]
    (sweep.path / "sweep.json").write_text(json.dumps({"overrides": [], "launcher": typed}))
    made.point(0, "interrupted", seconds=[60.0], environment={"device": "cuda:0"})
    assert Watcher(sweep).look().spent_h == {"GPU": pytest.approx(60 / 4 / 3600)}


def test_an_interruption_does_not_count(sweep: Sweep, made: Made) -> None:
    """A point that has been resumed a moment ago, an hour after its last epoch."""
    with held(made.point(0, "running", seconds=[8.0] * 4, last_ago=3600.0, began_ago=2.0)):
        (point,) = Watcher(sweep).look().points
    assert point.left_s == near(6 * 8 - 2)


def test_epochs_of_now_and_lines_that_are_none() -> None:
    lines = [json.dumps({"epoch": n, "timestamp_ms": 1000 * n, "time/train_s": s}) for n, s in enumerate(range(1, 9))]
    clock = with_epochs(Clock(), [b"", b"[1]", b"{", b'{"epoch": 3}', *map(str.encode, lines)])
    assert (clock.epochs, clock.seconds, clock.last_at) == (7, sum(range(1, 9)), 7.0)
    assert clock.epoch_s == 6.0, "the median of the last five: 4 to 8"


def test_places_that_become_free() -> None:
    """By hand: of four points of 10 s, two begin after 1 s and 5 s, the others after 11 s and 15 s."""
    assert all_left_s([1.0, 5.0], [10.0] * 4) == 25.0


def test_failures_by_cause_the_newest_first(sweep: Sweep, made: Made) -> None:
    gone = Submission("local", "999999999", str(sweep.path / "no.log"), "2020-01-01T00:00:00+00:00")
    for number, (reason, ago) in enumerate((("out of memory", 30), ("KeyError: a", 20), ("KeyError: b", 10))):
        made.point(number, "failed", reason=reason, ended_ago=ago)
    made.point(3, submissions=(gone,))
    sweep.refuse({("seed=-1",): "seed: -1 is not allowed"})
    refused = json.loads((sweep.path / "refused.json").read_text())
    assert refused["refused_at"] == near(made.now)
    made.write(sweep.path / "refused.json", {**refused, "refused_at": made.now - 25})
    found = Watcher(sweep).look().failures
    assert [(one.cause, one.count, one.newest.status.point.number) for one in found] == [
        ("KeyError", 2, 2),
        ("cannot_run", 1, 4),
        ("out_of_memory", 1, 0),
        ("lost", 1, 3),
    ]
    assert found[0].newest.failed_at == near(made.now - 10)
    output = shown(Watcher(sweep).look())
    assert re.search(r"KeyError +2 .* seed=2 +KeyError: b", output)


@pytest.mark.parametrize(
    ("seconds", "began_ago", "log_ago", "expected"),
    [
        ([8.0] * 4, 400.0, 5.0, 60.0),  # after its fourth epoch
        ([], 400.0, 5.0, 400.0),  # when it had begun
        ([], None, 5.0, 5.0),  # only the log may know
        ([], None, None, 1000.0),  # nothing but that it was submitted
    ],
)
def test_when_a_killed_point_was_last_known_to_be_at_work(
    sweep: Sweep, made: Made, seconds: Sequence[float], began_ago: float | None, log_ago: float | None, expected: float
) -> None:
    log = sweep.path / "points" / "run_0" / "output.log"
    submitted = datetime.fromtimestamp(made.now - 1000, UTC).isoformat(timespec="seconds")
    gone = Submission("local", "999999999", str(log), submitted)
    made.point(0, "running", seconds=seconds, last_ago=60.0, began_ago=began_ago, submissions=(gone,))
    if log_ago is not None:
        log.write_text("ended by signal 9\n")
        os.utime(log, (made.now - log_ago, made.now - log_ago))
    (found,) = Watcher(sweep).look().failures
    assert found.cause == "lost"
    assert found.newest.failed_at == near(made.now - expected)


def test_a_stopped_point_has_not_failed(sweep: Sweep, made: Made, tmp_path: Path) -> None:
    made.point(0, "interrupted", seconds=[8.0], reason="SIGTERM in epoch 2")
    made.point(1, "failed", reason="out of memory")
    snapshot = Watcher(sweep).look()
    assert [(one.cause, one.count) for one in snapshot.failures] == [("out_of_memory", 1)]
    output = shown(snapshot)
    assert "1 stopped, 1 out of memory" in output
    assert "1 point was stopped: menvae-sweep retry resumes it" in output
    spans = {str(span.style): span.end - span.start for span in bar(snapshot.statuses).spans}
    assert {style: width for style, width in spans.items() if width} == {"red": 30, "yellow": 30}
    RenewedPage(tmp_path / "watch.html").renew(snapshot, is_last=True)
    page = (tmp_path / "watch.html").read_text()
    assert re.search(r'class="state-stopped"[^>]*>stopped<', page)
    assert "1 point was stopped: menvae-sweep retry resumes it." in page


def test_a_point_that_another_stands_for_has_not_failed(sweep: Sweep, made: Made) -> None:
    made.point(0, "failed", reason="out of memory")
    sweep.keep(Point(1, "run_1", ("seed=1",), stands_for=("run_0",)))
    snapshot = Watcher(sweep).look()
    assert snapshot.failures == ()
    assert snapshot.epochs == (0, 0)
    assert "1 replaced, 1 not started" in shown(snapshot)


def test_the_best_points_of_one_objective(sweep: Sweep, made: Made) -> None:
    for number, value in enumerate((0.5, 0.9, 0.7)):
        made.finished(number, value, 0.1, OBJECTIVE)
    best = Watcher(sweep).look().best
    assert best is not None
    assert best.title == "best points so far: sem/vol_r2, maximize"
    assert [(one.numbers, one.values) for one in best.rows] == [("1", ("0.900",)), ("2", ("0.700",)), ("0", ("0.500",))]


def test_the_front_of_several_objectives(sweep: Sweep, made: Made) -> None:
    for number, values in enumerate(((0.9, 0.5), (0.5, 0.1), (0.4, 0.4), (0.7, 0.3))):
        made.finished(number, *values, FRONT)
    best = Watcher(sweep).look().best
    assert best is not None
    assert best.title == "Pareto front so far: 3 of 4 finished points"
    assert [one.numbers for one in best.rows] == ["0", "1", "3"]
    assert best.rows[0].values == ("0.900", "0.500")


def test_the_front_of_what_passes_its_constraints(sweep: Sweep, made: Made) -> None:
    """Points 0 and 2 miss the gate; without it, 0 would be on the front."""
    for number, values in enumerate(((0.9, 0.5), (0.5, 0.1), (0.4, 0.4), (0.7, 0.2))):
        made.finished(number, *values, FRONT, "max_dcor")
    best = Watcher(sweep).look().best
    assert best is not None
    assert best.title == "Pareto front so far of what passes max_dcor: 2 of 2 finished points"
    assert [one.numbers for one in best.rows] == ["1", "3"]


def test_a_paused_point_has_nothing_left_until_its_search_lets_it_go_on(sweep: Sweep, made: Made) -> None:
    """Of ten epochs of 8 s, points pause after 2 and 6: 1 has yet to begin its third, 2 is in its fourth for 3 s."""
    journal(sweep).parent.mkdir()
    paused = {"seconds": [8.0] * 2, "last_ago": 100, "reason": "after epoch 2 of 10"}
    made.point(0, "paused", pause_after=2, **paused)
    made.point(1, "paused", pause_after=6, **paused)
    running = made.point(2, "running", seconds=[8.0] * 3, last_ago=3, began_ago=11, pause_after=6)
    with held(running, sweep.path):
        snapshot = Watcher(sweep).look()
    assert [point.left_s for point in snapshot.points] == [None, 32.0, near(3 * 8 - 3)]
    assert snapshot.left_s == near(3 * 8 - 3 + 32)
    assert snapshot.epochs == (7, 2 + 6 + 6)
    assert snapshot.to_come_h == {"CPU": near((3 * 8 - 3 + 32) * 2 / 3600, 0.01)}
    assert "2 points are paused" not in shown(snapshot), "the search decides"
    ended = Watcher(sweep).look()
    assert "2 points are paused: the search chose others, or goes on with them when its command" in shown(ended)
    assert not ended.failures or all(one.newest.status.point.number == 2 for one in ended.failures)


def test_without_objectives_the_gates_decide(sweep: Sweep, made: Made) -> None:
    """Point 1 passes both gates; the others pass one each, and of them 3 has the worst ranks, 4 and 2."""
    for number, values in enumerate(((0.85, 0.9), (0.81, 0.2), (0.82, 0.4), (0.1, 0.25))):
        made.finished(number, *values)
    best = Watcher(sweep).look().best
    assert best is not None
    ranks = [("2/2", "2.0"), ("1/2", "2.5"), ("1/2", "2.5"), ("1/2", "3.0")]
    assert [one.values for one in best.rows] == ranks
    assert [one.numbers for one in best.rows] == ["1", "0", "2", "3"]


FOLDS = {"2": (0.9, 0.3, 0.3), "5": (0.7, 0.85, 0.82)}
"""Weight -> a value of each fold; means by hand: 0.5 and 0.79, although the best fold has weight 2."""


@pytest.mark.parametrize("objectives", [OBJECTIVE, None])
def test_a_lucky_fold_is_not_the_best(sweep: Sweep, made: Made, objectives: Mapping[str, str] | None) -> None:
    points = [(weight, fold, value) for weight, values in FOLDS.items() for fold, value in enumerate(values)]
    for number, (weight, fold, value) in enumerate(points):
        overrides = (f"loss.lambda_dcor={weight}", f"data.fold={fold}")
        made.finished(number, value, 0.1, objectives, overrides=overrides)
    made.point(6, "running", overrides=("loss.lambda_dcor=5", "data.fold=3"))
    best = Watcher(sweep).look().best
    assert best is not None
    assert [(one.label, one.numbers) for one in best.rows] == [
        ("loss.lambda_dcor=5", "3, 4, 5"),
        ("loss.lambda_dcor=2", "0, 1, 2"),
    ]
    expected = [("0.790", "3"), ("0.500", "3")]
    if objectives is None:  # passed: vol_r2 > 0.8 in two folds of three, and in one; max_dcor always, so its ranks tie
        expected = [("1.7/2", "1.2", "3"), ("1.3/2", "1.8", "3")]
    assert [one.values for one in best.rows] == expected
    assert "folds" in best.title


def test_a_configuration_does_not_pass_by_its_lucky_folds(sweep: Sweep, made: Made) -> None:
    """With weight 2, the second fold misses the gate, and the first alone would be the best."""
    for number, (weight, fold, vol_r2, dcor) in enumerate(
        [(2, 0, 0.9, 0.1), (2, 1, 0.9, 0.5), (5, 0, 0.6, 0.1), (5, 1, 0.4, 0.2)]
    ):
        overrides = (f"loss.lambda_dcor={weight}", f"data.fold={fold}")
        made.finished(number, vol_r2, dcor, OBJECTIVE, "max_dcor", overrides=overrides)
    best = Watcher(sweep).look().best
    assert best is not None
    assert [(one.label, one.values) for one in best.rows] == [("loss.lambda_dcor=5", ("0.500", "2"))]


def test_the_best_that_are_not_shown_are_counted(sweep: Sweep, made: Made) -> None:
    for number in range(9):
        made.finished(number, 0.1 * number, 0.1, OBJECTIVE)
        made.point(10 + number, "failed", reason=f"Error{number}Error: no")
    output = shown(Watcher(sweep).look())
    assert len(re.findall(r"and 3 more", output)) == 2


def test_a_result_that_nobody_can_read_leaves_one_point_out(sweep: Sweep, made: Made) -> None:
    made.finished(0, 0.5, 0.1, OBJECTIVE)
    made.point(1, "finished", objectives=OBJECTIVE)
    statuses = [point.status for point in Watcher(sweep).look().points]
    best = Standings(sweep)(statuses)
    assert best is not None
    assert [one.numbers for one in best.rows] == ["0"]


_opened: list[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str):
        _opened.append(arguments[0])


@contextmanager
def opened() -> Iterator[list[str]]:
    """Provide the list of all files that are opened while the block runs."""
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


def test_what_has_not_changed_is_not_read_again(sweep: Sweep, made: Made) -> None:
    sys.addaudithook(_note)  # which nothing can remove
    for number in range(20):
        made.finished(number, 0.5, 0.1, OBJECTIVE)
    made.point(20, "failed", reason="out of memory")
    made.point(21)
    run_dir = made.point(22, "running", seconds=[8.0] * 4)
    watcher = Watcher(sweep)
    with held(run_dir, sweep.path):
        with opened() as first:
            before = watcher.look()
        assert sum(name.endswith("metrics.jsonl") for name in first) >= 20
        with opened() as second:
            watcher.look()
        assert {Path(name).name for name in second} <= {".lock", "refused.json"}
        for name in ("timings.jsonl", "metrics.jsonl"):
            with (run_dir / name).open("a") as file:
                file.write(
                    json.dumps({"epoch": 5, "timestamp_ms": round(1000 * time.time()), "time/train_s": 8}) + "\n"
                )
        with opened() as third:
            after = watcher.look()
    assert {name for name in third if not name.endswith((".lock", "refused.json"))} == {
        str(run_dir / "timings.jsonl"),
        str(run_dir / "metrics.jsonl"),
    }
    assert after.epochs[0] == before.epochs[0] + 1


def shown(snapshot: Snapshot, height: int | None = None, width: int = 150) -> str:
    output = StringIO()
    Console(file=output, width=width).print(view(snapshot, height))
    return output.getvalue()


def test_a_terminal_shows_what_there_is_room_for(sweep: Sweep, made: Made) -> None:
    run_dirs = [made.point(number, "running", seconds=[8.0] * 4) for number in range(50)]
    made.point(50, "failed", reason="[bold]out of markup[/]")
    with held(*run_dirs):
        snapshot = Watcher(sweep).look()
    output = shown(snapshot, height=24)
    assert len(output.splitlines()) <= 24
    assert re.search(r"and \d+ more", output)
    assert "50 running, 1 failed" in output
    assert "[bold]out of markup[/]" in output
    assert len(shown(snapshot).splitlines()) > 50
    assert max(map(len, shown(snapshot, 24, width=60).splitlines())) <= 60


def test_a_log_gets_a_line_for_each_change(
    sweep: Sweep, made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = made.point(0, "running", seconds=[8.0] * 4)
    lock, looks = FolderLock(run_dir), 0

    def end_after_three(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            made.write(run_dir / "status.json", {"state": "finished"})
            lock.release()

    monkeypatch.setattr("menvae.sweeps.watch.loop.time.sleep", end_after_three)
    snapshot, is_left = watch(Watcher(sweep), None, 1.0)
    told = capsys.readouterr().out.splitlines()
    assert not is_left
    assert snapshot.points[0].status.fate == Fate.FINISHED
    assert re.fullmatch(r"\d\d:\d\d:\d\d 1 running; about \d+ min \d\d s left, until \d\d:\d\d", told[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d 1 finished; nothing runs or waits", told[1])
    assert told[2].startswith(f"sweep {sweep.path}, ")


def test_ctrl_c_leaves_a_sweep_alone(
    sweep: Sweep,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("menvae.sweeps.watch.loop.time.sleep", interrupt)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes rich take a pipe for a terminal
    page = tmp_path / "new" / "watch.html"
    with held(made.point(0, "running", seconds=[8.0] * 4)):
        _, is_left = watch(Watcher(sweep), page, 1.0)
    assert is_left
    told = capsys.readouterr().out
    assert told.count("\x1b[?1049h") == told.count("\x1b[?1049l") == 1, "the whole screen, and back again"
    assert "http-equiv" in page.read_text()
    assert 'http-equiv="refresh"' not in page.read_text(), "it is not renewed any more"


HOSTILE = "<script>alert('x')</script>"


def test_the_page_renews_itself_until_the_sweep_is_over(sweep: Sweep, made: Made, tmp_path: Path) -> None:
    made.finished(0, 0.9, 0.1, OBJECTIVE)
    (sweep.runs / "run_0" / "report.html").touch()
    made.point(1, "failed", reason=HOSTILE)
    path = sweep.output_dir / "watch.html"
    page = RenewedPage(path)
    with held(made.point(2, "running", seconds=[8.0] * 4)):
        page.renew(Watcher(sweep).look(), is_last=False)
    text = path.read_text()
    assert '<meta http-equiv="refresh" content="10">' in text
    assert HOSTILE not in text
    assert "&lt;script&gt;alert" in text
    assert 'href="runs/run_0/report.html"' in text
    assert "1 finished, 1 failed, 1 running" in text
    written = path.stat().st_mtime_ns
    page.renew(Watcher(sweep).look(), is_last=False)
    assert path.stat().st_mtime_ns == written, "it is not due"
    page.renew(Watcher(sweep).look(), is_last=True)
    assert 'http-equiv="refresh"' not in path.read_text()
    assert "last written at" in path.read_text()
    elsewhere = tmp_path / "watch.html"
    RenewedPage(elsewhere).renew(Watcher(sweep).look(), is_last=True)
    assert f'href="{(sweep.runs / "run_0" / "report.html").as_uri()}"' in elsewhere.read_text()


def test_a_browser_keeps_the_order_of_a_table(sweep: Sweep, made: Made, tmp_path: Path) -> None:
    if PROGRAM is None:
        pytest.skip("Chromium is not installed: apt-get install -y chromium")
    for number in range(3):
        made.point(number, "interrupted", seconds=[8.0] * (3 - number))
    path = tmp_path / "watch.html"
    RenewedPage(path).renew(Watcher(sweep).look(), is_last=False)
    numbers = "[...document.querySelectorAll('#points-table tbody tr')].map(row => row.cells[0].textContent)"
    with Browser(tmp_path / "profile") as browser:
        browser.open(path.as_uri())
        assert browser.evaluate(numbers) == ["0", "1", "2"]
        browser.evaluate("document.querySelectorAll('#points-table th button')[0].click()")
        browser.evaluate("document.querySelectorAll('#points-table th button')[0].click()")
        assert browser.evaluate(numbers) == ["2", "1", "0"]
        browser.open("about:blank")
        browser.open(path.as_uri())
        assert browser.evaluate(numbers) == ["2", "1", "0"]
        assert browser.evaluate("document.getElementById('age').hidden")
        assert browser.complaints == []
