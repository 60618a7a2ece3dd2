"""A few of `make controls` in small, so that its table does not rot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from catalogue import CONTROLS
from judging import default_gates, judged

SIZES = (300, 200, 200)


@pytest.mark.parametrize("name", ["healthy turned", "A' by keys", "B'", "C'", "blind decoder"])
def test_the_gates_refuse_what_they_must_and_nothing_else(name: str) -> None:
    control = next(each for each in CONTROLS if each.name == name)
    result = judged(control, SIZES)
    assert result.is_right, f"{name}: {result.verdict}: {dict(result.verdicts)}"


def test_every_gate_is_one_that_a_control_must_fail() -> None:
    of_classes = {"class_skill"}  # the drawn cohort has none; tests/conformance/test_metrics.py
    assert {gate for control in CONTROLS for gate in control.must_fail} >= default_gates().keys() - of_classes
    assert len({control.name for control in CONTROLS}) == len(CONTROLS)


def test_a_wrong_verdict_is_noticed() -> None:
    healthy, leaking = (next(each for each in CONTROLS if each.name == name) for name in ("healthy 1", "B'"))
    assert not judged(replace(leaking, must_fail=frozenset()), SIZES).is_right
    assert judged(replace(healthy, must_fail=frozenset({"leak_max"})), SIZES).verdict == "not refused by leak_max"
