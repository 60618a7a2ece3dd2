"""The comparison as one self-contained HTML page, with sortable tables and embedded pictures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from menvae.comparison.explanations import LEAKS, READING
from menvae.comparison.gallery import Gallery, best_run, pictures_of_run, reconstructions
from menvae.comparison.importance import importance_of, importance_words
from menvae.comparison.judged import GateValue
from menvae.comparison.parallel_coordinates import draw_parallel_coordinates, parallel_words
from menvae.comparison.pareto import Objective
from menvae.comparison.pictures import draw_effect, draw_importance, draw_trade_offs, trade_offs
from menvae.comparison.replicates import label
from menvae.comparison.results import (
    Cohort,
    Comparison,
    Configuration,
    Difference,
    Effect,
)
from menvae.comparison.swept_keys import ABSENT, natural
from menvae.comparison.tracked_runs import RunStore, TrackedRun, listed
from menvae.comparison.words import (
    MOST_ROWS,
    VERDICTS,
    best_of,
    difference_words,
    effect_words,
    front_mark,
    front_words,
    key_words,
    largest_leaks,
    leak_words,
    meets,
    not_judged_words,
    of_data,
    out_of_fold_words,
    pooled_gates,
    shortened,
    shortened_words,
    shown_difference,
    shown_mean,
    shown_passed,
    shown_pooled,
    shown_subjects,
    shown_summary,
    shown_test_passed,
    shown_value,
    tells,
    verdict_counts,
    verdict_kind,
    wanted,
)
from menvae.files import write_text
from menvae.presentation.page import Album, render
from menvae.presentation.sortable import Cell, Column, Table, number_cell, sorting_script
from menvae.presentation.text import broken
from menvae.runs.directory import RUNS
from menvae.statistics.discoveries import FALSE_DISCOVERY_RATE


@dataclass(frozen=True)
class _Banner:
    kind: str
    headline: str
    text: str


def write_page(comparison: Comparison, notes: Sequence[str], store: RunStore, path: Path) -> Path:
    """Write the page of a comparison.

    Args:
        comparison: the comparison.
        notes: notes from reading the store.
        store: store with the files of the runs.
        path: the HTML file to write; its folder must exist.

    Returns:
        ``path``.
    """
    template = Path(__file__).with_name("templates") / "comparison.html"
    with tempfile.TemporaryDirectory() as folder:
        content = _content(comparison, notes, store, path.resolve().parent, Path(folder))
    return write_text(path, render(template, content, script=sorting_script()))


def _content(
    comparison: Comparison, notes: Sequence[str], store: RunStore, place: Path, pictures: Path
) -> dict[str, Any]:
    shown = shortened(comparison)
    gallery = Gallery(Album(), pictures)
    return {
        "title": f"Comparison of runs: {store.experiment}",
        "subtitle": f"Tracking store {store.place}",
        "banner": _banner(comparison),
        "notes": [*notes, *comparison.notes],
        "summary": _summary(comparison),
        "key_words": [
            *key_words(comparison),
            *not_judged_words(comparison),
            *leak_words(comparison),
            *shortened_words(comparison),
        ],
        "configurations": _configurations(shown),
        "cohorts": [_cohort(comparison, cohort, store, place, gallery) for cohort in comparison.cohorts],
        "has_folds": comparison.replicates.has_folds,
        "replicates": comparison.replicates.words,
        "seeds": _seeds(shown),
        "runs": _runs(shown, store, place),
        "gates": [(gate.name, wanted(gate), gate.meaning) for gate in comparison.gates],
        "reading": READING,
    }


# --------------------------------------------------------------------------------------------------------------------
# Summary and tables
# --------------------------------------------------------------------------------------------------------------------


def _banner(comparison: Comparison) -> _Banner:
    """Summarise the result of the largest cohort."""
    cohort, best = comparison.cohorts[0], comparison.cohorts[0].configurations[0]
    where = f"Data {cohort.label}: " if len(comparison.cohorts) > 1 else ""
    everywhere = [one for one in cohort.configurations if one.num_runs_passed == len(one.runs)]
    count = len(cohort.configurations)
    if everywhere:
        names = listed([f"#{one.number}" for one in everywhere])
        plural = "configurations pass" if len(everywhere) > 1 else "configuration passes"
        every = f"every gate for every {comparison.replicates.noun}"
        headline = f"{where}{len(everywhere)} of {count} {plural} {every}: {names}."
        return _Banner("good", headline, _best_words(best))
    once = any(one.num_runs_passed for one in cohort.configurations)
    some = f"some runs pass every gate, but no configuration does for every {comparison.replicates.noun}."
    headline = where + (some if once else "no run passes every gate.")
    return _Banner("odd" if once else "bad", headline[0].upper() + headline[1:], _best_words(best))


def _best_words(best: Configuration) -> str:
    settings = ", ".join(f"{key} = {shown_value(value)}" for key, value in best.values.items() if value != ABSENT)
    values = [gate for run in best.runs for gate in run.gates.values()]
    judged = sum(gate.value is not None for gate in values)
    gates = "gates" + " with a value" * (judged < len(best.gates) * len(best.runs))
    runs = "it passes" if len(best.runs) == 1 else f"its {len(best.runs)} runs together pass"
    passed = f"{sum(gate.passed for gate in values)} of {judged} {gates}"
    return f"Best is #{best.number}" + f" ({settings})" * bool(settings) + f": {runs} {passed}."


def _summary(comparison: Comparison) -> list[tuple[str, str]]:
    runs = [run for cohort in comparison.cohorts for run in cohort.runs]
    seeds = sorted({run.seed for run in runs}, key=lambda seed: (len(seed), seed))
    swept = [f"{key.name} ({listed([shown_value(value) for value in key.values], 8)})" for key in comparison.keys]
    return [
        ("Runs compared", str(len(runs))),
        ("Configurations", str(len(comparison.rows))),
        ("Seeds", listed(seeds, 12)),
        *_other_replicates(comparison, runs),
        ("Swept keys", "; ".join(swept) or "none"),
        *(
            (
                f"Hashes of data and targets{of_data(comparison, cohort)}",
                f"{cohort.data_hash[:8] or 'unknown'}, {cohort.targets_words}",
            )
            for cohort in comparison.cohorts
        ),
    ]


def _other_replicates(comparison: Comparison, runs: Sequence[TrackedRun]) -> list[tuple[str, str]]:
    """Return the values of the keys besides the seed in which the runs of a configuration differ."""
    keys = comparison.replicates.keys
    values = zip(*(comparison.replicates.values(run) for run in runs), strict=True)
    return [(key, listed(sorted(set(found), key=natural), 12)) for key, found in zip(keys, values, strict=True)]


def _gate_columns(gates: Sequence[Objective], first: str = "") -> list[Column]:
    return [
        Column(
            broken(gate.name),
            first=first or ("descending" if gate.larger_is_better else "ascending"),
            wanted=wanted(gate),
            title=gate.meaning,
        )
        for gate in gates
    ]


def _configurations(comparison: Comparison) -> Table:
    several = len(comparison.cohorts) > 1
    columns = [Column("#"), *[Column("data", is_number=False)] * several]
    columns += [Column(broken(key.label), title=key.name) for key in comparison.keys]
    noun = comparison.replicates.noun
    passed = ["passed", "test passed", f"{noun}s passed"] if "test" in comparison.splits else ["passed"]
    columns += [Column(name, first="descending") for name in (f"{noun}s", *passed, "front")]
    columns += [*_gate_columns(comparison.gates), Column("mean rank")]
    cohorts = {cohort.label: cohort for cohort in comparison.cohorts}
    rows = [_configuration_row(comparison, cohorts[one.cohort], one) for one in comparison.rows]
    caption = (
        f"Mean and standard deviation over the {comparison.replicates.words}. Green: the mean meets the target; star: "
        "best mean of the gate. Click a column header to sort."
    )
    return Table("configurations-table", columns, rows, caption)


def _configuration_row(comparison: Comparison, cohort: Cohort, one: Configuration) -> list[Cell]:
    mark = front_mark(cohort, one)
    cells = [Cell(str(one.number), str(one.number))]
    if len(comparison.cohorts) > 1:
        cells.append(Cell(one.cohort, one.cohort, ""))
    for key in comparison.keys:
        value = one.values[key.name]
        cells.append(Cell(shown_value(value), value, title=f"{key.name}={value}"))
    names = listed([comparison.replicates.name(run) for run in one.runs], 20)
    cells.append(Cell(str(len(one.runs)), str(len(one.runs)), title=names))
    passed = shown_passed(one)
    cells.append(Cell(passed, repr(one.gates_passed)))
    if "test" in comparison.splits:
        cells.append(number_cell(one.test_gates_passed, shown_test_passed(one)))
        cells.append(number_cell(float(one.num_runs_passed), f"{one.num_runs_passed}/{len(one.runs)}"))
    cells.append(Cell(mark, {"yes": "2", "": "1"}.get(mark, "")))
    for gate in comparison.gates:
        summary = one.gates[gate.name]
        kinds = ["met"] * meets(gate, summary.mean) + ["best"] * (one.number in best_of(cohort, gate))
        cells.append(_with_title(number_cell(summary.mean, shown_summary(summary), " ".join(kinds)), summary.interval))
    return [*cells, number_cell(one.mean_rank, f"{one.mean_rank:.1f}")]


def _with_title(cell: Cell, interval: tuple[float, float] | None, *words: str) -> Cell:
    """Return a cell whose tooltip shows the exact value with its interval, and some words."""
    low_high = "" if interval is None else f"[{interval[0]!r}, {interval[1]!r}]"
    return replace(cell, title=", ".join(filter(None, (f"{cell.value} {low_high}".strip(), *words))))


def _seeds(comparison: Comparison) -> Table:
    """Make the table of every gate of every configuration on both splits: mean and interval over seeds, verdicts."""
    columns = [Column("#"), Column("gate", is_number=False), Column("target", is_number=False)]
    noun = comparison.replicates.noun
    columns += [Column("split", is_number=False), Column(f"{noun}s", first="descending"), Column("mean")]
    columns += [Column("standard deviation"), Column("low"), Column("high")]
    columns += [Column(verdict, first="descending") for verdict in VERDICTS]
    rows = []
    for one in comparison.rows:
        for gate in comparison.gates:
            for split in comparison.splits:
                if gate.name not in one.summaries(split):
                    continue
                summary = one.summaries(split)[gate.name]
                low, high = summary.interval or (None, None)
                cells = [Cell(str(one.number), str(one.number)), Cell(gate.name, gate.name, "")]
                cells += [Cell(wanted(gate), repr(gate.target), "")]
                cells += [Cell({"val": "validation"}.get(split, split), split, "")]
                known = str(len(summary.values) - summary.missing)
                cells += [Cell(known, known), number_cell(summary.mean, kind=verdict_kind(one, gate.name, split))]
                cells += [number_cell(number) for number in (summary.deviation, low, high)]
                counts = verdict_counts(one, gate.name, split)
                rows.append([*cells, *(Cell(str(count), str(count)) for count in counts.values())])
    caption = (
        f"low, high: 95 % interval of the mean over the {comparison.replicates.words}, by Student's t. The last "
        f"columns count {noun}s; green: all pass, red: at least one fails."
    )
    return Table("seeds-table", columns, rows, caption)


def _runs(comparison: Comparison, store: RunStore, place: Path) -> Table:
    others = comparison.replicates.keys
    columns = [Column("#"), Column("run", is_number=False), Column("seed")]
    columns += [*(Column(label(key), title=key) for key in others), Column("state", is_number=False)]
    has_test = "test" in comparison.splits
    has_leaks = any(run.leaks for one in comparison.rows for run in one.runs)
    columns += [*_gate_columns(comparison.gates), Column("passed", first="descending")]
    columns += [Column("test passed", first="descending")] * has_test
    columns += [Column("largest leaks", first="descending", title=LEAKS)] * has_leaks
    columns.append(Column("MLflow id"))
    rows = []
    for one in comparison.rows:
        for run in one.runs:
            passed = sum(gate.passed for gate in run.gates.values())
            link = _report_link(run, store, place)
            name = run.name + f" (stands for {' and '.join(run.stands_for)})" * bool(run.stands_for)
            cells = [Cell(str(one.number), str(one.number)), Cell(name, run.name, "", run.artifact_uri, link)]
            cells.append(Cell(run.seed, run.seed))
            cells += [Cell(shown_value(value), value) for value in comparison.replicates.values(run)]
            cells.append(Cell(run.state, run.state, ""))
            cells += [
                _gate_of_run(run.gates.get(gate.name), run.test_gates.get(gate.name)) for gate in comparison.gates
            ]
            cells.append(Cell(str(passed), str(passed)))
            if has_test:
                of_test = sum(gate.passed for gate in run.test_gates.values()) if run.test_gates else None
                cells.append(number_cell(None, "") if of_test is None else number_cell(float(of_test), str(of_test)))
            cells += [_leaks_cell(run)] * has_leaks
            rows.append([*cells, Cell(run.run_id[:8], run.run_id, title=run.run_id)])
    caption = (
        "#: number of the configuration. Green: gate passed on the validation split; red: failed; yellow: undecided. "
        "Tooltips hold intervals over patients and the test split."
    )
    return Table("runs-table", columns, rows, caption)


def _gate_of_run(gate: GateValue | None, of_test: GateValue | None) -> Cell:
    """Return the value on the validation split, with both intervals and verdicts as tooltip."""
    if gate is None:
        return number_cell(None)
    kind = "met" if gate.passed else {"fail": "failed", "undecided": "undecided"}.get(gate.verdict, "")
    test = (
        ""
        if of_test is None
        else f"test: {_with_title(number_cell(of_test.value), of_test.interval, of_test.verdict).title}"
    )
    return _with_title(number_cell(gate.value, kind=kind), gate.interval, gate.verdict, test)


def _leaks_cell(run: TrackedRun) -> Cell:
    largest = [leak.value for leak in run.leaks.get("val", ()) if leak.is_above_null][:1]
    words = largest_leaks(run, "val")
    test = f"test: {of_test}" if (of_test := largest_leaks(run, "test")) else ""
    return Cell(words, repr(largest[0]) if largest else "", "", test)


def _report_link(run: TrackedRun, store: RunStore, place: Path) -> str:
    """Return the address of a run's report: relative to the page if both are in the output directory."""
    original = store.output_dir / RUNS / run.name / "report.html"
    path = original if original.is_file() else store.local_artifact(run, "report.html")
    if path is None:
        return ""
    if place.is_relative_to(store.output_dir) and path.is_relative_to(store.output_dir):
        return quote(os.path.relpath(path, place))
    return path.as_uri()


