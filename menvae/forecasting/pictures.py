"""Pictures of growth: volumes over time, fans of forecasts, forecasts beside what was measured, and calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from menvae.forecasting.judging import INTERVAL_NAMES, Intervals, Judged
from menvae.forecasting.protocols import Task
from menvae.forecasting.scores import RATIO
from menvae.growth import FittedGrowth, Floats, Visits
from menvae.pictures.drawing.calibration import binomial_quantile, observed_coverage
from menvae.presentation.figures import (
    COLOURS,
    INK,
    MUTED,
    Layout,
    empty_panel,
    literal,
    panel_grid,
    style_axes,
    text_colour,
    tick_locator,
)
from menvae.presentation.text import counted

Bools = NDArray[np.bool_]

LEVELS: Final = (0.95, 0.8, 0.5)
"""Of the bands of a fan, from behind."""
BAND_ALPHA: Final = 0.2
INSIDE, OUTSIDE, MEASURED = COLOURS[0], COLOURS[1], COLOURS[1]
_BAR: Final = "#84b8d8"
_SHRANK_COLOUR: Final = COLOURS[0]
_GREW_COLOUR: Final = COLOURS[1]
_POINTS_OF_FAN: Final = 30
_BEYOND: Final = 0.15
"""Share of a forecast's time by which a fan goes on behind the last visit."""
_FARTHEST: Final = math.log(5.0)
"""Largest distance of the end of an axis from the volumes, as the logarithm of a factor: intervals may be endless."""
_LEAST_ROOM: Final = math.log(1.12)
_FEWEST_TICKS: Final = 3
_FEW_BINS: Final = 5
_MANY: Final = 60
"""Forecasts from which on dots are smaller and bins narrower."""
_MOST_CHARACTERS: Final = 24
_MULTIPLES: Final = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
    tuple(np.arange(10, 100, 5) / 10),
    tuple(np.arange(10, 100) / 10),
    tuple(np.arange(20, 200) / 20),
)
"""Leading digits of round volumes, from few to many."""


# --- courses ----------------------------------------------------------------------------------------------------------


def draw_courses(patients: Sequence[Visits]) -> Figure:
    """Draw the volumes of all patients over time, coloured by whether they grew, changed less or shrank.

    Args:
        patients: at least one.
    """
    layout = Layout(panel=(7.2, 3.9), left=0.75, right=0.25, top=0.95, bottom=0.6)
    num_visits = sum(len(visits) for visits in patients)
    note = f"{counted(len(patients), 'patient')}, {counted(num_visits, 'visit')}; coloured by first and last visit"
    figure, (axes,) = panel_grid(1, 1, layout, "Tumour volume over time", note)
    style_axes(axes, xlabel="years since the first visit", ylabel="tumour volume in mL, log axis")
    groups: dict[str, list[Visits]] = {words: [] for words in COURSES}
    for visits in patients:
        groups[course(visits)].append(visits)
    for words, group in groups.items():
        colour = COURSES[words]
        for visits in group:
            years = visits.years
            axes.plot(
                years, millilitres(visits.log_volume), "o-", color=colour, linewidth=0.9, markersize=2.6, alpha=0.8
            )
        if group:
            axes.plot([], [], "o-", color=colour, linewidth=1.6, markersize=3.5, label=f"{words}: {len(group)}")
    every = np.concatenate([visits.log_volume for visits in patients])
    _volume_axis(axes, *_limits(every, [every]), most=9)
    last = max(float(visits.years[-1]) for visits in patients) or 1.0
    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.xaxis.set_major_locator(tick_locator(8))
    _legend_above(axes)
    return figure


COURSES: Final = {
    f"grew by more than {100 * (RATIO - 1):.0f} %": _GREW_COLOUR,
    "changed less": "#8a949e",
    f"shrank by more than {100 * (1 - 1 / RATIO):.0f} %": _SHRANK_COLOUR,
    "one visit": INK,
}


