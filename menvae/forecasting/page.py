"""Forecasts as one self-contained HTML page: a table of models, pictures, and a section for each patient."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from menvae.files import write_text
from menvae.forecasting.judging import Judged
from menvae.forecasting.pictures import (
    COURSES,
    FAN_WORDS,
    Fan,
    Reliability,
    course,
    draw_calibration,
    draw_courses,
    draw_fan,
    draw_fans,
    draw_forecasts,
    fan_of,
    interval_words,
    kind_of,
    num_patients,
)
from menvae.forecasting.scores import RATIO
from menvae.growth import Visits
from menvae.presentation.figures import save_figure
from menvae.presentation.page import Album, Picture, render
from menvae.presentation.sortable import Cell, Column, Table, number_cell, sorting_script
from menvae.presentation.text import counted, significant, with_interval
from menvae.statistics.discoveries import FALSE_DISCOVERY_RATE
from menvae.statistics.estimate import Estimate

MOST_FANS: Final = 24
"""Patients whose forecast is drawn in their section, those with the largest errors."""
MOST_PANELS: Final = 12
"""Patients of the overview, evenly from the smallest error to the largest."""
_NOTHING: Final = "\N{EN DASH}"
_MINUS: Final = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Score:
    """A column of the table of models.

    Attributes:
        name: with its unit.
        meaning: in a sentence.
        ideal: what a perfect model has; the nearest value is the best.
    """

    name: str
    meaning: str
    ideal: float = 0.0


@dataclass(frozen=True)
class Difference:
    """Score of a model minus that of another, over the same patients.

    Attributes:
        estimate: negative where the model is better.
        q: smallest false discovery rate at which it counts as a difference; None: unknown.
    """

    estimate: Estimate
    q: float | None = None

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval excludes 0 and q is small enough, else empty."""
        low, high = self.estimate.low, self.estimate.high
        if low is None or high is None or (self.q is not None and self.q > FALSE_DISCOVERY_RATE):
            return ""
        return "better" if high < 0.0 else "worse" if low > 0.0 else ""


@dataclass(frozen=True)
class Versus:
    """Differences of models to one of them.

    Attributes:
        model: the other one, such as last_value.
        score: name of the score.
        differences: model -> difference.
    """

    model: str
    score: str
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Report:
    """Content of a page.

    Attributes:
        title: of the page.
        patients: all, also those without a forecast.
        judged: model -> forecasts, all of the same visits.
        shown: the model whose forecasts are drawn.
        scores: columns of the table; models are sorted by the first.
        values: model -> name of a score -> value; a score may be missing.
        versus: differences, one column each; the first decides about the headline.
        warnings: sentences that nobody may miss, such as that the encoder saw images of held-out patients.
        notes: other sentences.
        facts: names and values for the head of the page.
        events: words such as "Growth by 40 % in 1 year" -> forecasts by ``shown`` in groups of about one probability.
        decoded: caption -> picture of a decoded next visit beside the true one.
    """

    title: str
    patients: Sequence[Visits]
    judged: Mapping[str, Judged]
    shown: str
    scores: Sequence[Score]
    values: Mapping[str, Mapping[str, Estimate]]
    versus: Sequence[Versus] = ()
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    events: Mapping[str, Sequence[Reliability]] = field(default_factory=dict)
    decoded: Mapping[str, Path] = field(default_factory=dict)

    @property
    def level(self) -> float:
        """Level of the intervals, such as 0.95."""
        return self.judged[self.shown].level

    @property
    def models(self) -> list[str]:
        """Names of the models, the best by the first score first; those without a value last."""
        return sorted(self.judged, key=lambda name: self.distance(name, self.scores[0]))

    def distance(self, model: str, score: Score) -> float:
        """Return how far a score is from its ideal; infinite without a value."""
        estimate = self.values.get(model, {}).get(score.name)
        return float("inf") if estimate is None or estimate.value is None else abs(estimate.value - score.ideal)


@dataclass(frozen=True)
class _Patient:
    """Section of a patient."""

    number: int
    name: str
    summary: str
    picture: Picture | None
    rows: list[list[Cell]]


def write_page(report: Report, path: Path) -> Path:
    """Write the page.

    Args:
        report: content; at least one model and one forecast.
        path: the HTML file to write; its folder must exist.

    Returns:
        ``path``.
    """
    template = Path(__file__).with_name("templates") / "forecasts.html"
    with tempfile.TemporaryDirectory() as folder:
        content = _content(report, _Gallery(Album(), Path(folder)))
    return write_text(path, render(template, content, script=sorting_script()))


