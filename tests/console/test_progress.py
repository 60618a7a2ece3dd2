"""TODO."""

from __future__ import annotations

import logging
import time

import pytest
from rich.console import Console

from menvae.console import progress
from menvae.console.progress import TrainingProgress, epoch_line, progress_bar

METRICS: dict[str, float | None] = {
    "train_epoch/loss": 1.2341,
    "val_epoch/loss": 1.3099,
    "val_epoch/recon": 0.2109,
    "val_epoch/kl_raw": 34.08,
    "sem/vol_r2": 0.7149,
    "sem/loc_r2": 0.8,
    "sem/shape_r2": None,
    "diag/recon_mu_mse": 0.5,
    "diag/mean_z_ratio": 1.4,
    "diag/shuffled_ratio": 1.6,
}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(stderr=True, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "console", console)
    return console


def test_line_of_an_epoch() -> None:
    assert epoch_line(3, 20, METRICS, 6.91) == (
        "epoch  3/20  loss 1.234  val 1.310  recon 0.211  kl 34.1 nats  "
        "vol R2 0.71  loc R2 0.80  z-ratio 1.40/1.60  6.9 s"
    )


def test_line_with_nothing_known() -> None:
    assert epoch_line(1, 1, {}, 0.04) == "epoch 1/1  0.0 s"


def test_plain_log_gets_one_line_an_epoch(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    with TrainingProgress(2, 5, 1) as training:
        for epoch in (1, 2):
            for step in range(1, 6):
                training.step(epoch, step, lambda: {"loss": 1.0})
            training.epoch_end(epoch, METRICS, 1.0)
    assert [message[:9] for message in caplog.messages] == ["epoch 1/2", "epoch 2/2"]
    assert capsys.readouterr() == ("", "")


def test_bar_on_a_terminal(
    terminal: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0.01)
    with TrainingProgress(4, 5, 3) as training:
        for epoch in (3, 4):
            for step in range(1, 6):
                training.step(epoch, step, lambda: {"loss": 1.5, "kl_raw": 30.25, "lambda_vol": 3.0})
                time.sleep(0.02)
            training.epoch_end(epoch, METRICS, 1.0)
    text = capsys.readouterr().err
    assert "epoch 3/4" in text
    assert "epoch 4/4" in text
    assert "loss 1.5  kl_raw 30.25" in text
    assert "10/10" in text
    assert "lambda_vol" not in text


def test_bar_within_a_bar_only_logs(terminal: Console, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with TrainingProgress(1, 5, 1):
        assert list(progress_bar(range(20), "measuring")) == list(range(20))
    assert len(caplog.messages) == 10
    caplog.clear()
    assert list(progress_bar(range(20), "measuring")) == list(range(20))
    assert caplog.messages == []


def test_an_error_takes_the_bar_down(terminal: Console) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError), TrainingProgress(1, 5, 1):
            raise RuntimeError
    bar = progress_bar(range(3), "work")
    next(bar)
    bar.close()  # type: ignore[attr-defined]
    assert not progress._bar_is_up


@pytest.mark.parametrize(("total", "num_lines"), [(0, 0), (1, 1), (7, 7), (20, 10), (1005, 11)])
def test_other_work_logs_every_tenth(caplog: pytest.LogCaptureFixture, total: int, num_lines: int) -> None:
    caplog.set_level(logging.INFO)
    assert list(progress_bar(list(range(total)), "preparing")) == list(range(total))
    assert len(caplog.messages) == num_lines
    if total:
        assert caplog.messages[-1].startswith(f"preparing: {total}/{total}, ")


def test_work_of_unknown_length(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert len(list(progress_bar(iter(range(250)), "reading"))) == 250
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "reading: 100",
        "reading: 200",
        "reading: 250",
    ]


def test_a_step_costs_next_to_nothing(terminal: Console) -> None:
    with TrainingProgress(1, 100_000, 1) as training:
        losses = {"loss": 1.0}
        begun = time.perf_counter()
        for step in range(100_000):
            training.step(1, step, lambda: losses)
        assert (time.perf_counter() - begun) / 100_000 < 20e-6  # measured: 0.2e-6
