"""Independence of partitions against the package dcor and numpy.corrcoef."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from handmade import Floats, LinearDecoder, measured, split

from menvae.latent import LatentLayout
from menvae.metrics import MetricContext, SplitRecord, measure
from menvae.metrics.dcor import PartitionDcor
from menvae.registry import build

SIZES = {"vol": 2, "loc": 1, "residual": 3}


def entangled(num: int = 50) -> Floats:
    """Return latents of which vol and residual depend on each other, in sign alone, and loc does not."""
    random = np.random.default_rng(5)
    mean = random.normal(size=(num, 6))
    mean[:, 3] = np.abs(mean[:, 0]) + 0.1 * mean[:, 3]
    mean[:, 4] += 1.5 * mean[:, 1]
    return mean


def metrics_of(mean: Floats, sizes: dict[str, int] | None = None) -> dict[str, float | None]:
    model = LinearDecoder(sizes or SIZES)
    return measured(model, split(model, mean))


def blocks(mean: Floats) -> dict[str, Floats]:
    mean = mean.astype(np.float32).astype(np.float64)  # what a model gives
    return {"vol": mean[:, :2], "loc": mean[:, 2:3], "residual": mean[:, 3:]}


def test_distance_correlation_is_the_signed_root_of_the_bias_corrected_one() -> None:
    import dcor

    mean = entangled()
    found, of = metrics_of(mean), blocks(mean)
    values = []
    for a, b in combinations(SIZES, 2):
        squared = float(dcor.u_distance_correlation_sqr(of[a], of[b]))
        values.append(squared)
        assert found[f"indep/dcor_{a}_{b}"] == pytest.approx(np.sign(squared) * np.sqrt(abs(squared)), abs=1e-6)
    assert min(values) < -1e-4  # below 0 by chance, and not clamped
    assert max(values) > 0.1


def test_correlation_is_the_mean_over_the_dimensions_of_two_partitions() -> None:
    mean = entangled()
    found, of = metrics_of(mean), blocks(mean)
    for a, b in combinations(SIZES, 2):
        pairs = product(of[a].T, of[b].T)
        expected = np.mean([abs(np.corrcoef(x, y)[0, 1]) for x, y in pairs])
        assert found[f"indep/corr_{a}_{b}"] == pytest.approx(expected, abs=1e-9)
    assert sorted(name for name in found if name.startswith("indep/corr_")) == [
        "indep/corr_loc_residual",
        "indep/corr_vol_loc",
        "indep/corr_vol_residual",
    ]


def test_a_constant_dimension_correlates_with_nothing() -> None:
    mean = entangled()
    mean[:, 1] = 3.0
    alone = np.abs(np.corrcoef(mean[:, 0], mean[:, 2])[0, 1])
    assert metrics_of(mean)["indep/corr_vol_loc"] == pytest.approx(alone / 2.0, abs=1e-6)


def test_a_constant_partition_is_not_independent_but_empty() -> None:
    """An encoder that ignores its inputs must not pass the gate of independence."""
    mean = entangled()
    mean[:, 2] = 3.0
    found = metrics_of(mean)
    assert found["indep/corr_vol_loc"] is None
    assert found["indep/dcor_vol_loc"] is None
    assert found["indep/max_dcor"] is None
    assert found["indep/dcor_vol_residual"] is not None
    assert metrics_of(np.full_like(mean, 3.0))["indep/max_dcor"] is None


def test_correlation_does_not_depend_on_the_scale_of_the_latent_space() -> None:
    mean = entangled()
    found, small = metrics_of(mean), metrics_of(1e-6 * mean)
    for name in found:
        if name.startswith("indep/corr_"):
            assert small[name] == pytest.approx(found[name], rel=1e-6)


def test_fewer_than_four_subjects_give_no_value() -> None:
    found = metrics_of(entangled(3))
    of_pairs = {name: value for name, value in found.items() if name.startswith(("indep/dcor_", "indep/corr_"))}
    assert len(of_pairs) == 6
    assert set(of_pairs.values()) == {None}
    assert all(value is not None for name, value in metrics_of(entangled(4)).items() if name.startswith("indep/"))


def test_one_partition_is_not_compared_with_itself() -> None:
    assert not [name for name in metrics_of(entangled(), {"all": 6}) if name.startswith("indep/")]


def test_the_largest_is_that_of_any_pair_in_absolute_value() -> None:
    found = metrics_of(entangled())
    values = [abs(value) for name, value in found.items() if name.startswith("indep/dcor_") and value is not None]
    assert len(values) == 3
    assert found["indep/max_dcor"] == max(values)
    assert metrics_of(entangled(3))["indep/max_dcor"] is None


def test_of_many_rows_evenly_spaced_ones_count() -> None:
    mean = np.random.default_rng(0).normal(size=(2 * 4096, 3)).astype(np.float32)
    sizes = {"a": 1, "b": 2}
    layout = MetricContext(LatentLayout(sizes), ("t1c",))

    def of(rows: Floats) -> dict[str, float | None]:
        record = SplitRecord(tuple(map(str, range(len(rows)))), {"mean": rows})
        return measure([build("metric", {"name": name}, layout) for name in ("dcor", "correlation")], record)

    assert of(mean) == of(mean[::2])


def test_visits_of_a_patient_are_no_evidence_of_dependence() -> None:
    """The same as of one visit each: repeated rows once made independent partitions of 30 patients depend by .6."""
    mean = np.random.default_rng(2).normal(size=(30, 6))
    metric = build("metric", {"name": "dcor"}, MetricContext(LatentLayout(SIZES), ("t1c",)))
    names = [f"p{row:02d}" for row in range(30)]
    alone = SplitRecord(tuple(names), {"mean": mean})
    visits = [f"{name}-{visit}" for name in names for visit in range(5)]
    repeated = SplitRecord(tuple(visits), {"mean": np.repeat(mean, 5, axis=0)}, tuple(np.repeat(names, 5)))
    assert metric.compute(repeated) == pytest.approx(metric.compute(alone), abs=1e-12)
    few = repeated.rows(np.arange(15))
    assert set(metric.compute(few).values()) == {None}, "three patients"


def test_distance_correlation_of_visits_is_the_mean_of_squares_over_visits() -> None:
    import dcor

    mean = entangled(60)
    metric = build("metric", {"name": "dcor"}, MetricContext(LatentLayout(SIZES), ("t1c",)))
    names = tuple(f"p{row // 2:02d}-{row % 2}" for row in range(60))
    found = metric.compute(SplitRecord(names, {"mean": mean}, tuple(name[:3] for name in names)))
    squared = [float(dcor.u_distance_correlation_sqr(mean[turn::2, :2], mean[turn::2, 3:])) for turn in range(2)]
    assert found["indep/dcor_vol_residual"] == pytest.approx(np.sqrt(np.mean(squared)), abs=1e-9)


@pytest.mark.parametrize("visits", [1, 2])
def test_a_patient_who_is_left_out_for_an_interval_is_as_if_never_there(visits: int) -> None:
    random = np.random.default_rng(3)
    patients = tuple(f"p{row // visits}" for row in range(30))
    record = SplitRecord(tuple(f"s{row:02d}" for row in range(30)), {"mean": random.normal(size=(30, 6))}, patients)
    metric = PartitionDcor(MetricContext(LatentLayout(SIZES), ("t1c",)))
    without = metric.leaving_out(record)
    for patient in ("p0", "p7", "p14"):
        rows = np.flatnonzero(np.array(patients) == patient)
        expected = metric.compute(record.rows(np.delete(np.arange(30), rows)))
        assert without(rows) == {key: pytest.approx(value, abs=1e-7) for key, value in expected.items()}
