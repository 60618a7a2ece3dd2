"""SSIM and PSNR of volumes against scikit-image, squared errors of rows against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import Floats, LinearDecoder, measured, recorded, split
from scipy.ndimage import gaussian_filter1d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import mean_squared_error

from menvae.evaluation.estimates import estimate
from menvae.evaluation.gates import evaluate_gates
from menvae.gates import Target
from menvae.latent import LatentLayout
from menvae.metrics import MetricContext, build_metrics

RATIO = "diag/mean_z_ratio"
SHAPE = (8, 11, 16)
CHANNELS = ("t1c", "t1n")


def volumes(num: int = 6) -> tuple[Floats, Floats]:
    """Return images that are smooth along one axis, rough along another, of several ranges, and reconstructions."""
    random = np.random.default_rng(0)
    images = gaussian_filter1d(random.normal(size=(num, 2, *SHAPE)), 3.0, axis=4) + np.linspace(0, 2, 11)[:, None]
    images[:, 1] = 40.0 * images[:, 1] - 300.0
    noise = gaussian_filter1d(random.normal(size=images.shape), 1.0, axis=2) * [[[[[0.3]]], [[[20.0]]]]]
    return images, 0.8 * images + noise


def by_skimage(images: Floats, reconstructions: Floats) -> dict[str, Floats]:
    """Return {metric: [N, C]}."""

    def each(measure: object) -> Floats:
        pairs = zip(images.astype(np.float32), reconstructions.astype(np.float32), strict=True)
        return np.array([[measure(x, y, data_range=np.ptp(x)) for x, y in zip(*pair, strict=True)] for pair in pairs])  # type: ignore[operator]

    return {"ssim": each(structural_similarity), "psnr": each(peak_signal_noise_ratio)}


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_each_subject_and_channel_has_the_value_of_scikit_image(batch_size: int) -> None:
    images, drawn = volumes()
    model = LinearDecoder({"all": 2}, (2, *SHAPE))
    whole = split(model, np.zeros((6, 2)), inputs=images, reconstruction=drawn)
    arrays = recorded(model, whole, CHANNELS, batch_size).arrays
    for kind, expected in by_skimage(images, drawn).items():
        assert np.ptp(expected) > 0.01
        np.testing.assert_allclose(arrays[kind], expected, atol=2e-4, err_msg=kind)


def test_a_split_has_the_mean_over_its_subjects() -> None:
    images, drawn = volumes()
    model = LinearDecoder({"all": 2}, (2, *SHAPE))
    whole = split(model, np.zeros((6, 2)), inputs=images, reconstruction=drawn)
    found = measured(model, whole, CHANNELS)
    for kind, expected in by_skimage(images, drawn).items():
        for index, channel in enumerate(CHANNELS):
            assert found[f"val_epoch/{kind}_{channel}"] == pytest.approx(expected[:, index].mean(), abs=2e-4)
    assert "val_epoch/mse_t1c" not in found


def test_a_perfect_reconstruction() -> None:
    images, _ = volumes(2)
    model = LinearDecoder({"all": 2}, (2, *SHAPE))
    arrays = recorded(model, split(model, np.zeros((2, 2)), inputs=images, reconstruction=images), CHANNELS).arrays
    np.testing.assert_allclose(arrays["ssim"], 1.0, atol=1e-6)
    assert np.isposinf(arrays["psnr"]).all()


def test_a_gate_on_the_psnr_of_perfect_reconstructions_says_why_it_has_no_value() -> None:
    images, _ = volumes(2)
    model = LinearDecoder({"all": 2}, (2, *SHAPE))
    metrics = build_metrics({}, MetricContext(LatentLayout({"all": 2}), CHANNELS, SHAPE))
    record = recorded(model, split(model, np.zeros((2, 2)), inputs=images, reconstruction=images), CHANNELS)
    found = estimate(metrics, record).estimates
    gates = {"sharp": Target(metric="val_epoch/psnr_t1c", above=20.0), "used": Target(metric=RATIO, above=1.5)}
    sharp, used = evaluate_gates(found, gates, metrics, {}, 2).gates
    assert (sharp.value, used.value) == (None, None)
    assert "perfectly reconstructed" in sharp.reason
    assert "every reconstruction is perfect" in used.reason


def test_images_without_a_voxel_of_anatomy() -> None:
    images, drawn = np.zeros((2, 2, *SHAPE)), volumes(2)[1]
    drawn[0] = 0.0
    model = LinearDecoder({"all": 2}, (2, *SHAPE))
    whole = split(model, np.zeros((2, 2)), inputs=images, reconstruction=drawn)
    arrays = recorded(model, whole, CHANNELS).arrays
    with np.errstate(all="ignore"):
        expected = by_skimage(images, drawn)
    assert np.isnan(expected["ssim"][0]).all()  # 0 / 0, as the PSNR of nothing drawn as nothing
    for kind, values in expected.items():
        np.testing.assert_allclose(arrays[kind], values, atol=1e-6, err_msg=kind)


def test_a_volume_narrower_than_the_window_has_no_ssim() -> None:
    model = LinearDecoder({"all": 2}, (1, 6, 8, 8))
    found = measured(
        model, split(model, np.zeros((3, 2)), inputs=np.random.default_rng(0).normal(size=(3, 1, 6, 8, 8)))
    )
    assert "val_epoch/ssim_t1c" not in found
    assert found["val_epoch/psnr_t1c"] is not None


def test_columns_of_a_table_have_the_error_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    true, drawn = random.normal(size=(2, 12, 3))
    model = LinearDecoder({"all": 2}, (3,))
    names = ("a", "b", "c")
    found = measured(model, split(model, np.zeros((12, 2)), inputs=true, reconstruction=drawn), names)
    expected = mean_squared_error(true, drawn, multioutput="raw_values")
    assert [found[f"val_epoch/mse_{name}"] for name in names] == pytest.approx(list(expected), rel=1e-5)
    assert found["diag/recon_mu_mse"] == pytest.approx(mean_squared_error(true, drawn), rel=1e-5)
    assert not any("ssim" in name or "psnr" in name for name in found)


def test_of_subjects_that_lack_a_modality_the_others_count() -> None:
    images, drawn = volumes()
    available = np.ones((6, 2), bool)
    available[[0, 3], 1] = False
    model = LinearDecoder({"all": 2}, (2, *SHAPE))
    whole = split(model, np.zeros((6, 2)), inputs=images, reconstruction=drawn, available=available)
    found = measured(model, whole, CHANNELS)
    for kind, expected in by_skimage(images, drawn).items():
        assert found[f"val_epoch/{kind}_t1n"] == pytest.approx(expected[[1, 2, 4, 5], 1].mean(), abs=2e-4)
        assert found[f"val_epoch/{kind}_t1c"] == pytest.approx(expected[:, 0].mean(), abs=2e-4)
