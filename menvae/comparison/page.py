"""The comparison as one self-contained HTML page, with sortable tables and embedded pictures."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from matplotlib.figure import Figure

from menvae.comparison.judged import GateValue
from menvae.comparison.pareto import Objective
from menvae.comparison.pictures import draw_effect, draw_trade_offs, trade_offs
from menvae.comparison.results import Cohort, Comparison, Configuration, Effect
from menvae.comparison.swept_keys import ABSENT
from menvae.comparison.tracked_runs import RunStore, TrackedRun, listed
from menvae.comparison.words import (
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
    shown_difference,
    shown_passed,
    shown_summary,
    shown_test_passed,
    shown_value,
    tells,
    verdict_counts,
    verdict_kind,
    wanted,
)
from menvae.files import write_text
from menvae.pictures import registered_pictures
from menvae.presentation.figures import save_figure
from menvae.presentation.page import Album, Picture, render
from menvae.presentation.sortable import Cell, Column, Table, number_cell, sorting_script
from menvae.presentation.text import broken
from menvae.runs.directory import RUNS

READING: Final = (
    ("Configuration", "Runs that differ only in their seed. Its numbers are means over the seeds."),
    (
        "\N{PLUS-MINUS SIGN} in a table of configurations",
        "Standard deviation over the seeds (n \N{MINUS SIGN} 1), not the standard error of the mean.",
    ),
    (
        "Passed",
        "Number of gates that a run passes, of those with a value, averaged over the seeds; its gates.json lists them.",
    ),
    (
        "Test",
        "The same gates on the test split. They choose nothing: ranks, front, effects and differences are those of the "
        "validation split. A run passes if all gates of both splits pass.",
    ),
    (
        "Verdict",
        "pass or fail: the 95 % interval over patients lies on one side of the target; undecided: it contains the "
        "target; not computed: no value. Only pass is passed.",
    ),
    ("Mean rank", "Rank among the configurations, averaged over the gates: independent of scale; 1 is best."),
    ("Best", "Most gates passed, then lowest mean rank. The best of many is biased upwards: run more seeds."),
    ("Front", "Configurations for which no other is at least as good in every gate and better in one."),
    (
        "Hypervolume beyond the targets",
        "Volume between the targets and the front, in units of the gates; 0 unless a configuration meets every target.",
    ),
    (
        "Range that the front dominates",
        "The same volume, measured from a tenth of the range beyond the worst value of every gate, as a fraction of "
        "the box up to the best. It depends on the set of configurations.",
    ),
    ("Effect of a key", "Mean over all runs with that value; the range is the largest minus the smallest mean."),
    (
        "Differences",
        "Paired by seed with the baseline; 95 % confidence interval of the mean by Student's t, not corrected for "
        "multiple comparisons.",
    ),
)


LEAKS: Final = (
    "R2 of a target read from a partition that it does not supervise, beyond what that partition's targets say; "
    "validation split, above its permutation null."
)


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
    album = _Gallery(Album(), pictures)
    return {
        "title": f"Comparison of runs: {store.experiment}",
        "subtitle": f"Tracking store {store.place}",
        "banner": _banner(comparison),
        "notes": [*notes, *comparison.notes],
        "summary": _summary(comparison),
        "key_words": [*key_words(comparison), *not_judged_words(comparison), *leak_words(comparison)],
        "configurations": _configurations(comparison),
        "cohorts": [_cohort(comparison, cohort, store, place, album) for cohort in comparison.cohorts],
        "seeds": _seeds(comparison),
        "runs": _runs(comparison, store, place),
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
        headline = f"{where}{len(everywhere)} of {count} {plural} every gate for every seed: {names}."
        return _Banner("good", headline, _best_words(best))
    once = any(one.num_runs_passed for one in cohort.configurations)
    some = "some runs pass every gate, but no configuration does for every seed."
    headline = where + (some if once else "no run passes every gate.")
    return _Banner("odd" if once else "bad", headline[0].upper() + headline[1:], _best_words(best))


def _best_words(best: Configuration) -> str:
    settings = ", ".join(f"{key} = {shown_value(value)}" for key, value in best.values.items() if value != ABSENT)
    gates = "gates" + " with a value" * (best.gates_judged < len(best.gates))
    passed = f"{best.gates_passed:.3g} of {best.gates_judged:.3g} {gates}" + " on average" * (best.gates_passed % 1 > 0)
    return f"Best is #{best.number}" + f" ({settings})" * bool(settings) + f": it passes {passed}."


def _summary(comparison: Comparison) -> list[tuple[str, str]]:
    runs = [run for cohort in comparison.cohorts for run in cohort.runs]
    seeds = sorted({run.seed for run in runs}, key=lambda seed: (len(seed), seed))
    swept = [f"{key.name} ({listed([shown_value(value) for value in key.values], 8)})" for key in comparison.keys]
    return [
        ("Runs compared", str(len(runs))),
        ("Configurations", str(len(comparison.rows))),
        ("Seeds", listed(seeds, 12)),
        ("Swept keys", "; ".join(swept) or "none"),
        *(
            (
                f"Hashes of data and targets{of_data(comparison, cohort)}",
                f"{cohort.data_hash[:8] or 'unknown'}, {cohort.targets_hash[:8] or 'unknown'}",
            )
            for cohort in comparison.cohorts
        ),
    ]


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
    passed = ["passed", "test passed", "seeds passed"] if "test" in comparison.splits else ["passed"]
    columns += [Column(name, first="descending") for name in ("seeds", *passed, "front")]
    columns += [*_gate_columns(comparison.gates), Column("mean rank")]
    cohorts = {cohort.label: cohort for cohort in comparison.cohorts}
    rows = [_configuration_row(comparison, cohorts[one.cohort], one) for one in comparison.rows]
    caption = (
        "Mean and standard deviation over the seeds. Green: the mean meets the target; star: best mean of the gate. "
        "Click a column header to sort."
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
    cells.append(Cell(str(len(one.runs)), str(len(one.runs)), title=", ".join(run.seed for run in one.runs)))
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
    columns += [Column("split", is_number=False), Column("seeds", first="descending"), Column("mean")]
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
        "low, high: 95 % interval of the mean over the seeds, by Student's t. The last columns count seeds; green: all "
        "pass, red: at least one fails."
    )
    return Table("seeds-table", columns, rows, caption)


def _runs(comparison: Comparison, store: RunStore, place: Path) -> Table:
    columns = [Column("#"), Column("run", is_number=False), Column("seed"), Column("state", is_number=False)]
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
            cells += [Cell(run.seed, run.seed), Cell(run.state, run.state, "")]
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


@dataclass
class _Gallery:
    """Saves figures into a folder and embeds them."""

    album: Album
    folder: Path
    count: int = 0

    def embed(self, figure: Figure, alt: str) -> Picture | None:
        """Save a figure and return it as an embedded picture."""
        self.count += 1
        return self.album.embed(save_figure(figure, self.folder / f"{self.count}.png"), alt, always=True)


def _cohort(comparison: Comparison, cohort: Cohort, store: RunStore, place: Path, gallery: _Gallery) -> dict[str, Any]:
    pairs = trade_offs(cohort, comparison.gates)
    picture = None
    if pairs and len(cohort.configurations) > 1:
        figure = draw_trade_offs(cohort, pairs)
        picture = gallery.embed(figure, "Pairs of gates, one point per configuration")
    return {
        "heading": f"Data {cohort.label}" if len(comparison.cohorts) > 1 else "",
        "front": front_words(cohort),
        "trade_offs": picture,
        "effect_words": effect_words(cohort),
        "effects": [_effect(effect, comparison, cohort, gallery) for effect in cohort.effects],
        "difference_words": difference_words(comparison, cohort),
        "differences": _differences(comparison, cohort) if cohort.differences else None,
        "best": _best(comparison, cohort, store, place, gallery.album),
    }


def _effect(effect: Effect, comparison: Comparison, cohort: Cohort, gallery: _Gallery) -> dict[str, Any]:
    rows = []
    for value, means in effect.means.items():
        runs = str(effect.num_runs[value])
        kinds = ["met" * meets(gate, means[gate.name]) for gate in comparison.gates]
        numbers = [number_cell(means[gate.name], kind=kind) for gate, kind in zip(comparison.gates, kinds, strict=True)]
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
    columns += [Column("shared seeds", first="descending"), *_gate_columns(comparison.gates)]
    rows = []
    for one in cohort.configurations:
        if one.number not in cohort.differences:
            continue
        row = cohort.differences[one.number]
        shared = str(max(gate.num_seeds for gate in row.values()))
        cells = [Cell(str(one.number), str(one.number))]
        cells += [Cell(shown_value(one.values[key.name]), one.values[key.name]) for key in comparison.keys]
        cells.append(Cell(shared, shared))
        for gate in comparison.gates:
            found = row[gate.name]
            low_high = "" if found.interval is None else f"[{found.interval[0]!r}, {found.interval[1]!r}]"
            kind = f"number {tells(gate, found)}".strip()
            value = "" if found.mean is None else repr(found.mean)
            cells.append(Cell(shown_difference(found), value, kind, f"{value} {low_high}".strip()))
        rows.append(cells)
    caption = "Green: better, red: worse; coloured if the interval excludes 0."
    return Table(f"differences-table-{cohort.label}", columns, rows, caption)


def _best(comparison: Comparison, cohort: Cohort, store: RunStore, place: Path, album: Album) -> dict[str, Any]:
    """Show the run of the best configuration that passes the most gates."""
    one = cohort.configurations[0]
    run = max(one.runs, key=lambda run: sum(gate.passed for gate in run.gates.values()))
    passed = sum(gate.passed for gate in run.gates.values())
    judged = sum(gate.value is not None for gate in run.gates.values())
    words = (
        f"{run.name} (configuration #{one.number}, seed {run.seed or 'unknown'}) passes {passed} of "
        f"{judged} gates{' with a value' * (judged < len(comparison.gates))}."
    )
    folder = store.artifact(run, "pictures")
    pictures = [] if folder is None else _pictures_of(folder, album)
    return {"words": words, "link": _report_link(run, store, place), "pictures": pictures}


def _pictures_of(folder: Path, album: Album) -> list[Picture]:
    """Embed the pictures of a run: those drawn after training, and one subject of the last reconstructions."""
    epochs: Mapping[int, Path] = {
        int(found.group(1)): path
        for path in folder.glob("epoch_*")
        if (found := re.fullmatch(r"epoch_(\d+)", path.name)) and path.is_dir()
    }
    last = epochs[max(epochs)] if epochs else folder / "epoch_0"
    kinds = [kind for kind in registered_pictures().values() if kind.when == "after_training"]
    wanted_files = [(folder / kind.file, kind.caption or kind.alt) for kind in kinds]
    wanted_files += [(path, f"One subject, {last.name.replace('_', ' ')}.") for path in sorted(last.glob("*.png"))[:1]]
    shown = [album.embed(path, path.stem.replace("_", " "), caption) for path, caption in wanted_files]
    return [picture for picture in shown if picture is not None]
