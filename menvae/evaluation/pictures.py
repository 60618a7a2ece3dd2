"""Pictures of a run: pure functions from arrays to PNG files.

Volumes are shown as `menvae.presentation.planes` says. Shape legend: C channels (modalities), D, H, W spatial axes, N
subjects, P size of a partition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullFormatter, NullLocator
from numpy.typing import NDArray

from menvae.presentation.figures import (
    COLOURS,
    FAINT,
    INK,
    MUTED,
    Layout,
    empty_panel,
    literal,
    new_figure,
    panel_grid,
    save_figure,
    short_number,
    style_axes,
    text_colour,
    tick_locator,
)
from menvae.presentation.planes import (
    AXIAL,
    PLANES,
    Plane,
    displayed_slice,
    mask_outline,
    slice_index,
    slice_size_mm,
)

GREY: Final = colormaps["gray"].with_extremes(bad="black")
LINE_STYLES: Final = ("-", (0, (5, 1.5)), (0, (1, 1.2)))
R2_FLOOR: Final = -0.5
"""A panel of R2 is cut here: the first epochs can lie far below and would flatten all that follows."""

Metrics: TypeAlias = Sequence[Mapping[str, float | None]]


# --------------------------------------------------------------------------------------------------------------------
# Shared by all pictures of a run
# --------------------------------------------------------------------------------------------------------------------


def _colour_bar(
    figure: Figure, box: tuple[float, float, float, float], cmap: str, norm: Normalize, label: str, extend: str = "both"
) -> None:
    """Draw a colour bar in ``box`` = (left, bottom, width, height), in inches; lying if it is wider than high."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    lying = box[2] > box[3]
    bar = figure.colorbar(
        ScalarMappable(norm, cmap),
        cax=axes,
        orientation="horizontal" if lying else "vertical",
        extend=extend,
        extendfrac=0.03,
    )
    bar.outline.set_linewidth(0.5)
    bar.locator = tick_locator(4)
    bar.update_ticks()
    axes.tick_params(labelsize=7.5, length=2.5, width=0.6, pad=2, labelcolor=INK)
    bar.set_label(literal(label), size=8, color=INK, labelpad=2 if lying else 6)


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the values that are finite, flattened."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def _window(values: NDArray[Any], low: float, high: float) -> tuple[float, float]:
    """Return a display range from two percentiles, never empty."""
    finite = _finite(values)
    if finite.size == 0:
        return 0.0, 1.0
    lower, upper = (float(bound) for bound in np.percentile(finite, (low, high)))
    return (lower, upper) if upper > lower else (lower - 0.5, lower + 0.5)


def _needs_log(values: NDArray[Any]) -> bool:
    """Whether a linear axis would press more than half of a positive curve into the lowest 5 %."""
    finite = _finite(values)
    return finite.size > 2 and float(finite.min()) > 0 and float(np.median(finite)) < 0.05 * float(finite.max())