def course(visits: Visits) -> str:
    """Say in words what became of a tumour between the first and the last visit.

    It grew if its last volume is more than 1.4 times the first, and shrank if the inverse is true.

    >>> rising = Visits("a", np.array([0.0, 400.0]), np.log([1000.0, 1500.0]), np.zeros(2))
    >>> course(rising), course(rising[:1])
    ('grew by more than 40 %', 'one visit')
    """
    grew, less, shrank, single = COURSES
    change = visits.log_volume[-1] - visits.log_volume[0]
    if len(visits) == 1:
        return single
    return grew if change > math.log(RATIO) else shrank if change < -math.log(RATIO) else less


# --- fans -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fan:
    """Forecast of one patient over time.

    Attributes:
        visits: all of the patient.
        num_seen: number of visits that are known, the first ones.
        targets: numbers of the visits that are forecast.
        days: from the last known visit on [T], on the clock of the visits.
        mean: forecasts [T], ln mm^3.
        sd: their standard deviations [T].
    """

    visits: Visits
    num_seen: int
    targets: Sequence[int]
    days: Floats
    mean: Floats
    sd: Floats


def fan_of(fitted: FittedGrowth, visits: Visits, tasks: Sequence[Task]) -> Fan:
    """Forecast a patient over time, from the visits that the first of some tasks knows.

    Args:
        fitted: a population without the patient.
        visits: of the patient.
        tasks: of the patient, at least one.
    """
    num_seen = min(task.num_seen for task in tasks)
    targets = sorted({task.target for task in tasks})
    begin, end = visits.days[num_seen - 1], visits.days[targets[-1]]
    days = np.linspace(begin, end + _BEYOND * (end - begin), _POINTS_OF_FAN)
    forecast = fitted.predict(visits[:num_seen], days)
    return Fan(visits, num_seen, targets, days, forecast.mean, np.sqrt(forecast.variance))


def draw_fans(fans: Sequence[Fan], model: str) -> Figure:
    """Draw the forecasts of some patients over time, one panel each.

    Args:
        fans: at least one.
        model: name of the model that forecasts.
    """
    columns = min(4, len(fans))
    layout = Layout(
        panel=(2.05, 1.55), gap=(0.55, 0.62), left=0.72, right=max(0.2, 5.2 - 2.6 * columns), top=0.88, bottom=0.6
    )
    title = f"Forecasts of held-out visits by {model}"
    figure, all_axes = panel_grid(len(fans), columns, layout, title, FAN_WORDS)
    for place, (fan, axes) in enumerate(zip(fans, all_axes, strict=True)):
        is_last = place + columns >= len(fans)
        xlabel = "years since the first visit" if is_last else ""
        style_axes(axes, _ending(fan.visits.patient), xlabel, "volume in mL" if place % columns == 0 else "")
        _fan_panel(axes, fan)
    return figure


def draw_fan(fan: Fan) -> Figure:
    """Draw the forecast of one patient over time."""
    layout = Layout(panel=(4.3, 2.3), left=0.72, right=0.2, top=0.15, bottom=0.5)
    figure, (axes,) = panel_grid(1, 1, layout, "")
    style_axes(axes, xlabel="years since the first visit", ylabel="tumour volume in mL, log axis")
    _fan_panel(axes, fan)
    return figure


FAN_WORDS: Final = "Dots: known visits; line and bands: forecast, 50, 80 and 95 %; diamonds: held-out visits"


def _fan_panel(axes: Axes, fan: Fan) -> None:
    years = fan.visits.years_of(fan.days)
    for level in LEVELS:
        low, high = _ends(fan, level)
        axes.fill_between(
            years, millilitres(low), millilitres(high), color=COLOURS[0], alpha=BAND_ALPHA, linewidth=0, zorder=1
        )
    axes.plot(years, millilitres(fan.mean), color=COLOURS[0], linewidth=1.4, zorder=2)
    seen, targets = fan.visits[: fan.num_seen], list(fan.targets)
    axes.plot(seen.years, millilitres(seen.log_volume), "o-", color=INK, linewidth=0.9, markersize=3.6, zorder=3)
    axes.plot(
        fan.visits.years[targets],
        millilitres(fan.visits.judged_by[targets]),
        "D",
        color=MEASURED,
        markeredgecolor="white",
        markeredgewidth=0.6,
        markersize=5.2,
        zorder=4,
    )
    known = np.concatenate([seen.log_volume, fan.visits.judged_by[targets], fan.mean])
    low, high = _ends(fan, LEVELS[0])
    _volume_axis(axes, *_limits(known, [low, high]), most=5)
    axes.xaxis.set_major_locator(tick_locator(4))
    axes.set_xlim(-0.04 * years[-1], years[-1])


