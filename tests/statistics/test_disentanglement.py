"""Disentanglement scores of code groups: closed forms, invariances, chance."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from menvae.conformance.codes import Code, codes
from menvae.statistics.disentanglement import (
    beta_vae_score,
    dci,
    dci_es,
    factor_vae_score,
    infomec,
    irs,
    mig,
    occupancies,
    readings,
    sap,
)

METRICS = ("dci", "dci_es", "mig", "sap", "infomec", "irs", "factor_vae", "beta_vae")
CODES = {code.name: code for code in codes()}


def scores(codes: object, factors: object, observed: object = None) -> dict[str, float]:
    read, occupied = readings(codes, factors, observed), occupancies(codes, factors, observed)
    return {
        **{f"dci_{name}": value for name, value in dci(read)._asdict().items()},
        **{f"dci_{name}": value for name, value in dci_es(read, occupied)._asdict().items()},
        **{f"infomec_{name}": value for name, value in infomec(read)._asdict().items()},
        "mig": mig(read),
        "sap": sap(read),
        "irs": irs(occupied),
        "factor_vae": factor_vae_score(occupied),
        "beta_vae": beta_vae_score(occupied),
    }


@functools.cache
def scores_of(name: str) -> dict[str, float]:
    return scores(CODES[name].codes, CODES[name].factors)


def keys_of(metric: str) -> list[str]:
    names = {"dci": ("disentanglement", "completeness", "informativeness"), "dci_es": ("explicitness", "size")}
    names["infomec"] = ("modularity", "explicitness", "compactness")
    return [f"{metric.removesuffix('_es')}_{name}" for name in names[metric]] if metric in names else [metric]


def test_there_are_a_hundred_codes_and_scores_take_many_values() -> None:
    assert len(CODES) == len(codes()) >= 100
    every = {key for metric in METRICS for key in keys_of(metric)}
    for code in codes():
        assert set(code.expected) == every
    for key in every - {"factor_vae", "beta_vae"}:
        assert len({round(code.expected[key], 3) for code in codes()}) >= 5, key


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("code", codes(), ids=str)
def test_score_is_the_closed_form(code: Code, metric: str) -> None:
    for key in keys_of(metric):
        assert scores_of(code.name)[key] == pytest.approx(code.expected[key], abs=0.01), key


# by hand, without `Truth`: 1 + .75 log2 .75 + .25 log2 .25; ln(1 - R2/1.01) / ln(.01/1.01); and so on
@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("turned-30-1x1", "dci_disentanglement", 0.18872),
        ("turned-30-1x1", "sap", 0.5),
        ("turned-30-1x1", "irs", 0.75),
        ("noisy-1.0-1x1", "mig", 0.148056),  # 0.683297 nats of 4.615121
        ("noisy-0.1-1x1", "dci_informativeness", 0.90909),
        ("copied", "dci_size", 2 / 3),
        ("copied", "sap", 0.5),
        ("copied", "dci_completeness", 0.5),
        ("merged-0.6", "dci_disentanglement", 1 - 0.964957),  # entropy of (1, .64) / 1.64 in bits
        ("merged-0.0", "factor_vae", 0.5),
        ("mixed-0.6-0.0", "sap", 1 / 1.36),
        ("quadratic-45", "dci_explicitness", 0.75),
        ("cube", "dci_informativeness", 0.92),
    ],
)
def test_closed_forms_are_right(name: str, key: str, value: float) -> None:
    assert CODES[name].expected[key] == pytest.approx(value, abs=1e-5)


def cohort(num_rows: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A leaky code of dependent factors with noise."""
    rng = np.random.default_rng(seed)
    factors = [rng.normal(size=(num_rows, size)) for size in (2, 3, 1)]
    factors[2] = 0.6 * factors[0][:, :1] + 0.8 * factors[2]
    codes = [np.hstack([block, rng.normal(size=(num_rows, 3))]) for block in factors]
    codes[1][:, 4] += factors[0][:, 1]
    codes = [block + 0.3 * rng.normal(size=block.shape) for block in codes]
    return codes, factors


def test_nothing_depends_on_order_or_units() -> None:
    codes, factors = cohort(200)
    expected = scores(codes, factors)
    rng = np.random.default_rng(1)
    changed = [
        (block * 10.0 ** rng.integers(-3, 3, block.shape[1]) - 5.0)[:, rng.permutation(block.shape[1])]
        for block in codes
    ]
    rows = rng.permutation(200)
    found = scores(
        [changed[index][rows] for index in (2, 0, 1)], [10.0 * factors[index][rows, ::-1] for index in (1, 0, 2)]
    )
    for key, value in expected.items():
        tolerance = 0.02 if key == "dci_explicitness" else 1e-6  # its components are those of the code in its own units
        assert found[key] == pytest.approx(value, abs=tolerance), key


@pytest.mark.parametrize("place", ["first", "last", "group"])
def test_dead_dimensions_change_nothing(place: str) -> None:
    codes, factors = cohort(100)
    dead = np.full((100, 3), 7.0)
    joined = {
        "first": [np.hstack([dead, block]) for block in codes],
        "last": [np.hstack([block, dead]) for block in codes],
        "group": [dead, *codes],
    }
    assert scores(joined[place], factors) == pytest.approx(scores(codes, factors), abs=1e-9)


@pytest.mark.parametrize("num_rows", [64, 256])
def test_noise_never_looks_like_a_code(num_rows: int) -> None:
    rng = np.random.default_rng(num_rows)
    for _ in range(20):
        codes = [rng.normal(size=(num_rows, size)) for size in (24, 8, 12, 84)]
        factors = [rng.normal(size=(num_rows, size)) for size in (2, 3, 3)]
        found = scores(codes, factors)
        for key in ("dci_disentanglement", "dci_completeness", "infomec_modularity", "mig", "sap", "irs"):
            assert found[key] == 0.0, key


def test_unobserved_factors_count_nowhere() -> None:
    codes, factors = cohort(300)
    observed = [(np.random.default_rng(7).random(block.shape) < 0.7).astype(float) for block in factors]
    gaps = [np.where(seen > 0, block, np.nan) for block, seen in zip(factors, observed, strict=True)]
    other = [np.where(seen > 0, block, 1e6) for block, seen in zip(factors, observed, strict=True)]
    assert scores(codes, gaps, observed) == scores(codes, other, observed)
    for key, value in scores(codes, factors).items():
        assert scores(codes, gaps, observed)[key] == pytest.approx(value, abs=0.12), key


def test_one_group_is_refused() -> None:
    codes, factors = cohort(50)
    for function in (readings, occupancies):
        with pytest.raises(ValueError, match="at least 2"):
            function(codes, factors[:1])