def _cell_text(value: float) -> str:
    """Write the number of a heat map cell: two places, never minus zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}") if abs(value) < 10 else short_number(value)


# --------------------------------------------------------------------------------------------------------------------
# Curves: the curriculum before training, the metrics after
# --------------------------------------------------------------------------------------------------------------------


def schedule_picture(
    curves: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    learning_rate: tuple[NDArray[Any], NDArray[Any]],
    path: Path,
) -> Path:
    """Draw the curriculum: weight times schedule of every term, one row a term, and the learning rate below.

    Every row has its own axis from 0 to its peak, because weights differ by a factor of 200 and the question is when
    a term acts; the peak and the final value are written at the right.

    Args:
        curves: {term: (epochs [E], effective weight [E])}, in real epochs.
        learning_rate: (epochs [E], learning rate [E]).
        path: the PNG file to write; its folder is made.

    Returns:
        ``path``.
    """
    rows = [*curves.items(), ("learning rate", learning_rate)]
    layout = Layout(panel=(6.2, 0.46), gap=(0.0, 0.17), left=1.85, right=1.75, top=0.98, bottom=0.55)
    note = "Weight times schedule of every term of the objective; each row runs from 0 to its own peak"
    figure, all_axes = panel_grid(len(rows), 1, layout, "Curriculum", note)
    last_epoch = max((float(_finite(epochs).max(initial=0.0)) for _, (epochs, _) in rows), default=0.0) or 1.0
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
    return save_figure(figure, path)


def _schedule_row(axes: Axes, name: str, epochs: NDArray[Any], values: NDArray[Any], colour: str) -> None:
    style_axes(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", left=False, labelleft=False)
    finite = _finite(values)
    peak = float(finite.max(initial=0.0))
    off = peak <= 0
    log = _needs_log(values)
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
    gate: float | None = None


@dataclass(frozen=True)
class _Curves:
    """One panel of curves.

    Attributes:
        title: what the panel shows.
        ylabel: quantity and unit.
        lines: the curves.
        wanted: what the metrics would have to hold, for the message of an empty panel.
        references: (value, label) of horizontal lines that belong to no single curve.
        limits: (lowest, highest) value that the axis must include.
        floor: cut the axis here.
        may_log: whether a logarithmic axis is allowed where a linear one would hide the curve.
    """

    title: str
    ylabel: str
    lines: Sequence[_Line]
    wanted: str
    references: Sequence[tuple[float, str]] = ()
    limits: Sequence[float] = ()
    floor: float | None = None
    may_log: bool = False


def training_curves(rows: Metrics, gates: Mapping[str, float], path: Path) -> Path:
    """Draw how training went, as nine panels of curves against the epoch.

    Args:
        rows: lines of ``metrics.jsonl``, each with ``epoch``; any other key may be missing or None.
        gates: {gate: target}; known gates are drawn as dashed lines. A partition of ``sem/<partition>_r2`` is one
            that has a gate ``<partition>_r2`` or a name without an underscore (features have one: ``vol_total``).
        path: the PNG file to write.

    Returns:
        ``path``. A panel without values says which keys it would need.
    """
    panels = _curve_panels(rows, gates)
    layout = Layout(panel=(2.35, 1.6), gap=(2.05, 0.75), left=0.68, right=1.72, top=0.95, bottom=0.5)
    figure, all_axes = panel_grid(len(panels), 3, layout, "Training", "Dashed: gates; at the right: the last values")
    epochs = [value for row in rows if (value := _number(row.get("epoch"))) is not None]
    first, last = (min(epochs), max(epochs)) if epochs else (0.0, 1.0)
    span = (first, last) if last > first else (first - 0.5, last + 0.5)
    for panel, axes in zip(panels, all_axes, strict=True):
        style_axes(axes, panel.title, "epoch", panel.ylabel)
        _draw_curves(axes, panel, rows, span)
    return save_figure(figure, path)


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


def _curve_panels(rows: Metrics, gates: Mapping[str, float]) -> list[_Curves]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    named = {key: gates[key] for key in gates if math.isfinite(gates[key])}

    def both(scalar: str) -> list[_Line]:
        return [
            _Line("train", f"train_epoch/{scalar}", COLOURS[0]),
            _Line("validation", f"val_epoch/{scalar}", COLOURS[1]),
        ]

    def found(prefix: str, label: Callable[[str], str], absolute: bool = False) -> list[_Line]:
        names = sorted(key for key in keys if key.startswith(prefix))
        return [
            _Line(label(key.removeprefix(prefix)), key, colour, style, absolute)
            for key, (colour, style) in _looks(names)
        ]

    partitions = _partitions(keys, named)
    r2_lines = [
        _Line(name, f"sem/{name}_r2", colour, style, gate=named.get(f"{name}_r2"))
        for name, (colour, style) in _looks(partitions)
    ]
    ratios = [
        _Line("z = mean", "diag/mean_z_ratio", COLOURS[0], gate=named.get("mean_z_ratio")),
        _Line("z shuffled", "diag/shuffled_ratio", COLOURS[1], gate=named.get("shuffled_ratio")),
    ]
    dcor_gate = [(named["max_dcor"], f"gate {named['max_dcor']:g}")] if "max_dcor" in named else []
    share = "diag/au_frac_residual" in keys
    unit_lines = [
        _Line("all", "diag/au_frac" if share else "diag/au_count", COLOURS[0], LINE_STYLES[1]),
        _Line(
            "residual",
            "diag/au_frac_residual" if share else "diag/au_count_residual",
            COLOURS[3],
            gate=named.get("residual_active_units") if share else None,
        ),
    ]
    regression = _Curves(
        "Target regression", "R² (validation)", r2_lines, "sem/<partition>_r2", limits=(0.0, 1.0), floor=R2_FLOOR
    )
    classes = found("sem/class_", lambda name: name.replace("_", " "))
    images = found("val_epoch/ssim_", str)
    quality = _Curves("Image quality", "SSIM (validation)", images, "val_epoch/ssim_<modality>", limits=(1.0,))
    columns = found("val_epoch/mse_", lambda name: name.replace("_", " "))  # of a table, which has no images
    return [
        _Curves("Objective", "loss", both("loss"), "train_epoch/loss or val_epoch/loss", may_log=True),
        _Curves("Reconstruction", "term value", both("recon"), "train_epoch/recon or val_epoch/recon", may_log=True),
        _Curves(
            "KL to the prior, unclamped",
            "KL (nats)",
            [*both("kl_raw"), _Line("free-bits floor", "sched/expected_kl_floor", MUTED, (0, (1, 1.2)))],
            "train_epoch/kl_raw or val_epoch/kl_raw",
            limits=(0.0,),
            may_log=True,
        ),
        regression
        if r2_lines or not classes
        else _Curves("Classes", "share (validation)", classes, "", limits=(0.0, 1.0)),
        _Curves(
            "Dependence of partitions",
            "|dCor|",
            found("indep/dcor_", lambda pair: pair.replace("_", "\N{EN DASH}"), absolute=True),
            "indep/dcor_<a>_<b>",
            dcor_gate,
            (0.0, 0.5),
        ),
        _Curves(
            "Does the decoder use z?",
            "error / error with own z",
            ratios,
            "diag/mean_z_ratio or diag/shuffled_ratio",
            [(1.0, "1 = z is ignored")],
            (0.95, 1.6),
        ),
        _Curves(
            "Active units, Var(μ) > 0.01",
            "share of dimensions" if share else "number of dimensions",
            unit_lines,
            "diag/au_frac_residual or diag/au_count",
            limits=(0.0, 1.0) if share else (0.0,),
        ),
        quality if not columns else _Curves("Error of each column", "error / variance", columns, "", limits=(0.0,)),
        _Curves("Gradient", "L2 norm", [_Line("norm", "diag/grad_norm", COLOURS[0])], "diag/grad_norm", may_log=True),
    ]


def _looks(names: Sequence[str]) -> list[tuple[str, tuple[str, Any]]]:
    """Give every name a colour, and another line style once the colours are used up."""
    return [
        (name, (COLOURS[index % len(COLOURS)], LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)]))
        for index, name in enumerate(names)
    ]


def _partitions(keys: Sequence[str], gates: Mapping[str, float]) -> list[str]:
    """Return the partitions among keys such as ``sem/vol_r2`` and ``sem/vol_total_r2``."""
    names = [key[len("sem/") : -len("_r2")] for key in keys if key.startswith("sem/") and key.endswith("_r2")]
    return [name for name in names if "_" not in name or f"{name}_r2" in gates]


def _draw_curves(axes: Axes, panel: _Curves, rows: Metrics, span: tuple[float, float]) -> None:
    drawn: list[tuple[_Line, NDArray[np.float64], NDArray[np.float64]]] = []
    for line in panel.lines:
        epochs, values = _series(rows, line.key)
        if values.size:
            drawn.append((line, epochs, np.abs(values) if line.absolute else values))
    if not drawn:
        present = any(line.key in row for line in panel.lines for row in rows)
        axes.set_xlabel("")
        axes.set_ylabel("")
        reason = f"{'no finite value of' if present else 'not recorded:'}\n{panel.wanted}"
        empty_panel(axes, reason if rows else "no epoch yet")
        return
    for line, epochs, values in drawn:
        marker = "o" if values.size < 3 else ""
        axes.plot(epochs, values, color=line.colour, linestyle=line.style, linewidth=1.5, marker=marker, markersize=3.5)
    gates = [(line.gate, line.colour) for line, _, _ in drawn if line.gate is not None]
    for value, colour in [*gates, *((value, MUTED) for value, _ in panel.references)]:
        axes.axhline(value, color=colour, linestyle=(0, (4, 2.5)), linewidth=0.9, alpha=0.85, zorder=1)
    axes.set_xlim(*span)
    axes.xaxis.set_major_locator(tick_locator(5, integer=True))
    fixed = np.array([value for value, _ in gates] + [value for value, _ in panel.references])
    _limit(axes, panel, [values for _, _, values in drawn], fixed)
    labels = [(value, label, MUTED) for value, label in panel.references]
    for line, _, values in drawn:
        target = "" if line.gate is None else f" (gate {line.gate:g})"
        labels.append((float(values[-1]), f"{line.label} {short_number(float(values[-1]))}{target}", line.colour))
    _label_ends(axes, labels)


def _limit(axes: Axes, panel: _Curves, series: Sequence[NDArray[np.float64]], fixed: NDArray[np.float64]) -> None:
    """Set the value axis: linear, or logarithmic where the panel allows it and a linear one would hide the curve."""
    values = np.concatenate([*series, fixed])
    if panel.may_log and any(_needs_log(one) for one in series) and float(values.min()) > 0:
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
    # A bound that the panel asks for is a natural end of its scale (0, 1), so no room is added beyond it.
    axes.set_ylim(low if low in panel.limits and low == 0 else low - pad, high if low == high else high + pad)
    axes.yaxis.set_major_locator(tick_locator(5))


def _label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write (value, text, colour) at the right end of curves, moved apart where they would overlap."""
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
    """Move heights in [0, 1] apart to at least ``gap``, in their order, changing them as little as is simple.

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


# --------------------------------------------------------------------------------------------------------------------
# Volumes
# --------------------------------------------------------------------------------------------------------------------


class _Sheet:
    """A page of slices: one Axes in millimetres, because an Axes for every slice would be several times slower."""

    def __init__(self, figure: Figure, box: tuple[float, float, float, float], extent: tuple[float, float]) -> None:
        width, height = figure.get_size_inches()
        self.axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, extent[0]), ylim=(extent[1], 0), autoscale_on=False)

    def image(
        self,
        pixels: NDArray[Any],
        place: tuple[float, float],
        size: tuple[float, float],
        cmap: Colormap,
        norm: Normalize,
    ) -> None:
        x, y = place
        self.axes.imshow(
            pixels, cmap=cmap, norm=norm, extent=(x, x + size[0], y + size[1], y), aspect="auto", origin="upper"
        )

    def outline(self, mask: NDArray[Any], place: tuple[float, float], size: tuple[float, float]) -> None:
        segments = mask_outline(mask) * (size[0] / mask.shape[1], size[1] / mask.shape[0]) + np.array(place)
        self.axes.add_collection(
            LineCollection(list(segments), colors="#ffb000", linewidths=0.7, capstyle="round"), autolim=False
        )

    def letters(self, plane: Plane, place: tuple[float, float], size: tuple[float, float]) -> None:
        (x, y), (width, height) = place, size
        spots = (
            (0.03, 0.5, "left", "center"),
            (0.97, 0.5, "right", "center"),
            (0.5, 0.02, "center", "top"),
            (0.5, 0.98, "center", "bottom"),
        )
        for letter, (across, down, ha, va) in zip(plane.letters, spots, strict=True):
            self.text(letter, (x + across * width, y + down * height), ha, va, 6.5, colour="white", on_image=True)

    def text(
        self,
        text: str,
        place: tuple[float, float],
        ha: Any,
        va: Any,
        size: float = 8.5,
        *,
        colour: str = INK,
        weight: str = "normal",
        on_image: bool = False,
        upright: bool = False,
    ) -> None:
        label = self.axes.text(
            *place, literal(text), ha=ha, va=va, size=size, color=colour, weight=weight, rotation=90 * upright
        )
        if on_image:
            label.set_path_effects([withStroke(linewidth=1.2, foreground="black")])


def _check_volume(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(f"{name} has shape {list(shape)}, expected {list(expected)}")


def reconstruction_picture(
    inputs: NDArray[Any],
    reconstruction: NDArray[Any],
    mask: NDArray[Any] | None,
    modalities: Sequence[str],
    title: str,
    path: Path,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    available: Sequence[bool] | None = None,
) -> Path:
    """Draw input, reconstruction and their difference: one row a modality, three planes.

    Voxels without signal (exactly 0 in the z-scored input, where the mean of the head also lies) are black in the
    input and in the reconstruction; the difference hides nothing. A modality has one grey window for input and
    reconstruction; all share one scale of differences, so that modalities can be compared. Of a modality that is
    missing only the reconstruction is drawn, where another one has a signal.

    Args:
        inputs: z-scored images [C, D, H, W].
        reconstruction: the same shape.
        mask: labels [D, H, W], 0 is background, outlined on the input; or None.
        modalities: names of the C channels.
        title: of the picture.
        path: the PNG file to write.
        spacing_mm: voxel size along D, H, W.
        available: which modalities the subject has; None: all.

    Returns:
        ``path``.

    Raises:
        ValueError: shapes that do not belong together.
    """
    inputs, reconstruction = np.asarray(inputs, dtype=np.float32), np.asarray(reconstruction, dtype=np.float32)
    if inputs.ndim != 4:
        raise ValueError(f"inputs must have 4 axes (C, D, H, W), got shape {list(inputs.shape)}")
    _check_volume("reconstruction", reconstruction.shape, inputs.shape)
    _check_volume("modalities", (len(modalities),), inputs.shape[:1])
    if mask is not None:
        _check_volume("mask", mask.shape, inputs.shape[1:])
    there = [True] * len(inputs) if available is None else list(available)
    anywhere = (inputs[there] != 0).any(axis=0)
    shown = [inputs[row] if is_there else reconstruction[row] * anywhere for row, is_there in enumerate(there)]
    greys = [Normalize(*_window(channel[channel != 0], 0.5, 99.8)) for channel in shown]
    bound = max(_window(np.abs(reconstruction - inputs)[there], 0.0, 99.5)[1], 1e-6)
    diverging = Normalize(-bound, bound)

    sizes = [slice_size_mm(plane, inputs.shape[1:], spacing_mm) for plane in PLANES]
    row_height = max(height for _, height in sizes)
    inch = 11.0 / sum(3 * width for width, _ in sizes)
    gap, between = 0.035 / inch, 0.16 / inch
    extent = (sum(3 * width + 2 * gap for width, _ in sizes) + 2 * between, len(modalities) * (row_height + gap))
    left, top, bottom = 0.5, 1.02, 0.72
    box = (left, bottom, extent[0] * inch, extent[1] * inch)
    width, height = left + box[2] + 0.62, top + box[3] + bottom
    note = "Intensities in standard deviations (SD) from the mean"
    note += "" if mask is None else "; outline: tumour mask"
    figure = new_figure(width, height, title, f"{note}; the patient's right is on the left")
    sheet = _Sheet(figure, box, extent)

    x = 0.0
    for plane, size in zip(PLANES, sizes, strict=True):
        index = slice_index(mask, plane, inputs.shape[1:])
        heading = f"{plane.name}, slice {index + 1} of {inputs.shape[1 + plane.axis]}"
        sheet.text(heading, (x + 1.5 * size[0] + gap, -0.26 / inch), "center", "bottom", 9, weight="bold")
        for column, name in enumerate(("input", "reconstruction", "difference")):
            place_x = x + column * (size[0] + gap)
            sheet.text(name, (place_x + size[0] / 2, -0.06 / inch), "center", "bottom", 8, colour=MUTED)
        tumour = None if mask is None else displayed_slice(mask, plane, index)
        for row, grey in enumerate(greys):
            y = row * (row_height + gap) + (row_height - size[1]) / 2
            places = [(x + column * (size[0] + gap), y) for column in range(3)]
            if there[row]:
                pair = [displayed_slice(volume[row], plane, index) for volume in (inputs, reconstruction)]
                _draw_pair(sheet, plane, pair, tumour, places, size, (grey, diverging))
            else:
                _draw_filled_in(sheet, displayed_slice(shown[row], plane, index), places, size, grey)
        x += 3 * size[0] + 2 * gap + between
    for row, name in enumerate(modalities):
        y = row * (row_height + gap) + row_height / 2
        sheet.text(name, (-0.12 / inch, y), "right", "center", 9.5, weight="bold", upright=True)
        bar_height = 0.8 * row_height * inch
        bar_bottom = bottom + box[3] - (row * (row_height + gap) + 0.9 * row_height) * inch
        _colour_bar(figure, (left + box[2] + 0.1, bar_bottom, 0.09, bar_height), "gray", greys[row], "")
    figure.text((left + box[2] + 0.1) / width, (bottom + box[3] + 0.06) / height, "SD", size=7.5, color=MUTED)
    bar_width = 0.28 * box[2]
    place = (left + box[2] - bar_width, bottom - 0.24, bar_width, 0.11)
    _colour_bar(figure, place, "RdBu_r", diverging, "reconstruction \N{MINUS SIGN} input (SD)")
    return save_figure(figure, path)


def _draw_pair(
    sheet: _Sheet,
    plane: Plane,
    pair: Sequence[NDArray[np.float32]],
    tumour: NDArray[Any] | None,
    places: Sequence[tuple[float, float]],
    size: tuple[float, float],
    norms: tuple[Normalize, Normalize],
) -> None:
    """Draw a slice of the input, of the reconstruction and their difference at three places."""
    original, rebuilt = pair
    silent = original == 0
    sheet.image(np.ma.masked_array(original, silent), places[0], size, GREY, norms[0])
    sheet.image(np.ma.masked_array(rebuilt, silent), places[1], size, GREY, norms[0])
    sheet.image(rebuilt - original, places[2], size, colormaps["RdBu_r"], norms[1])
    sheet.letters(plane, places[0], size)
    if tumour is not None:
        sheet.outline(tumour, places[0], size)


def _draw_filled_in(
    sheet: _Sheet,
    rebuilt: NDArray[np.float32],
    places: Sequence[tuple[float, float]],
    size: tuple[float, float],
    norm: Normalize,
) -> None:
    """Draw a slice of the reconstruction of a modality that is missing, beside what says so."""
    (x, y), (width, height) = places[0], size
    sheet.text("missing", (x + width / 2, y + height / 2), "center", "center", 8, colour=MUTED)
    sheet.image(np.ma.masked_array(rebuilt, rebuilt == 0), places[1], size, GREY, norm)


def traversal_picture(
    volumes: NDArray[Any],
    row_labels: Sequence[str],
    steps: Sequence[float],
    modality: str,
    title: str,
    path: Path,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Path:
    """Draw what a walk along latent directions changes: one row a direction, axial slices, the change at the right.

    Every row is cut where the first and the last step differ most.

    Args:
        volumes: one decoded modality [rows, steps, D, H, W].
        row_labels: what each row walks along, such as ``vol``.
        steps: distance from the mean in standard deviations, one a step.
        modality: name of the modality that is shown.
        title: of the picture.
        path: the PNG file to write.
        spacing_mm: voxel size along D, H, W.

    Returns:
        ``path``.

    Raises:
        ValueError: shapes that do not belong together.
    """
    volumes = np.asarray(volumes, dtype=np.float32)
    if volumes.ndim != 5:
        raise ValueError(f"volumes must have 5 axes (rows, steps, D, H, W), got shape {list(volumes.shape)}")
    _check_volume("row_labels", (len(row_labels),), volumes.shape[:1])
    _check_volume("steps", (len(steps),), volumes.shape[1:2])
    grey = Normalize(*_window(volumes, 0.5, 99.9))
    change = np.abs(volumes[:, -1] - volumes[:, 0])
    change_norm = Normalize(0.0, max(_window(change, 0.0, 99.9)[1], 1e-6))

    size = slice_size_mm(AXIAL, volumes.shape[2:], spacing_mm)
    columns = len(steps) + 1
    inch = min(10.0 / (columns * size[0]), 1.5 / size[1])
    gap, between = 0.035 / inch, 0.14 / inch
    extent = (columns * (size[0] + gap) + between, len(row_labels) * (size[1] + gap))
    left, top, bottom = 1.45, 0.86, 0.72
    box = (left, bottom, extent[0] * inch, extent[1] * inch)
    width, height = max(left + box[2] + 0.12, 6.5), top + box[3] + bottom
    note = f"{modality}, axial slice where the ends differ most; the patient's right is on the left"
    figure = new_figure(width, height, title, note)
    sheet = _Sheet(figure, box, extent)
    xs = [column * (size[0] + gap) + between * (column == len(steps)) for column in range(columns)]
    headings = [f"{step:+g} SD".replace("-", "\N{MINUS SIGN}") if step else "0" for step in steps] + [
        "|last \N{MINUS SIGN} first|"
    ]
    for x, heading in zip(xs, headings, strict=True):
        sheet.text(heading, (x + size[0] / 2, -0.06 / inch), "center", "bottom", 8.5)
    for row, label in enumerate(row_labels):
        y = row * (size[1] + gap)
        index = int(np.argmax(np.nan_to_num(change[row]).sum(axis=AXIAL.shown)))
        for x, volume in zip(xs, volumes[row], strict=False):
            sheet.image(displayed_slice(volume, AXIAL, index), (x, y), size, GREY, grey)
        sheet.image(displayed_slice(change[row], AXIAL, index), (xs[-1], y), size, colormaps["magma"], change_norm)
        sheet.letters(AXIAL, (xs[0], y), size)
        sheet.text(label, (-0.1 / inch, y + 0.5 * size[1]), "right", "bottom", 9.5, weight="bold")
        where = f"slice {index + 1} of {volumes.shape[-1]}"
        sheet.text(where, (-0.1 / inch, y + 0.54 * size[1]), "right", "top", 7.5, colour=MUTED)
    bar_y, bar_width = bottom - 0.24, min(2.9, 0.42 * box[2])
    _colour_bar(figure, (left, bar_y, bar_width, 0.11), "gray", grey, "decoded intensity (SD from the mean)")
    place = (left + box[2] - bar_width, bar_y, bar_width, 0.11)
    _colour_bar(figure, place, "magma", change_norm, "absolute change (SD)", "max")
    return save_figure(figure, path)


# --------------------------------------------------------------------------------------------------------------------
# The latent space and its predictions
# --------------------------------------------------------------------------------------------------------------------


def leak_matrix_picture(
    r2: NDArray[Any],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    path: Path,
    own: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Draw how well each partition predicts each target: R2, with values that cannot be computed hatched.

    The cells of a partition's own targets are framed: high values belong there and nowhere else.

    Args:
        r2: [rows, columns]; NaN where it cannot be computed.
        rows: partitions.
        columns: target groups or features.
        title: of the picture.
        path: the PNG file to write.
        own: {partition: its own columns}, such as ``model.supervision``; None: the column of the same name.

    Returns:
        ``path``.

    Raises:
        ValueError: the names do not fit the matrix.
    """
    _check_volume("r2", np.shape(r2), (len(rows), len(columns)))
    owned = {row: (row,) for row in rows} if own is None else own
    frames = [
        (row, column)
        for row, partition in enumerate(rows)
        for column, target in enumerate(columns)
        if target in owned.get(partition, ())
    ]
    note = "R² of predicting a target (column) from a partition (row)" + "; framed: its own targets" * bool(frames)
    figure, axes = _heat_map(r2, rows, columns, title, note, "YlGnBu", Normalize(0.0, 1.0), "R²", "min")
    for row, column in frames:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1.8, zorder=4))
    axes.set_ylabel("predicted from", size=9, color=INK)
    return save_figure(figure, path)


