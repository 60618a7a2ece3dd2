"""What the picture of trajectories shows."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from menvae.presentation.figures import FAINT
from menvae.presentation.trajectories import draw_trajectories

SERIES = {"a": ([0.0, 1.0, 4.0], [2.0, 8.0, 32.0]), "b": ([0.0, 2.5], [0.0, 5.0]), "none": ([0.0], [0.0])}


def test_one_line_a_patient_of_what_has_a_place_on_a_log_axis() -> None:
    (axes,) = draw_trajectories(SERIES).axes
    lines = [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
    assert lines == [[[0.0, 2.0], [1.0, 8.0], [4.0, 32.0]], [[2.5, 5.0]]]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] < 2.0 < 32.0 < axes.get_ylim()[1]


def test_true_curves_are_faint_and_behind() -> None:
    (axes,) = draw_trajectories(SERIES, {"a": lambda years: 2.0 * 2.0**years}).axes
    true, *measured = sorted(axes.lines, key=lambda line: line.get_zorder())
    assert to_hex(str(true.get_color())) == FAINT
    assert true.get_ydata()[-1] == pytest.approx(32.0)  # type: ignore[index]
    assert len(measured) == 2


def test_one_visit_or_none_can_be_drawn() -> None:
    (axes,) = draw_trajectories({"a": ([0.0], [3.0])}).axes
    assert len(axes.lines) == 1
    (axes,) = draw_trajectories({"a": ([0.0], [0.0])}).axes
    assert [text.get_text() for text in axes.texts] == ["no visit with a known time and a tumour"]
