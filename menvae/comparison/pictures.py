"""Pictures of a comparison: trade-offs between gates, and effect and importance of each swept key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import combinations, product
from typing import Final, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from menvae.comparison.importance import Importance
from menvae.comparison.pareto import Objective
from menvae.comparison.results import Cohort, Configuration, Effect
from menvae.comparison.words import meets, shown_value, wanted
from menvae.presentation.figures import (
    COLOURS,
    DPI,
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

GOOD: Final = COLOURS[2]
MOST_PANELS: Final = 12
MOST_LABELS: Final = 40
"""With more configurations than this, points are not numbered, because the numbers would overlap."""
MOST_BARS: Final = 500
"""With more configurations than this, points have no bars, which would hide the points and take minutes."""
_PIXELS: Final = DPI / 72
"""Pixels per typographic point."""
TARGET_STRETCH: Final = 1.5
"""A target may extend an axis by this many ranges of the values; a target farther away is not drawn."""
INTERVAL_STRETCH: Final = 0.75
"""So may intervals; an arrow marks the end of a longer one, such as that of two seeds."""
MOST_CHARACTERS: Final = 24
"""Of the title of a panel of `draw_effect` on one line; its next panel begins after some more."""
MOST_BARS_OF_KEYS: Final = 12
BAND_ALPHA: Final = 0.18
_BAR: Final = "#aab4be"


def trade_offs(cohort: Cohort, gates: Sequence[Objective]) -> list[tuple[Objective, Objective]]:
    """Return the pairs of gates to draw: one to maximise against one to minimise if there are both, else any two.

    Gates outside the front, and gates in which all configurations are equal, are excluded.
    """
    front = cohort.front
    used = [gate for gate in gates if gate.name in front.objectives and gate.name not in front.constant]
    large = [gate for gate in used if gate.larger_is_better]
    small = [gate for gate in used if not gate.larger_is_better]
    return list(product(large, small) if large and small else combinations(used, 2))[:MOST_PANELS]


def draw_trade_offs(cohort: Cohort, pairs: Sequence[tuple[Objective, Objective]]) -> Figure:
    """Draw the mean of every configuration with its interval in pairs of gates, with the targets.

    Args:
        cohort: cohort with the configurations.
        pairs: at least one (gate along x, gate along y).
    """
    columns = min(3, len(pairs))
    layout = Layout(panel=(2.75, 2.25), gap=(0.75, 0.85), left=0.75, right=max(0.25, 7.0 - 3.5 * columns), top=0.75)
    bars = "Bars: 95 % interval (one run: over patients; arrow: it goes on); "
    bars *= len(cohort.configurations) <= MOST_BARS
    note = f"{bars}filled: on the front; line: front of the two; green: targets met"
    figure, all_axes = panel_grid(len(pairs), columns, layout, "Trade-offs between gates", note)
    for (across, up), axes in zip(pairs, all_axes, strict=True):
        style_axes(axes, "", f"{across.name} ({wanted(across)})", f"{up.name} ({wanted(up)})")
        _trade_off_panel(axes, cohort, across, up)
    return figure


def _trade_off_panel(axes: Axes, cohort: Cohort, across: Objective, up: Objective) -> None:
    points = [
        (one, x, y)
        for one in cohort.configurations
        if (x := one.gates[across.name].mean) is not None and (y := one.gates[up.name].mean) is not None
    ]
    if not points:
        empty_panel(axes, "no configuration has both values")
        return
    x_limits = _limits([x for _, x, _ in points], across, [interval_of(one, across) for one, *_ in points])
    y_limits = _limits([y for _, _, y in points], up, [interval_of(one, up) for one, *_ in points])
    axes.set(xlim=x_limits, ylim=y_limits)
    axes.xaxis.set_major_locator(tick_locator(5))
    axes.yaxis.set_major_locator(tick_locator(5))
    _mark_targets(axes, across, up, x_limits, y_limits)
    _draw_staircase(axes, [(x, y) for _, x, y in points], across, up)
    if len(points) > MOST_BARS:
        _draw_many(axes, points, set(cohort.front.members))
        return
    for one, x, y in points:
        on_front = one.number in cohort.front.members
        colour = COLOURS[0] if on_front else MUTED
        axes.errorbar(
            x,
            y,
            xerr=_bar(x, interval_of(one, across)),
            yerr=_bar(y, interval_of(one, up)),
            color=colour,
            ecolor=_BAR,
            elinewidth=0.9,
            marker="o",
            markersize=4.5,
            markerfacecolor=colour if on_front else "white",
            markeredgewidth=0.9,
            zorder=3,
        )
        _mark_cut_ends(axes, x, interval_of(one, up), "y", _BAR)
        _mark_cut_ends(axes, y, interval_of(one, across), "x", _BAR)
    if len(points) <= MOST_LABELS:
        _number_points(axes, points, cohort.front.members)


def _draw_many(axes: Axes, points: Sequence[tuple[Configuration, float, float]], front: Set[int]) -> None:
    """Draw thousands of configurations as dots without bars, those on the front above the others."""
    for on_front, size in ((False, 4), (True, 11)):
        places = [(x, y) for one, x, y in points if (one.number in front) is on_front]
        if places:
            colour = COLOURS[0] if on_front else MUTED
            xs, ys = zip(*places, strict=True)
            axes.scatter(xs, ys, s=size, color=colour, linewidth=0, zorder=3 + on_front)


def interval_of(one: Configuration, gate: Objective) -> tuple[float, float] | None:
    """Return the 95 % interval of a gate: over the runs or, of a single run, over patients; None without one."""
    (first, *others), summary = one.runs, one.gates[gate.name]
    if others or gate.name not in first.gates:
        return summary.interval
    return first.gates[gate.name].interval


def _bar(value: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    """Return the lengths below and above a value; a bootstrap interval need not contain it."""
    return None if interval is None else [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]


def _mark_cut_ends(
    axes: Axes, place: float, interval: tuple[float, float] | None, along: Literal["x", "y"], colour: str
) -> None:
    """Draw an arrow wherever an interval leaves a panel, whose limits are set.

    Args:
        axes: the panel.
        place: of the interval, along the other axis.
        interval: the interval, or None.
        along: the axis that it runs along.
        colour: of the arrow.
    """
    if interval is None:
        return
    low, high = axes.get_ylim() if along == "y" else axes.get_xlim()
    below, above = ("v", "^") if along == "y" else ("<", ">")
    cut = [(low, below, interval[0] < low), (high, above, interval[1] > high)]
    for end, marker in ((end, marker) for end, marker, is_cut in cut if is_cut):
        x, y = (place, end) if along == "y" else (end, place)
        axes.plot(x, y, marker=marker, color=colour, markersize=5, markeredgewidth=0, clip_on=False, zorder=2)


def _number_points(axes: Axes, points: Sequence[tuple[Configuration, float, float]], front: Sequence[int]) -> None:
    """Write each configuration's number beside its point, on the side with the most room."""
    places = axes.transData.transform([(x, y) for _, x, y in points]).tolist()
    taken = [(x, y) for x, y in places]
    for (one, *point), (x, y) in zip(points, places, strict=True):
        width = 6.0 * len(str(one.number))  # of the text, in points
        sides = [
            (4.0, 2.5),
            (4.0, -8.5),
            (-3.0 - width, 2.5),
            (-3.0 - width, -8.5),
            (-width / 2, 5.0),
            (-width / 2, -11.0),
        ]
        centres = [(x + (dx + width / 2) * _PIXELS, y + (dy + 3.0) * _PIXELS) for dx, dy in sides]
        others = [place for place in taken if place != (x, y)]
        room = [min((math.dist(centre, other) for other in others), default=1.0) for centre in centres]
        side = room.index(max(room))
        taken.append(centres[side])
        axes.annotate(
            str(one.number),
            (point[0], point[1]),
            xytext=sides[side],
            textcoords="offset points",
            size=7.5,
            color=text_colour(COLOURS[0]) if one.number in front else MUTED,
            zorder=4,
        )


