"""Curves: the curriculum before training, the metrics after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator
from numpy.typing import NDArray

from menvae.pictures.drawing.marks import (
    finite_values,
    needs_log,
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
    text_colour,
    tick_locator,
)

LINE_STYLES: Final = ("-", (0, (5, 1.5)), (0, (1, 1.2)))
R2_FLOOR: Final = -0.5
"""Lower limit of R2 panels: the first epochs can lie far below and would flatten the rest of the curve."""

Metrics: TypeAlias = Sequence[Mapping[str, float | None]]


def draw_schedule(
    curves: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    learning_rate: tuple[NDArray[Any], NDArray[Any]],
) -> Figure:
    """Draw the curriculum: weight times schedule of every term, one row per term, and the learning rate below.

    Every row has its own axis from 0 to its peak, because weights differ by a factor of 200 and the picture shows when
    a term acts; the peak and the final value are written on the right.

    Args:
        curves: {term: (epochs [E], effective weight [E])}, in real epochs.
        learning_rate: (epochs [E], learning rate [E]).
    """
    rows = [*curves.items(), ("learning rate", learning_rate)]
    layout = Layout(panel=(6.2, 0.46), gap=(0.0, 0.17), left=1.85, right=1.75, top=0.98, bottom=0.55)
    note = "Weight times schedule of every term of the objective; each row runs from 0 to its own peak"
    figure, all_axes = panel_grid(len(rows), 1, layout, "Curriculum", note)
    last_epoch = max((float(finite_values(epochs).max(initial=0.0)) for _, (epochs, _) in rows), default=0.0) or 1.0
    colours = cycle(COLOURS)
    for (name, (epochs, values)), axes in zip(rows, all_axes, strict=True):
        is_rate = axes is all_axes[-1]
        _schedule_row(axes, name, epochs, values, INK if is_rate else next(colours))
        axes.set_xlim(0, last_epoch)
        axes.xaxis.set_major_locator(tick_locator(8, integer=True))
        axes.tick_params(labelbottom=is_rate)
    all_axes[-1].set_xlabel("epoch", size=8.5, color=INK)
    all_axes[0].text(1.015, 1.22, "peak", transform=all_axes[0].transAxes, size=8, color=MUTED, va="bottom")
    all_axes[0].text(1.15, 1.22, "at the end", transform=all_axes[0].transAxes, size=8, color=MUTED, va="bottom")
    return figure


def _schedule_row(axes: Axes, name: str, epochs: NDArray[Any], values: NDArray[Any], colour: str) -> None:
    style_axes(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", left=False, labelleft=False)
    finite = finite_values(values)
    peak = float(finite.max(initial=0.0))
    off = peak <= 0
    log = needs_log(values)
    axes.text(
        -0.02,
        0.5,
        literal(name + (" (log axis)" if log else "")),
        transform=axes.transAxes,
        ha="right",
        va="center",
        size=9,
        weight="bold",
        color=MUTED if off else text_colour(colour),
    )
    if off:
        axes.set_ylim(0, 1)
        axes.text(1.015, 0.5, "off for the whole run", transform=axes.transAxes, va="center", size=8.5, color=MUTED)
        return
    floor = 0.0
    if log:
        floor = float(finite.min()) * 0.8
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(floor, peak * 1.08)
    axes.fill_between(epochs, values, floor, color=colour, alpha=0.16, linewidth=0)
    axes.plot(epochs, values, color=colour, linewidth=1.6, clip_on=False, solid_capstyle="round")
    for x, value in ((1.015, peak), (1.15, float(finite[-1]))):
        axes.text(x, 0.5, short_number(value), transform=axes.transAxes, va="center", size=8.5, color=INK)


@dataclass(frozen=True)
class _Line:
    label: str
    key: str
    colour: str
    style: Any = "-"
    absolute: bool = False


@dataclass(frozen=True)
class _Curves:
    """One panel of curves.

    Attributes:
        title: what the panel shows.
        ylabel: quantity and unit.
        lines: the curves.
        wanted: metric keys that the panel needs, for the message of an empty panel.
        references: (value, label) of horizontal lines that belong to no single curve.
        limits: (lowest, highest) value that the axis must include.
        floor: lower limit of the axis.
        may_log: whether the axis may be logarithmic if a linear one would hide the curve.
    """

    title: str
    ylabel: str
    lines: Sequence[_Line]
    wanted: str
    references: Sequence[tuple[float, str]] = ()
    limits: Sequence[float] = ()
    floor: float | None = None
    may_log: bool = False


def draw_training_curves(rows: Metrics, gates: Mapping[str, Sequence[float]]) -> Figure:
    """Draw how training went, as nine panels of curves against the epoch.

    Args:
        rows: lines of ``metrics.jsonl``, each with ``epoch``; any other key may be missing or None.
        gates: {metric key: targets of its gates}, drawn as dashed lines. ``sem/<name>_r2`` is drawn if it has a gate,
            or if the name has no underscore, so that it is a partition (features have one: ``vol_total``).

    Returns:
        The figure. A panel without values names the keys that it needs.
    """
    known = {key: [one for one in targets if math.isfinite(one)] for key, targets in gates.items()}
    panels = _curve_panels(rows, known)
    layout = Layout(panel=(2.35, 1.6), gap=(2.05, 0.75), left=0.68, right=1.72, top=0.95, bottom=0.5)
    figure, all_axes = panel_grid(len(panels), 3, layout, "Training", "Dashed: gates; on the right: the last values")
    epochs = [value for row in rows if (value := _number(row.get("epoch"))) is not None]
    first, last = (min(epochs), max(epochs)) if epochs else (0.0, 1.0)
    span = (first, last) if last > first else (first - 0.5, last + 0.5)
    for panel, axes in zip(panels, all_axes, strict=True):
        style_axes(axes, panel.title, "epoch", panel.ylabel)
        _draw_curves(axes, panel, rows, span, known)
    return figure


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _series(rows: Metrics, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return epochs and values of the rows where ``key`` has a finite value."""
    pairs = [
        (epoch, value)
        for row in rows
        if (epoch := _number(row.get("epoch"))) is not None and (value := _number(row.get(key))) is not None
    ]
    array = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _curve_panels(rows: Metrics, gates: Mapping[str, Sequence[float]]) -> list[_Curves]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [
        _Curves("Objective", "loss", _both("loss"), "train_epoch/loss or val_epoch/loss", may_log=True),
        _Curves("Reconstruction", "term value", _both("recon"), "train_epoch/recon or val_epoch/recon", may_log=True),
        _kl_panel(),
        _target_panel(keys, gates),
        _dependence_panel(keys, gates),
        _decoder_panel(),
        _active_units_panel(keys),
        _quality_panel(keys),
        _Curves("Gradient", "L2 norm", [_Line("norm", "diag/grad_norm", COLOURS[0])], "diag/grad_norm", may_log=True),
    ]