@dataclass
class _Gallery:
    """Saves figures into a folder and embeds them."""

    album: Album
    folder: Path

    def embed(self, figure: Figure, alt: str, caption: str = "") -> Picture | None:
        """Save a figure and return it as an embedded picture."""
        return self.album.embed(save_figure(figure, self.folder / "picture.png"), alt, caption, always=True)


def _content(report: Report, gallery: _Gallery) -> dict[str, Any]:
    judged = report.judged[report.shown]
    fans, overview = _fans(report)
    decoded = [gallery.album.embed(path, caption, caption) for caption, path in report.decoded.items()]
    return {
        "title": report.title,
        "subtitle": _subtitle(report),
        "banner": _banner(report),
        "warnings": report.warnings,
        "notes": report.notes,
        "summary": [*_facts(report), *report.facts],
        "models": _models(report),
        "false_discovery_rate": FALSE_DISCOVERY_RATE,
        "shown": report.shown,
        "courses": gallery.embed(
            draw_courses(report.patients),
            "Tumour volume over time, one line per patient",
            f"Coloured by the volume of the last visit: more than {RATIO:g} times that of the first, less than "
            f"1/{RATIO:g} of it, or between. Patients with short follow-up change less.",
        ),
        "forecasts": gallery.embed(
            draw_forecasts(judged, report.shown),
            "Forecasts with their intervals beside measured volumes",
            "Left: on the line, forecast and measurement agree. Right: measured volume relative to the forecast, from "
            "what was forecast too large to what was forecast too small; the interval of each forecast beside it.",
        ),
        "calibration": gallery.embed(
            draw_calibration(report.judged, report.shown, report.events),
            "Coverage by level, where measurements lie in their forecasts, and reliability of probabilities",
            "Coverage below the diagonal: intervals are too narrow. Where measurements lie: level if forecasts are "
            "calibrated, high at both ends if they are too sure, tilted if they are too small or too large. Numbers "
            "beside dots: forecasts.",
        ),
        "fans": _overview(report, [fans[number] for number in overview], gallery),
        "has_decoded": bool(decoded),
        "decoded": [picture for picture in decoded if picture is not None],
        "decoded_note": _decoded_note(decoded.count(None)),
        "forecast_table": _forecast_table(report),
        "patients": _patients(report, fans, gallery),
        "patient_columns": _columns_of_patient(report),
        "most_fans": MOST_FANS,
        "fan_words": FAN_WORDS,
        "reading": _reading(report),
    }


def _decoded_note(num: int) -> str:
    """Say how many pictures are missing; empty if none is."""
    verbs = "is unreadable or was" if num == 1 else "are unreadable or were"
    return f"{counted(num, 'picture')} {verbs} omitted to keep this page small." if num else ""


# --- head and table of models -----------------------------------------------------------------------------------------


def _subtitle(report: Report) -> str:
    num = len(report.judged[report.shown].tasks)
    return f"{counted(num, 'forecast')} of visits of held-out patients, by {counted(len(report.judged), 'model')}"


def _banner(report: Report) -> tuple[str, str, str]:
    """Return kind, headline and text: the best model, and whether it is better than the first one to beat."""
    best, score = report.models[0], report.scores[0]
    values = ", ".join(f"{name} {_shown(report, name, score)}" for name in report.models[:3])
    headline, text = f"Best by {score.name}: {best}.", f"{score.name}: {values}."
    if not report.versus:
        return "odd", headline, text
    versus = report.versus[0]
    differences = versus.differences
    clear = [name for name in report.models if name in differences and differences[name].verdict == "better"]
    than = f"better than {versus.model} in {versus.score}"
    if clear:
        return "good", f"{headline} Clearly {than}: {', '.join(clear)}.", text
    return "odd", f"{headline} No model is clearly {than}.", text


def _shown(report: Report, model: str, score: Score) -> str:
    estimate = report.values.get(model, {}).get(score.name)
    return significant(None) if estimate is None else _estimate_words(estimate).replace("\n", " ")


def _facts(report: Report) -> list[tuple[str, str]]:
    judged = report.judged[report.shown]
    followed = [visits for visits in report.patients if len(visits) > 1]
    spans = [visits.years[-1] for visits in followed]
    courses = [course(visits) for visits in followed]
    return [
        ("Patients", f"{len(report.patients)}, of whom {num_patients(judged)} are forecast"),
        ("Visits", f"{sum(map(len, report.patients))}, {np.median(list(map(len, report.patients))):g} in the median"),
        ("Follow-up", f"{np.median(spans):.1f} years in the median, {max(spans):.1f} at most"),
        ("Forecast ahead", f"{np.median(judged.years):.1f} years in the median, {judged.years.max():.1f} at most"),
        ("Course", ", ".join(f"{courses.count(words)} {words}" for words in COURSES if words in courses)),
    ]


