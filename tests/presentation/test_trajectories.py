"""What the picture of trajectories shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from looking import Paper, words
from matplotlib.colors import to_hex

from menvae.presentation.figures import COLOURS, FAINT
from menvae.presentation.trajectories import draw_trajectories

SERIES = {"a": ([0.0, 1.0, 4.0], [2.0, 8.0, 32.0]), "b": ([0.0, 2.5], [0.0, 5.0]), "none": ([0.0], [0.0])}


def test_one_line_a_patient_of_what_has_a_place_on_a_log_axis(tmp_path: Path) -> None:
    figure = draw_trajectories(SERIES, title="Growth")
    assert words(figure) == ["Growth", "2 patients, 4 visits: one line per patient"]
    (axes,) = figure.axes
    lines = [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
    assert lines == [[[0.0, 2.0], [1.0, 8.0], [4.0, 32.0]], [[2.5, 5.0]]]
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] < 2.0 < 32.0 < axes.get_ylim()[1]
    assert axes.get_xlim() == pytest.approx((-0.08, 4.08))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("years since the first visit", "tumour volume in mL, log axis")
    paper = Paper(figure, tmp_path)
    paper.check(axes, 1.0, 8.0, COLOURS[0])
    paper.check(axes, 2.5, 5.0, COLOURS[1])
    paper.check(axes, 3.0, 3.0, "white")


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
    assert [text.get_text() for text in axes.texts] == ["no visit with known time and a tumour"]