def target_correlation_picture(
    before: NDArray[Any], after: NDArray[Any], partitions: Mapping[str, Sequence[str]], path: Path
) -> Path:
    """Draw the correlation of the regression targets, before training: strongly related targets cannot be separated.

    One matrix holds both: above the diagonal the features as they were measured, below it as they are learnt.

    Args:
        before: correlations [F, F] of the features; NaN where one is constant or never observed.
        after: the same after residualisation.
        partitions: partition -> its targets, F in all, in the order of the matrices.
        path: the PNG file to write.

    Returns:
        ``path``.

    Raises:
        ValueError: the names do not fit the matrices.
    """
    names = [name for targets in partitions.values() for name in targets]
    for label, matrix in (("before", before), ("after", after)):
        _check_volume(label, np.shape(matrix), (len(names), len(names)))
    lower = np.tri(len(names), dtype=bool)
    joined = np.where(lower, np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64))
    note = "Pearson correlation over the training subjects; above the diagonal as measured, below it residualised"
    title = "Correlation of the regression targets"
    figure, axes = _heat_map(joined, names, names, title, note, "RdBu_r", Normalize(-1.0, 1.0), "r", "neither")
    if names:
        _frame_partitions(axes, [len(targets) for targets in partitions.values()])
    return save_figure(figure, path)