def _both(scalar: str) -> list[_Line]:
    """Return the lines of a scalar of the objective on both splits."""
    return [_Line("train", f"train_epoch/{scalar}", COLOURS[0]), _Line("validation", f"val_epoch/{scalar}", COLOURS[1])]


def _found(keys: Sequence[str], prefix: str, separator: str = " ", absolute: bool = False) -> list[_Line]:
    """Return a line for each key with a prefix, labelled with the rest of the key, ``_`` replaced by ``separator``."""
    names = sorted(key for key in keys if key.startswith(prefix))
    return [
        _Line(key.removeprefix(prefix).replace("_", separator), key, colour, style, absolute)
        for key, (colour, style) in _looks(names)
    ]


def _kl_panel() -> _Curves:
    floor = _Line("free-bits floor", "sched/expected_kl_floor", MUTED, (0, (1, 1.2)))
    wanted = "train_epoch/kl_raw or val_epoch/kl_raw"
    lines = [*_both("kl_raw"), floor]
    return _Curves("KL to the prior, unclamped", "KL (nats)", lines, wanted, limits=(0.0,), may_log=True)


def _target_panel(keys: Sequence[str], gates: Mapping[str, Sequence[float]]) -> _Curves:
    """Return a panel with R2 of the partitions, or with class metrics for a run without regression targets."""
    lines = [_Line(name, f"sem/{name}_r2", colour, style) for name, (colour, style) in _looks(_partitions(keys, gates))]
    classes = _found(keys, "sem/class_")
    if classes and not lines:
        return _Curves("Classes", "fraction (validation)", classes, "", limits=(0.0, 1.0))
    wanted = "sem/<partition>_r2"
    return _Curves("Target regression", "R² (validation)", lines, wanted, limits=(0.0, 1.0), floor=R2_FLOOR)


