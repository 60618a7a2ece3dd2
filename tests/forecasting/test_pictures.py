"""Pictures of growth: every visit, band and interval is where patients and forecasts have it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from looking import Paper, dots, has_marks, panels, points, words
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection, LineCollection
from matplotlib.colors import to_hex
from scipy import stats

from menvae.forecasting.judging import Ends, Judged
from menvae.forecasting.pictures import (
    BAND_ALPHA,
    COURSES,
    INSIDE,
    OUTSIDE,
    Reliability,
    course,
    draw_calibration,
    draw_courses,
    draw_fan,
    draw_fans,
    draw_forecasts,
    fan_of,
    round_volumes,
)
from menvae.forecasting.protocols import Task
from menvae.growth import Floats, Forecast, Visits
from menvae.presentation.figures import COLOURS, INK

YEAR = 365.25


class Doubling:
    """A population whose tumours double every year, with a standard deviation of 0.1 that grows by 0.1 a year."""

    def predict(self, seen: Visits, days: Floats) -> Forecast:
        years = (days - seen.days[-1]) / YEAR
        return Forecast(seen.log_volume[-1] + math.log(2.0) * years, (0.1 + 0.1 * years) ** 2)


def visits(name: str, years: list[float], millilitres: list[float]) -> Visits:
    """The first visit is on day 100."""
    return Visits(name, 100.0 + YEAR * np.array(years), np.log(1000.0 * np.array(millilitres)), np.zeros(len(years)))


def judged(truth: list[float], mean: list[float], half: list[float], *, tasks: list[Task] | None = None) -> Judged:
    """Volumes in mL, and half of the widths of 95 % intervals as factors; one forecast a patient."""
    of_truth, of_mean, of_half = (np.log(np.array(one)) for one in (truth, mean, half))
    of_truth, of_mean = of_truth + math.log(1000.0), of_mean + math.log(1000.0)
    tasks = tasks or [Task(number, 1, 1) for number in range(len(truth))]
    sd = np.where(np.isfinite(of_half), of_half, 1.0) / 1.96
    years = np.ones(len(truth))
    ends = Ends(of_mean - of_half, of_mean + of_half)
    return Judged(tasks, of_truth, of_truth, years, of_mean, sd, 0.95, {"jackknife_plus": ends}, len(truth), {})


def lines(axes: Axes) -> list[list[list[float]]]:
    return [points(line).tolist() for line in axes.lines]


# --- courses ----------------------------------------------------------------------------------------------------------


def test_courses_compare_the_last_visit_with_the_first() -> None:
    grew, less, shrank, single = COURSES
    assert grew == "grew by more than 40 %"
    assert shrank == "shrank by more than 29 %"
    assert course(visits("a", [0.0, 1.0, 2.0], [10.0, 5.0, 14.1])) == grew
    assert course(visits("a", [0.0, 1.0], [10.0, 13.9])) == less
    assert course(visits("a", [0.0, 1.0], [10.0, 7.2])) == less
    assert course(visits("a", [0.0, 1.0], [10.0, 7.1])) == shrank
    assert course(visits("a", [0.0], [10.0])) == single


def test_courses_as_drawn(tmp_path: Path) -> None:
    patients = [
        visits("a", [0.0, 1.0, 4.0], [2.0, 8.0, 32.0]),
        visits("b", [0.0, 2.0], [10.0, 10.0]),
        visits("c", [0.0, 2.0], [20.0, 5.0]),
        visits("d", [0.0], [3.0]),
    ]
    figure = draw_courses(patients)
    assert words(figure) == ["Tumour volume over time", "4 patients, 8 visits; coloured by first and last visit"]
    (axes,) = figure.axes
    drawn = {to_hex(str(line.get_color())): points(line) for line in axes.lines if len(points(line))}
    expected = {
        COLOURS[1]: [[0.0, 2.0], [1.0, 8.0], [4.0, 32.0]],
        COURSES["changed less"]: [[0.0, 10.0], [2.0, 10.0]],
        COLOURS[0]: [[0.0, 20.0], [2.0, 5.0]],
        INK: [[0.0, 3.0]],
    }
    assert set(drawn) == set(expected)
    for colour, values in expected.items():
        np.testing.assert_allclose(drawn[colour], values)
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [f"{course}: 1" for course in COURSES]
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "tumour volume in mL, log axis"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2", "3", "5", "7", "10", "15", "20", "30"]
    paper = Paper(figure, tmp_path)
    paper.check(axes, 0.0, 3.0, INK, alpha=0.8)


def test_one_patient_with_one_visit_can_be_drawn() -> None:
    (axes,) = draw_courses([visits("a", [0.0], [3.0])]).axes
    low, high = axes.get_ylim()
    assert low < 3.0 < high
    assert len(axes.get_yticks()) >= 3


@pytest.mark.parametrize(("low", "high"), [(1e-6, 1e3), (0.8, 70.0), (5.2, 7.9), (10.1, 10.9), (9.99, 10.01)])
@pytest.mark.parametrize("most", [4, 9])
def test_an_axis_has_three_ticks_or_more_inside_of_its_ends(low: float, high: float, most: int) -> None:
    ticks = round_volumes(low, high, most)
    assert 3 <= len(ticks) <= most
    assert ticks == sorted(set(ticks))
    assert low <= ticks[0] < ticks[-1] <= high


# --- fans -------------------------------------------------------------------------------------------------------------


PATIENT = visits("$a$", [0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 5.0, 7.0])


def test_a_fan_begins_at_the_last_known_visit_and_goes_beyond_the_last_forecast() -> None:
    fan = fan_of(Doubling(), PATIENT, [Task(0, 2, 3), Task(0, 2, 2)])
    assert (fan.num_seen, list(fan.targets)) == (2, [2, 3])
    assert fan.days[0] == PATIENT.days[1]
    assert PATIENT.days[3] < fan.days[-1] < PATIENT.days[3] + 0.5 * YEAR
    years = (fan.days - PATIENT.days[1]) / YEAR
    np.testing.assert_allclose(fan.mean, math.log(2000.0) + math.log(2.0) * years)
    np.testing.assert_allclose(fan.sd, 0.1 + 0.1 * years)


def test_a_fan_as_drawn(tmp_path: Path) -> None:
    fan = fan_of(Doubling(), PATIENT, [Task(0, 2, 3)])
    figure = draw_fan(fan)
    (axes,) = figure.axes
    mean, seen, held_out = (points(line) for line in axes.lines)
    np.testing.assert_allclose(mean[0], [1.0, 2.0])
    np.testing.assert_allclose(seen, [[0.0, 1.0], [1.0, 2.0]])
    np.testing.assert_allclose(held_out, [[3.0, 7.0]])
    bands = [one for one in axes.collections if isinstance(one, FillBetweenPolyCollection)]
    assert len(bands) == 3
    sd = 0.1 + 0.1 * (mean[-1, 0] - 1.0)
    for band, level in zip(bands, (0.95, 0.8, 0.5), strict=True):
        interval = stats.lognorm(s=sd, scale=mean[-1, 1]).interval(level)
        ends = band.get_paths()[0].vertices
        at_end = ends[np.isclose(ends[:, 0], mean[-1, 0]), 1]
        np.testing.assert_allclose([at_end.min(), at_end.max()], interval, rtol=1e-6)
    low, high = axes.get_ylim()
    assert low < 1.0
    assert high > stats.lognorm(s=sd, scale=mean[-1, 1]).ppf(0.975)
    paper = Paper(figure, tmp_path)
    paper.check(axes, 3.0, 7.0, OUTSIDE)
    paper.check(axes, 2.0, stats.lognorm(s=0.2, scale=4.0).ppf(0.05), COLOURS[0], BAND_ALPHA)
    paper.check(axes, 2.0, stats.lognorm(s=0.2, scale=4.0).ppf(0.2), COLOURS[0], 1.0 - (1.0 - BAND_ALPHA) ** 2)
    paper.check(axes, 0.5, 6.0, "white")


def test_fans_are_named_after_their_patients() -> None:
    long = "a-very-long-name-of-a-hospital-0012"
    fans = [
        fan_of(Doubling(), visits(name, [0.0, 1.0], [1.0, 2.0]), [Task(0, 1, 1)])
        for name in ("$a$", long, "b", "c", "d")
    ]
    figure = draw_fans(fans, "$lme$")
    assert list(panels(figure)) == [r"\$a\$", "\N{HORIZONTAL ELLIPSIS}name-of-a-hospital-0012", "b", "c", "d"]
    assert words(figure)[0] == r"Forecasts of held-out visits by \$lme\$"
    assert [axes.get_xlabel() != "" for axes in figure.axes] == [False, True, True, True, True]


def test_an_axis_does_not_follow_a_band_without_end() -> None:
    class Unsure(Doubling):
        def predict(self, seen: Visits, days: Floats) -> Forecast:
            return Forecast(np.full(len(days), seen.log_volume[-1]), np.full(len(days), 100.0))

    (axes,) = draw_fan(fan_of(Unsure(), PATIENT, [Task(0, 3, 3)])).axes
    low, high = axes.get_ylim()
    assert 0.1 < low < 1.0 / 4.0
    assert 7.0 * 4.0 < high < 70.0


# --- forecasts beside measurements ------------------------------------------------------------------------------------


def test_forecasts_beside_measurements(tmp_path: Path) -> None:
    found = judged([10.0, 20.0, 5.5], [12.0, 10.0, 6.0], [2.0, 1.5, 1.5])
    figure = draw_forecasts(found, "lme")
    assert words(figure) == [
        "Forecasts of lme beside measured volumes",
        "3 forecasts, bars: 95 % intervals (jackknife+); bars that reach the border go on",
    ]
    against, ordered = figure.axes
    (cloud,) = dots(against)
    np.testing.assert_allclose(np.asarray(cloud.get_offsets()), [[10.0, 12.0], [20.0, 10.0], [5.5, 6.0]])
    assert [to_hex(colour) for colour in np.atleast_2d(cloud.get_facecolor())] == [INSIDE, OUTSIDE, INSIDE]
    (bars,) = [one for one in against.collections if isinstance(one, LineCollection)]
    np.testing.assert_allclose(
        bars.get_segments(), [[[10, 6], [10, 24]], [[20, 10 / 1.5], [20, 15]], [[5.5, 4], [5.5, 9]]], rtol=1e-6
    )
    (cloud,) = dots(ordered)
    np.testing.assert_allclose(np.asarray(cloud.get_offsets()), [[1.0, 10 / 12], [2.0, 5.5 / 6], [3.0, 2.0]])
    (bars,) = [one for one in ordered.collections if isinstance(one, LineCollection)]
    np.testing.assert_allclose(
        bars.get_segments(), [[[1, 0.5], [1, 2]], [[2, 1 / 1.5], [2, 1.5]], [[3, 1 / 1.5], [3, 1.5]]], rtol=1e-6
    )
    legend = against.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "measured inside the interval: 2",
        "measured outside the interval: 1",
    ]
    paper = Paper(figure, tmp_path)
    paper.check(ordered, 3.0, 2.0, OUTSIDE)
    paper.check(against, 10.0, 12.0, INSIDE)
    paper.check(ordered, 3.0, 1.45, OUTSIDE, alpha=0.4)


def test_intervals_without_end_reach_the_border() -> None:
    figure = draw_forecasts(judged([10.0, 20.0], [12.0, 10.0], [np.inf, np.inf]), "lme")
    for axes in figure.axes:
        (bars,) = [one for one in axes.collections if isinstance(one, LineCollection)]
        for _, ends in np.asarray(bars.get_segments()).transpose(0, 2, 1):
            np.testing.assert_allclose(ends, axes.get_ylim(), rtol=1e-9)
        (cloud,) = dots(axes)
        assert [to_hex(colour) for colour in np.atleast_2d(cloud.get_facecolor())] == [INSIDE] * 2


# --- calibration ------------------------------------------------------------------------------------------------------


def calibrated(num: int) -> Judged:
    """Standardised errors are the quantiles of a normal distribution in the middle of ``num`` shares."""
    z = stats.norm.ppf((np.arange(num) + 0.5) / num)
    ones = np.ones(num)
    tasks = [Task(number, 1, 1) for number in range(num)]
    return Judged(tasks, z, ones, ones, 0.0 * ones, ones, 0.95, {"normal": Ends(-1.96 * ones, 1.96 * ones)}, num, {})


def test_calibrated_forecasts_lie_on_the_diagonal(tmp_path: Path) -> None:
    events = {"Growth": [Reliability(0.2, 0.1, 0.0, 0.4, 7), Reliability(0.8, 0.9, 0.5, 1.0, 3)], "Never": []}
    figure = draw_calibration({"lme": calibrated(200), "other": calibrated(50)}, "lme", events)
    coverage, ranks, growth, never = panels(figure).values()
    shown = next(line for line in coverage.lines if line.get_color() == COLOURS[0])
    np.testing.assert_allclose(points(shown)[:, 1], points(shown)[:, 0], atol=0.006)
    (diamond,) = [line for line in coverage.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(points(diamond), [[0.95, 0.95]], atol=0.005)
    assert words(coverage) == ["lme", "other models"]
    assert [bar.get_height() for bar in ranks.patches[-10:]] == [20.0] * 10  # type: ignore[attr-defined]
    low, middle, high = sorted(points(line)[0, 1] for line in ranks.lines)
    assert (low, middle, high) == (stats.binom(200, 0.1).ppf(0.025), 20.0, stats.binom(200, 0.1).ppf(0.975))
    marks = [points(line).tolist() for line in growth.lines]
    assert marks[1:] == [[[0.2, 0.0], [0.2, 0.4]], [[0.2, 0.1]], [[0.8, 0.5], [0.8, 1.0]], [[0.8, 0.9]]]
    assert words(growth) == ["7", "3"]
    assert not has_marks(never)
    assert words(never) == ["no visit at about that time"]
    Paper(figure, tmp_path).check(growth, 0.8, 0.9, COLOURS[0])


def test_forecasts_of_one_patient_count_as_one() -> None:
    """Chance bands of coverage are those of two patients, not of six forecasts."""
    tasks = [Task(number // 3, 1, 1 + number % 3) for number in range(6)]
    found = judged([1.0] * 6, [1.0, 1.1, 1.2] * 2, [1.5] * 6, tasks=tasks)
    figure = draw_calibration({"lme": found}, "lme", {})
    coverage, ranks = panels(figure).values()
    (band,) = [one for one in coverage.collections if isinstance(one, FillBetweenPolyCollection)]
    assert set(band.get_paths()[0].vertices[:, 1].tolist()) == {0.0, 0.5, 1.0}
    assert max(points(line)[0, 1] for line in ranks.lines) == 3.0 * stats.binom(2, 0.2).ppf(0.975)
    assert words(coverage) == ["lme"]