def _frame_partitions(axes: Axes, sizes: Sequence[int]) -> None:
    """Frame the blocks on the diagonal: a strong correlation matters outside of them."""
    start = 0
    for size in sizes:
        corner = (start - 0.5, start - 0.5)
        axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=INK, linewidth=1.8, zorder=4))
        start += size


def _heat_map(
    values: NDArray[Any],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    note: str,
    cmap: str,
    norm: Normalize,
    label: str,
    extend: str,
) -> tuple[Figure, Axes]:
    """Draw an annotated heat map; cells are at least as wide as their numbers need."""
    values = np.asarray(values, dtype=np.float64)
    crowded = len(columns) > 8
    cell = (0.52, 0.4) if crowded else (0.85, 0.55)
    letter = 0.075
    longest_row, longest_column = (max((len(name) for name in names), default=0) for names in (rows, columns))
    slanted = longest_column * letter > cell[0]
    header = longest_column * 0.055 + 0.15 if slanted else 0.28
    panel = (max(1, len(columns)) * cell[0], max(1, len(rows)) * cell[1])
    left, top, bottom = longest_row * letter + 0.55, 0.6 + header, 0.25
    right = max(0.95, longest_column * 0.055 - 0.1 if slanted else 0.0)
    wanted = max(len(title) * 0.108, len(note) * 0.072) + 0.3
    width = max(left + panel[0] + right, wanted)
    height = top + panel[1] + bottom
    figure = new_figure(width, height, title, note)
    axes = figure.add_axes((left / width, bottom / height, panel[0] / width, panel[1] / height))
    style_axes(axes)
    if values.size == 0:
        empty_panel(axes, "nothing to show")
        return figure, axes
    axes.imshow(np.ma.masked_invalid(values), cmap=cmap, norm=norm, aspect="auto")
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=8.5)
    axes.set_xticks(
        range(len(columns)),
        [literal(name) for name in columns],
        rotation=45 if slanted else 0,
        ha="left" if slanted else "center",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(rows)), [literal(name) for name in rows])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.hlines(np.arange(-0.5, len(rows)), -0.5, len(columns) - 0.5, color="white", linewidth=1.2)
    axes.vlines(np.arange(-0.5, len(columns)), -0.5, len(rows) - 0.5, color="white", linewidth=1.2)
    _annotate_cells(axes, values, cmap, norm, 7.5 if crowded else 9.0)
    bar_height = min(panel[1], 2.2)
    bar = (left + panel[0] + 0.15, bottom + panel[1] - bar_height, 0.11, bar_height)
    _colour_bar(figure, bar, cmap, norm, label, extend)
    return figure, axes


