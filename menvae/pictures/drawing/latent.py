"""The latent space and its predictions. Shape legend: N subjects, P size of a partition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from menvae.pictures.drawing.marks import (
    check_shape,
    colour_bar,
    display_window,
)
from menvae.presentation.figures import (
    COLOURS,
    INK,
    MUTED,
    Layout,
    empty_panel,
    literal,
    panel_grid,
    short_number,
    style_axes,
    tick_locator,
)


def draw_latent_scatter(
    latents: Mapping[str, NDArray[Any]],
    colours: Mapping[str, tuple[str, NDArray[Any]]],
    split: str = "validation split",
) -> Figure:
    """Draw each partition's posterior means on its own first two principal components.

    Args:
        latents: {partition: posterior means [N, P]}.
        colours: {partition: (feature with unit, values [N], NaN if not observed)}; partitions may be missing.
        split: which subjects they are, for the title.
    """
    columns = min(4, max(1, len(latents)))
    right = max(0.2, 4.6 - 2.98 * columns)
    layout = Layout(panel=(2.3, 2.3), gap=(0.68, 1.6), left=0.62, right=right, top=0.95, bottom=1.22)
    figure, all_axes = panel_grid(
        max(1, len(latents)),
        columns,
        layout,
        "Latent space",
        f"Posterior means, one point per subject, {split}",
    )
    if not latents:
        empty_panel(all_axes[0], "no partition")
    for (name, means), axes in zip(latents.items(), all_axes, strict=bool(latents)):
        _scatter_panel(figure, axes, name, np.asarray(means, dtype=np.float64), colours.get(name))
    return figure


def principal_components(means: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project rows onto their first two principal components.

    Args:
        means: finite values [N, P], P >= 1.

    Returns:
        Scores [N, 2] and fractions of the variance [2]; zeros for a component that does not exist.

    >>> scores, shares = principal_components(np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]))
    >>> np.abs(scores[:, 0]).round(9).tolist(), shares.tolist()
    ([2.0, 0.0, 2.0], [1.0, 0.0])
    """
    centred = np.asarray(means, dtype=np.float64) - np.mean(means, axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    variance = singular**2
    scores, shares = np.zeros((len(centred), 2)), np.zeros(2)
    kept = min(2, len(singular))
    scores[:, :kept] = left[:, :kept] * singular[:kept]
    if variance.sum() > 0:
        shares[:kept] = variance[:kept] / variance.sum()
    return scores, shares


def _scatter_panel(
    figure: Figure, axes: Axes, name: str, means: NDArray[np.float64], colour: tuple[str, NDArray[Any]] | None
) -> None:
    usable = np.isfinite(means).all(axis=1) if means.ndim == 2 and means.size else np.zeros(0, dtype=bool)
    if np.count_nonzero(usable) < 2:
        style_axes(axes, name)
        empty_panel(axes, "fewer than 2 subjects")
        return
    scores, shares = principal_components(means[usable])
    labels = [f"PC{place + 1} ({share:.0%} of variance)" for place, share in enumerate(shares)]
    style_axes(axes, f"{name} ({means.shape[1]} dimensions)", labels[0], labels[1])
    axes.xaxis.set_major_locator(tick_locator(5))
    axes.yaxis.set_major_locator(tick_locator(5))
    size = 22 if len(scores) <= 300 else 9
    values = np.full(len(scores), np.nan)
    if colour is not None:
        check_shape(f"colours[{name!r}]", np.shape(colour[1]), (len(means),))
        values = np.asarray(colour[1], dtype=np.float64)[usable]
    known = np.isfinite(values)
    hollow, filled = scores[~known], scores[known]
    axes.scatter(hollow[:, 0], hollow[:, 1], s=size, facecolor="none", edgecolor=MUTED, linewidth=0.7, zorder=2)
    width, height = figure.get_size_inches()
    box = axes.get_position()
    bar = (box.x0 * width, box.y0 * height - 0.62, box.width * width, 0.09)
    if colour is not None and known.any():
        norm = Normalize(*display_window(values[known], 2.0, 98.0))
        axes.scatter(
            filled[:, 0],
            filled[:, 1],
            s=size,
            c=values[known],
            cmap="viridis",
            norm=norm,
            edgecolor="white",
            linewidth=0.4,
            zorder=3,
        )
        missing = int(np.count_nonzero(~known))
        colour_bar(figure, bar, "viridis", norm, colour[0] + (f"\n{missing} hollow: not observed" if missing else ""))
        return
    reason = "hollow: no supervised feature" if colour is None else f"hollow: {colour[0]} not observed"
    x, y = bar[0] + bar[2] / 2, bar[1]
    figure.text(x / width, y / height, literal(reason), size=8, color=MUTED, ha="center")


def draw_regression(
    true: Mapping[str, NDArray[Any]],
    predicted: Mapping[str, NDArray[Any]],
    units: Mapping[str, str],
    r2: Mapping[str, float | None],
    split: str = "validation split",
) -> Figure:
    """Draw predicted against true values in physical units, one panel per feature, with the identity line.

    Args:
        true: {feature: ground truth [N], NaN if not observed}.
        predicted: {feature: predictions [N]} for the same features.
        units: {feature: unit}; a missing or empty unit means a dimensionless number.
        r2: {feature: R2, or None if it cannot be computed}.
        split: which subjects they are, for the title.

    Raises:
        ValueError: a feature has no predictions, or predictions for a different number of subjects.
    """
    columns = min(5, max(1, len(true)))
    layout = Layout(panel=(1.75, 1.75), gap=(0.62, 0.85), left=0.65, right=max(0.2, 4.4 - 2.4 * columns), top=0.98)
    figure, all_axes = panel_grid(
        max(1, len(true)),
        columns,
        layout,
        "Predicted against true targets",
        f"Physical units, {split}; line: identity",
    )
    if not true:
        empty_panel(all_axes[0], "no target")
    for (name, values), axes in zip(true.items(), all_axes, strict=bool(true)):
        if name not in predicted:
            raise ValueError(f"predicted has no feature {name!r}; it has: {', '.join(predicted) or 'none'}")
        check_shape(f"predicted[{name!r}]", np.shape(predicted[name]), np.shape(values))
        unit = units.get(name, "")
        suffix = f" ({unit})" if unit else ""
        style_axes(axes, name, f"true{suffix}", f"predicted{suffix}")
        _regression_panel(
            axes, np.asarray(values, dtype=np.float64), np.asarray(predicted[name], dtype=np.float64), r2.get(name)
        )
    return figure


def _regression_panel(axes: Axes, true: NDArray[np.float64], predicted: NDArray[np.float64], r2: float | None) -> None:
    known = np.isfinite(true) & np.isfinite(predicted)
    if not known.any():
        axes.set_xlabel("")
        axes.set_ylabel("")
        empty_panel(axes, "not observed in this split")
        return
    true, predicted = true[known], predicted[known]
    low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    pad = 0.05 * (high - low) or 0.5
    limits = (low - pad, high + pad)
    axes.set(xlim=limits, ylim=limits)
    axes.plot(limits, limits, color=MUTED, linewidth=0.9, zorder=1)
    size = 14 if true.size <= 300 else 5
    axes.scatter(true, predicted, s=size, color=COLOURS[0], alpha=0.65, linewidth=0, zorder=2)
    score = "n/a" if r2 is None or not math.isfinite(r2) else short_number(r2)
    label = f"R² {score}\nn = {true.size}"
    axes.text(0.04, 0.97, label, transform=axes.transAxes, va="top", size=8, color=INK, linespacing=1.3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(tick_locator(4))