# --------------------------------------------------------------------------------------------------------------------
# Sections of a cohort
# --------------------------------------------------------------------------------------------------------------------


def _cohort(comparison: Comparison, cohort: Cohort, store: RunStore, place: Path, gallery: Gallery) -> dict[str, Any]:
    pairs = trade_offs(cohort, comparison.gates)
    picture = None
    if pairs and len(cohort.configurations) > 1:
        figure = draw_trade_offs(cohort, pairs)
        picture = gallery.embed(figure, "Pairs of gates, one point per configuration")
    return {
        "heading": f"Data {cohort.label}" if len(comparison.cohorts) > 1 else "",
        "front": front_words(cohort),
        "trade_offs": picture,
        "keys": _keys(comparison, cohort, gallery),
        "effect_words": effect_words(comparison, cohort),
        "effects": [_effect(effect, comparison, cohort, gallery) for effect in cohort.effects],
        "difference_words": difference_words(comparison, cohort),
        "differences": _differences(comparison, cohort) if cohort.differences else None,
        "out_of_fold_words": out_of_fold_words(comparison, cohort),
        "out_of_fold": _out_of_fold(comparison, cohort) if cohort.out_of_fold else None,
        "best": _best(comparison, cohort, store, place, gallery.album),
        "reconstructions": reconstructions(comparison, cohort, store, gallery.album),
    }