def _limits(
    values: Sequence[float], gate: Objective, intervals: Iterable[tuple[float, float] | None] = ()
) -> tuple[float, float]:
    """Return the limits of an axis, including target and intervals unless that would squeeze the values together.

    Differences far below a hundredth are not magnified to the size of the panel.
    """
    low, high = min(values), max(values)
    span = max(high - low, 0.02 * max(abs(low), abs(high))) or 1.0
    ends = [end for interval in intervals if interval is not None for end in interval]
    ends = [min(max(end, low - INTERVAL_STRETCH * span), high + INTERVAL_STRETCH * span) for end in ends]
    low, high = min([low, *ends]), max([high, *ends])
    if max(low - gate.target, gate.target - high) <= TARGET_STRETCH * span:
        low, high = min(low, gate.target), max(high, gate.target)
    pad = 0.12 * max(high - low, span)
    return low - pad, high + pad


def _mark_targets(
    axes: Axes, across: Objective, up: Objective, x_limits: tuple[float, float], y_limits: tuple[float, float]
) -> None:
    """Draw the targets in view, and shade the region where both are met."""
    axes.axvline(across.target, color=MUTED, linestyle=(0, (4, 2.5)), linewidth=0.9, zorder=1)
    axes.axhline(up.target, color=MUTED, linestyle=(0, (4, 2.5)), linewidth=0.9, zorder=1)
    axes.set(xlim=x_limits, ylim=y_limits)
    x = (across.target, x_limits[1]) if across.larger_is_better else (x_limits[0], across.target)
    y = (up.target, y_limits[1]) if up.larger_is_better else (y_limits[0], up.target)
    if x[0] < x_limits[1] and x[1] > x_limits[0] and y[0] < y_limits[1] and y[1] > y_limits[0]:
        axes.fill_between(x, y[0], y[1], color=GOOD, alpha=0.1, linewidth=0, zorder=0)


