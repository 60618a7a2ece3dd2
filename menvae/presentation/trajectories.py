"""A picture of tumour volume over time: one line per patient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from menvae.presentation.figures import (
    COLOURS,
    FAINT,
    MUTED,
    Layout,
    empty_panel,
    panel_grid,
    style_axes,
    tick_locator,
)

_LAYOUT = Layout(panel=(7.2, 3.9), left=0.75, right=0.25, top=0.8, bottom=0.6)

_CURVE_POINTS = 60

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
Curve = Callable[[float], float]


def draw_trajectories(series: Series, curves: Mapping[str, Curve] | None = None, title: str = "") -> Figure:
    """Draw tumour volume over years, one line per patient, on a logarithmic axis.

    Volumes that are not positive are skipped.

    Args:
        series: patient -> (years since the first visit, tumour volumes in mL), both in order of time.
        curves: patient -> true volume in mL as a function of years, drawn faintly behind; None: unknown.
        title: title of the figure; empty: "Tumour volume over time".
    """
    drawn = {
        patient: [(year, volume) for year, volume in zip(years, volumes, strict=True) if volume > 0]
        for patient, (years, volumes) in series.items()
    }
    drawn = {patient: visits for patient, visits in drawn.items() if visits}
    num_visits = sum(len(visits) for visits in drawn.values())
    subtitle = f"{len(drawn)} patients, {num_visits} visits: one line per patient" + (
        "; grey: true curves" if curves else ""
    )
    figure, (axes,) = panel_grid(1, 1, _LAYOUT, title or "Tumour volume over time", subtitle if drawn else "")
    if not drawn:
        empty_panel(axes, "no visit with known time and a tumour")
        return figure
    style_axes(axes, xlabel="years since the first visit", ylabel="tumour volume in mL, log axis")
    for index, (patient, visits) in enumerate(drawn.items()):
        years, volumes = zip(*visits, strict=True)
        if curves and patient in curves:
            # only up to the last visit: beyond it, the curves of a cohort would hide each other
            times = np.linspace(0.0, years[-1], _CURVE_POINTS)
            true = [curves[patient](float(time)) for time in times]
            axes.plot(times, true, color=FAINT, linewidth=2.4, zorder=1, solid_capstyle="round")
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(years, volumes, color=colour, linewidth=0.9, marker="o", markersize=2.6, zorder=2)
    last = max(year for visits in drawn.values() for year, _ in visits) or 1.0
    axes.set_yscale("log")
    _mark_volumes(figure, [volume for visits in drawn.values() for _, volume in visits])
    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.xaxis.set_major_locator(tick_locator(8))
    return figure


def _mark_volumes(figure: Figure, volumes_ml: Sequence[float]) -> None:
    """Label 1, 2 and 5 of every power of ten as plain numbers, on an axis that ends close to the data."""
    (axes,) = figure.axes
    low, high = min(volumes_ml), max(volumes_ml)
    axes.set_ylim(low / 1.25, high * 1.25)
    wide = math.log10(high / low) > 3
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color=MUTED, alpha=0.15, linewidth=0.6)
