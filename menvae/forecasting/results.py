"""What forecasts are worth: scores, differences and calibration, as files, a table and a page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.special import ndtri

from menvae.files import csv_text, original_cell, write_text
from menvae.forecasting.decoded import NextVisit
from menvae.forecasting.judging import INTERVAL_NAMES, Ends, Intervals, Judged
from menvae.forecasting.next_visits import draw_next_visits
from menvae.forecasting.page import Difference, Report, Score, Versus, write_page
from menvae.forecasting.pictures import Reliability
from menvae.forecasting.scores import (
    HORIZONS,
    RATIO,
    SCORES,
    Calibration,
    PairedDifference,
    Scores,
    calibrations,
    growth_probabilities,
    paired_differences,
    score,
)
from menvae.growth import Visits
from menvae.presentation.figures import save_figure
from menvae.presentation.text import significant
from menvae.statistics.estimate import Estimate
from menvae.statistics.gompertz import Gompertz

ORACLE: Final = "true curve"
"""Name of forecasts by the curves that phantoms were drawn from."""
SMALLEST_SD: Final = 1e-6
"""Of the errors of a true curve: nothing is exact."""
PAGE: Final = "index.html"
TABLE: Final = "scores.txt"
_SCORES: Final = "scores.csv"
_WIDTH, _WIDEST = 132, 1000
"""Characters of a line, and of a table at most: with four kinds of intervals, it is wider than a line."""
_COLUMNS: Final[Mapping[str, str]] = {
    "crps": "CRPS",
    "median_error_percent": "median error, %",
    "mean_error": "mean error, ln",
    "interval_score": "interval score",
    "coverage": "coverage",
}
"""Score -> its heading in tables, in their order; the last two are of each kind of intervals."""


@dataclass(frozen=True)
class Results:
    """Judged forecasts.

    Attributes:
        patients: all, each as he was read when he was forecast.
        judged: model -> forecasts, all of the same visits.
        shown: model whose forecasts are drawn.
        intervals: kinds of intervals.
        baselines: models that the others are compared with.
        oracles: name -> forecasts by somebody who knows the true curves; no models, but what models are compared with.
        warnings: sentences that nobody may miss.
        notes: others.
        facts: names and values for the head of the page.
        next_visits: decoded ones.
    """

    patients: Sequence[Visits]
    judged: Mapping[str, Judged]
    shown: str
    intervals: Sequence[Intervals]
    baselines: Sequence[str]
    oracles: Mapping[str, Judged]
    warnings: Sequence[str]
    notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    next_visits: Sequence[NextVisit] = ()

    @property
    def level(self) -> float:
        """Level of the intervals, such as 0.95."""
        return self.judged[self.shown].level

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Model or oracle -> scores."""
        return {name: score(judged) for name, judged in {**self.judged, **self.oracles}.items()}

    @cached_property
    def differences(self) -> dict[str, dict[str, dict[str, PairedDifference]]]:
        """Baseline or oracle -> other model -> score -> difference."""
        kind = self.intervals[0]
        to_baselines = {name: paired_differences(self.judged, name, kind) for name in self.baselines}
        to_oracles = {
            name: paired_differences({**self.judged, name: oracle}, name, kind) for name, oracle in self.oracles.items()
        }
        return {name: found for name, found in {**to_baselines, **to_oracles}.items() if found}

    @cached_property
    def calibrations(self) -> list[Calibration]:
        """Of the model that is shown."""
        return calibrations(self.judged[self.shown])

    @property
    def all_notes(self) -> list[str]:
        """Notes, and those of all scores once."""
        return list(dict.fromkeys([*self.notes, *(note for one in self.scores.values() for note in one.notes)]))


def of_curves(like: Judged, patients: Sequence[Visits], curves: Mapping[str, Gompertz]) -> Judged:
    """Return the forecasts of somebody who knows the curves, and how far measurements of others lie from theirs.

    Args:
        like: forecasts of the same visits.
        patients: all.
        curves: patient -> curve.

    Returns:
        Forecasts with normal intervals only.
    """
    mean = np.array(
        [
            math.log(
                curves[patients[task.patient].patient].volume_mm3(float(patients[task.patient].years[task.target]))
            )
            for task in like.tasks
        ]
    )
    of_others = np.not_equal.outer(like.patients, like.patients)
    square = of_others @ (like.truth - mean) ** 2 / np.maximum(of_others.sum(axis=1), 1)
    sd = np.sqrt(np.maximum(square, SMALLEST_SD**2))
    reach = sd * float(ndtri(0.5 + 0.5 * like.level))
    ends: dict[Intervals, Ends] = {"normal": Ends(mean - reach, mean + reach)}
    return Judged(like.tasks, like.truth, like.last, like.years, mean, sd, like.level, ends, like.num_errors, {})


