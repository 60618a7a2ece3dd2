"""Leaks between partitions: hand-made leaks are found, healthy codes are not, values agree with closed forms."""

from dataclasses import replace

import numpy as np
import pytest

from menvae.statistics.leaks import Codes, Leak, Leaks, leak_table

SUPERVISION = {"vol": ["volume"], "loc": ["x", "y"], "residual": []}
Arrays = dict[str, np.ndarray]


def cohort(num: int, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Independent targets, each encoded with noise by its own partition alone."""
    random = np.random.default_rng(seed)
    targets = {name: random.normal(size=num) for name in ("volume", "x", "y")}
    means = {"vol": random.normal(size=(num, 3)), "loc": random.normal(size=(num, 4))}
    means["vol"][:, 0] = targets["volume"] + 0.2 * random.normal(size=num)
    means["loc"][:, :2] = np.stack([targets["x"], targets["y"]], axis=1) + 0.2 * random.normal(size=(num, 2))
    return means | {"residual": random.normal(size=(num, 16))}, targets


def judge(means: Arrays, targets: Arrays, num_judged: int = 60, visits: int = 1, permutations: int = 60) -> Leaks:
    num = len(targets["volume"])
    patients = [f"p{row // visits:04d}" for row in range(num)]
    train, judged = (
        Codes(
            {name: array[rows] for name, array in means.items()},
            {name: array[rows] for name, array in targets.items()},
            patients[rows],
        )
        for rows in (slice(num - num_judged), slice(num - num_judged, num))
    )
    return leak_table(train, judged, SUPERVISION, num_permutations=permutations)


def row(leaks: Leaks, target: str, source: str, probe: str = "ridge") -> Leak:
    (found,) = [x for x in leaks.table if (x.target, x.source, x.probe) == (target, source, probe)]
    return found


def rotated(codes: np.ndarray) -> np.ndarray:
    return codes @ np.linalg.qr(np.random.default_rng(1).normal(size=(codes.shape[1],) * 2))[0]


def test_healthy_codes_do_not_leak() -> None:
    found = judge(*cohort(260))
    assert found.leak_max.value == 0.0
    assert found.largest is not None
    assert not found.largest.significant
    # a target of variance 1 in a code with noise of variance 0.04
    assert row(found, "volume", "vol").r2 == pytest.approx(1 / 1.04, abs=0.03)
    assert row(found, "volume", "vol").conditional is None


def test_a_residual_dimension_that_is_the_volume() -> None:
    means, targets = cohort(260)
    means["residual"][:, 5] = targets["volume"]
    found = judge(means, targets)
    assert found.leak_max.value == pytest.approx(1.0, abs=0.01)
    assert found.leak_max.low is not None
    assert found.leak_max.low > 0.9
    assert found.largest is not None
    assert (found.largest.target, found.largest.partition, found.largest.source) == ("volume", "vol", "residual")
    assert found.largest.p_value == pytest.approx(1 / 61)


@pytest.mark.parametrize("turn", [False, True], ids=["two dimensions", "rotated"])
def test_a_product_of_two_dimensions_is_seen_by_the_quadratic_probe_only(turn: bool) -> None:
    means, targets = cohort(260)
    sign = np.random.default_rng(2).choice([-1.0, 1.0], 260)
    means["residual"][:, 3], means["residual"][:, 9] = sign * targets["volume"], sign
    if turn:
        means["residual"] = rotated(means["residual"])
    found = judge(means, targets)
    assert found.leak_max.value is not None
    assert found.leak_max.value > 0.6
    assert found.largest is not None
    assert found.largest.probe == "quadratic"
    ridge = row(found, "volume", "residual")
    assert ridge.r2 is not None
    assert ridge.r2 < 0.1


def test_volume_that_also_holds_the_location() -> None:
    means, targets = cohort(260)
    means["vol"] = rotated(np.column_stack([means["vol"], targets["x"]]))
    found = judge(means, targets)
    assert found.leak_max.value is not None
    assert found.leak_max.value > 0.9
    assert found.largest is not None
    assert (found.largest.target, found.largest.source) == ("x", "vol")


def test_what_the_targets_of_the_source_say_is_no_leak() -> None:
    means, targets = cohort(400)
    # x = .8 volume + .6 noise, so that the volume explains .64 of it
    means["loc"][:, 0] += 0.8 * targets["volume"] - 0.4 * targets["x"]
    targets["x"] = 0.6 * targets["x"] + 0.8 * targets["volume"]
    found = judge(means, targets, num_judged=150)
    read = row(found, "x", "vol")
    # volume from a code with noise .04: .64 / 1.04
    assert read.r2 == pytest.approx(0.64 / 1.04, abs=0.1)
    assert read.own_r2 == pytest.approx(0.64, abs=0.1)
    assert read.conditional == pytest.approx(0.0, abs=0.06)
    assert found.leak_max.value == 0.0


def test_r2_of_a_linear_gaussian_code() -> None:
    random = np.random.default_rng(3)
    means, targets = cohort(1200)
    means["residual"][:, 0] = targets["volume"] + random.normal(size=1200)
    read = row(judge(means, targets, num_judged=400, permutations=0), "volume", "residual")
    assert read.r2 == pytest.approx(0.5, abs=0.08)
    assert read.null is None
    assert not read.significant


def test_order_scale_rotation_and_dead_dimensions_do_not_matter() -> None:
    means, targets = cohort(200)
    means["residual"][:, 0] += targets["volume"]
    expected = row(judge(means, targets, permutations=0), "volume", "residual").r2
    scaled = means | {"residual": np.column_stack([1e3 * means["residual"] - 7.0, np.full(200, 4.0)])}
    assert row(judge(scaled, targets, permutations=0), "volume", "residual").r2 == pytest.approx(expected, abs=1e-6)
    turned = means | {"residual": rotated(means["residual"])}
    assert row(judge(turned, targets, permutations=0), "volume", "residual").r2 == pytest.approx(expected, abs=0.05)
    train = Codes(means, targets, [f"t{index:03d}" for index in range(200)])
    judged = replace(train, patients=[f"j{index:03d}" for index in range(200)])
    backwards = Codes(
        {name: array[::-1] for name, array in means.items()},
        {name: array[::-1] for name, array in targets.items()},
        judged.patients[::-1],
    )
    first, second = (leak_table(train, split, SUPERVISION, num_permutations=20) for split in (judged, backwards))
    assert first == second


def test_patients_in_both_splits_do_not_train_the_probe() -> None:
    means, targets = cohort(60)
    split = Codes(means, targets, [f"p{index}" for index in range(60)])
    alone = Codes({k: v[:0] for k, v in means.items()}, {k: v[:0] for k, v in targets.items()}, [])
    assert leak_table(split, split, SUPERVISION, num_permutations=20) == leak_table(
        alone, split, SUPERVISION, num_permutations=20
    )


def test_visits_of_a_patient_are_no_evidence_of_each_other() -> None:
    """Independent codes of 60 patients leak by chance in 5 % of draws, although four visits each are the same row."""
    leaking = 0
    for seed in range(8):
        means, targets = ({k: np.repeat(v, 4, axis=0) for k, v in arrays.items()} for arrays in cohort(60, seed))
        found = judge(means, targets, num_judged=120, visits=4)
        leaking += found.leak_max.value != 0.0
        assert {leak.n for leak in found.table} == {30}
    assert leaking <= 2  # three or more of eight: probability .006
    # the same rows taken for patients of their own are predicted by their twins
    twins = judge(means, targets, num_judged=120, permutations=0)
    assert row(twins, "volume", "residual").r2 > row(found, "volume", "residual").r2 + 0.1


@pytest.mark.parametrize("kind", ["noise", "dependent targets"])
def test_codes_without_leaks_exceed_the_null_in_five_percent_of_draws(kind: str) -> None:
    leaking = 0
    for seed in range(12):
        means, targets = cohort(140, 100 + seed)
        random = np.random.default_rng(seed)
        if kind == "noise":
            means = {name: random.normal(size=array.shape) for name, array in means.items()}
        else:
            means["loc"][:, 0] += 0.8 * targets["volume"]
            targets["x"] = targets["x"] + 0.8 * targets["volume"]
        leaking += judge(means, targets, num_judged=40, permutations=80).leak_max.value != 0.0
    assert leaking <= 3  # four or more of twelve: probability .002


def test_too_few_patients_are_named_with_their_number() -> None:
    means, targets = cohort(100)
    found = judge(means, targets, num_judged=9)
    assert found.leak_max.value is None
    assert "9 patients" in found.leak_max.reason
    targets["x"][45:] = np.nan
    sparse = judge(means, targets, num_judged=60)
    assert row(sparse, "x", "vol").reason == "observed in 5 patients of the split; at least 10 are needed"
    assert row(sparse, "y", "vol").r2 is not None
    assert sparse.leak_max.value is not None
