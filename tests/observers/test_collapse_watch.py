"""What the collapse watch says of one validation after another, given their metrics."""

from __future__ import annotations

import logging
import re

import pytest

from menvae.observers.collapse_watch import CollapseWatch, WatchSettings, collapse_findings

HEALTHY = {"diag/mean_z_ratio": 2.0, "diag/shuffled_ratio": 2.0, "val_epoch/kl_raw": 40.0}
BLIND = {**HEALTHY, "diag/mean_z_ratio": 1.0}


def test_warns_once_for_each_collapse_and_tells_of_the_recovery(caplog: pytest.LogCaptureFixture) -> None:
    watch = CollapseWatch(WatchSettings(), max_epochs=10)
    told = []
    with caplog.at_level(logging.INFO, logger="menvae.observers.collapse_watch"):
        for epoch, metrics in enumerate([BLIND, BLIND, HEALTHY, HEALTHY, BLIND], start=5):
            caplog.clear()
            verdict = watch.on_validation_end(epoch, metrics)
            assert verdict.metrics == {"diag/collapsed": float(metrics is BLIND)}
            assert verdict.collapsed == (metrics is BLIND)
            assert not verdict.stop
            told.append(
                [
                    (record.levelno, *re.findall(r"epoch \d+|1\.000|watch\.collapse=stop", record.getMessage()))
                    for record in caplog.records
                ]
            )
    assert told == [
        [(logging.WARNING, "epoch 5", "1.000", "watch.collapse=stop")],
        [],
        [(logging.INFO, "epoch 7")],
        [],
        [(logging.WARNING, "epoch 9", "1.000", "watch.collapse=stop")],
    ]


def test_a_resumed_run_does_not_repeat_the_warning(caplog: pytest.LogCaptureFixture) -> None:
    before = CollapseWatch(WatchSettings(), max_epochs=10)
    before.on_validation_end(5, BLIND)
    assert len(caplog.records) == 1
    resumed = CollapseWatch(WatchSettings(), max_epochs=10)
    resumed.load_epoch_state(before.epoch_state())
    resumed.on_validation_end(6, BLIND)
    assert len(caplog.records) == 1
    resumed.load_epoch_state({})  # of an earlier version
    resumed.on_validation_end(7, BLIND)
    assert len(caplog.records) == 2


def test_a_run_is_stopped_from_the_first_epoch_after_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    watch = CollapseWatch(WatchSettings(collapse="stop", grace=0.5), max_epochs=10)
    verdicts = [watch.on_validation_end(epoch, BLIND) for epoch in (4, 5, 6)]
    assert [verdict.collapsed for verdict in verdicts] == [True, True, True]
    assert [verdict.metrics for verdict in verdicts] == [{"diag/collapsed": 1.0}] * 3
    assert [bool(verdict.stop) for verdict in verdicts] == [False, False, True]
    assert not caplog.records  # the sentence that stops a run is told by the run


@pytest.mark.parametrize(
    ("changed", "figures"),
    [
        ({}, []),
        ({"diag/mean_z_ratio": 1.2}, [["mean z", "1.200"]]),
        ({"diag/shuffled_ratio": 1.2}, [["another subject", "1.200"]]),
        ({"val_epoch/kl_raw": 1.5}, [["KL", "1.50", "0.0"]]),
        ({"val_epoch/kl_raw": 5.0, "sched/expected_kl_floor": 5.0}, [["KL", "5.00", "5.0"]]),
        ({"val_epoch/kl_raw": 1.5, "diag/mean_z_ratio": 0.9}, [["mean z", "0.900"], ["KL", "1.50", "0.0"]]),
    ],
)
def test_each_sign_alone_is_one(changed: dict[str, float], figures: list[list[str]]) -> None:
    found = collapse_findings({**HEALTHY, **changed}, WatchSettings(min_ratio=1.25, min_kl_nats=2.0))
    pattern = r"mean z|another subject|^KL|\d\.\d+"
    assert [re.findall(pattern, sentence) for sentence in found] == figures


def test_the_limit_named_is_the_one_that_counts() -> None:
    (sentence,) = collapse_findings({**HEALTHY, "val_epoch/kl_raw": 0.4}, WatchSettings(min_kl_nats=0.5))
    assert sentence == "KL is 0.40 nats (limit 0.5, free-bits floor 0.0)"


def test_thresholds_themselves_are_healthy() -> None:
    settings = WatchSettings(min_ratio=1.25, min_kl_nats=2.0)
    at_them = {"diag/mean_z_ratio": 1.25, "diag/shuffled_ratio": 1.25, "val_epoch/kl_raw": 2.0}
    assert collapse_findings(at_them, settings) == []
    assert collapse_findings({}, settings) == []
    assert len(collapse_findings({name: 0.999 * value for name, value in at_them.items()}, settings)) == 3