def _keys(comparison: Comparison, cohort: Cohort, gallery: Gallery) -> dict[str, Any]:
    """Draw all keys together: parallel coordinates, and the importance of each."""
    if not cohort.varying(comparison.keys):
        return {"words": [], "pictures": []}
    gates = [gate for gate in comparison.gates if gate.name in cohort.front.objectives] or comparison.gates
    importance = importance_of(cohort, comparison.keys, gates)
    figure = draw_parallel_coordinates(cohort, comparison.keys, comparison.gates)
    pictures = [gallery.embed(figure, "One line per configuration across its keys and gates")]
    if importance.shares:
        pictures.append(gallery.embed(draw_importance(importance), "Importance of every key for every gate"))
    words = [*parallel_words(cohort, comparison.keys, comparison.gates), *importance_words(importance, cohort)]
    return {"words": words, "pictures": [picture for picture in pictures if picture is not None]}


def _effect(effect: Effect, comparison: Comparison, cohort: Cohort, gallery: Gallery) -> dict[str, Any]:
    rows = []
    for value, means in effect.means.items():
        runs = str(effect.num_runs[value])
        numbers = []
        for gate in comparison.gates:
            mean, interval = means[gate.name], effect.intervals[value][gate.name]
            cell = number_cell(mean, shown_mean(mean, interval), "met" * meets(gate, mean))
            numbers.append(_with_title(cell, interval))
        rows.append([Cell(shown_value(value), value, ""), Cell(runs, runs), *numbers])
    ranges = [number_cell(effect.ranges[gate.name]) for gate in comparison.gates]
    rows.append([Cell("range", "", ""), Cell("", ""), *ranges])
    return {
        "name": effect.key.name + " (unbalanced)" * (not effect.balanced),
        "label": effect.key.label,
        "gates": [(broken(gate.name), wanted(gate)) for gate in comparison.gates],
        "rows": rows,
        "picture": gallery.embed(
            draw_effect(effect, cohort, comparison.gates), f"Every gate against {effect.key.name}"
        ),
    }