def _draw_staircase(axes: Axes, points: Sequence[tuple[float, float]], across: Objective, up: Objective) -> None:
    """Draw the Pareto front of these two gates as a staircase."""
    x_sign, y_sign = (1.0 if gate.larger_is_better else -1.0 for gate in (across, up))
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (-x_sign * point[0], -y_sign * point[1])):
        if not best or y_sign * y > y_sign * best[-1][1]:
            best.append((x, y))
    if len(best) > 1:
        xs, ys = zip(*best, strict=True)
        # Between two points, the front dominates only up to the worse of their coordinates.
        axes.step(xs, ys, where="post", color=COLOURS[0], alpha=0.35, linewidth=1.3, zorder=2)


def draw_effect(effect: Effect, cohort: Cohort, gates: Sequence[Objective]) -> Figure:
    """Draw every gate against the values of a swept key: a dot per run, a line through the means, their intervals.

    Values are spaced evenly, because swept values seldom share one scale.

    Args:
        effect: effect of the key.
        cohort: cohort with the runs.
        gates: gates, one panel each.
    """
    columns = min(4, len(gates))
    values = list(effect.means)
    slanted = max(len(value) for value in values) * len(values) > 24
    titles = [f"{gate.name} {wanted(gate)}" for gate in gates]
    is_broken = max(map(len, titles)) > MOST_CHARACTERS
    line = 0.16 * is_broken
    layout = Layout(
        panel=(2.0, 1.5),
        gap=(0.6, line + (0.95 if slanted else 0.72)),
        left=0.65,
        right=max(0.2, 4.6 - 2.5 * columns),
        top=0.98 + line,
        bottom=0.75 if slanted else 0.5,
    )
    known = any(interval is not None for row in effect.intervals.values() for interval in row.values())
    bars = f", band: 95 % interval over {effect.intervals_over} (arrow: it goes on)" * known
    note = f"Dots: runs; line: mean{bars}; filled if it meets the target (dashed)" + "; unbalanced" * (
        not effect.balanced
    )
    figure, all_axes = panel_grid(len(gates), columns, layout, f"Effect of {effect.key.name}", note)
    dots = _dots(effect, cohort, gates)
    for gate, title, axes in zip(gates, titles, all_axes, strict=True):
        style_axes(axes, f"{gate.name}\n{wanted(gate)}" if is_broken else title)
        means = [effect.means[value][gate.name] for value in values]
        _effect_panel(axes, gate, means, [effect.intervals[value][gate.name] for value in values], dots[gate.name])
        axes.set_xlim(-0.5, len(values) - 0.5)
        labels = [literal(shown_value(value)) for value in values]
        axes.set_xticks(
            range(len(values)),
            labels,
            rotation=30 if slanted else 0,
            ha="right" if slanted else "center",
            rotation_mode="anchor",
        )
    return figure