def _ends(fan: Fan, level: float) -> tuple[Floats, Floats]:
    reach = fan.sd * float(ndtri(0.5 + 0.5 * level))
    return fan.mean - reach, fan.mean + reach


# --- forecasts beside measurements ------------------------------------------------------------------------------------


def draw_forecasts(judged: Judged, model: str) -> Figure:
    """Draw every forecast with its interval against what was measured, and all of them in the order of their errors.

    Args:
        judged: at least one forecast; of several kinds of intervals, the first is drawn.
        model: name of the model that forecasts.
    """
    layout = Layout(panel=(3.7, 3.2), gap=(0.85, 0.5), left=0.75, right=0.25, top=0.95, bottom=0.6)
    num = len(judged.tasks)
    note = f"{counted(num, 'forecast')}, bars: {interval_words(judged)}; bars that reach the border go on"
    title = f"Forecasts of {model} beside measured volumes"
    figure, (against, ordered) = panel_grid(2, 2, layout, title, note)
    style_axes(against, xlabel="measured volume in mL", ylabel="forecast volume in mL")
    style_axes(ordered, xlabel="forecasts, in the order of their errors", ylabel="measured / forecast volume")
    inside = judged.covered(kind_of(judged))
    _against(against, judged, inside)
    _ordered(ordered, judged, inside)
    for words, colour, count in (("inside", INSIDE, inside.sum()), ("outside", OUTSIDE, num - inside.sum())):
        against.plot([], [], "o", color=colour, markersize=4, label=f"measured {words} the interval: {count}")
    _legend_above(against)
    return figure


def _against(axes: Axes, judged: Judged, inside: Bools) -> None:
    """Draw forecasts with their intervals over measured volumes."""
    ends = judged.intervals[kind_of(judged)]
    low, high = _limits(np.concatenate([judged.truth, judged.mean]), ends)
    bars = [millilitres(np.clip(end, low, high)) for end in ends]
    _dots_with_bars(axes, millilitres(judged.truth), millilitres(judged.mean), bars, inside)
    _volume_axis(axes, low, high, most=6)
    low, high = _limits(judged.truth, [judged.truth])
    corners = millilitres(np.array([low, high]))
    axes.plot(corners, corners, color=MUTED, linewidth=0.9, zorder=1)
    _volume_axis(axes, low, high, most=6, along="x")


def _ordered(axes: Axes, judged: Judged, inside: Bools) -> None:
    """Draw measured volumes relative to their forecasts, in their order, with the intervals."""
    error = judged.truth - judged.mean
    order = np.argsort(error)
    ends = [(end - judged.mean)[order] for end in judged.intervals[kind_of(judged)]]
    low, high = _limits(np.append(error, 0.0), ends)
    bars = [np.exp(np.clip(end, low, high)) for end in ends]
    _dots_with_bars(axes, np.arange(1.0, len(order) + 1), np.exp(error[order]), bars, inside[order])
    axes.axhline(1.0, color=MUTED, linewidth=0.9, zorder=1)
    _volume_axis(axes, low, high, most=7, unit=1.0)
    axes.set_xlim(0.0, len(order) + 1.0)
    axes.xaxis.set_major_locator(tick_locator(5, integer=True))


def _dots_with_bars(axes: Axes, x: Floats, y: Floats, bars: Sequence[Floats], inside: Bools) -> None:
    """Draw points in the colour of whether the interval holds the measurement, and bars from end to end."""
    colours = [INSIDE if one else OUTSIDE for one in inside]
    width = 1.2 if len(x) <= _MANY else 0.6
    segments = np.stack([np.stack([x, end], axis=-1) for end in bars], axis=1)
    axes.add_collection(LineCollection(list(segments), colors=colours, linewidths=width, alpha=0.4, zorder=2))
    axes.scatter(x, y, s=13 if len(x) <= _MANY else 6, c=colours, linewidth=0, zorder=3)