# --- files ------------------------------------------------------------------------------------------------------------


def write_results(results: Results, title: str, folder: Path) -> None:
    """Write tables, pictures and the page of forecasts.

    Args:
        results: forecasts.
        title: of the page.
        folder: an existing folder.
    """
    _write_csv(folder / "forecasts.csv", _forecast_rows(results))
    _write_csv(folder / _SCORES, _score_rows(results))
    _write_csv(folder / "differences.csv", _difference_rows(results))
    _write_csv(folder / "calibration.csv", _calibration_rows(results))
    write_text(folder / TABLE, _table(results))
    decoded = {}
    if results.next_visits:
        path = folder / "next_visits.png"
        save_figure(draw_next_visits(results.next_visits), path)
        decoded = {_words_of_decoded(results.next_visits): path}
    write_page(_report(results, title, decoded), folder / PAGE)


def read_metrics(folder: Path) -> dict[str, float | None]:
    """Return the scores in a folder, ``<model>/<score>`` -> value."""
    with (folder / _SCORES).open(encoding="utf-8", newline="") as file:
        return {
            f"{original_cell(row['model'])}/{row['score']}": float(row["value"]) if row["value"] else None
            for row in csv.DictReader(file)
        }


def _write_csv(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    found = list(rows)
    header = list(found[0]) if found else []
    write_text(path, csv_text([header, *([row.get(name) for name in header] for row in found)]))


def _forecast_rows(results: Results) -> Iterator[dict[str, Any]]:
    """Yield a row a forecast and model; volumes in mm^3, probabilities of growth after the last known visit."""
    for model, judged in {**results.judged, **results.oracles}.items():
        for number, task in enumerate(judged.tasks):
            visits = results.patients[task.patient]
            row: dict[str, Any] = {
                "model": model,
                "patient": visits.patient,
                "known_visits": task.num_seen,
                "last_known_day": visits.days[task.num_seen - 1],
                "day": visits.days[task.target],
                "true_mm3": math.exp(judged.truth[number]),
                "forecast_mm3": math.exp(judged.mean[number]),
                "log_sd": judged.sd[number],
            }
            for kind in results.intervals:
                ends = judged.intervals.get(kind)
                for name, end in zip(("low", "high"), ends or (None, None), strict=True):
                    row[f"{kind}_{name}_mm3"] = None if end is None else np.exp(end[number])
            fit = judged.fits.get(task.patient)
            chances = [None] * len(HORIZONS) if fit is None else growth_probabilities(fit, visits[: task.num_seen])
            names = [f"p_larger_{RATIO:g}_after_{years:g}_years" for years in HORIZONS]
            yield row | dict(zip(names, chances, strict=True))


def _score_rows(results: Results) -> Iterator[dict[str, Any]]:
    for model, scores in results.scores.items():
        for name, estimate in scores.estimates.items():
            yield {"model": model, "score": name, **_cells(estimate)}


def _difference_rows(results: Results) -> Iterator[dict[str, Any]]:
    for baseline, models in results.differences.items():
        for model, scores in models.items():
            for name, found in scores.items():
                tested = {"p": found.p_value, "q": found.q_value}
                yield {"model": model, "minus": baseline, "score": name, **_cells(found.estimate), **tested}


def _calibration_rows(results: Results) -> Iterator[dict[str, Any]]:
    for one in results.calibrations:
        for group in one.bins:
            yield {
                "years": "any" if one.years is None else one.years,
                "forecasts": group.num_forecasts,
                "probability": group.expected,
                **_cells(group.observed),
            }


def _cells(estimate: Estimate) -> dict[str, Any]:
    named = {name: getattr(estimate, name) for name in ("value", "low", "high")}
    return {**named, "patients": estimate.n, "reason": estimate.reason}


# --- table and page ---------------------------------------------------------------------------------------------------


def _columns(results: Results) -> dict[str, tuple[str, str, float]]:
    """Return score -> its heading, meaning and ideal."""
    found: dict[str, tuple[str, str, float]] = {}
    for name, heading in _COLUMNS.items():
        ideal = results.level if name == "coverage" else 0.0
        if name in ("interval_score", "coverage"):
            for kind in results.intervals:
                words = f"{heading}\n{INTERVAL_NAMES[kind]}" if len(results.intervals) > 1 else heading
                found[f"{name}/{kind}"] = (words, f"{SCORES[name]}, {INTERVAL_NAMES[kind]}", ideal)
        else:
            found[name] = (heading, SCORES[name], ideal)
    return found


def _table(results: Results) -> str:
    """Return the table of models as text, with what a reader must know."""
    columns = _columns(results)
    table = Table(box=box.SIMPLE_HEAD, title="Forecasts", title_justify="left", show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model")
    for heading, _, _ in columns.values():
        table.add_column(heading, justify="right")
    for model, scores in results.scores.items():
        table.add_row(model, *(_value(scores.estimates.get(name)) for name in columns))
    first = results.scores[results.shown]
    lines = [
        *results.warnings,
        f"{first.num_forecasts} forecasts of {first.num_patients} patients by growth models fitted to others; "
        f"intervals of {100.0 * results.level:g} %",
        *results.all_notes,
    ]
    written = io.StringIO()
    Console(file=written, width=_WIDTH, color_system=None).print(*(Text(line) for line in lines), sep="\n")
    Console(file=written, width=_WIDEST, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def _value(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    ends = "" if estimate.low is None else f"\n{significant(estimate.low)} to {significant(estimate.high)}"
    return f"{significant(estimate.value)}{ends}"


def _report(results: Results, title: str, decoded: Mapping[str, Path]) -> Report:
    columns = _columns(results)
    compared = next(iter(columns))
    return Report(
        title=title,
        patients=results.patients,
        judged=results.judged,
        shown=results.shown,
        scores=[Score(heading.replace("\n", ", "), meaning, ideal) for heading, meaning, ideal in columns.values()],
        values={
            model: {heading.replace("\n", ", "): scores.estimates[name] for name, (heading, _, _) in columns.items()}
            for model, scores in results.scores.items()
            if model in results.judged
        },
        versus=[
            Versus(
                baseline,
                columns[compared][0],
                {
                    model: Difference(scores[compared].estimate, scores[compared].q_value)
                    for model, scores in models.items()
                    if compared in scores
                },
            )
            for baseline, models in results.differences.items()
        ],
        warnings=results.warnings,
        notes=results.all_notes,
        facts=[*results.facts, *_facts_of_oracles(results)],
        events=_events(results),
        decoded=decoded,
    )


def _facts_of_oracles(results: Results) -> list[tuple[str, str]]:
    """Say what somebody would reach who knows the curves: what measurements leave to be reached."""
    found = []
    for name in results.oracles:
        estimates = results.scores[name].estimates
        crps, percent = (significant(estimates[score].value) for score in ("crps", "median_error_percent"))
        found.append((f"{name.capitalize()}, not a model", f"CRPS {crps}, median error {percent} %"))
    return found


def _events(results: Results) -> dict[str, list[Reliability]]:
    """Return what is said of each horizon -> groups of forecasts."""
    found = {}
    for one in results.calibrations:
        when = "at any time" if one.years is None else f"after {one.years:g} year{'' if one.years == 1.0 else 's'}"
        groups = [Reliability(group.expected, *_told(group.observed), group.num_forecasts) for group in one.bins]
        if groups:
            found[f"{100.0 * (RATIO - 1.0):.0f} % larger {when}"] = groups
    return found


def _told(estimate: Estimate) -> tuple[float, float, float]:
    value, low, high = estimate.value, estimate.low, estimate.high
    assert value is not None, "a group has forecasts"
    assert low is not None, "a share has bounds"
    assert high is not None, "a share has bounds"
    return value, low, high


def _words_of_decoded(visits: Sequence[NextVisit]) -> str:
    """Describe decoded visits in a sentence."""
    dice = [visit.dice for visit in visits if visit.dice is not None]
    of_last = [visit.dice_of_last for visit in visits if visit.dice_of_last is not None]
    words = f"The visits that differ most from the last one. SSIM {np.mean([visit.ssim for visit in visits]):.2f}"
    if dice and of_last:
        words += f", Dice {np.mean(dice):.2f} (of the last visit's tumour: {np.mean(of_last):.2f})"
    error = max(visit.round_trip for visit in visits)
    return f"{words} in the mean; the head reads the forecast log volume back with an error of at most {error:.1g}."
