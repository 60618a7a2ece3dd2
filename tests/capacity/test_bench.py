"""The benchmark for users: what it measures, and what it is compared with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from shrunk import TINY, composed

from menvae.capacity.bench import bench, measure, references, share
from menvae.capacity.table import comparison_lines, measurements_table
from menvae.errors import UserError
from menvae.resources.machine import Peaks, describe_machine, measure_peaks
from menvae.training.phases import PHASES, PhaseClock
from menvae.types import Batch

CPU = torch.device("cpu")


def result(model: str, *speeds: tuple[int, str, float]) -> dict:
    measurements = [
        {"size": size, "precision": precision, "batch_size": 2, "volumes_per_s": speed}
        for size, precision, speed in speeds
    ]
    return {"model": model, "date": "2026-11-29", "machine": {"name": "A"}, "measurements": measurements}


def test_compares_what_both_have_measured() -> None:
    mine = result("run6", (32, "fp32", 2.0), (64, "fp32", 8.0), (64, "bf16", 100.0))
    theirs = result("run6", (32, "fp32", 4.0), (64, "fp32", 4.0), (96, "fp32", 1.0))
    assert share(mine, theirs) == pytest.approx(1.0), "geometric mean of 1/2 and 2"
    assert share(mine, result("run6", (32, "bf16", 4.0))) is None
    assert share(mine, result("other", (32, "fp32", 4.0))) is None
    lines = comparison_lines({**mine, "compared": {"A": 0.92}}, [theirs])
    assert lines == ["Your machine does 92% of A (2026-11-29)."]


def test_machines_that_ship() -> None:
    shipped = references()
    assert "one NVIDIA A100" in {one["machine"]["name"] for one in shipped}
    (a100,) = [one for one in shipped if one["machine"]["name"] == "one NVIDIA A100"]
    (published,) = a100["measurements"]
    assert (published["size"], published["volumes_per_s"]) == (128, 6.74)
    for one in shipped:
        assert one["format"] == 1
        assert share(one, one) == pytest.approx(1.0)
    assert {"semivae_run6"} == {one["model"] for one in shipped if one is not a100}  # what menvae-bench trains
    mine = {**result("run6", (128, "bf16", 20.0), (64, "bf16", 90.0)), "compared": {}}
    (line,) = comparison_lines(mine, [a100])
    assert line.startswith("Beside 6.74 volumes/s at 128^3")
    assert ": 20 (" in line


def test_measures_a_step(tmp_path: Path) -> None:
    training = OmegaConf.to_container(composed(*TINY, f"output_dir={tmp_path}"), resolve=True)
    peaks = Peaks({"fp32": 100.0}, 10.0)
    found = measure(training, 16, "fp32", 0.2, CPU, peaks)
    assert (found.size, found.precision, found.batch_size) == (16, "fp32", 4)
    assert found.volumes_per_s == pytest.approx(4 * found.steps_per_s)
    assert set(found.shares) == set(PHASES)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert all(value > 0.0 for value in found.shares.values())
    assert found.fraction_of_roofline == pytest.approx(found.roofline_ms / 1000.0 * found.steps_per_s)
    fastest = max(found.gflop_per_step / 100.0, found.gb_per_step / 10.0)
    slowest = found.gflop_per_step / 100.0 + found.gb_per_step / 10.0
    assert fastest <= found.roofline_ms / 1000.0 <= slowest
    shown = {"machine": describe_machine(CPU), "peaks": vars(peaks), "measurements": [vars(found)]}
    assert measurements_table(shown).row_count == 1


def test_peaks() -> None:
    peaks = measure_peaks(CPU, ["fp32"])
    assert 0.1 < peaks.gflops["fp32"] < 1e5
    assert 0.1 < peaks.gb_per_s < 1e4


def test_a_clock_counts_each_phase_once() -> None:
    def batches() -> Iterator[Batch]:
        for _ in range(3):
            time.sleep(0.04)
            yield Batch(torch.zeros(1, 1), ("a",))

    clock = PhaseClock(CPU)
    for _ in clock.watched(batches()):
        with clock.during("forward"):
            time.sleep(0.03)
        with clock.during("forward"):
            time.sleep(0.03)
        time.sleep(0.02)
    assert len(clock.totals) == 3
    for phase, at_least in (("data", 0.04), ("forward", 0.06), ("overhead", 0.02)):
        assert all(value >= at_least for value in clock.seconds[phase]), phase
    assert clock.seconds["backward"] == [0.0] * 3
    assert sum(clock.shares().values()) == pytest.approx(1.0)


def test_a_clock_ends_a_phase_that_fails() -> None:
    clock = PhaseClock(CPU)

    def batches() -> Iterator[Batch]:
        yield Batch(torch.zeros(1, 1), ("a",))

    @clock.during("forward")
    def fail() -> None:
        time.sleep(0.03)
        raise MemoryError

    for _ in clock.watched(batches()):
        with pytest.raises(MemoryError):
            fail()
    assert clock.seconds["forward"][0] >= 0.03


def test_leaves_one_file(tmp_path: Path) -> None:
    overrides = ("sizes=[16]", "precisions=[fp32]", "seconds=0.2", "auxiliary_decoder.base_filters=16")
    composition = composed(*TINY, *overrides, f"output_dir={tmp_path}", config="bench")
    assert composition.trainer.tune == "off"
    assert bench(composition) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sizes=[40]", r"^sizes"),
        ("precisions=[fp8]", r"^precisions"),
        ("seconds=0", r"^seconds"),
        ("result=null", r"^result"),
    ],
)
def test_wrong_keys(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        bench(composed(f"output_dir={tmp_path}", override, config="bench"))
