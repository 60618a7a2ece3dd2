import dataclasses
import math

import pytest

from menvae.statistics.estimate import Estimate


def test_json_has_five_keys() -> None:
    found = dataclasses.asdict(Estimate(0.5, 0.4, 0.6, 20))
    assert found == {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20, "reason": ""}


def test_what_is_missing_stays_missing() -> None:
    doubled = Estimate(2.0, None, None, 3, "3 patients").transformed(lambda x: 2.0 * x)
    assert doubled == Estimate(4.0, None, None, 3, "3 patients")


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((math.nan, None, None), "value of an estimate must be finite or None, got nan"),
        ((1.0, -math.inf, 2.0), "low of an estimate must be finite or None, got -inf"),
        ((1.0, 0.5, None), "an interval has two ends"),
        ((None, 0.5, 1.0), "has no value"),
        ((None, None, None), "needs a reason"),
    ],
)
def test_bad_numbers(numbers: tuple[float | None, float | None, float | None], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Estimate(*numbers, n=5)
