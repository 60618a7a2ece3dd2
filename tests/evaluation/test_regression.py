"""R2 and predictions in physical units, against scikit-learn and inversion by hand."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import Floats, LinearDecoder, measured, recorded, split
from numpy.typing import NDArray
from sklearn.metrics import r2_score

from menvae.data.masks.features import FEATURES
from menvae.data.targets.declaration import MASK_TARGETS
from menvae.data.targets.normalizer import TargetNormalizer, TargetSettings
from menvae.evaluation.final import in_physical_units

SUPERVISION = {"vol": ["vol_total", "vol_ncr", "vol_ed"], "loc": ["loc_x"]}
SIZES = {"vol": 3, "loc": 2, "residual": 2}


def supervised(
    num: int = 40, seed: int = 0
) -> tuple[dict[str, Floats], dict[str, NDArray[np.bool_]], dict[str, Floats]]:
    """Return targets, which are observed, and predictions; what is not observed would change every R2."""
    random = np.random.default_rng(seed)
    targets, observed, predictions = {}, {}, {}
    for partition, names in SUPERVISION.items():
        true = random.normal(size=(num, len(names)))
        predictions[partition] = true * [0.9, 0.5, 0.1][: len(names)] + random.normal(0, 0.3, true.shape)
        observed[partition] = random.random(true.shape) < 0.7
        targets[partition] = np.where(observed[partition], true, 7.0)
    return targets, observed, predictions


def metrics_of(targets: dict, observed: dict, predictions: dict, **others: object) -> dict[str, float | None]:
    model = LinearDecoder(SIZES, supervision=SUPERVISION)
    mean = np.random.default_rng(1).normal(size=(len(targets["vol"]), 7))
    whole = split(model, mean, targets=targets, observed=observed, predictions=predictions)
    return measured(model, whole, **others)  # type: ignore[arg-type]


def expected_r2(targets: dict, observed: dict, predictions: dict) -> dict[str, float]:
    return {
        name: r2_score(
            targets[partition][observed[partition][:, column], column],
            predictions[partition][observed[partition][:, column], column],
        )
        for partition, names in SUPERVISION.items()
        for column, name in enumerate(names)
    }


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_r2_of_a_feature_is_that_of_its_observed_subjects(batch_size: int) -> None:
    made = supervised()
    found, expected = metrics_of(*made, batch_size=batch_size), expected_r2(*made)
    for name, value in expected.items():
        assert found[f"sem/{name}_r2"] == pytest.approx(value, abs=1e-5)


def test_r2_of_a_partition_is_the_unweighted_mean_over_its_features() -> None:
    made = supervised()
    found, expected = metrics_of(*made), expected_r2(*made)
    mean = np.mean([expected[name] for name in SUPERVISION["vol"]])
    assert max(expected[name] for name in SUPERVISION["vol"]) - mean > 0.3  # the cases can be told apart
    assert found["sem/vol_r2"] == pytest.approx(mean, abs=1e-5)
    assert found["sem/loc_r2"] == pytest.approx(expected["loc_x"], abs=1e-5)


def test_r2_of_what_cannot_have_one_is_left_out_of_the_mean() -> None:
    targets, observed, predictions = supervised()
    targets["vol"][:, 0] = 2.5  # constant
    found = metrics_of(targets, observed, predictions)
    expected = expected_r2(targets, observed, predictions)
    assert found["sem/vol_total_r2"] is None
    assert found["sem/vol_r2"] == pytest.approx(np.mean([expected["vol_ncr"], expected["vol_ed"]]), abs=1e-5)
    observed["vol"][:, 1] = False
    observed["vol"][0, 1] = True  # one subject
    found = metrics_of(targets, observed, predictions)
    assert found["sem/vol_ncr_r2"] is None
    assert found["sem/vol_ed_r2"] is not None
    assert found["sem/vol_r2"] is None, "one of three targets does not speak for the partition"
    observed["vol"][:] = False
    assert metrics_of(targets, observed, predictions)["sem/vol_r2"] is None


@pytest.mark.parametrize(
    ("num_observed", "has_r2", "counts"),
    [(1, False, False), (2, False, False), (3, True, False), (9, True, False), (10, True, True)],
)
def test_r2_of_a_handful_of_subjects_is_no_figure(num_observed: int, has_r2: bool, counts: bool) -> None:
    """An R2 of -40 of two subjects would be all that the mean of the partition shows."""
    targets, observed, predictions = supervised()
    observed["vol"][:, 1] = False
    observed["vol"][:num_observed, 1] = True
    targets["vol"][:num_observed, 1] = 0.1 * np.arange(num_observed)
    predictions["vol"][:num_observed, 1] = 0.1 * np.arange(num_observed) + 0.3
    found, expected = metrics_of(targets, observed, predictions), expected_r2(targets, observed, predictions)
    assert num_observed not in (2, 3) or expected["vol_ncr"] < -5.0
    if has_r2:
        assert found["sem/vol_ncr_r2"] == pytest.approx(expected["vol_ncr"], abs=1e-4)
    else:
        assert found["sem/vol_ncr_r2"] is None
    wanted = [expected[name] for name in SUPERVISION["vol"] if counts or name != "vol_ncr"]
    assert found["sem/vol_r2"] == pytest.approx(np.mean(wanted), abs=1e-4)


def test_a_partition_without_predictions_has_no_r2() -> None:
    targets, observed, predictions = supervised()
    found = metrics_of(targets, observed, {"loc": predictions["loc"]})
    assert {name for name in found if name.startswith("sem/")} == {"sem/loc_x_r2", "sem/loc_r2"}


# --- physical units ---------------------------------------------------------------------------------------------------


def test_predictions_in_physical_units_are_inverted_by_hand() -> None:
    random = np.random.default_rng(4)
    names = ["vol_total", "surface_area_total", "loc_x"]
    assert set(names) <= set(FEATURES)

    def subject() -> dict[str, float | None]:
        volume = random.normal(9.0, 1.5)
        area = 0.7 * volume + 1.0 + random.normal(0, 0.1)
        return {"vol_total": volume, "surface_area_total": area, "loc_x": random.random()}

    training = [subject() for _ in range(30)]
    normalizer = TargetNormalizer.fit(training, TargetSettings(), names)
    supervision = {"vol": ["vol_total"], "shape": ["surface_area_total", "loc_x"]}
    raw = {f"s{row:04d}": subject() for row in range(6)}
    raw["s0002"]["surface_area_total"] = None
    z_scores = random.normal(size=(6, 3))
    model = LinearDecoder({"vol": 1, "shape": 2}, supervision=supervision)
    zeros = {"vol": np.zeros((6, 1)), "shape": np.zeros((6, 2))}
    predictions = {"vol": z_scores[:, :1], "shape": z_scores[:, 1:]}
    seen = {name: np.ones(values.shape, bool) for name, values in zeros.items()}
    whole = split(model, np.zeros((6, 3)), targets=zeros, observed=seen, predictions=predictions)
    true, predicted = in_physical_units(recorded(model, whole), normalizer, supervision, raw)

    volumes, areas, places = (np.array([one[name] for one in training], dtype=float) for name in names)
    volume = z_scores[:, 0] * volumes.std() + volumes.mean()
    slope, intercept = np.polyfit(volumes, areas, 1)
    residual = areas - (slope * volumes + intercept)
    area = z_scores[:, 1] * residual.std() + residual.mean() + slope * volume + intercept
    place = z_scores[:, 2] * places.std() + places.mean()
    known = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(predicted["vol_total"], volume, rtol=1e-5)
    np.testing.assert_allclose(predicted["surface_area_total"], area[known], rtol=1e-5)
    np.testing.assert_allclose(predicted["loc_x"], place, rtol=1e-5)
    assert true["vol_total"].tolist() == [one["vol_total"] for one in raw.values()]
    assert true["surface_area_total"].tolist() == [list(raw.values())[row]["surface_area_total"] for row in known]
    units = {name: MASK_TARGETS[name].unit for name in names}
    assert units == {"vol_total": "ln(mm³ + 1)", "surface_area_total": "ln(mm² + 1)", "loc_x": "share of box"}
