"""Page and CSV hold the numbers of MLflow and of each gates.json, escape everything, and can be sorted in a browser."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import statistics
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import PROGRAM, Browser
from PIL import Image
from stores import TARGETS, MadeRun, fill, write_picture

from menvae.comparison.compare import ComparisonSettings, compare
from menvae.comparison.export import write_runs
from menvae.comparison.page import write_page
from menvae.comparison.pictures import draw_effect, draw_trade_offs, trade_offs
from menvae.comparison.results import Comparison
from menvae.comparison.tracked_runs import RunStore
from menvae.presentation.figures import save_figure
from menvae.tracking.tracker import TrackingSettings

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)> $x_1$ & {{ 7 * 7 }}"


class Page(HTMLParser):
    """The tables of a page as rows of (text, exact value), and what tests ask of its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._table = ""
        self._in_cell = False
        self._skip = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._skip = tag in ("style", "script")
        if tag == "table":
            self._table = attributes.get("id") or f"table {len(self.tables)}"
            self.tables[self._table] = []
        elif tag == "tr" and self._table:
            self.tables[self._table].append([])
        elif tag == "td" and self._table:
            self._in_cell = True
            self.tables[self._table][-1].append(("", attributes.get("data-value") or ""))

    def handle_endtag(self, tag: str) -> None:
        self._skip = False
        self._in_cell = self._in_cell and tag != "td"
        self._table = "" if tag == "table" else self._table

    def handle_data(self, data: str) -> None:
        if self._skip:
            return
        self.text += data
        if self._in_cell:
            text, value = self.tables[self._table][-1][-1]
            self.tables[self._table][-1][-1] = (text + data, value)

    def rows(self, table: str) -> list[list[tuple[str, str]]]:
        return [row for row in self.tables[table] if row]

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def write(output_dir: Path, path: Path | None = None, **keys: Any) -> tuple[Comparison, Page, Path]:
    store = RunStore.open(TrackingSettings(), output_dir)
    runs, notes = store.runs()
    comparison = compare(runs, ComparisonSettings(**keys))
    path = path or output_dir / "comparison" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    assert write_page(comparison, notes, store, path) == path
    return comparison, Page(path.read_text(encoding="utf-8")), path


@pytest.fixture(scope="module")
def swept(sweep_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Page, Path]:
    return write(sweep_dir, tmp_path_factory.mktemp("page") / "index.html")


