"""Importance of keys against the exact analysis of variance of full grids."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from stores import tracked

from menvae.comparison.compare import ComparisonSettings, compare
from menvae.comparison.importance import Importance, importance_of, importance_words
from menvae.comparison.tracked_runs import TrackedRun

R2 = {"r2": (">", 0.5)}
KEYS = ("model.partitions.vol", "trainer.learning_rate", "decoder.name")
DECODERS = ("mlp", "resize", "sbd", "transposed")


def grid(values: np.ndarray) -> list[TrackedRun]:
    """One run of each cell of a table of three keys."""
    rates = [10.0 ** -(1 + place) for place in range(values.shape[1])]
    return [
        tracked(dict(zip(KEYS, (2**a, rates[b], DECODERS[c]), strict=True)) | {"seed": 0}, {"r2": values[a, b, c]}, R2)
        for a, b, c in product(*map(range, values.shape))
    ]


def importance(runs: list[TrackedRun], **settings: object) -> tuple[Importance, list[str]]:
    found = compare(runs, ComparisonSettings(**settings))  # type: ignore[arg-type]
    one = importance_of(found.cohorts[0], found.keys, found.gates)
    return one, importance_words(one, found.cohorts[0])


def test_shares_are_those_of_the_exact_analysis_of_variance() -> None:
    a, b, c = np.linspace(0, 1, 5), np.linspace(0, 1, 4), np.array([0.0, 1.0, 0.05, 0.95])
    values = 3 * a[:, None, None] + b[None, :, None] + c[None, None, :] + (a[:, None, None] * b[None, :, None])
    exact = [values.mean(axis=others).var() / values.var() for others in ((1, 2), (0, 2), (0, 1))]
    found, words = importance(grid(values))
    shares = found.shares["r2"]
    assert [shares[key] for key in KEYS] == pytest.approx(exact, abs=0.05)
    assert sum(shares.values()) <= 1.0
    assert found.num_configurations == 80
    assert "from 80 configurations; the rest" in words[0]


def test_keys_that_act_only_together_have_no_share_of_their_own() -> None:
    values = np.zeros((4, 4, 2))
    values[:2, :2] = values[2:, 2:] = 1.0  # the sign of a product
    found, _ = importance(grid(values))
    assert sum(found.shares["r2"].values()) < 0.25
    assert found.shares["r2"]["decoder.name"] < 0.05


def test_is_the_same_each_time() -> None:
    runs = grid(np.random.default_rng(0).normal(size=(3, 3, 2)))
    assert importance(runs)[0] == importance(runs)[0]


def test_what_cannot_be_computed_is_said() -> None:
    few = grid(np.arange(4.0).reshape(2, 2, 1))
    assert importance(few)[1] == ["The importance of keys needs at least 8 configurations; there are 4."]
    line = grid(np.arange(9.0).reshape(9, 1, 1))
    assert importance(line)[1] == [f"Only {KEYS[0]} varies, so there is nothing to share between keys."]
    assert importance(few[:1])[1] == []
    flat = importance(grid(np.ones((3, 3, 1))))
    assert (flat[0].shares, flat[1]) == ({}, ["All configurations are equal in r2."])


def test_a_key_that_varies_only_on_other_data_has_no_importance() -> None:
    here = grid(np.random.default_rng(0).normal(size=(4, 3, 1)))
    there = [tracked({"decoder.name": "sbd", "seed": 0}, {"r2": 0.5}, R2, data_hash="e" * 32)]
    found, words = importance([*here, *there])
    assert set(found.shares["r2"]) == set(KEYS[:2])
    assert words[1] == "Without importance, because it never varies here: decoder.name."


def test_of_many_configurations_some_are_used() -> None:
    generator = np.random.default_rng(0)
    runs = [
        tracked({KEYS[0]: int(size), KEYS[1]: float(rate), "seed": 0}, {"r2": float(rate)}, R2)
        for size, rate in zip(generator.permutation(210), generator.uniform(size=210), strict=True)
    ]
    found, words = importance(runs)
    assert found.num_configurations == 200
    assert "from 200 configurations of 210, evenly along the order of merit" in words[0]
    assert found.shares["r2"][KEYS[1]] > 0.9 > 0.05 > found.shares["r2"][KEYS[0]]
