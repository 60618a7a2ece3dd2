"""False discovery rate against its definition and scipy."""

import numpy as np
from scipy.stats import false_discovery_control

from menvae.statistics.discoveries import q_values


def test_the_largest_rejected_family_is_that_of_the_definition() -> None:
    """Benjamini and Hochberg reject the k smallest p-values, k the largest with p_(k) <= k r / n."""
    p_values = np.random.default_rng(0).uniform(0.0, 0.2, 30) ** 2
    found = q_values({number: float(value) for number, value in enumerate(p_values)})
    ordered = np.sort(p_values)
    for rate in (0.01, 0.05, 0.2):
        below = np.nonzero(ordered <= rate * np.arange(1, 31) / 30)[0]
        rejected = {number for number in range(30) if len(below) and p_values[number] <= ordered[below[-1]]}
        assert {number for number, value in found.items() if value is not None and value <= rate} == rejected


def test_tests_without_a_p_value_do_not_count() -> None:
    found = q_values({"a": 0.02, "b": None, "c": 0.9, "d": 0.04})
    expected = false_discovery_control([0.02, 0.9, 0.04])
    np.testing.assert_allclose([found["a"], found["c"], found["d"]], expected)
    assert found["b"] is None
    assert q_values({"a": None}) == {"a": None}
