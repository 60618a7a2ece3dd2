"""Parallel coordinates: one line per configuration across its swept keys and its gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from menvae.comparison.pareto import Objective
from menvae.comparison.pictures import GOOD
from menvae.comparison.results import Cohort, Configuration
from menvae.comparison.swept_keys import MOST_TYPED, SweptKey, natural
from menvae.comparison.tracked_runs import listed
from menvae.comparison.words import shown_value, wanted
from menvae.presentation.figures import COLOURS, INK, MUTED, literal, new_figure, short_number, tick_locator
from menvae.presentation.text import broken

MOST_LINES: Final = 200
MOST_KEYS: Final = 8
MOST_GATES: Final = 6
_MOST_TICKS: Final = 10
_LOG_RATIO: Final = 100.0
"""Positive numbers whose largest is this many times the smallest lie on a logarithmic scale."""
_FAN: Final = 0.05
"""Height over which the lines through one value of a key fan out, so that they do not hide each other."""
_LEAST_SPAN: Final = 1e-4
"""Relative to the values; means of a gate that differ by less count as equal: ticks could not tell them apart."""
_AXIS_INCHES: Final = 1.35

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CoordinateAxis:
    """One vertical axis.

    Attributes:
        head: its name.
        places: height of every line in [0, 1], NaN without a value.
        ticks: (height, text).
        target: height of the target of a gate, if it is in view.
    """

    head: str
    places: Floats
    ticks: Sequence[tuple[float, str]]
    target: float | None = None


def coordinates(cohort: Cohort, keys: Sequence[SweptKey], gates: Sequence[Objective]) -> list[CoordinateAxis]:
    """Return the axes of parallel coordinates: keys that differ, then the gates of the front.

    Args:
        cohort: the configurations, at most `MOST_LINES` of which are lines.
        keys: the swept keys.
        gates: the gates.
    """
    lines = cohort.sample(MOST_LINES)
    shown_gates = _gates(cohort, gates)
    return [
        *(_key_axis(key, lines) for key in cohort.varying(keys)[:MOST_KEYS]),
        *(_gate_axis(gate, lines) for gate in shown_gates[:MOST_GATES]),
    ]


def parallel_words(cohort: Cohort, keys: Sequence[SweptKey], gates: Sequence[Objective]) -> list[str]:
    """Say which configurations, keys and gates parallel coordinates leave out."""
    count = len(cohort.configurations)
    sentences = []
    if count > MOST_LINES:
        sentences.append(f"Lines: {MOST_LINES} of {count:,} configurations, evenly along the order of merit.")
    left_out = [key.name for key in cohort.varying(keys)[MOST_KEYS:]]
    left_out += [gate.name for gate in _gates(cohort, gates)[MOST_GATES:]]
    if left_out:
        sentences.append(f"No axis for {listed(left_out)}; choose gates with front=[gate,gate].")
    return sentences


def draw_parallel_coordinates(cohort: Cohort, keys: Sequence[SweptKey], gates: Sequence[Objective]) -> Figure:
    """Draw one line per configuration across its keys and gates, the better the darker, the best in orange.

    Args:
        cohort: at least two configurations.
        keys: the swept keys, of which at least one differs.
        gates: the gates.
    """
    axes_of = coordinates(cohort, keys, gates)
    width, height = max(6.5, _AXIS_INCHES * (len(axes_of) - 1) + 2.0), 4.1
    note = "Darker: better in the order of merit; orange: the best; gates: up is better, green: target"
    figure = new_figure(width, height, "Parallel coordinates", note)
    axes = figure.add_axes((0.9 / width, 0.25 / height, 1 - 1.5 / width, 1 - 1.35 / height))
    axes.set(xlim=(0, len(axes_of) - 1), ylim=(-0.03, 1.03))
    axes.set_axis_off()
    for x, axis in enumerate(axes_of):
        _draw_axis(axes, x, axis)
    _draw_lines(axes, np.stack([axis.places for axis in axes_of], axis=1))
    return figure


def _draw_lines(axes: Axes, places: Floats) -> None:
    """Draw lines [lines, axes], the best first in the array and on top; they break where a value is missing."""
    lines = [np.stack([np.arange(places.shape[1]), heights], axis=1) for heights in places]
    shares = np.linspace(0.95, 0.3, len(lines))
    few = len(lines) <= 40
    collection = LineCollection(
        lines[:0:-1],
        colors=colormaps["Blues"](shares[:0:-1]),
        linewidths=1.2 if few else 0.7,
        alpha=0.9 if few else 0.6,
        zorder=2,
    )
    axes.add_collection(collection, autolim=False)
    axes.plot(lines[0][:, 0], lines[0][:, 1], color=COLOURS[1], linewidth=2.2, zorder=3, clip_on=False)


def _draw_axis(axes: Axes, x: int, axis: CoordinateAxis) -> None:
    axes.plot([x, x], [0, 1], color=MUTED, linewidth=0.9, zorder=4, clip_on=False)
    if axis.target is not None:
        axes.plot(
            [x], [axis.target], marker="_", markersize=16, markeredgewidth=2.4, color=GOOD, zorder=4, clip_on=False
        )
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
    for height, text in axis.ticks:
        axes.annotate(
            literal(text),
            (x, height),
            xytext=(-5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            size=7.5,
            color=INK,
            zorder=5,
            bbox=box,
            annotation_clip=False,
        )
        axes.plot([x], [height], marker="_", markersize=5, color=MUTED, zorder=4, clip_on=False)
    axes.annotate(
        literal(axis.head),
        (x, 1.0),
        xytext=(0, 10),
        textcoords="offset points",
        ha="center",
        va="bottom",
        size=8.5,
        weight="bold",
        color=INK,
        annotation_clip=False,
    )


def _gates(cohort: Cohort, gates: Sequence[Objective]) -> list[Objective]:
    """Return the gates of the front; if there are none, all with a value."""
    return [gate for gate in gates if gate.name in cohort.front.objectives] or [
        gate for gate in gates if any(one.gates[gate.name].mean is not None for one in cohort.configurations)
    ]


def _key_axis(key: SweptKey, lines: Sequence[Configuration]) -> CoordinateAxis:
    values = [one.values[key.name] for one in lines]
    distinct = sorted(set(values), key=natural)
    if len(distinct) > MOST_TYPED and all(natural(value)[0] == 0 for value in distinct):
        return _scale(broken(key.label), np.array([natural(value)[1] for value in values]))
    last = max(1, len(distinct) - 1)
    height = {value: place / last if len(distinct) > 1 else 0.5 for place, value in enumerate(distinct)}
    fan = np.linspace(0.5, -0.5, len(lines)) * min(_FAN, 0.4 / last)
    step = math.ceil(len(distinct) / _MOST_TICKS)
    ticks = [(height[value], _cut(shown_value(value))) for value in distinct[::step]]
    return CoordinateAxis(broken(key.label), np.array([height[value] for value in values]) + fan, ticks)


def _cut(text: str, most: int = 14) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _scale(head: str, values: Floats) -> CoordinateAxis:
    """Return the axis of a key with many numbers, on a logarithmic scale if they span that much."""
    low, high = float(values.min()), float(values.max())
    is_log = low > 0 and high / low >= _LOG_RATIO
    scaled: Callable[[Floats], Floats] = np.log if is_log else np.asarray
    start, end = scaled(np.array([low, high]))
    locator = LogLocator(numticks=6) if is_log else tick_locator(5)
    ticks = np.array([tick for tick in locator.tick_values(low, high) if low <= tick <= high])
    heights = (scaled(ticks) - start) / (end - start)
    texts = [f"{tick:g}" for tick in ticks]
    return CoordinateAxis(head, (scaled(values) - start) / (end - start), list(zip(heights, texts, strict=True)))


def _gate_axis(gate: Objective, lines: Sequence[Configuration]) -> CoordinateAxis:
    head = f"{broken(gate.name)}\n{wanted(gate)}"
    values = np.array([math.nan if (mean := one.gates[gate.name].mean) is None else mean for one in lines])
    if np.isnan(values).all():
        return CoordinateAxis(head, values, [])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if high - low <= _LEAST_SPAN * max(abs(low), abs(high)):
        return CoordinateAxis(head, np.where(np.isnan(values), values, 0.5), [(0.5, short_number(low))])

    def height(value: float) -> float:
        share = (value - low) / (high - low)
        return share if gate.larger_is_better else 1.0 - share

    ticks = [float(tick) for tick in tick_locator(5).tick_values(low, high) if low <= tick <= high]
    return CoordinateAxis(
        head,
        np.array([height(value) for value in values]),
        [(height(tick), f"{tick:g}") for tick in ticks],
        height(gate.target) if low <= gate.target <= high else None,
    )
