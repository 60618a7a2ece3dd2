"""A search draws the values that Hydra enumerates in a sweep, and refuses what has none."""

from __future__ import annotations

import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra_plugins.menvae_launchers.search_space import check_ranges, dimension, fraction_and_whole, grid
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from menvae.errors import UserError


def parsed(text: str) -> Override:
    return OverridesParser.create().parse_override(f"key={text}")


@pytest.mark.parametrize(
    "text",
    [
        "range(5)",
        "range(8,33,8)",
        "range(10,0,-2)",
        "range(10,0,-3)",
        "range(0,1,0.5)",
        "range(0,1,0.25)",
        "range(0,1,0.1)",
        "range(1,0,-0.1)",
        "range(0.1,0.9,0.2)",
        "range(0,0.9001,0.3)",
        "range(-2,2,1.5)",
        "range(1e-4,9e-4,3e-4)",
        "float(range(1,4))",
        "choice(8,16,24)",
        "a,b",
        "null,1",
        "true,false",
        "choice([1,2],[3])",
    ],
)
def test_values_are_those_of_a_sweep(text: str) -> None:
    override = parsed(text)
    enumerated = list(override.sweep_string_iterator())
    searched = dimension(override)
    drawn = grid({"key": searched.distribution})["key"]
    assert sorted(map(searched.text, drawn), key=str.lower) == sorted(enumerated, key=str.lower)
    for value in drawn:
        assert searched.distribution._contains(searched.distribution.to_internal_repr(value))


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("interval(8,16)", FloatDistribution(8.0, 16.0)),
        ("tag(log,interval(1,16))", FloatDistribution(1.0, 16.0, log=True)),
        ("int(interval(64,256))", IntDistribution(64, 256)),
        ("tag(int,interval(64,256))", IntDistribution(64, 256)),
        ("tag(int,log,interval(1,64))", IntDistribution(1, 64, log=True)),
        ("tag(int,interval(0.5,3.5))", IntDistribution(1, 3)),
        ("range(8,33,8)", IntDistribution(8, 32, step=8)),
        ("range(10,0,-2)", IntDistribution(2, 10, step=2)),
        ("range(0,1,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("choice(2,3)", CategoricalDistribution([2, 3])),
    ],
)
def test_distributions(text: str, distribution: object) -> None:
    assert dimension(parsed(text)).distribution == distribution


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("range(5,5)", "it contains no value"),
        ("range(5,1)", "it contains no value"),
        ("range(0.5,0.5,0.1)", "it contains no value"),
        ("range(1,5,0)", "its step is 0"),
        ("range(0,inf,0.5)", "its numbers must be finite"),
        ("range(0,0.9,0.3)", r"includes its end 0.9 by a rounding error; write range\(0,0.75,0.3\)"),
        ("sort(range(0,10,3),reverse=true)", "write range with a negative step"),
        ("range(0,1,1e-9)", "more than 100000 values; use interval in a search"),
        ("tag(log,range(1,8))", "only an interval can be drawn on a logarithmic scale"),
        ("interval(0,inf)", "its ends must be finite"),
        ("interval(nan,1)", "its ends must be finite"),
        ("interval(5,1)", "low"),
        ("tag(log,interval(0,1))", "low"),
        ("tag(int,interval(0.2,0.8))", "low"),
        ("tag(lgo,interval(1,8))", "tag 'lgo' has no meaning; known: int, log"),
    ],
)
def test_what_has_no_values(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^key: '.*' cannot be searched: .*{reason}"):
        dimension(parsed(text))


@pytest.mark.parametrize(
    "text", ["range(5,5)", "range(1,5,0)", "range(0,inf,1.0)", "range(0,0.8,0.1)", "range(9,0.0,-0.3)"]
)
def test_ranges_that_cannot_be_swept(text: str) -> None:
    with pytest.raises(UserError, match=r"^key: '.*' cannot be swept: "):
        check_ranges([parsed("choice(1,2)"), parsed(text)])


@pytest.mark.parametrize(
    ("text", "values"),
    [("range(0,5001,5000)", [0, 5000]), ("range(0,0.75,0.1)", 8), ("range(0,0.7,0.1)", 7), ("shuffle(range(3))", 3)],
)
def test_ranges_that_can(text: str, values: list[int] | int) -> None:
    check_ranges([parsed(text)])
    enumerated = list(parsed(text).sweep_iterator())
    assert enumerated == values if isinstance(values, list) else len(enumerated) == values


@pytest.mark.parametrize("text", ["interval(8,16)", "interval(0,1)", "range(8,17,4.0)", "range(0,1,0.5)"])
def test_a_fraction_and_a_whole_number_of_a_space(text: str) -> None:
    searched = dimension(parsed(text))
    found = fraction_and_whole(searched)
    assert found is not None
    fraction, whole = found
    assert isinstance(searched.distribution, FloatDistribution)
    for number in (float(fraction), int(whole)):
        assert searched.distribution.low <= number <= searched.distribution.high
    assert "." in fraction
    assert math.isclose(float(fraction), int(whole), abs_tol=0.5)


@pytest.mark.parametrize("text", ["interval(0.1,0.9)", "tag(int,interval(1,9))", "choice(1,2)"])
def test_spaces_without_fractions_or_whole_numbers(text: str) -> None:
    assert fraction_and_whole(dimension(parsed(text))) is None
