"""Records of runs that have ended: when they answer, and when the data have to be opened."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from menvae.fingerprints import state_of
from menvae.runs.answer import Key, Record, find, key_of, remember, state_of_checkpoints

CONFIG: dict[str, Any] = {
    "name": "semivae",
    "seed": 1,
    "output_dir": "",
    "sweep": {"name": None},
    "gates": {"strict": False},
    "trainer": {"resume": "auto", "devices": None},
    "data": {"name": "table", "path": "rows.csv"},
}


@pytest.fixture
def record(tmp_path: Path) -> tuple[Key, Record]:
    """Return a finished run, its record and its key."""
    run = tmp_path / "runs" / "semivae_0123456789"
    run.mkdir(parents=True)
    (run / "status.json").write_text(json.dumps({"state": "finished", "trackers": ["mlflow"]}))
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    files = [str(tmp_path / "rows.csv")]
    key = key_of({**CONFIG, "output_dir": str(tmp_path)})
    assert key is not None
    checkpoints = state_of_checkpoints(run)
    remember(key, found := Record(run.name, run.name, files, state_of(files), checkpoints, ["mlflow"], ["vol"]))
    return key, found


def test_nothing_has_changed(record: tuple[Key, Record]) -> None:
    key, written = record
    assert find(key) == written


@pytest.mark.parametrize(
    "change",
    [
        lambda out, run: (out / "rows.csv").write_text("a,b\n1,3\n"),
        lambda out, run: (out / "rows.csv").unlink(),
        lambda out, run: (run / "status.json").unlink(),
        lambda out, run: (run / "status.json").write_text("{"),
        lambda out, run: (run / "status.json").write_text('{"state": "finished", "trackers": []}'),
        lambda out, run: (run / "status.json").write_text('{"state": "running", "trackers": ["mlflow"]}'),
        lambda out, run: (run / "status.json").write_text('{"state": "pruned", "trackers": ["mlflow"]}'),
        lambda out, run: run.with_name(f"{run.name}_2").mkdir(),
        lambda out, run: [path.write_text("{}") for path in (out / ".answers").iterdir()],
        lambda out, run: [path.unlink() for path in (out / ".answers").iterdir()],
    ],
    ids=[
        *("data changed", "data gone", "no status", "damaged status", "not tracked", "running", "pruned", "repeated"),
        *("damaged record", "no record"),
    ],
)
def test_only_the_data_can_tell(
    tmp_path: Path, record: tuple[Key, Record], change: Callable[[Path, Path], object]
) -> None:
    change(tmp_path, tmp_path / "runs" / record[1].run)
    assert find(record[0]) is None


def test_a_record_that_cannot_be_written_is_left_out(tmp_path: Path, record: tuple[Key, Record]) -> None:
    key, written = record
    remember(replace(key, output_dir=tmp_path / "nowhere"), written)
    assert asdict(written)["run"] == "semivae_0123456789"


@pytest.mark.parametrize(
    ("section", "values", "same"),
    [
        ("gates", {"strict": True}, True),
        ("sweep", {"name": "mine"}, True),
        ("data", {"path": "other.csv"}, False),
        ("trainer", {"devices": 2}, False),
        ("trainer", {"resume": "last.ckpt"}, False),
    ],
)
def test_key_holds_whatever_may_matter(tmp_path: Path, section: str, values: dict[str, Any], same: bool) -> None:
    config = {**CONFIG, "output_dir": str(tmp_path)}
    first, second = key_of(config), key_of({**config, section: {**config[section], **values}})
    assert first is not None
    assert second is not None
    assert (first.digest == second.digest) == same


def test_key_holds_ranks_and_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**CONFIG, "output_dir": str(tmp_path)}
    first = key_of(config)
    assert first is not None
    assert key_of(config, num_ranks=2) not in (None, first)
    monkeypatch.chdir(tmp_path)
    assert key_of(config) != first
    assert first.output_dir.samefile(tmp_path)


@pytest.mark.parametrize("trainer", [{"resume": "never", "devices": None}, {"resume": "auto", "devices": "two"}, {}, 3])
def test_a_new_or_invalid_run_has_no_key(tmp_path: Path, trainer: object) -> None:
    assert key_of({**CONFIG, "output_dir": str(tmp_path), "trainer": trainer}) is None
