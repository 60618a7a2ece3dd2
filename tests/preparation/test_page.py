"""The page and the tables hold the numbers of the cohort, escape everything, and can be sorted in a browser."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PROGRAM, Browser
from cohorts import CHANNEL, SOUND, subject
from rich.console import Console

from menvae.data.batches.cohort_splits import subjects_of
from menvae.data.batches.splits import Split
from menvae.data.cache.cohort import Cohort, PreparedSubject
from menvae.data.cache.storage import StoredSubject
from menvae.data.files.findings import Finding
from menvae.data.masks.features import FEATURES
from menvae.data.targets.correlation import target_correlation
from menvae.data.targets.declaration import MASK_TARGETS, by_group
from menvae.data.targets.fit import fit_targets
from menvae.data.targets.normalizer import TargetSettings
from menvae.preparation.quality import Limits, judge_cohort
from menvae.preparation.report import PreparationSettings, write_folder
from menvae.preparation.summary import Findings
from menvae.preparation.table import MOST_ROWS, answers, write_tables

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)> & {{ 7 * 7 }} [red]"
FAULT = Finding(HOSTILE, f"{HOSTILE}-t1c.nii.gz", "is truncated", "copy it again")


@pytest.fixture(autouse=True)
def _arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subjects made by hand have the same small head."""
    image, mask = np.full((1, 12, 12, 12), 5, np.int16), np.zeros((12, 12, 12), np.uint8)
    mask[4:8, 4:8, 4:8] = 3
    monkeypatch.setattr(PreparedSubject, "load", lambda self: StoredSubject(image, mask, *[(0.0,), (1.0,)] * 3))


def made(num: int = 12, *more: PreparedSubject, split: bool = True, findings: tuple[Finding, ...] = ()) -> Findings:
    random = np.random.default_rng(0)
    subjects = [
        subject(
            f"s{index:04d}",
            replace(SOUND, native_volume_mm3=2000.0 + 0.1 * index),
            **{name: float(random.normal(5.0, 1.0)) for name in FEATURES},
        )
        for index in range(num)
    ]
    cohort = Cohort((*subjects, *more), "0123456789abcdef", findings)
    splits: dict[str, Split] | None = None
    if split:
        splits = {one.subject_id: "val" if place % 5 == 0 else "train" for place, one in enumerate(cohort.subjects)}
    training = subjects_of(cohort, splits, "train") if splits else []
    features = [one.features for one in training]
    groups = by_group(MASK_TARGETS)
    normalizer = fit_targets(features, TargetSettings(), groups, MASK_TARGETS) if splits else None
    rows = judge_cohort(cohort, splits, {one.subject_id: [CHANNEL] for one in cohort.subjects}, ("t1c",), Limits())
    return Findings(
        name="made",
        cohort=cohort,
        roi_size=(12, 12, 12),
        modalities=("t1c",),
        targets=FEATURES,
        rows=rows,
        splits=splits,
        no_splits="" if split else "1 subject is too few",
        normalizer=normalizer,
        correlation=target_correlation(features, normalizer, groups) if normalizer else None,
        limits=Limits(),
    )


def written(found: Findings, folder: Path, **settings: Any) -> str:
    path = write_folder(found, folder, PreparationSettings(**settings))
    assert path == folder / "quality.html"
    return path.read_text(encoding="utf-8")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def told(found: Findings) -> str:
    console = Console(width=400, record=True, file=None, quiet=False)
    with console.capture() as capture:
        for answer in answers(found):
            console.print(answer)
    return capture.get()


def test_reasons_that_subjects_share_are_printed_once() -> None:
    faults = tuple(Finding(one, f"{one}-t1c.nii.gz", "has a rim of -1024", "set it to 0") for one in ("lost1", "lost2"))
    printed = told(made(12, findings=faults))
    assert printed.count("has a rim of -1024") == 1
    assert "lost1-t1c.nii.gz has a rim of -1024: set it to 0" in printed
    (line,) = (line for line in printed.splitlines() if "lost2" in line)
    assert line.rstrip().endswith(" as lost1")


def test_tables_hold_every_subject_in_full_precision(tmp_path: Path) -> None:
    cut = subject("cut", replace(SOUND, tumour_kept=1 / 3, volume_mm3=2000 / 3), vol_ncr=None)
    found = made(12, cut, findings=(Finding("lost", "lost-t1c.nii.gz", "is truncated", "copy it again"),))
    write_tables(found, tmp_path)
    rows = read(tmp_path / "quality.csv")
    assert len(rows) == 14
    assert [row["subject_id"] for row in rows][:2] == ["lost", "cut"]
    assert rows[0]["verdict"] == "left out"
    assert rows[0]["reasons"] == "lost-t1c.nii.gz is truncated: copy it again"
    assert rows[0]["vol_total"] == rows[0]["split"] == ""
    assert float(rows[1]["tumour_kept"]) == 1 / 3
    assert float(rows[1]["box_volume_ml"]) == 2000 / 3 / 1000
    assert rows[1]["vol_ncr"] == ""
    targets = {row["subject_id"]: row for row in read(tmp_path / "targets.csv")}
    assert len(targets) == 13
    for one in found.cohort.subjects:
        for name in FEATURES:
            expected = "" if one.features[name] is None else repr(one.features[name])
            assert targets[one.subject_id][name] == targets[one.subject_id][f"native_{name}"] == expected
    assert len(read(tmp_path / "target_correlation.csv")) == 13 * 12 // 2
    assert {row["split"] for row in read(tmp_path / "splits.csv")} == {"train", "val"}