def _dependence_panel(keys: Sequence[str], gates: Mapping[str, Sequence[float]]) -> _Curves:
    lines = _found(keys, "indep/dcor_", "\N{EN DASH}", absolute=True)
    gate = [(target, f"gate {target:g}") for target in gates.get("indep/max_dcor", ())]
    return _Curves("Dependence of partitions", "|dCor|", lines, "indep/dcor_<a>_<b>", gate, (0.0, 0.5))


def _decoder_panel() -> _Curves:
    lines = [
        _Line("z = mean", "diag/mean_z_ratio", COLOURS[0]),
        _Line("z shuffled", "diag/shuffled_ratio", COLOURS[1]),
    ]
    wanted, ignored = "diag/mean_z_ratio or diag/shuffled_ratio", [(1.0, "1 = z is ignored")]
    return _Curves("Does the decoder use z?", "error / error with own z", lines, wanted, ignored, (0.95, 1.6))


def _active_units_panel(keys: Sequence[str]) -> _Curves:
    share = "diag/au_frac_residual" in keys
    kind = "frac" if share else "count"
    lines = [
        _Line("all", f"diag/au_{kind}", COLOURS[0], LINE_STYLES[1]),
        _Line("residual", f"diag/au_{kind}_residual", COLOURS[3]),
    ]
    ylabel = "fraction of dimensions" if share else "number of dimensions"
    limits = (0.0, 1.0) if share else (0.0,)
    wanted = "diag/au_frac_residual or diag/au_count"
    return _Curves("Active units, Var(μ) > 0.01", ylabel, lines, wanted, limits=limits)


def _quality_panel(keys: Sequence[str]) -> _Curves:
    """Return a panel with SSIM of each modality, or the error of each column of a table, which has no images."""
    if columns := _found(keys, "val_epoch/mse_"):
        return _Curves("Error of each column", "error / variance", columns, "", limits=(0.0,))
    images = _found(keys, "val_epoch/ssim_", "_")
    return _Curves("Image quality", "SSIM (validation)", images, "val_epoch/ssim_<modality>", limits=(1.0,))


def _looks(names: Sequence[str]) -> list[tuple[str, tuple[str, Any]]]:
    """Assign a colour to every name, and another line style once the colours are used up."""
    return [
        (name, (COLOURS[index % len(COLOURS)], LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)]))
        for index, name in enumerate(names)
    ]