def _annotate_cells(axes: Axes, values: NDArray[np.float64], cmap: str, norm: Normalize, size: float) -> None:
    """Write the number into every cell, in white on dark ones; hatch those without a number."""
    colour_of = colormaps[cmap]
    for (row, column), value in np.ndenumerate(values):
        known = math.isfinite(value)
        if not known:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor="#f3f4f6", edgecolor=FAINT, hatch="////", linewidth=0))
        red, green, blue, _ = colour_of(norm(value)) if known else (1.0, 1.0, 1.0, 1.0)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        text = _cell_text(float(value)) if known else "n/a"
        axes.text(column, row, text, ha="center", va="center", size=size, color="white" if dark else INK)


def latent_scatter(
    latents: Mapping[str, NDArray[Any]], colours: Mapping[str, tuple[str, NDArray[Any]]], path: Path
) -> Path:
    """Draw each partition's posterior means on its own first two principal components.

    Args:
        latents: {partition: posterior means [N, P]}.
        colours: {partition: (feature with unit, values [N], NaN where not observed)}; partitions may be missing.
        path: the PNG file to write.

    Returns:
        ``path``.
    """
    columns = min(4, max(1, len(latents)))
    right = max(0.2, 4.6 - 2.98 * columns)
    layout = Layout(panel=(2.3, 2.3), gap=(0.68, 1.6), left=0.62, right=right, top=0.95, bottom=1.22)
    figure, all_axes = panel_grid(
        max(1, len(latents)), columns, layout, "Latent space", "Posterior means, one point a subject, validation split"
    )
    if not latents:
        empty_panel(all_axes[0], "no partition")
    for (name, means), axes in zip(latents.items(), all_axes, strict=bool(latents)):
        _scatter_panel(figure, axes, name, np.asarray(means, dtype=np.float64), colours.get(name))
    return save_figure(figure, path)


