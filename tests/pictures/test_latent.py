"""The latent space and its predictions: points are where scikit-learn's principal components and the arrays say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from looking import Paper, dots, has_marks, panels, points, words
from matplotlib import colormaps
from sklearn.decomposition import PCA

from menvae.pictures.drawing import latent
from menvae.presentation.figures import COLOURS, MUTED


def up_to_signs(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare principal components, each of which may be mirrored."""
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-9)


def test_latent_scatter(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    values = np.linspace(-3.0, 3.0, 40)
    values[:5] = np.nan
    latents = {"vol": random.normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1], "loc": random.normal(size=(40, 3))}
    figure = latent.draw_latent_scatter(latents, {"vol": ("vol_total (ln mm³)", values)})
    assert words(figure)[0] == "Latent space"
    found = panels(figure)
    assert list(found) == ["vol (6 dimensions)", "loc (3 dimensions)"]
    for axes, means in zip(found.values(), latents.values(), strict=True):
        fitted = PCA(2, svd_solver="full").fit(means)
        shares = [f"{share:.0%}" for share in fitted.explained_variance_ratio_]
        assert [axes.get_xlabel(), axes.get_ylabel()] == [
            f"PC{i + 1} ({share} of variance)" for i, share in enumerate(shares)
        ]
    vol, loc = found.values()
    projected = PCA(2, svd_solver="full").fit_transform(latents["vol"])
    hollow, filled = dots(vol)
    everything = np.concatenate([hollow.get_offsets(), filled.get_offsets()])
    up_to_signs(np.asarray(everything), projected)
    assert len(hollow.get_facecolor()) == 0
    assert len(hollow.get_offsets()) == 5
    np.testing.assert_array_equal(filled.get_array(), values[5:])
    assert filled.get_clim() == pytest.approx(np.percentile(values[5:], (2, 98)))
    (bar,) = (axes for axes in figure.axes if axes not in found.values())
    assert bar.get_xlabel() == "vol_total (ln mm³)\n5 hollow: not observed"
    hollow, *others = dots(loc)
    up_to_signs(np.asarray(hollow.get_offsets()), PCA(2, svd_solver="full").fit_transform(latents["loc"]))
    assert not any(len(other.get_offsets()) for other in others)
    assert "hollow: no supervised feature" in words(figure)
    paper = Paper(figure, tmp_path)
    x, y = np.asarray(filled.get_offsets())[-1]
    paper.check(vol, x, y, colormaps["viridis"](1.0)[:3])
    paper.check_bar(bar, "viridis", "both")


def test_every_partition_has_its_panel_and_says_why_it_is_empty() -> None:
    nothing = latent.draw_latent_scatter({"one": np.zeros((1, 4)), "broken": np.full((9, 3), np.nan)}, {})
    for axes in panels(nothing).values():
        assert not has_marks(axes)
        assert words(axes) == ["fewer than 2 subjects"]
    (axes,) = latent.draw_latent_scatter({}, {}).axes
    assert words(axes) == ["no partition"]
    unseen = latent.draw_latent_scatter({"vol": np.eye(4)}, {"vol": ("never seen", np.full(4, np.nan))})
    assert "hollow: never seen not observed" in words(unseen)
    assert len(dots(unseen.axes[0])[0].get_offsets()) == 4


def test_principal_components_agree_with_scikit_learn() -> None:
    means = np.random.default_rng(2).normal(size=(30, 4)) * [3.0, 2.0, 1.0, 0.1] + 5.0
    scores, shares = latent.principal_components(means)
    fitted = PCA(2, svd_solver="full").fit(means)
    np.testing.assert_allclose(shares, fitted.explained_variance_ratio_)
    up_to_signs(scores, fitted.transform(means))


def test_regression(tmp_path: Path) -> None:
    true = {
        "vol_total": np.array([np.nan, 1.0, 2.0, 3.0, 4.0, 10.0]),
        "unseen": np.full(6, np.nan),
        "ratio": np.ones(6),
    }
    predicted = {"vol_total": np.array([7.0, 1.5, 2.5, 2.0, 4.0, 0.0]), "unseen": np.zeros(6), "ratio": np.ones(6)}
    figure = latent.draw_regression(true, predicted, {"vol_total": "ln mm³"}, {"vol_total": 0.8768, "ratio": None})
    assert words(figure)[0] == "Predicted against true targets"
    found = panels(figure)
    assert list(found) == ["vol_total", "unseen", "ratio"]
    axes = found["vol_total"]
    (cloud,) = dots(axes)
    np.testing.assert_array_equal(cloud.get_offsets(), [[1, 1.5], [2, 2.5], [3, 2], [4, 4], [10, 0]])
    (identity,) = axes.lines
    assert points(identity).tolist() == [[-0.5, -0.5], [10.5, 10.5]]
    assert axes.get_xlim() == axes.get_ylim() == (-0.5, 10.5)
    assert words(axes) == ["R² 0.877\nn = 5"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("true (ln mm³)", "predicted (ln mm³)")
    assert words(found["ratio"]) == ["R² n/a\nn = 6"]
    assert found["ratio"].get_xlabel() == "true"
    assert not has_marks(found["unseen"])
    assert words(found["unseen"]) == ["not observed in this split"]
    paper = Paper(figure, tmp_path)
    paper.check(axes, 10.0, 0.0, COLOURS[0], alpha=0.65)
    paper.check(axes, 6.0, 6.0, MUTED)
    paper.check(axes, 8.0, 3.0, "white")


def test_regression_without_targets_says_so() -> None:
    (axes,) = latent.draw_regression({}, {}, {}, {}).axes
    assert words(axes) == ["no target"]


def test_a_feature_that_is_not_predicted_is_refused() -> None:
    with pytest.raises(ValueError, match="no feature 'b'"):
        latent.draw_regression({"b": np.zeros(3)}, {"a": np.zeros(3)}, {}, {})
    with pytest.raises(ValueError, match=r"predicted\['a'\] has shape"):
        latent.draw_regression({"a": np.zeros(3)}, {"a": np.zeros(4)}, {}, {})
