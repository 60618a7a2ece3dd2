"""Where the time of a training step goes: a stacked bar of phases, and bars of operators."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from menvae.presentation.figures import COLOURS, INK, literal, new_figure, style_axes

_MOST_OPERATORS = 12
_BAR_IN, _OPERATOR_IN, _WIDTH_IN = 0.55, 0.24, 8.0
_WRITTEN_FROM = 0.06  # a smaller part of the bar has no room for its share


def draw_profile(profile: Mapping[str, Any]) -> Figure:
    """Draw the phases of a step and its most expensive operators.

    Args:
        profile: ``seconds`` {phase: seconds of a step}, ``seconds_per_step``, ``steps``, ``device`` and ``operators``
            {name: seconds of a step} (`menvae.training.phases.StepProfile`).
    """
    operators = list(profile["operators"].items())[:_MOST_OPERATORS]
    rows_in = _OPERATOR_IN * max(1, len(operators))
    height = 0.95 + _BAR_IN + 0.85 + rows_in + 0.6
    step_ms = 1000.0 * profile["seconds_per_step"]
    subtitle = f"Mean of {profile['steps']} steps of {step_ms:.4g} ms on {profile['device']}"
    figure = new_figure(_WIDTH_IN, height, "Profile of a training step", subtitle)
    bar = figure.add_axes((0.06, 1.0 - (0.95 + _BAR_IN) / height, 0.9, _BAR_IN / height))
    _draw_phases(bar, profile["seconds"], profile["seconds_per_step"])
    axes = figure.add_axes((0.36, 0.6 / height, 0.6, rows_in / height))
    style_axes(axes)
    places = np.arange(len(operators))
    axes.barh(places, [1000.0 * seconds for _, seconds in operators], color=COLOURS[0], height=0.7)
    axes.set_yticks(places, [literal(name[:44]) for name, _ in operators], fontsize=7)
    axes.set_ylim(max(1, len(operators)) - 0.4, -0.6)
    axes.set_xlabel("own time of an operator, ms a step" if operators else "no step was left for the operators")
    return figure


def _draw_phases(axes: Any, seconds: Mapping[str, float], total: float) -> None:
    """Draw the share of each phase in one bar from 0 to 1, with a legend below."""
    edges = np.concatenate([[0.0], np.cumsum([value / total for value in seconds.values()])])
    for (start, stop), (phase, _), colour in zip(pairwise(edges), seconds.items(), COLOURS, strict=False):
        share = stop - start
        axes.barh([0.0], [share], left=[start], color=colour, height=1.0, label=f"{phase} {share:.1%}")
        if share >= _WRITTEN_FROM:
            axes.text((start + stop) / 2, 0.0, f"{share:.0%}", ha="center", va="center", color="white", fontsize=8)
    axes.set_xlim(0.0, max(1.0, float(edges[-1])))
    axes.set_ylim(-0.5, 0.5)
    axes.set_axis_off()
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.08), ncols=6, frameon=False, fontsize=7, labelcolor=INK)
