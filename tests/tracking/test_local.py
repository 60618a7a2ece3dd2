import json
import os
import time
from pathlib import Path

import pytest

from menvae.errors import UserError
from menvae.tracking.local import LocalLog


def fill(run_dir: Path, epochs: range) -> LocalLog:
    log = LocalLog(run_dir)
    for epoch in epochs:
        log.append(epoch, {"val_epoch/loss": 1 / epoch, "train_epoch/loss": 0.1 * epoch}, {"time/epoch_seconds": 0.5})
    return log


def contents(run_dir: Path) -> dict[str, bytes]:
    return {name: (run_dir / name).read_bytes() for name in ("metrics.jsonl", "metrics.csv")}


def test_lines_are_valid_json_exact_and_in_the_given_order(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    log.append(1, {"b": 0.1 + 0.2, "a": float("nan"), "n": 7, "i": -float("inf")}, {"time/step": 0.25})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"epoch": 1, "b": 0.30000000000000004, "a": null, "n": 7, "i": null}\n'
    assert (tmp_path / "metrics.csv").read_text() == "epoch,b,a,n,i\n1,0.30000000000000004,,7,\n"
    assert log.timings() == [{"epoch": 1, "time/step": 0.25}]
    assert log.timestamps_ms()[1] > 1.7e12


def test_numpy_numbers_are_written_as_python_numbers(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    log = LocalLog(tmp_path)
    log.append(1, {"double": numpy.float64(0.1), "single": numpy.float32(0.5), "count": numpy.int64(3)}, {})
    assert log.metrics() == [{"epoch": 1, "double": 0.1, "single": 0.5, "count": 3.0}]


def test_csv_has_the_union_of_the_columns(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    log.append(1, {"a": 1.0}, {})
    log.append(2, {"a": 2.0, "sem/vol_r2": 0.5}, {})
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,a,sem/vol_r2", "1,1.0,", "2,2.0,0.5"]


def test_rewound_and_repeated_run_has_the_bytes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    fill(tmp_path / "whole", range(1, 8))
    fill(tmp_path / "resumed", range(1, 6))
    LocalLog(tmp_path / "resumed").rewind(3)
    fill(tmp_path / "resumed", range(4, 8))
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    epochs = [row["epoch"] for row in LocalLog(tmp_path / "resumed").timings()]
    assert epochs == list(range(1, 8))


def test_rewind_to_zero_drops_all_and_works_without_files(tmp_path: Path) -> None:
    LocalLog(tmp_path).rewind(0)
    assert list(tmp_path.iterdir()) == []
    fill(tmp_path, range(1, 3)).rewind(0)
    assert LocalLog(tmp_path).metrics() == LocalLog(tmp_path).timings() == []


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_torn_last_line_is_ignored_and_then_replaced(tmp_path: Path, cut: int) -> None:
    fill(tmp_path / "whole", range(1, 4))
    fill(tmp_path / "torn", range(1, 4))
    path = tmp_path / "torn" / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - cut)
    assert [row["epoch"] for row in LocalLog(tmp_path / "torn").metrics()] == [1, 2]
    fill(tmp_path / "torn", range(3, 4))  # without rewind: the first append must not glue two lines together
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")
    assert [row["epoch"] for row in LocalLog(tmp_path / "torn").timings()] == [1, 2, 3]


def test_reading_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "val')
    before = contents(tmp_path)
    assert len(LocalLog(tmp_path).metrics()) == 2
    assert contents(tmp_path) == before


def test_an_epoch_cannot_be_logged_twice(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 4))
    with pytest.raises(ValueError, match=r"epoch 3 cannot follow epoch 3 .* rewind first"):
        fill(tmp_path, range(3, 4))


def test_reserved_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'epoch'"):
        LocalLog(tmp_path).append(1, {"epoch": 1.0}, {})


def test_a_damaged_line_in_the_middle_is_reported(tmp_path: Path) -> None:
    fill(tmp_path, range(1, 4))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], "oops", lines[2]]) + "\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: not"):
        LocalLog(tmp_path).metrics()


def test_every_line_is_json_for_a_strict_reader(tmp_path: Path) -> None:
    LocalLog(tmp_path).append(1, {"a": float("inf"), "ü": 1.0}, {"system/load": float("nan")})

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    for name in ("metrics.jsonl", "timings.jsonl"):
        json.loads((tmp_path / name).read_text(), parse_constant=refuse)


def test_the_time_of_an_epoch_is_the_same_in_every_process(tmp_path: Path) -> None:
    log, other = LocalLog(tmp_path), LocalLog(tmp_path)
    log.append(1, {"a": 1.0}, {})
    first = log.timestamp_ms(1)
    assert other.timestamp_ms(1) == first == log.timestamps_ms()[1]
    log.rewind(0)
    time.sleep(0.01)
    log.append(1, {"a": 1.0}, {})
    assert LocalLog(tmp_path).timestamp_ms(1) == log.timestamp_ms(1) > first
    assert log.timestamp_ms(2) >= log.timestamp_ms(1), "the time of now, for an epoch that was not logged"