# --- calibration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reliability:
    """Forecasts with about the same probability of an event.

    Attributes:
        predicted: their mean probability.
        observed: share of them in which it came true.
        low: lower end of the interval of that share.
        high: upper end.
        num: number of forecasts.
    """

    predicted: float
    observed: float
    low: float
    high: float
    num: int


def draw_calibration(
    judged: Mapping[str, Judged],
    shown: str,
    events: Mapping[str, Sequence[Reliability]],
) -> Figure:
    """Draw coverage by level, the ranks of measurements in their forecasts, and the reliability of events.

    Args:
        judged: model -> forecasts, at least one.
        shown: the model in front; only its ranks are drawn.
        events: words such as "growth by 40 % in 1 year" -> forecasts by ``shown`` in groups of about one probability.
    """
    num = 2 + len(events)
    columns = min(num, 3)
    layout = Layout(
        panel=(2.45, 2.45),
        gap=(0.72, 0.95),
        left=0.68,
        right=max(0.25, 5.9 - 3.17 * (columns - 1)),
        top=0.98,
        bottom=0.6,
    )
    note = f"Bands and bars: 95 % by chance, over patients; diamond: {interval_words(judged[shown])}"
    figure, (coverage, ranks, *others) = panel_grid(num, columns, layout, f"Calibration of {shown}", note)
    style_axes(coverage, "Coverage of intervals", "nominal", "observed")
    style_axes(ranks, "Where measurements lie", "predicted probability below", "forecasts")
    _coverage_panel(coverage, judged, shown)
    _rank_panel(ranks, judged[shown])
    for (words, groups), axes in zip(events.items(), others, strict=True):
        style_axes(axes, words, "predicted probability", "observed share")
        _event_panel(axes, groups)
    return figure


def _coverage_panel(axes: Axes, judged: Mapping[str, Judged], shown: str) -> None:
    nominal = np.linspace(0.0, 1.0, 101)
    num = num_patients(judged[shown])
    low, high = (binomial_quantile(end, num, nominal) / num for end in (0.025, 0.975))
    axes.fill_between(nominal, low, high, color=MUTED, alpha=0.2, linewidth=0, zorder=0)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, zorder=1)
    for name, one in judged.items():
        is_shown = name == shown
        colour, width, order = (COLOURS[0], 1.8, 3) if is_shown else (MUTED, 0.7, 2)
        axes.plot(nominal, observed_coverage(_standardised(one), nominal), color=colour, linewidth=width, zorder=order)
    one = judged[shown]
    inside = float(np.mean(one.covered(kind_of(one))))
    axes.plot(one.level, inside, "D", color=MEASURED, markeredgecolor="white", markersize=6, zorder=4, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    for height, words, colour in ((0.97, shown, text_colour(COLOURS[0])), (0.89, "other models", MUTED)):
        if words == shown or len(judged) > 1:
            axes.text(0.04, height, literal(words), transform=axes.transAxes, va="top", size=8, color=colour)


def _rank_panel(axes: Axes, judged: Judged) -> None:
    ranks = ndtr(_standardised(judged))
    num_bins = _FEW_BINS if len(ranks) < _MANY else 2 * _FEW_BINS
    share = np.array([1.0 / num_bins])
    patients = num_patients(judged)
    low, high = (float(binomial_quantile(end, patients, share)[0]) * len(ranks) / patients for end in (0.025, 0.975))
    axes.axhspan(low, high, color=MUTED, alpha=0.2, linewidth=0, zorder=0)
    axes.hist(ranks, np.linspace(0.0, 1.0, num_bins + 1).tolist(), color=_BAR, rwidth=0.94, zorder=1)
    for height, style in ((low, "--"), (len(ranks) / num_bins, "-"), (high, "--")):
        axes.axhline(height, color=MUTED, linewidth=0.9, linestyle=style, zorder=2)
    axes.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    axes.yaxis.set_major_locator(tick_locator(4, integer=True))


def _event_panel(axes: Axes, groups: Sequence[Reliability]) -> None:
    if not groups:
        empty_panel(axes, "no visit at about that time")
        axes.set(xlabel="", ylabel="")
        return
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, zorder=1)
    for one in groups:
        axes.plot([one.predicted] * 2, [one.low, one.high], color=COLOURS[0], alpha=0.45, linewidth=1.2, zorder=2)
        axes.plot(one.predicted, one.observed, "o", color=COLOURS[0], markersize=5, zorder=3, clip_on=False)
        axes.annotate(
            str(one.num),
            (one.predicted, one.observed),
            (5, 3 if one.observed < 0.9 else -10),
            textcoords="offset points",
            size=7.5,
            color=INK,
            zorder=4,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])


