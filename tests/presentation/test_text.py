"""Numbers as a person reads them."""

import pytest

from menvae.presentation.text import significant


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (-0.123456, "-0.123"), (256.4, "256"), (4096.0, "4,096"), (7, "7"), (True, "yes"), ("x", "x")],
)
def test_three_significant_places(value: object, text: str) -> None:
    assert significant(value) == text