def _differences(comparison: Comparison, cohort: Cohort) -> Table:
    columns = [Column("#"), *(Column(broken(key.label), title=key.name) for key in comparison.keys)]
    shared_runs = f"shared {comparison.replicates.noun}s"
    columns += [Column(shared_runs, first="descending"), *_gate_columns(comparison.gates)]
    rows = []
    for one in cohort.configurations[: MOST_ROWS + 1]:  # the baseline among them has none
        if one.number not in cohort.differences:
            continue
        row = cohort.differences[one.number]
        shared = str(max(gate.num_shared for gate in row.values()))
        cells = [Cell(str(one.number), str(one.number))]
        cells += [Cell(shown_value(one.values[key.name]), one.values[key.name]) for key in comparison.keys]
        cells.append(Cell(shared, shared))
        cells += [_difference_cell(gate, row[gate.name]) for gate in comparison.gates]
        rows.append(cells)
    caption = f"Green: better, red: worse; coloured if the adjusted p-value is below {FALSE_DISCOVERY_RATE}."
    return Table(f"differences-table-{cohort.label}", columns, rows, caption)


def _difference_cell(gate: Objective, found: Difference) -> Cell:
    """Return a difference, with the exact value, its interval and its p-values as tooltip."""
    tests = "" if found.p_value is None else f"p = {found.p_value:.2g}"
    tests += "" if found.q_value is None else f", adjusted {found.q_value:.2g}"
    return _with_title(number_cell(found.mean, shown_difference(found), tells(gate, found)), found.interval, tests)