def num_patients(judged: Judged) -> int:
    """Return the number of patients with a forecast."""
    return len(np.unique(judged.patients))


def kind_of(judged: Judged) -> Intervals:
    """Return the first kind of intervals, the one that pictures show."""
    return next(iter(judged.intervals))


def interval_words(judged: Judged) -> str:
    """Return the intervals that pictures show in words, such as "95 % intervals (normal)"."""
    return f"{100 * judged.level:g} % intervals ({INTERVAL_NAMES[kind_of(judged)]})"


def _standardised(judged: Judged) -> Floats:
    return (judged.truth - judged.mean) / judged.sd


# --- axes -------------------------------------------------------------------------------------------------------------


def millilitres(log_volume: Floats) -> Floats:
    """Return volumes in mL from ln mm^3."""
    volume: Floats = np.exp(log_volume) / 1000.0
    return volume


def round_volumes(low: float, high: float, most: int) -> list[float]:
    """Return round numbers between two ends for a logarithmic axis, three or more if there is room for them.

    >>> round_volumes(0.8, 70.0, 5), round_volumes(5.2, 7.9, 5), round_volumes(0.001, 500.0, 4)
    ([1.0, 3.0, 10.0, 30.0], [5.5, 6.0, 6.5, 7.0, 7.5], [0.001, 0.1, 10.0])
    """
    decades = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in _MULTIPLES:
        every = np.outer(decades, multiples).ravel()
        inside = every[(low <= every) & (every <= high)]
        if len(inside) >= max(_FEWEST_TICKS, (most + 1) // 2):
            return [float(f"{value:.6g}") for value in inside[:: math.ceil(len(inside) / most)]]
    return [float(f"{value:.6g}") for value in np.geomspace(low, high, _FEWEST_TICKS + 2)[1:-1]]


def _volume_axis(
    axes: Axes, low: float, high: float, *, most: int, along: Literal["x", "y"] = "y", unit: float = 1000.0
) -> None:
    """Make an axis logarithmic, from one log volume to another in a unit of so many mm^3, with round numbers."""
    low, high = math.exp(low) / unit, math.exp(high) / unit
    axis = axes.yaxis if along == "y" else axes.xaxis
    (axes.set_yscale if along == "y" else axes.set_xscale)("log")
    (axes.set_ylim if along == "y" else axes.set_xlim)(low, high)
    axis.set_major_locator(FixedLocator(round_volumes(low, high, most)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axes.grid(axis=along, color=MUTED, alpha=0.15, linewidth=0.6)


def _limits(log_volumes: Floats, ends: Sequence[Floats]) -> tuple[float, float]:
    """Return the ends of an axis of log volumes, which holds intervals unless they are much wider than the volumes."""
    low, high = float(log_volumes.min()), float(log_volumes.max())
    low = max(low - _FARTHEST, min(low, *(float(end.min()) for end in ends)))
    high = min(high + _FARTHEST, max(high, *(float(end.max()) for end in ends)))
    room = max(0.06 * (high - low), _LEAST_ROOM)
    return low - room, high + room


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, fontsize=8, frameon=False, columnspacing=1.4)


def _ending(name: str) -> str:
    """Return the end of a long name, which says most."""
    return name if len(name) <= _MOST_CHARACTERS else f"\N{HORIZONTAL ELLIPSIS}{name[1 - _MOST_CHARACTERS :]}"