def test_correlations_are_those_of_numpy(tmp_path: Path) -> None:
    found = made(40)
    write_tables(found, tmp_path)
    training = [
        one.features for one in found.cohort.subjects if found.splits and found.splits[one.subject_id] == "train"
    ]
    for row in read(tmp_path / "target_correlation.csv"):
        pair = np.array([[raw[row["target"]], raw[row["other_target"]]] for raw in training], dtype=float)
        assert float(row["r"]) == pytest.approx(np.corrcoef(pair.T)[0, 1], abs=1e-12)
        assert row["num_subjects"] == "32"


def test_a_cohort_that_cannot_be_split_is_told_in_words(tmp_path: Path) -> None:
    written(made(12), tmp_path)
    found = made(1, split=False)
    page = written(found, tmp_path)
    assert "No splits and no targets to learn: 1 subject is too few." in page
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cohort.png",
        "quality.csv",
        "quality.html",
        "targets.csv",
    ]
    assert "No splits and no targets" in told(found)


def test_the_terminal_shows_the_worst_and_counts_the_rest() -> None:
    text = told(made(30, subject("cut", replace(SOUND, tumour_kept=0.4))))
    lines = [line.split() for line in text.splitlines()]
    (cut,) = (words for words in lines if words[:1] == ["cut"])
    assert cut[2:9] == ["look", "2.00", "2.00", "40.0", "%", "100", "%"]
    assert sum(words[:1] != [] and words[0].startswith(("s0", "cut")) for words in lines) == MOST_ROWS
    assert "and 11 more subjects in quality.html" in text
    assert "31 subjects: 1 to look at, 30 ok." in text
    assert "patient" not in text.splitlines()[3]


def test_visits_have_columns_of_their_own(tmp_path: Path) -> None:
    visit = replace(subject("p1-day7"), patient_id="p1", days=7.0)
    found = made(6, visit)
    (row,) = (line.split() for line in told(found).splitlines() if line.split()[:1] == ["p1-day7"])
    assert row[1:3] == ["p1", "7"]
    assert '<td class="" data-value="p1">p1</td>' in written(found, tmp_path)


def test_the_page_is_self_contained_escaped_and_complete(tmp_path: Path) -> None:
    hostile = subject(HOSTILE + "2", replace(SOUND, tumour_kept=0.5))
    found = made(12, hostile, findings=(FAULT,))
    page = written(found, tmp_path)
    assert page.count("<script>") == 1
    assert "onerror=alert(1)>" not in page
    assert not re.search(r"url\(|@import|https?://", page)
    order = [
        *("14 subjects: 1 left out, 1 to look at, 12 ok.", "Which subjects should you look at first?"),
        *("Radiological convention", "is truncated: copy it again", "What does the box hold?"),
        *(
            "Can the targets be separated?",
            "All subjects</h2>",
            "How to read this page",
            "Less than 98 % of its voxels",
        ),
    ]
    positions = [re.sub(r"\s+", " ", page).index(words) for words in order]
    assert positions == sorted(positions)
    assert page.count("data:image/jpeg") == 13
    sections, links = re.findall(r'<section id="(\w+)"', page), re.findall(r'href="#(\w+)"', page)
    assert set(sections) - {"summary"} == set(links)
    assert told(found).count(HOSTILE) >= 2


def test_only_the_worst_have_pictures(tmp_path: Path) -> None:
    page = written(made(12), tmp_path, thumbnails=3)
    assert page.count("data:image/jpeg") == 3
    assert "9 more subjects in the table below; thumbnails=12 shows all." in page
    assert "No pictures were requested" in written(made(12), tmp_path, thumbnails=0)


def test_a_thousand_subjects_make_a_page_below_5_mb(tmp_path: Path) -> None:
    assert len(written(made(1000), tmp_path).encode()) < 5_000_000


def test_the_same_cohort_gives_the_same_page(tmp_path: Path) -> None:
    assert written(made(12), tmp_path / "a") == written(made(12), tmp_path / "b")


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("Chromium is not installed: apt-get install -y chromium")
    with Browser(tmp_path / "profile") as one:
        yield one


COLUMN = "[...document.querySelectorAll('#subjects-table tbody tr')].map(row => row.cells[{}].dataset.value)"


def test_all_subjects_can_be_sorted_and_every_picture_is_drawn(browser: Browser, tmp_path: Path) -> None:
    found = made(12, subject("cut", replace(SOUND, tumour_kept=0.4)), findings=(FAULT,))
    written(found, tmp_path)
    browser.open((tmp_path / "quality.html").as_uri())
    heads = browser.evaluate("[...document.querySelectorAll('#subjects-table th')].map(head => head.innerText)")
    assert len(heads) == 3 + 4 + 1 + len(FEATURES)
    for column in (2, 3, 9):
        browser.evaluate(f"document.querySelectorAll('#subjects-table th button')[{column}].click()")
        values = [float(value) for value in browser.evaluate(COLUMN.format(column)) if value]
        assert values == sorted(values, reverse=column == 2)
    sizes = browser.evaluate("[...document.images].map(one => one.naturalWidth * one.complete)")
    assert len(sizes) == 13 + 2
    assert all(sizes)
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
    assert browser.complaints == []
