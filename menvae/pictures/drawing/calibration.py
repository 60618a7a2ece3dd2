"""Reliability of predictive intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import bdtr, ndtr

from menvae.presentation.figures import (
    COLOURS,
    INK,
    MUTED,
    Layout,
    empty_panel,
    panel_grid,
    short_number,
    style_axes,
)


def draw_calibration(errors: Mapping[str, NDArray[Any]], split: str = "validation split") -> Figure:
    """Draw observed against nominal coverage of central intervals, one panel per partition.

    Args:
        errors: {partition: standardised errors of its targets [N, F], NaN where unknown}.
        split: words for the split.
    """
    columns = min(4, max(1, len(errors)))
    layout = Layout(panel=(2.1, 2.1), gap=(0.7, 0.95), left=0.68, right=max(0.2, 4.4 - 2.8 * columns), top=0.98)
    figure, all_axes = panel_grid(
        max(1, len(errors)),
        columns,
        layout,
        "Calibration of predictions",
        f"Coverage of predictive intervals, {split}; band: 95 % by chance",
    )
    if not errors:
        empty_panel(all_axes[0], "no prediction")
    for (name, values), axes in zip(errors.items(), all_axes, strict=bool(errors)):
        style_axes(axes, name, "nominal coverage", "observed coverage")
        _panel(axes, np.asarray(values, dtype=np.float64))
    return figure


def observed_coverage(errors: NDArray[np.float64], nominal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of errors in the central interval of each nominal coverage.

    An error u lies in the intervals whose coverage is at least 2 Phi(|u|) - 1.

    Args:
        errors: standardised errors [n], n >= 1.
        nominal: coverages [K], in [0, 1].

    >>> observed_coverage(np.array([0.1, -1.0, 3.0]), np.array([0.0, 0.5, 0.95, 1.0])).round(2)
    array([0.  , 0.33, 0.67, 1.  ])
    """
    needed = np.sort(2.0 * ndtr(np.abs(errors)) - 1.0)
    return np.searchsorted(needed, nominal, side="right") / len(needed)


def _panel(axes: Axes, errors_NF: NDArray[np.float64]) -> None:
    known_NF = ~np.isnan(errors_NF)
    errors = errors_NF[known_NF]
    if errors.size == 0:
        axes.set(xlabel="", ylabel="")
        empty_panel(axes, "not observed in this split")
        return
    # errors of one subject depend on each other: subjects are counted, not errors
    num_subjects = int(known_NF.any(axis=1).sum())
    nominal = np.linspace(0.0, 1.0, 101)
    low, high = (binomial_quantile(end, num_subjects, nominal) / num_subjects for end in (0.025, 0.975))
    axes.fill_between(nominal, low, high, color=MUTED, alpha=0.2, linewidth=0, zorder=0)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, zorder=1)
    axes.plot(nominal, observed_coverage(errors, nominal), color=COLOURS[0], linewidth=1.6, zorder=2)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    rms = float(np.sqrt(np.mean(errors**2)))
    label = f"n = {num_subjects}\nerror / predicted: {short_number(rms) if np.isfinite(rms) else 'infinite'}"
    axes.text(0.04, 0.97, label, transform=axes.transAxes, va="top", size=8, color=INK, linespacing=1.3)


def binomial_quantile(level: float, num: int, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quantile of binomial distributions [P], as `scipy.stats.binom`, whose import takes a second.

    Args:
        level: of the quantile, in (0, 1).
        num: number of draws.
        probabilities: of each distribution [P].
    """
    reached = bdtr(np.arange(num + 1)[:, None], num, probabilities[None, :]) >= level
    quantile: NDArray[np.float64] = np.argmax(reached, axis=0).astype(np.float64)
    return quantile