def _partitions(keys: Sequence[str], gates: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the partitions among keys such as ``sem/vol_r2`` and ``sem/vol_total_r2``."""
    names = [key[len("sem/") : -len("_r2")] for key in keys if key.startswith("sem/") and key.endswith("_r2")]
    return [name for name in names if "_" not in name or f"sem/{name}_r2" in gates]


def _draw_curves(
    axes: Axes, panel: _Curves, rows: Metrics, span: tuple[float, float], gates: Mapping[str, Sequence[float]]
) -> None:
    drawn: list[tuple[_Line, NDArray[np.float64], NDArray[np.float64]]] = []
    for line in panel.lines:
        epochs, values = _series(rows, line.key)
        if values.size:
            drawn.append((line, epochs, np.abs(values) if line.absolute else values))
    if not drawn:
        present = any(line.key in row for line in panel.lines for row in rows)
        axes.set_xlabel("")
        axes.set_ylabel("")
        reason = f"{'no finite value for' if present else 'not recorded:'}\n{panel.wanted}"
        empty_panel(axes, reason if rows else "no epoch yet")
        return
    for line, epochs, values in drawn:
        marker = "o" if values.size < 3 else ""
        axes.plot(epochs, values, color=line.colour, linestyle=line.style, linewidth=1.5, marker=marker, markersize=3.5)
    dashed = [(target, line.colour) for line, _, _ in drawn for target in gates.get(line.key, ())]
    for value, colour in [*dashed, *((value, MUTED) for value, _ in panel.references)]:
        axes.axhline(value, color=colour, linestyle=(0, (4, 2.5)), linewidth=0.9, alpha=0.85, zorder=1)
    axes.set_xlim(*span)
    axes.xaxis.set_major_locator(tick_locator(5, integer=True))
    fixed = np.array([value for value, _ in dashed] + [value for value, _ in panel.references])
    _limit(axes, panel, [values for _, _, values in drawn], fixed)
    labels = [(value, label, MUTED) for value, label in panel.references]
    for line, _, values in drawn:
        target = "".join(f" (gate {one:g})" for one in gates.get(line.key, ()))
        labels.append((float(values[-1]), f"{line.label} {short_number(float(values[-1]))}{target}", line.colour))
    _label_ends(axes, labels)


def _limit(axes: Axes, panel: _Curves, series: Sequence[NDArray[np.float64]], fixed: NDArray[np.float64]) -> None:
    """Set the value axis: linear, or logarithmic if the panel allows it and a linear one would hide the curve."""
    values = np.concatenate([*series, fixed])
    if panel.may_log and any(needs_log(one) for one in series) and float(values.min()) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(f"{axes.get_ylabel()}, log axis")
        axes.set_ylim(float(values.min()) * 0.8, float(values.max()) * 1.25)
        return
    values = np.concatenate([values, np.asarray(panel.limits, dtype=np.float64)])
    low, high = float(values.min()), float(values.max())
    if panel.floor is not None and low < panel.floor:
        low = panel.floor
        axes.set_ylabel(f"{axes.get_ylabel()}, cut at {panel.floor:g}")
    pad = 0.05 * (high - low) or 0.5
    # A lower limit of 0 that the panel requires is the natural end of its scale, so no margin is added.
    axes.set_ylim(low if low in panel.limits and low == 0 else low - pad, high if low == high else high + pad)
    axes.yaxis.set_major_locator(tick_locator(5))


def _label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write (value, text, colour) labels at the right end of curves, moved apart if they would overlap."""
    low, high = axes.get_ylim()
    log = axes.get_yscale() == "log"
    scale: Callable[[float], float] = math.log if log else float
    heights = [
        min(max((scale(max(value, low) if log else value) - scale(low)) / (scale(high) - scale(low)), 0.0), 1.0)
        for value, _, _ in labels
    ]
    for index, height in _spread(heights, min(0.105, 1.0 / max(1, len(labels) - 1))).items():
        _, text, colour = labels[index]
        axes.text(1.03, height, literal(text), transform=axes.transAxes, va="center", size=8, color=text_colour(colour))


def _spread(heights: Sequence[float], gap: float) -> dict[int, float]:
    """Move heights in [0, 1] apart to at least ``gap``, preserving their order, with small changes.

    >>> _spread([0.5, 0.5], 0.25)
    {0: 0.375, 1: 0.625}
    >>> _spread([1.0, 1.0], 0.25)
    {0: 0.75, 1: 1.0}
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    groups: list[list[int]] = []
    centres: list[float] = []
    for index in order:
        groups.append([index])
        centres.append(heights[index])
        # Neighbouring groups that overlap are merged around their common mean, kept inside the panel.
        while True:
            half = gap * (len(groups[-1]) - 1) / 2
            centres[-1] = min(max(centres[-1], half), 1 - half)
            if len(groups) < 2 or centres[-1] - half >= centres[-2] + gap * (len(groups[-2]) - 1) / 2 + gap - 1e-9:
                break
            upper, lower = groups.pop(), groups.pop()
            mean = (centres.pop() * len(upper) + centres.pop() * len(lower)) / (len(upper) + len(lower))
            groups.append(lower + upper)
            centres.append(mean)
    return {
        index: centre + gap * (place - (len(group) - 1) / 2)
        for group, centre in zip(groups, centres, strict=True)
        for place, index in enumerate(group)
    }