def _models(report: Report) -> Table:
    """Make the table of models; differences stand beside the first score."""
    columns = [_score_column(score) for score in report.scores]
    columns[1:1] = [
        Column(f"difference to\n{versus.model}", wanted=f"in {versus.score}", title="negative: better")
        for versus in report.versus
    ]
    best = {score.name: min(report.distance(model, score) for model in report.judged) for score in report.scores}
    rows = []
    for model in report.models:
        cells = []
        for score in report.scores:
            distance = report.distance(model, score)
            is_best = len(report.judged) > 1 and distance == best[score.name] < float("inf")
            cells.append(_estimate_cell(report.values.get(model, {}).get(score.name), "best" if is_best else ""))
        cells[1:1] = [_difference_cell(model, versus) for versus in report.versus]
        rows.append([Cell(model, model, ""), *cells])
    return Table("models-table", [Column("model", is_number=False), *columns], rows)


def _score_column(score: Score) -> Column:
    if score.ideal == 0.0:
        return Column(score.name, title=score.meaning)
    return Column(score.name, first="descending", wanted=f"ideal {score.ideal:g}", title=score.meaning)


def _estimate_words(estimate: Estimate) -> str:
    """Return a value, and below it the interval."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return significant(estimate.value)
    value, _, interval = with_interval(estimate.value, None, (estimate.low, estimate.high)).partition(" ")
    return f"{value}\n{interval}"


def _estimate_cell(estimate: Estimate | None, kind: str) -> Cell:
    if estimate is None:
        return number_cell(None, _NOTHING)
    words = _estimate_words(estimate)
    if kind == "best":
        words = words.replace("\n", "*\n", 1) if "\n" in words else f"{words}*"
    exact = "" if estimate.value is None else repr(estimate.value)
    title = f"{exact}, {counted(estimate.n, 'patient')}" if exact else ""
    return Cell(words, exact, f"number {kind}".strip(), ". ".join(filter(None, (title, estimate.reason))))


def _difference_cell(model: str, versus: Versus) -> Cell:
    difference = versus.differences.get(model)
    if model == versus.model or difference is None:
        return number_cell(None, _NOTHING)
    cell = _estimate_cell(difference.estimate, difference.verdict)
    sign = "+" * (difference.estimate.value is not None and difference.estimate.value > 0.0)
    q = "" if difference.q is None else f"\nq = {_short(difference.q)}"
    return Cell(f"{sign}{cell.text}{q}".replace("-", _MINUS), cell.value, cell.kind, cell.title)


def _short(q: float) -> str:
    """Format a probability with two digits.

    >>> _short(0.0312), _short(0.00004)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if q < 0.001 else f"{q:.2g}"


# --- patients ---------------------------------------------------------------------------------------------------------


def by_error(judged: Judged) -> dict[int, list[int]]:
    """Return number of a patient -> numbers of the forecasts, the patient with the largest error first."""
    found: dict[int, list[int]] = {}
    for place, task in enumerate(judged.tasks):
        found.setdefault(task.patient, []).append(place)
    error = np.abs(judged.mean - judged.truth)
    return dict(sorted(found.items(), key=lambda pair: -error[pair[1]].max()))


def _fans(report: Report) -> tuple[dict[int, Fan], list[int]]:
    """Forecast the patients that are drawn over time; return them by their numbers, and which the overview shows."""
    judged = report.judged[report.shown]
    places = by_error(judged)
    ordered = list(places)
    chosen = np.linspace(len(ordered) - 1, 0, min(MOST_PANELS, len(ordered))).round().astype(int)
    overview = [ordered[place] for place in chosen]
    fans = {}
    for number in {**dict.fromkeys(ordered[:MOST_FANS]), **dict.fromkeys(overview)}:
        tasks = [judged.tasks[place] for place in places[number]]
        fans[number] = fan_of(judged.fits[number], report.patients[number], tasks)
    return fans, overview


def _overview(report: Report, fans: Sequence[Fan], gallery: _Gallery) -> Picture | None:
    """Draw the forecasts of some patients."""
    num = num_patients(report.judged[report.shown])
    some = "All patients" if len(fans) == num else f"{len(fans)} of {num} patients"
    caption = f"{some}, from the smallest error to the largest. Bands: the model's own normal intervals."
    return gallery.embed(draw_fans(fans, report.shown), "Forecasts of some patients over time", caption)


def _patients(report: Report, fans: Mapping[int, Fan], gallery: _Gallery) -> list[_Patient]:
    """Return the section of every patient with a forecast; the first ones are drawn."""
    judged, found = report.judged[report.shown], []
    for place, (number, places) in enumerate(by_error(judged).items()):
        name = report.patients[number].patient
        picture = None
        if place < MOST_FANS:
            picture = gallery.embed(draw_fan(fans[number]), f"Forecast of {name} over time")
        rows = [_row_of_patient(report, model, one) for one in places for model in report.models]
        found.append(_Patient(number, name, _summary(judged, places), picture, rows))
    return found