def principal_components(means: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project rows on their first two principal components.

    Args:
        means: finite values [N, P], P >= 1.

    Returns:
        Scores [N, 2] and shares of the variance [2]; zeros for a component that does not exist.

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
        _check_volume(f"colours[{name!r}]", np.shape(colour[1]), (len(means),))
        values = np.asarray(colour[1], dtype=np.float64)[usable]
    known = np.isfinite(values)
    hollow, filled = scores[~known], scores[known]
    axes.scatter(hollow[:, 0], hollow[:, 1], s=size, facecolor="none", edgecolor=MUTED, linewidth=0.7, zorder=2)
    width, height = figure.get_size_inches()
    box = axes.get_position()
    bar = (box.x0 * width, box.y0 * height - 0.62, box.width * width, 0.09)
    if colour is not None and known.any():
        norm = Normalize(*_window(values[known], 2.0, 98.0))
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
        _colour_bar(figure, bar, "viridis", norm, colour[0] + (f"\n{missing} hollow: not observed" if missing else ""))
        return
    reason = "hollow: no supervised feature" if colour is None else f"hollow: {colour[0]} is not observed"
    x, y = bar[0] + bar[2] / 2, bar[1]
    figure.text(x / width, y / height, literal(reason), size=8, color=MUTED, ha="center")


def regression_picture(
    true: Mapping[str, NDArray[Any]],
    predicted: Mapping[str, NDArray[Any]],
    units: Mapping[str, str],
    r2: Mapping[str, float | None],
    path: Path,
) -> Path:
    """Draw predicted against true values in physical units, one panel a feature, with the line of identity.

    Args:
        true: {feature: values [N], NaN where not observed}.
        predicted: {feature: values [N]}, the same features.
        units: {feature: unit}; a missing or empty one is a number without unit.
        r2: {feature: R2 or None where it cannot be computed}.
        path: the PNG file to write.

    Returns:
        ``path``.

    Raises:
        ValueError: a feature is not predicted, or with another number of subjects.
    """
    columns = min(5, max(1, len(true)))
    layout = Layout(panel=(1.75, 1.75), gap=(0.62, 0.85), left=0.65, right=max(0.2, 4.4 - 2.4 * columns), top=0.98)
    figure, all_axes = panel_grid(
        max(1, len(true)),
        columns,
        layout,
        "Predicted against true targets",
        "Physical units, validation split; line: identity",
    )
    if not true:
        empty_panel(all_axes[0], "no target")
    for (name, values), axes in zip(true.items(), all_axes, strict=bool(true)):
        if name not in predicted:
            raise ValueError(f"predicted has no feature {name!r}; it has: {', '.join(predicted) or 'none'}")
        _check_volume(f"predicted[{name!r}]", np.shape(predicted[name]), np.shape(values))
        unit = units.get(name, "")
        suffix = f" ({unit})" if unit else ""
        style_axes(axes, name, f"true{suffix}", f"predicted{suffix}")
        _regression_panel(
            axes, np.asarray(values, dtype=np.float64), np.asarray(predicted[name], dtype=np.float64), r2.get(name)
        )
    return save_figure(figure, path)


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