def _dots(effect: Effect, cohort: Cohort, gates: Sequence[Objective]) -> Mapping[str, list[tuple[int, float]]]:
    """Return gate -> (position of the key's value, value of the gate) of every run."""
    place = {value: index for index, value in enumerate(effect.means)}
    return {
        gate.name: [
            (place[one.values[effect.key.name]], value)
            for one in cohort.configurations
            for value in one.gates[gate.name].values.values()
            if value is not None
        ]
        for gate in gates
    }


def _effect_panel(
    axes: Axes,
    gate: Objective,
    means: Sequence[float | None],
    intervals: Sequence[tuple[float, float] | None],
    dots: Sequence[tuple[int, float]],
) -> None:
    if not dots:
        empty_panel(axes, "no run has a value")
        return
    limits = _limits([value for _, value in dots], gate, intervals)
    axes.axhline(gate.target, color=MUTED, linestyle=(0, (4, 2.5)), linewidth=0.9, zorder=1)
    places, values = zip(*dots, strict=True)
    axes.scatter(places, values, s=11, color=MUTED, alpha=0.45, linewidth=0, zorder=2)
    line = [(place, mean) for place, mean in enumerate(means) if mean is not None]
    xs, ys = zip(*line, strict=True)
    axes.plot(xs, ys, color=COLOURS[0], linewidth=1.5, zorder=3)
    for place, interval in enumerate(intervals):
        if interval is not None:
            axes.plot(
                [place] * 2,
                interval,
                color=COLOURS[0],
                linewidth=8,
                alpha=BAND_ALPHA,
                solid_capstyle="butt",
                zorder=1.5,
            )
    for x, y in line:
        met = meets(gate, y)
        axes.plot(x, y, "o", color=COLOURS[0] if met else "white", markeredgecolor=COLOURS[0], markersize=5, zorder=4)
    axes.set_ylim(*limits)
    for place, interval in enumerate(intervals):
        _mark_cut_ends(axes, place, interval, "y", COLOURS[0])
    axes.yaxis.set_major_locator(tick_locator(4))
    axes.tick_params(axis="x", labelcolor=INK)


def draw_importance(importance: Importance) -> Figure:
    """Draw the share of the variance of every gate that each key explains alone, and what is left for interactions.

    Args:
        importance: importance for at least one gate.
    """
    shares = importance.shares
    names = sorted(next(iter(shares.values())), key=lambda name: -sum(row[name] for row in shares.values()))
    shown = names[:MOST_BARS_OF_KEYS]
    heads = [*shown, *["other keys"] * (len(names) > len(shown)), "together"]
    columns = min(4, len(shares))
    left = 0.35 + 0.075 * max(len(_ending(head)) for head in heads)
    layout = Layout(
        panel=(1.75, 0.2 + 0.2 * len(heads)),
        gap=(0.35, 0.75),
        left=left,
        right=max(0.3, 7.0 - left - 2.1 * columns),
        top=0.98,
    )
    note = "Share of the variance that a key explains alone; grey: only together with others"
    figure, all_axes = panel_grid(len(shares), columns, layout, "Importance of the keys", note)
    for place, ((gate, row), axes) in enumerate(zip(shares.items(), all_axes, strict=True)):
        style_axes(axes, gate)
        rest = [sum(row[name] for name in names[len(shown) :])] * (len(names) > len(shown))
        values = [*(row[name] for name in shown), *rest, max(0.0, 1.0 - sum(row.values()))]
        colours = [COLOURS[0]] * (len(values) - 1) + [_BAR]
        axes.barh(range(len(values)), values, height=0.68, color=colours, zorder=2)
        for y, value in enumerate(values):
            is_long = value > 0.75
            axes.text(
                value + (-0.02 if is_long else 0.02),
                y,
                f"{100 * value:.0f} %",
                ha="right" if is_long else "left",
                va="center",
                size=7.5,
                color="white" if is_long and y < len(values) - 1 else INK,
                zorder=3,
            )
        axes.set(xlim=(0, 1), ylim=(len(values) - 0.5, -0.5))
        axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axes.set_yticks(range(len(heads)), [literal(_ending(head)) for head in heads] if place % columns == 0 else [])
    return figure


def _ending(name: str, most: int = 26) -> str:
    """Return the end of a long key, which says most."""
    return name if len(name) <= most else f"\N{HORIZONTAL ELLIPSIS}{name[1 - most :]}"