def stored(output_dir: Path) -> Iterator[tuple[str, str, dict[str, str], dict[str, float]]]:
    """Yield run id, name, parameters and gate metrics of every run, without MLflow."""
    with closing(sqlite3.connect(output_dir / "mlflow.db")) as connection:
        for run_id, name in connection.execute("select run_uuid, name from runs").fetchall():
            params = connection.execute("select key, value from params where run_uuid = ?", (run_id,)).fetchall()
            metrics = connection.execute(
                "select key, value from latest_metrics where run_uuid = ? and key like 'gate/%'", (run_id,)
            ).fetchall()
            yield run_id, name, dict(params), {key.removeprefix("gate/"): value for key, value in metrics}


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_csv_is_mlflow(sweep_dir: Path, swept: tuple[Comparison, Page, Path], tmp_path: Path) -> None:
    path = write_runs(swept[0], tmp_path / "runs.csv")
    with path.open(newline="") as file:
        rows = {row["run_id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 36
    for run_id, name, params, metrics in stored(sweep_dir):
        row = rows[run_id]
        assert {gate: float(row[gate]) for gate in TARGETS} == {gate: metrics[gate] for gate in TARGETS}
        for key in ("loss.lambda_dcor", "model.partitions.vol", "seed"):
            assert row[key] == params[key]
        assert (row["run"], row["state"]) == (name, "finished")
        table = json.loads((sweep_dir / "mlartifacts" / run_id / "artifacts" / "gates.json").read_text())
        assert {gate["name"]: gate["value"] for gate in table["gates"]} == {gate: float(row[gate]) for gate in TARGETS}
        assert int(row["gates_passed"]) == sum(gate["passed"] for gate in table["gates"])


def test_table_of_runs_is_mlflow(sweep_dir: Path, swept: tuple[Comparison, Page, Path]) -> None:
    rows = {row[-1][1]: row for row in swept[1].rows("runs-table")}
    assert len(rows) == 36
    for run_id, name, params, metrics in stored(sweep_dir):
        row = rows[run_id]
        assert (row[1][0], row[2][0]) == (name, params["seed"])
        assert [float(value) for _, value in row[4:11]] == [metrics[gate] for gate in TARGETS]
        assert [float(text) for text, _ in row[4:11]] == pytest.approx([metrics[g] for g in TARGETS], rel=0.005)


def test_table_of_configurations_is_the_means_of_mlflow(sweep_dir: Path, swept: tuple[Comparison, Page, Path]) -> None:
    groups: dict[tuple[float, float], list[dict[str, float]]] = {}
    for _, _, params, metrics in stored(sweep_dir):
        setting = (float(params["model.partitions.vol"]), float(params["loss.lambda_dcor"]))
        groups.setdefault(setting, []).append(metrics)
    rows = swept[1].rows("configurations-table")
    assert len(rows) == len(groups) == 12
    for row in rows:
        group = groups[float(row[1][1]), float(row[2][1])]
        assert row[3][0] == "3"
        for (text, value), gate in zip(row[6:13], TARGETS, strict=True):
            values = [metrics[gate] for metrics in group]
            assert float(value) == statistics.fmean(values)
            mean, deviation = text.split(" \N{PLUS-MINUS SIGN}")
            assert float(mean) == pytest.approx(statistics.fmean(values), abs=6e-4)
            assert float(deviation) == pytest.approx(statistics.stdev(values), abs=6e-4)


def test_gates_say_what_their_metric_measures(output_dir: Path) -> None:
    fill(output_dir, [MadeRun({"seed": 1}, dict.fromkeys(TARGETS, 0.5))])
    ((run_id, *_),) = stored(output_dir)
    path = output_dir / "mlartifacts" / run_id / "artifacts" / "gates.json"
    table = json.loads(path.read_text())
    for gate in table["gates"]:
        if gate["name"] == "shape_r2":
            gate |= {"metric": "mine/spread", "meaning": "Spread of the shapes."}
    path.write_text(json.dumps(table))
    _, page, _ = write(output_dir)
    assert "Spread of the shapes." in page.text
    assert "Mean R² of the shape targets" not in page.text
    assert "Mean R² of the vol targets on the validation split." in page.text, "as in files of earlier versions"


def test_a_gate_without_value_is_empty_in_csv_and_said_on_the_page(output_dir: Path, tmp_path: Path) -> None:
    values = dict.fromkeys(TARGETS, 0.5)
    runs = [MadeRun({"loss.lambda_dcor": w}, {**values, "max_dcor": None if w else 0.3}) for w in (0, 5)]
    fill(output_dir, runs)
    comparison, page, _ = write(output_dir)
    rows = list(csv.DictReader(write_runs(comparison, tmp_path / "runs.csv").open(newline="")))
    assert sorted(row["max_dcor"] for row in rows) == ["", "0.3"]
    texts = {row[1][0]: (row[8][0], row[4][0]) for row in page.rows("configurations-table")}
    assert texts == {"5": ("n/a", "n/a"), "0": ("0.300", "")}  # alone, it has nothing to trade off
    assert "cannot be placed: one of its runs has no value for max_dcor." in page.text


# --- the page ---------------------------------------------------------------------------------------------------------


def test_answers_in_the_order_a_reader_asks(swept: tuple[Comparison, Page, Path]) -> None:
    order = [
        "3 of 12 configurations pass every gate for every seed: #1, #2, #3.",
        "Which configuration is best?",
        "Which gates trade off?",
        "Hypervolume beyond the targets of the gates:",
        "What effect does each key have?",
        "Are the differences larger than chance?",
        "paired t",
        "How do the best, the baseline and the front reconstruct?",
        "What does the best run look like?",
        "The name of a run links to its report",
        "How to read this page",
    ]
    text = re.sub(r"\s+", " ", swept[1].text)
    positions = [text.index(part) for part in order]
    assert positions == sorted(positions)


def test_is_self_contained(swept: tuple[Comparison, Page, Path]) -> None:
    _, page, path = swept
    assert len(page.named("script")) == 1
    assert not page.named("link")
    images = page.named("img")
    sheets = [image for image in images if "Reconstruction of subject" in (image["alt"] or "")]
    assert len(sheets) == 5, "the best, which is the baseline, and four more of the front"
    assert len(images) == 1 + 2 + 2 + 5 + 2, "trade-offs, all keys, two effects, reconstructions, two of the best run"
    assert all((image["src"] or "").startswith("data:image/") for image in images)
    assert all(image["alt"] for image in images)
    assert not re.search(r"url\(|@import|https?://", path.read_text(encoding="utf-8"))
    (policy,) = (one["content"] or "" for one in page.named("meta") if one.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    inside = [link["href"] or "" for link in page.named("a") if (link["href"] or "").startswith("#")]
    assert {f"#{one['id']}" for one in page.named("section") if one["id"] != "summary"} == set(inside)


def test_the_same_runs_give_the_same_page(
    sweep_dir: Path, swept: tuple[Comparison, Page, Path], tmp_path: Path
) -> None:
    _, _, again = write(sweep_dir, tmp_path / "index.html")
    assert again.read_bytes() == swept[2].read_bytes()


def test_reports_are_linked_relative_to_the_page(output_dir: Path, tmp_path: Path) -> None:
    fill(output_dir, [MadeRun({"seed": len(name)}, name=name) for name in ("with report", "without")])
    report = output_dir / "runs" / "with report" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("a report")
    _, page, path = write(output_dir)
    (link,) = {link["href"] or "" for link in page.named("a") if not (link["href"] or "").startswith("#")}
    assert link == "../runs/with%20report/report.html"
    assert (path.parent / link.replace("%20", " ")).is_file()
    _, page, _ = write(output_dir, tmp_path / "far" / "index.html")
    assert report.resolve().as_uri() in {link["href"] for link in page.named("a")}


def test_everything_is_escaped(output_dir: Path) -> None:
    runs = [
        MadeRun(
            {"decoder.name": HOSTILE + str(number), "data.modalities": [HOSTILE] * number},
            {HOSTILE: 0.1 * number},
            name=HOSTILE,
            tags={"menvae.data_hash": HOSTILE, "menvae.git_commit": HOSTILE + str(number)},
            targets={HOSTILE: (">", 0.5)},
        )
        for number in range(3)
    ]
    fill(output_dir, runs)
    _, page, _ = write(output_dir)
    assert len(page.named("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(HOSTILE) > 10


@pytest.mark.parametrize("count", [1, 2], ids=["one run", "two seeds"])
def test_one_configuration(output_dir: Path, count: int) -> None:
    fill(output_dir, [MadeRun({"seed": seed}, dict.fromkeys(TARGETS, 1.0)) for seed in range(count)])
    comparison, page, _ = write(output_dir)
    assert len(comparison.rows) == 1
    assert ("There is one run." if count == 1 else "The runs differ only in their seed") in page.text
    assert "There is only one configuration." in page.text
    assert "No key differs between these runs." in page.text
    assert "The run has no readable pictures." in page.text


def test_what_the_best_passes_is_said_in_counts(output_dir: Path) -> None:
    """Three runs of 7 gates, of which one passes one: not 0.333 of 7 on average."""
    values = [dict.fromkeys(TARGETS, 0.0) | {"max_dcor": 0.9} for _ in range(3)]
    values[1]["vol_r2"] = 0.9
    fill(output_dir, [MadeRun({"seed": seed}, of_seed) for seed, of_seed in enumerate(values)])
    _, page, _ = write(output_dir)
    assert "Best is #1: its 3 runs together pass 1 of 21 gates." in page.text


def test_every_cohort_has_its_sections(output_dir: Path) -> None:
    runs = [
        MadeRun(
            {"loss.lambda_dcor": w, "seed": s}, dict.fromkeys(TARGETS, 0.1 * w + 0.01 * s), tags={"menvae.data_hash": d}
        )
        for d in "ab"
        for w in (1, 2)
        for s in (0, 1)
    ]
    fill(output_dir, runs)
    _, page, _ = write(output_dir)
    assert "Nothing is compared across them." in page.text
    assert page.text.count("Data A") >= 4
    assert {"differences-table-A", "differences-table-B"} < set(page.tables)


def test_pictures_survive_any_design(output_dir: Path, tmp_path: Path) -> None:
    values = [dict.fromkeys(TARGETS), dict.fromkeys(TARGETS, 1.0), {**dict.fromkeys(TARGETS, 1.0), "vol_r2": -1e6}]
    params = [{"decoder.name": f"a rather long name of a part {number} $x_1^$"} for number in range(3)]
    fill(output_dir, [MadeRun(*pair) for pair in zip(params, values, strict=True)])
    comparison, page, _ = write(output_dir)
    (cohort,) = comparison.cohorts
    assert trade_offs(cohort, comparison.gates) == [], "only one gate differs"
    assert "No two gates differ" in page.text
    pairs = [(comparison.gates[0], comparison.gates[3])]
    figures = draw_trade_offs(cohort, pairs), draw_effect(cohort.effects[0], cohort, comparison.gates)
    for number, figure in enumerate(figures):
        with Image.open(save_figure(figure, tmp_path / f"{number}.png")) as picture:
            assert 600 < picture.width < 2600


def test_best_run_is_that_of_the_best_configuration_which_passes_most(output_dir: Path, tmp_path: Path) -> None:
    write_picture(tmp_path / "pictures" / "traversals.png")
    good = dict.fromkeys(TARGETS, 2.0) | {"max_dcor": 0.1}
    runs = [
        MadeRun({"seed": 0}, good | {"vol_r2": 0.1}, name="worse", pictures=tmp_path / "pictures"),
        MadeRun({"seed": 1}, good, name="better", pictures=tmp_path / "pictures"),
    ]
    fill(output_dir, runs)
    _, page, _ = write(output_dir)
    assert "better (configuration #1, seed 1) passes 7 of 7 gates." in page.text
    assert [image["alt"] for image in page.named("img")] == ["traversals"]


def test_reconstructions_are_of_one_subject_and_what_is_missing_is_said(output_dir: Path, tmp_path: Path) -> None:
    drawn = {"best": ("early", "late"), "baseline": ("late", "other"), "on the front": ("other",)}
    runs = []
    for place, (name, subjects) in enumerate(drawn.items()):
        for subject in subjects:
            write_picture(tmp_path / name / "epoch_2" / f"{subject}.png")
        write_picture(tmp_path / name / "epoch_1" / "early.png")
        values = {**dict.fromkeys(TARGETS, 2.0), "max_dcor": 0.1 + 0.1 * place, "vol_r2": 2.0 + place}
        runs.append(MadeRun({"loss.lambda_dcor": place}, values, name=f"run {place}", pictures=tmp_path / name))
    fill(output_dir, runs)
    comparison, page, _ = write(output_dir, baseline={"loss.lambda_dcor": 1}, front=("vol_r2", "max_dcor"))
    of = {row.values["loss.lambda_dcor"]: row.number for row in comparison.rows}
    sheets = [alt for image in page.named("img") if (alt := image["alt"] or "").startswith("Reconstruction")]
    assert sorted(sheets) == sorted(f"Reconstruction of late by configuration {of[weight]}" for weight in "01")
    text = re.sub(r"\s+", " ", page.text)
    assert "Subject late. Each sheet has its own scale of differences." in text
    assert f"Missing: #{of['2']} (it has not drawn it)." in text
    assert f"#{of['0']}, on the front: run 0" in text or f"#{of['0']}, best: run 0" in text
    assert "epoch 2." in text


# --- in a browser -----------------------------------------------------------------------------------------------------


COLUMN = "[...document.querySelectorAll('#configurations-table tbody tr')].map(row => row.cells[{}].dataset.value)"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("Chromium is not installed: apt-get install -y chromium")
    with Browser(tmp_path / "profile") as one:
        yield one


def test_sorts_by_every_column_without_a_complaint(browser: Browser, swept: tuple[Comparison, Page, Path]) -> None:
    browser.open(swept[2].as_uri())
    heads = browser.evaluate(
        "[...document.querySelectorAll('#configurations-table th')].map(head => head.dataset.first)"
    )
    assert len(heads) == 14
    for column, first in enumerate(heads):
        for direction in (first, "descending" if first == "ascending" else "ascending"):
            browser.evaluate(f"document.querySelectorAll('#configurations-table th button')[{column}].click()")
            values = [float(value) for value in browser.evaluate(COLUMN.format(column))]
            assert values == sorted(values, reverse=direction == "descending")
            marks = "[...document.querySelectorAll('#configurations-table th')].map(h => h.getAttribute('aria-sort'))"
            assert browser.evaluate(marks) == [direction if place == column else None for place in range(len(heads))]
    assert browser.complaints == []


def test_only_tables_scroll_sideways(browser: Browser, swept: tuple[Comparison, Page, Path]) -> None:
    browser.open(swept[2].as_uri())
    assert browser.evaluate("[...document.querySelectorAll('.wide')].some(one => one.scrollWidth > one.clientWidth)")
    page = "document.documentElement"
    assert browser.evaluate(f"{page}.scrollWidth - {page}.clientWidth") == 0


def test_sorts_words_and_keeps_what_has_no_value_last(browser: Browser, output_dir: Path) -> None:
    values: list[float | None] = [0.2, None, 0.9]
    runs = [
        MadeRun({"decoder.name": f"part{10 - 4 * place}"}, dict.fromkeys(TARGETS, value))
        for place, value in enumerate(values)
    ]
    fill(output_dir, runs)
    _, _, path = write(output_dir)
    browser.open(path.as_uri())
    for expected in (["0.9", "0.2", ""], ["0.2", "0.9", ""]):
        browser.evaluate("document.querySelectorAll('#configurations-table th button')[5].click()")
        assert browser.evaluate(COLUMN.format(5)) == expected
    browser.evaluate("document.querySelectorAll('#configurations-table th button')[1].click()")
    assert browser.evaluate(COLUMN.format(1)) == ["part2", "part6", "part10"]
    assert browser.complaints == []


def test_another_script_is_refused(browser: Browser, swept: tuple[Comparison, Page, Path], tmp_path: Path) -> None:
    page = swept[2].read_text(encoding="utf-8").replace('"use strict";', '"use strict"; document.title = "taken over";')
    (tmp_path / "changed.html").write_text(page, encoding="utf-8")
    browser.open((tmp_path / "changed.html").as_uri())
    assert browser.evaluate("document.title") == "Comparison of runs: menvae"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)
