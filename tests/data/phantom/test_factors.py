"""What generated a phantom, as its images show it, and as the metrics read it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from menvae.data.phantom import ED, NCR, phantom_factors, phantom_subject
from menvae.data.sources.phantom import PhantomSource
from menvae.data.sources.phantom_growth import PhantomGrowthSource
from menvae.evaluation.final import _with_factors
from menvae.latent import LatentLayout
from menvae.metrics import MetricContext, SplitRecord
from menvae.metrics.generative_factors import GenerativeFactors

SPACING = (4.0, 4.0, 4.0)
SOURCE = PhantomSource(num_subjects=60, seed=3)


@pytest.mark.parametrize("index", range(6))
def test_factors_are_what_the_mask_shows(index: int) -> None:
    subject = phantom_subject(3, index, SPACING)
    assert subject.factors == phantom_factors(3, index)
    volume, place = subject.factors["volume"], subject.factors["place"]
    body = (subject.mask > 0) & (subject.mask != ED)
    assert math.log(np.count_nonzero(body) * math.prod(SPACING)) == pytest.approx(volume["tumour"], abs=0.1)
    assert bool(np.any(subject.mask == ED)) == (volume["oedema"] > 0.0)
    assert bool(np.any(subject.mask == NCR)) == (volume["core"] > 0.0)
    centroid = subject.affine[:3, :3] @ np.argwhere(body).mean(axis=0) + subject.affine[:3, 3]
    radius_mm = (math.exp(volume["tumour"]) * 3 / (4 * math.pi)) ** (1 / 3)
    assert np.linalg.norm(centroid - list(place.values())) < 0.75 * radius_mm, "the dura cuts a part off"


def test_a_visit_has_the_volume_of_its_curve_and_the_head_of_its_patient() -> None:
    source = PhantomGrowthSource(num_patients=2, shares={"grow": 1.0}, visits=(2, 2), seed=3)
    names = ["phantom-00001-000", "phantom-00001-001"]
    first, second = source.factors(names).values()
    growth = source.curves["phantom-00001"]
    assert first["tumour"] == pytest.approx(math.log(growth.first_mm3))
    assert second["tumour"] > first["tumour"]
    assert {name for name in first if first[name] == second[name]} >= {"height", "lobes", "size_x", "cortex"}
    assert source.factor_groups.keys() == {"volume", "place", "shape", "head"}


def record(codes: dict[str, np.ndarray]) -> tuple[GenerativeFactors, SplitRecord]:
    sizes = {name: array.shape[1] for name, array in codes.items()}
    context = MetricContext(LatentLayout(sizes), ("t1c",), factors=SOURCE.factor_groups)
    names = tuple(f"phantom-{index:05d}" for index in range(60))
    split = SplitRecord(names, {"mean": np.concatenate(list(codes.values()), axis=1)})
    return GenerativeFactors(context), _with_factors(split, SOURCE)


def test_a_code_of_the_factors_is_disentangled_and_a_mixture_of_them_is_not() -> None:
    known = SOURCE.factors([f"phantom-{index:05d}" for index in range(60)]).values()
    codes = {
        group: np.array([[factors[name] for name in names] for factors in known])
        for group, names in SOURCE.factor_groups.items()
    }
    codes = {group: (values - values.mean(axis=0)) / values.std(axis=0) for group, values in codes.items()}
    metric, split = record(codes)
    ideal = metric.compute(split)
    assert set(ideal) == set(metric.names())
    assert {key for key, value in ideal.items() if value is None or value < 0.85} == set()
    whole = np.concatenate(list(codes.values()), axis=1)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(whole.shape[1],) * 2))
    mixed = np.split(whole @ turn, np.cumsum([array.shape[1] for array in codes.values()])[:-1], axis=1)
    metric, split = record(dict(zip(codes, mixed, strict=True)))
    scores = metric.compute(split)
    for key in ("truth/mig", "truth/dci_disentanglement", "truth/sap"):
        assert (scores[key] or 0.0) < 0.4, key
    assert (scores["truth/dci_informativeness"] or 0.0) > 0.85, "nothing is lost"


def test_one_partition_or_a_source_without_factors_has_no_key() -> None:
    alone = MetricContext(LatentLayout({"all": 8}), ("t1c",), factors=SOURCE.factor_groups)
    unknown = MetricContext(LatentLayout({"vol": 4, "residual": 4}), ("t1c",))
    assert GenerativeFactors(alone).names() == GenerativeFactors(unknown).names() == []