def _out_of_fold(comparison: Comparison, cohort: Cohort) -> Table:
    """Make the table of pooled predictions: one row per configuration, each gate with its difference beside it."""
    gates = pooled_gates(comparison)
    columns = [Column("#"), *(Column(broken(key.label), title=key.name) for key in comparison.keys)]
    columns.append(Column("subjects", first="descending"))
    has_differences = any(one.differences for one in cohort.out_of_fold.values())
    of_baseline = f"difference from #{cohort.baseline.number}"
    for gate in gates:
        columns += _gate_columns([gate])
        columns += [Column("difference", title=f"{gate.name}: {of_baseline}")] * has_differences
    rows = []
    for one in cohort.configurations:
        if one.number not in cohort.out_of_fold:
            continue
        found = cohort.out_of_fold[one.number]
        cells = [Cell(str(one.number), str(one.number))]
        cells += [Cell(shown_value(one.values[key.name]), one.values[key.name]) for key in comparison.keys]
        title = f"{found.num_subjects} subjects of {found.num_patients} patients"
        cells.append(Cell(shown_subjects(found), str(found.num_subjects), title=title))
        for gate in gates:
            summary, difference = found.metrics.get(gate.metric), found.differences.get(gate.name)
            if summary is None:
                cells.append(number_cell(None))
            else:
                shown = number_cell(summary.mean, shown_pooled(summary), "met" * meets(gate, summary.mean))
                cells.append(_with_title(shown, summary.interval))
            if has_differences:
                cells.append(number_cell(None, "") if difference is None else _difference_cell(gate, difference))
        rows.append(cells)
    caption = (
        "Green: the value meets the target, or is better than the baseline; red: worse. Tooltips hold exact values and "
        "p-values."
    )
    return Table(f"out-of-fold-table-{cohort.label}", columns, rows, caption)


def _best(comparison: Comparison, cohort: Cohort, store: RunStore, place: Path, album: Album) -> dict[str, Any]:
    """Show the run of the best configuration that passes the most gates."""
    one = cohort.configurations[0]
    run = best_run(one)
    passed = sum(gate.passed for gate in run.gates.values())
    judged = sum(gate.value is not None for gate in run.gates.values())
    words = (
        f"{run.name} (configuration #{one.number}, {comparison.replicates.name(run)}) passes {passed} of "
        f"{judged} gates{' with a value' * (judged < len(comparison.gates))}."
    )
    folder = store.artifact(run, "pictures")
    pictures = [] if folder is None else pictures_of_run(folder, album)
    return {"words": words, "link": _report_link(run, store, place), "pictures": pictures}