def _summary(judged: Judged, places: Sequence[int]) -> str:
    """Say in words what was forecast, and how wrong the worst forecast is."""
    worst = max(places, key=lambda place: abs(judged.mean[place] - judged.truth[place]))
    known = counted(min(judged.tasks[place].num_seen for place in places), "known visit")
    held_out = f", {len(places)} held out" * (len(places) > 1)
    forecast, truth = _ml(judged.mean[worst]), _ml(judged.truth[worst])
    after = f"after {judged.years[worst]:.1f} years"
    return f"{known}{held_out}; {after}: {truth} mL measured, {forecast} mL forecast ({_percent(judged, worst)})"


def _columns_of_patient(report: Report) -> list[tuple[str, bool]]:
    """Return names of columns, and whether they hold numbers."""
    interval = f"{100 * report.level:g} % interval"
    return [
        ("Years ahead", True),
        ("Model", False),
        ("Measured, mL", True),
        ("Forecast, mL", True),
        (interval, True),
        ("Error", True),
    ]


def _row_of_patient(report: Report, model: str, place: int) -> list[Cell]:
    judged = report.judged[model]
    return [
        number_cell(float(judged.years[place]), f"{judged.years[place]:.2f}"),
        Cell(model, model, "shown" if model == report.shown else ""),
        *_forecast_cells(judged, place),
    ]


def _forecast_cells(judged: Judged, place: int) -> list[Cell]:
    """Return measured volume, forecast, interval and error."""
    ends = judged.intervals[kind_of(judged)]
    low, high, truth = (float(column[place]) for column in (*ends, judged.truth))
    mean, error = float(judged.mean[place]), _error_percent(judged, place)
    width = repr(high - low) if np.isfinite(high - low) else "Infinity"
    return [
        number_cell(_volume_ml(truth)),
        number_cell(_volume_ml(mean)),
        Cell(f"{_ml(low)} to {_ml(high)}", width, "number" if low <= truth <= high else "number missed"),
        number_cell(error, _percent(judged, place)),
    ]


def _forecast_table(report: Report) -> Table:
    """Make the table of all forecasts of the model that is shown, the largest error first."""
    judged = report.judged[report.shown]
    columns = [
        Column("patient", is_number=False),
        Column("known visits"),
        Column("years ahead"),
        Column("last known, mL"),
        Column("measured, mL"),
        Column("forecast, mL"),
        Column(f"{100 * report.level:g} % interval", title="sorts by the logarithm of upper over lower end"),
        Column("error", first="descending", title="of the forecast volume, in percent of the measured one"),
    ]
    rows = []
    for number, places in by_error(judged).items():
        name = report.patients[number].patient
        for place in places:
            known = judged.tasks[place].num_seen
            rows.append(
                [
                    Cell(name, name, "name", link=f"#patient-{number}"),
                    Cell(str(known), str(known)),
                    number_cell(float(judged.years[place]), f"{judged.years[place]:.2f}"),
                    number_cell(_volume_ml(float(judged.last[place]))),
                    *_forecast_cells(judged, place),
                ]
            )
    return Table("forecasts-table", columns, rows)


def _volume_ml(log_volume: float) -> float:
    return float(np.exp(log_volume)) / 1000.0


def _ml(log_volume: float) -> str:
    """Format a log volume in mL.

    >>> _ml(9.21034), _ml(float("inf")), _ml(float("-inf"))
    ('10.0', '\u221e', '0')
    """
    volume = _volume_ml(log_volume)
    return "\N{INFINITY}" if volume == float("inf") else significant(volume) if volume else "0"


def _error_percent(judged: Judged, place: int) -> float:
    return 100.0 * float(np.expm1(judged.mean[place] - judged.truth[place]))


def _percent(judged: Judged, place: int) -> str:
    return f"{_error_percent(judged, place):+,.0f}\N{NO-BREAK SPACE}%".replace("-", _MINUS)


def _reading(report: Report) -> list[tuple[str, str]]:
    """Return terms of the page and their meanings."""
    level = f"{100 * report.level:g} %"
    return [
        *((score.name, score.meaning) for score in report.scores),
        ("Held out", "The population was estimated without the patient; of the patient, earlier visits are known."),
        ("Forecast", "Median of the predictive distribution of the volume as it would be measured."),
        (interval_words(report.judged[report.shown]), f"Should hold the measured volumes of {level} of the patients."),
        ("Error", "Forecast volume relative to the measured one: +100 % is twice as large."),
        ("q", "Smallest false discovery rate, over all models, at which a difference counts as one."),
    ]
