"""Pictures of a cohort: tumour volumes, the shares that the box keeps, and tumour growth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from menvae.data.cache.trajectories import Trajectory
from menvae.data.geometry.box import BoxReport
from menvae.preparation.quality import Limits, millilitres
from menvae.presentation.figures import (
    COLOURS,
    MUTED,
    Layout,
    empty_panel,
    panel_grid,
    style_axes,
    tick_locator,
)
from menvae.presentation.trajectories import draw_trajectories
from menvae.statistics.gompertz import Gompertz

_MOST_BINS: Final = 30


def draw_cohort(boxes: Sequence[BoxReport], limits: Limits) -> Figure:
    """Draw tumour volumes at native resolution and in the box, and the shares of tumour and brain that the box keeps.

    Args:
        boxes: one report per subject.
        limits: minimum shares inside the box.
    """
    layout = Layout(panel=(3.6, 1.9), gap=(0.75, 0.5), left=0.65, right=0.25, top=0.98)
    note = f"{len(boxes)} subjects; filled: in the training box, line: at native resolution"
    figure, (volumes, kept) = panel_grid(2, 2, layout, "What the box holds", note)
    style_axes(volumes, "Tumour volume", "mL", "subjects")
    style_axes(kept, "Share inside the box", "percent", "subjects, cumulative")
    _volumes(volumes, boxes)
    _kept(kept, boxes, limits)
    return figure


def _volumes(axes: Axes, boxes: Sequence[BoxReport]) -> None:
    native = np.array([box.native_volume_mm3 for box in boxes if box.native_volume_mm3 > 0]) / 1000
    inside = np.array([box.volume_mm3 for box in boxes if box.volume_mm3 > 0]) / 1000
    every = np.concatenate([native, inside])
    if not every.size:
        empty_panel(axes, "no subject has a tumour")
        return
    num_bins = max(5, min(_MOST_BINS, math.ceil(2 * len(boxes) ** 0.5)))
    low, high = math.log10(float(every.min())) - 0.05, math.log10(float(every.max())) + 0.05
    edges = np.logspace(low, high, num_bins + 1).tolist()
    axes.hist(inside, edges, color=COLOURS[0], alpha=0.45)
    axes.hist(native, edges, histtype="step", color=COLOURS[1], linewidth=1.2)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 3.0) if high - low < 2.5 else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(tick_locator(4, integer=True))


def draw_patients(patients: Sequence[Trajectory], curves: Mapping[str, Gompertz]) -> Figure:
    """Draw tumour volumes over time, on top of the ground-truth curves.

    Args:
        patients: visits of each patient.
        curves: patient -> ground-truth curve; empty if unknown.
    """
    series = {
        patient.patient_id: (patient.years, [millilitres(volume) for volume in patient.tumour_mm3])
        for patient in patients
    }
    true = {name: partial(_volume_ml, curve) for name, curve in curves.items()}
    return draw_trajectories(series, true, "Tumours over time, without oedema")


def _volume_ml(curve: Gompertz, years: float) -> float:
    return millilitres(curve.volume_mm3(years))


def _kept(axes: Axes, boxes: Sequence[BoxReport], limits: Limits) -> None:
    """Draw the cumulative distribution of kept shares; one step at the right border means that nothing is cut."""
    if not boxes:
        empty_panel(axes, "no subjects")
        return
    shares = {"tumour": [box.tumour_kept for box in boxes], "brain": [box.brain_kept for box in boxes]}
    lowest = min(0.9, *(min(values) for values in shares.values()))
    for colour, (name, values), style in zip(COLOURS[1:], shares.items(), ("-", "--"), strict=False):
        ordered = 100 * np.sort([lowest - 0.02, *values, 1.0])
        counts = [0, *range(1, len(values) + 1), len(values)]
        axes.step(ordered, counts, where="post", color=colour, linewidth=1.6, linestyle=style, label=name)
    for limit in {limits.tumour_kept, limits.brain_kept}:
        axes.axvline(100 * limit, color=MUTED, linestyle=(0, (4, 2.5)), linewidth=0.9, zorder=1)
    axes.set_xlim(100 * (lowest - 0.02), 100.6)
    axes.set_ylim(0, None)
    axes.yaxis.set_major_locator(tick_locator(4, integer=True))
    axes.legend(loc="upper left", fontsize=8, frameon=False)
