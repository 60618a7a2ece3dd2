"""Pictures of a cohort: histograms are NumPy's, steps are shares counted by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from looking import Paper, has_marks, panels, points, words
from matplotlib.colors import to_hex
from matplotlib.patches import Polygon, Rectangle

from menvae.data.cache.trajectories import Trajectory
from menvae.data.geometry.box import BoxReport
from menvae.preparation.pictures import draw_cohort, draw_patients
from menvae.preparation.quality import Limits
from menvae.presentation.figures import COLOURS, FAINT
from menvae.statistics.gompertz import Gompertz

NATIVE_MM3 = (1000.0, 2000.0, 2000.0, 40000.0, 0.0)
INSIDE_MM3 = (1000.0, 1900.0, 2100.0, 9000.0, 0.0)
TUMOUR_KEPT = (1.0, 0.95, 1.0, 0.25, 0.0)
BRAIN_KEPT = (1.0, 1.0, 0.9, 0.96, 0.8)
BOXES = [BoxReport(a, a, b, c, d) for a, b, c, d in zip(NATIVE_MM3, INSIDE_MM3, TUMOUR_KEPT, BRAIN_KEPT, strict=True)]


def test_cohort(tmp_path: Path) -> None:
    figure = draw_cohort(BOXES, Limits(tumour_kept=0.98, brain_kept=0.95))
    assert words(figure)[0] == "What the box holds"
    assert words(figure)[1].startswith("5 subjects")
    found = panels(figure)
    assert list(found) == ["Tumour volume", "Share inside the box"]
    volumes, kept = found.values()
    bars = [patch for patch in volumes.patches if isinstance(patch, Rectangle)]
    edges = np.array([*(bar.get_x() for bar in bars), bars[-1].get_x() + bars[-1].get_width()])
    assert edges[0] < 1.0
    assert edges[-1] > 40.0
    np.testing.assert_array_equal([bar.get_height() for bar in bars], np.histogram([1.0, 1.9, 2.1, 9.0], edges)[0])
    (outline,) = [patch for patch in volumes.patches if isinstance(patch, Polygon)]
    corners = np.asarray(outline.get_xy())
    counts, _ = np.histogram([1.0, 2.0, 2.0, 40.0], edges)
    assert corners[:, 1].max() == counts.max()
    middles = np.sqrt(edges[:-1] * edges[1:])
    np.testing.assert_array_equal([corners[corners[:, 0] <= middle][-1, 1] for middle in middles], counts)
    assert volumes.get_xscale() == "log"
    assert (volumes.get_xlabel(), volumes.get_ylabel()) == ("mL", "subjects")
    for line, name, shares in zip(kept.lines, ("tumour", "brain"), (TUMOUR_KEPT, BRAIN_KEPT), strict=False):
        assert line.get_label() == name
        steps = points(line)
        for share in np.linspace(0.01, 0.99, 40):
            at_most = sum(value <= share for value in shares)
            assert steps[steps[:, 0] <= 100 * share][-1, 1] == at_most
        assert steps[-1].tolist() == [100.0, 5.0]
    assert sorted(points(line)[0, 0] for line in kept.lines[2:]) == [95.0, 98.0], "the limits"
    legend = kept.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["tumour", "brain"]
    paper = Paper(figure, tmp_path)
    paper.check(volumes, bars[0].get_x() + 0.5 * bars[0].get_width(), 0.5, COLOURS[0], alpha=0.45)
    paper.check(kept, 10.0, 1.0, COLOURS[1])
    paper.check(kept, 50.0, 4.0, "white")


def test_a_cohort_without_tumours_or_subjects_says_so() -> None:
    volumes, kept = panels(draw_cohort([BoxReport(0.0, 0.0, 0.0, 0.0, 1.0)], Limits())).values()
    assert not has_marks(volumes)
    assert words(volumes) == ["no subject has a tumour"]
    assert has_marks(kept)
    for axes in panels(draw_cohort([], Limits())).values():
        assert not has_marks(axes)
        assert words(axes)


def test_patients(tmp_path: Path) -> None:
    visits = Trajectory("anna", ("anna-1", "anna-2"), (0.0, 2.0), (8_000.0, 16_000.0))
    curve = Gompertz(first_mm3=8_000.0, capacity_mm3=64_000.0, rate_per_year=0.2)
    figure = draw_patients([visits], {"anna": curve})
    assert words(figure)[0] == "Tumours over time, without oedema"
    (axes,) = figure.axes
    true, measured = sorted(axes.lines, key=lambda line: line.get_zorder())
    assert points(measured).tolist() == [[0.0, 8.0], [2.0, 16.0]], "in mL"
    years = points(true)[:, 0]
    expected = np.exp(math.log(64.0) + (math.log(8.0) - math.log(64.0)) * np.exp(-0.2 * years))
    np.testing.assert_allclose(points(true)[:, 1], expected)
    assert (years[0], years[-1]) == (0.0, 2.0)
    assert to_hex(str(true.get_color())) == FAINT
    paper = Paper(figure, tmp_path)
    paper.check(axes, 2.0, 16.0, COLOURS[0])
    paper.check(axes, 1.0, points(true)[:, 1][np.abs(years - 1.0).argmin()] * 1.005, FAINT)
