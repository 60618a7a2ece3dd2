"""The page holds the numbers of the forecasts, escapes everything, and can be sorted and unfolded in a browser."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PROGRAM, Browser
from matplotlib.figure import Figure
from PIL import Image

from menvae.forecasting import page
from menvae.forecasting.judging import Ends, Judged
from menvae.forecasting.page import Difference, Report, Score, Versus, by_error, write_page
from menvae.forecasting.pictures import Reliability
from menvae.forecasting.protocols import tasks
from menvae.growth import Floats, Forecast, Visits
from menvae.statistics.estimate import Estimate

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)> $x_1$ & {{ 7 * 7 }}"
SCORES = [Score("CRPS", "Error of the whole distribution."), Score("coverage", "Share inside.", ideal=0.95)]
VALUES = {
    "last_value": {"CRPS": Estimate(0.25, 0.21, 0.30, 5), "coverage": Estimate(1.0, 0.48, 1.0, 5)},
    "lme": {"CRPS": Estimate(0.125, 0.101, 0.152, 5), "coverage": Estimate(0.8, 0.28, 0.99, 5)},
    "gompertz": {"CRPS": Estimate(None, None, None, 5, "no forecast is finite")},
}
VERSUS = Versus("last_value", "CRPS", {"lme": Difference(Estimate(-0.125, -0.18, -0.051, 5), 0.0204)})


class Still:
    """A population that stands still."""

    def __init__(self, left_out: int) -> None:
        self.left_out = left_out

    def predict(self, seen: Visits, days: Floats) -> Forecast:
        assert seen.patient.endswith(f"{self.left_out}"), "the population lacks the patient"
        return Forecast(np.full(len(days), seen.log_volume[-1]), np.full(len(days), 0.04))


def patients(num: int = 5, name: str = "patient-") -> list[Visits]:
    """The tumour of patient n grows by n times 10 % each year, from 10 mL; the last one has a single visit."""
    found = []
    for number in range(num):
        years = np.arange(1.0 if number == num - 1 else 3.0)
        found.append(
            Visits(f"{name}{number}", 365.25 * years, math.log(1e4) + 0.1 * number * years, np.zeros(len(years)))
        )
    return found


def judged(everyone: list[Visits], sd: float = 0.2, *, factor: float = 1.0) -> Judged:
    """The first volume times a factor is forecast for all later visits."""
    wanted = tasks(everyone, "all_from_first")
    truth = np.array([everyone[task.patient].log_volume[task.target] for task in wanted])
    years = np.array([float(task.target) for task in wanted])
    last = np.full(len(wanted), math.log(1e4))
    mean, sds = last + math.log(factor), np.full(len(wanted), sd)
    ends = Ends(mean - 1.96 * sds, mean + 1.96 * sds)
    never = Ends(mean, mean)
    fits = {number: Still(number) for number in range(len(everyone))}
    return Judged(wanted, truth, last, years, mean, sds, 0.95, {"normal": ends, "cqr": never}, len(everyone), fits)


def report(everyone: list[Visits] | None = None, **changes: Any) -> Report:
    everyone = everyone or patients()
    models = {
        name: judged(everyone, factor=factor) for name, factor in (("last_value", 1.0), ("lme", 1.1), ("gompertz", 2.0))
    }
    made = Report(
        title="Growth",
        patients=everyone,
        judged=models,
        shown="last_value",
        scores=SCORES,
        values=VALUES,
        versus=[VERSUS],
    )
    return replace(made, **changes)


class Page(HTMLParser):
    """Tables as rows of (text, exact value, classes), and the tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[tuple[str, str, str]]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_cell = self._skip = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._skip = tag in ("style", "script")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag == "td":
            self._in_cell = True
            self.tables[-1][-1].append(("", attributes.get("data-value") or "", attributes.get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        self._skip = False
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._skip:
            return
        self.text += data
        if self._in_cell:
            text, value, classes = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (text + data, value, classes)

    def rows(self, table: int) -> list[list[tuple[str, str, str]]]:
        return [row for row in self.tables[table] if row]

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def written(made: Report, folder: Path) -> Page:
    """Write a page whose pictures are dots, which takes no time."""

    def dot(figure: Figure, path: Path) -> Path:
        Image.new("RGB", (1, 1)).save(path)
        return path

    path = folder / "forecasts.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "save_figure", dot)
        assert write_page(made, path) == path
    return Page(path.read_text(encoding="utf-8"))


SHOWN = report(warnings=["The encoder saw the images."], notes=["Five patients."])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(SHOWN, tmp_path_factory.mktemp("page") / "forecasts.html")


@pytest.fixture(scope="module")
def shown(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_models_are_sorted_by_the_first_score_and_the_best_are_marked(shown: Page) -> None:
    lme, last_value, gompertz = shown.rows(0)
    assert [row[0][0] for row in (lme, last_value, gompertz)] == ["lme", "last_value", "gompertz"]
    assert lme[1] == ("0.125*\n[0.101, 0.152]", "0.125", "number best")
    assert last_value[1] == ("0.250\n[0.210, 0.300]", "0.25", "number")
    assert [gompertz[1], gompertz[3]] == [("n/a", "", "number"), ("\N{EN DASH}", "", "number")]
    assert last_value[3] == ("1.00*\n[0.48, 1.00]", "1.0", "number best"), "nearest to its ideal, not the largest"
    assert lme[2] == (
        "\N{MINUS SIGN}0.125\n[\N{MINUS SIGN}0.180, \N{MINUS SIGN}0.051]\nq = 0.02",
        "-0.125",
        "number better",
    )
    assert last_value[2][0] == gompertz[2][0] == "\N{EN DASH}"


def test_a_single_model_is_not_the_best(tmp_path: Path) -> None:
    made = report()
    found = written(replace(made, judged={"last_value": made.judged["last_value"]}, versus=[]), tmp_path)
    ((_, crps, _),) = found.rows(0)
    assert crps == ("0.250\n[0.210, 0.300]", "0.25", "number")
    assert "Best by CRPS: last_value." in found.text


@pytest.mark.parametrize(
    ("interval", "q", "verdict"),
    [
        ((-0.2, -0.1), 0.01, "better"),
        ((-0.2, -0.1), None, "better"),
        ((-0.2, -0.1), 0.06, ""),
        ((-0.2, 0.1), 0.01, ""),
        ((0.1, 0.2), 0.05, "worse"),
    ],
)
def test_a_difference_needs_its_interval_and_its_false_discovery_rate(
    interval: tuple[float, float], q: float | None, verdict: str
) -> None:
    assert Difference(Estimate(sum(interval) / 2, *interval, 20), q).verdict == verdict


def test_without_an_interval_there_is_no_verdict() -> None:
    assert Difference(Estimate(-1.0, None, None, 3, "3 patients are too few"), 0.01).verdict == ""


def test_the_headline_names_what_is_clearly_better(shown: Page, tmp_path: Path) -> None:
    assert "Best by CRPS: lme. Clearly better than last_value in CRPS: lme." in shown.text
    unclear = Versus("last_value", "CRPS", {"lme": Difference(Estimate(-0.1, -0.2, 0.1, 5), 0.2)})
    found = written(report(versus=[unclear]), tmp_path)
    assert "Best by CRPS: lme. No model is clearly better than last_value in CRPS." in found.text


def test_warnings_come_before_all_numbers(shown: Page) -> None:
    order = ["The encoder saw the images.", "Best by CRPS", "Five patients.", "Which model forecasts best?"]
    places = [shown.text.index(words) for words in order]
    assert places == sorted(places)


def test_facts_are_counted(shown: Page) -> None:
    text = re.sub(r"\s+", " ", shown.text)
    assert "5, of whom 4 are forecast" in text
    assert "13, 3 in the median" in text
    assert "2.0 years in the median, 2.0 at most" in text
    assert "1.5 years in the median, 2.0 at most" in text
    assert "2 grew by more than 40 %, 2 changed less" in text, "growth by exp(0.2 n) in two years"


def test_forecasts_are_listed_by_the_error_of_their_patient(shown: Page) -> None:
    rows = shown.rows(1)
    assert [row[0][0] for row in rows] == [f"patient-{number}" for number in (3, 3, 2, 2, 1, 1, 0, 0)]
    _, known, years, last, measured, forecast, interval, error = rows[1]
    assert (known[0], years[0], last[0]) == ("1", "2.00", "10.0")
    assert float(measured[1]) == pytest.approx(10.0 * math.exp(0.6))
    assert float(forecast[1]) == pytest.approx(10.0)
    assert interval[::2] == ("6.76 to 14.8", "number missed")
    assert float(interval[1]) == pytest.approx(2 * 1.96 * 0.2)
    assert error[0] == "\N{MINUS SIGN}45\N{NO-BREAK SPACE}%"
    assert float(error[1]) == pytest.approx(100.0 * (math.exp(-0.6) - 1.0))
    assert [row[6][2] for row in rows] == ["number", "number missed", "number", "number missed", *["number"] * 4]


def test_each_patient_has_a_section_with_a_row_for_each_model(shown: Page) -> None:
    details = shown.named("details")
    assert len(details) == 4
    assert ["open" in one for one in details] == [True, False, False, False]
    assert "patient-3 1 known visit, 2 held out; after 2.0 years: 18.2 mL measured, 10.0 mL forecast" in shown.text
    rows = shown.rows(2)
    assert [row[1][0] for row in rows] == ["lme", "last_value", "gompertz"] * 2
    assert [row[3][0] for row in rows] == ["11.0", "10.0", "20.0"] * 2
    assert [row[1][2] for row in rows] == ["", "shown", ""] * 2
    ids = {one["id"] for one in shown.named("div") if "id" in one}
    assert {link["href"] for link in shown.named("a") if (link["href"] or "").startswith("#patient-")} == {
        f"#{one}" for one in ids
    }


def test_the_patients_with_the_largest_errors_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_FANS", 2)
    monkeypatch.setattr(page, "MOST_PANELS", 3)
    found = written(report(), tmp_path)
    drawn = [image["alt"] for image in found.named("img")]
    assert drawn[-2:] == ["Forecast of patient-3 over time", "Forecast of patient-2 over time"]
    assert len(drawn) == 4 + 2
    assert "3 of 4 patients, from the smallest error to the largest." in found.text
    assert "Of the first 2 the forecast is drawn." in found.text


def test_the_error_of_a_patient_is_the_largest_of_his_forecasts() -> None:
    found = judged(patients())
    assert list(by_error(found)) == [3, 2, 1, 0]
    assert by_error(found)[2] == [4, 5]


def test_intervals_without_end_are_said(tmp_path: Path) -> None:
    made = report()
    endless = np.full(8, np.inf)
    judged_ = {
        name: replace(one, intervals={"conformal": Ends(-endless, endless)}) for name, one in made.judged.items()
    }
    found = written(replace(made, judged=judged_), tmp_path)
    assert {row[6] for row in found.rows(1)} == {("0 to \N{INFINITY}", "Infinity", "number")}


def test_events_and_decoded_visits_are_shown(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "next.png")
    events = {"Growth by 40 % in 1 year": [Reliability(0.3, 0.25, 0.05, 0.6, 8)]}
    decoded = {"patient-1, day 365": tmp_path / "next.png", "patient-2": tmp_path / "lost.png"}
    found = written(report(events=events, decoded=decoded), tmp_path)
    assert "What will the next visit look like?" in found.text
    assert "patient-1, day 365" in [image["alt"] for image in found.named("img")]
    assert "1 pictures" not in found.text
    assert "1 picture is unreadable or was omitted to keep this page small." in found.text


# --- the page ---------------------------------------------------------------------------------------------------------


def test_is_self_contained(shown: Page) -> None:
    assert len(shown.named("script")) == 1
    assert not shown.named("link")
    assert all((image["src"] or "").startswith("data:image/") and image["alt"] for image in shown.named("img"))
    inside = {link["href"] for link in shown.named("a") if not (link["href"] or "").startswith("#patient-")}
    assert {f"#{one['id']}" for one in shown.named("section") if one["id"] != "summary"} == inside


def test_the_same_forecasts_give_the_same_page(path: Path, tmp_path: Path) -> None:
    assert write_page(SHOWN, tmp_path / "again.html").read_bytes() == path.read_bytes()


def test_everything_is_escaped(tmp_path: Path) -> None:
    everyone = patients(name=HOSTILE)
    score = replace(SCORES[0], name=HOSTILE, meaning=HOSTILE)
    found = written(
        Report(
            title=HOSTILE,
            patients=everyone,
            judged={HOSTILE: judged(everyone), "other": judged(everyone)},
            shown=HOSTILE,
            scores=[score],
            values={HOSTILE: {HOSTILE: Estimate(None, None, None, 3, HOSTILE)}},
            versus=[Versus(HOSTILE, HOSTILE, {"other": Difference(Estimate(0.1, None, None, 3, HOSTILE), 0.5)})],
            warnings=[HOSTILE],
            notes=[HOSTILE],
            facts=[(HOSTILE, HOSTILE)],
            events={HOSTILE: []},
        ),
        tmp_path,
    )
    assert len(found.named("script")) == 1
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert found.text.count(HOSTILE) > 20


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("Chromium is not installed: apt-get install -y chromium")
    with Browser(tmp_path / "profile") as one:
        yield one


def test_tables_sort_and_links_unfold_without_a_complaint(browser: Browser, path: Path) -> None:
    browser.open(path.as_uri())
    names = "[...document.querySelectorAll('#models-table tbody tr')].map(row => row.cells[0].innerText)"
    browser.evaluate("document.querySelectorAll('#models-table th button')[1].click()")
    assert browser.evaluate(names) == ["lme", "last_value", "gompertz"]
    browser.evaluate("document.querySelectorAll('#models-table th button')[3].click()")
    assert browser.evaluate(names) == ["last_value", "lme", "gompertz"]
    unfolded = "[...document.querySelectorAll('details')].map(one => one.open)"
    assert browser.evaluate(unfolded) == [True, False, False, False]
    browser.evaluate("document.querySelector('#forecasts-table a[href=\"#patient-1\"]').click()")
    browser.open(f"{path.as_uri()}#patient-1")
    assert browser.evaluate(unfolded) == [True, False, True, False]
    root = "document.documentElement"
    assert browser.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0
    assert browser.complaints == []
