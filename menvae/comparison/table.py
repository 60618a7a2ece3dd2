"""A comparison as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from menvae.comparison.pareto import Objective
from menvae.comparison.results import Cohort, Comparison, Configuration, Difference, Effect
from menvae.comparison.words import (
    best_of,
    difference_words,
    effect_words,
    front_mark,
    front_words,
    key_words,
    leak_words,
    meets,
    not_judged_words,
    of_data,
    out_of_fold_words,
    pooled_gates,
    shortened,
    shortened_words,
    shown_difference,
    shown_passed,
    shown_pooled,
    shown_subjects,
    shown_summary,
    shown_test_passed,
    shown_value,
    shown_verdicts,
    tells,
    verdict_kind,
    wanted,
)
from menvae.presentation.text import broken, significant

_HEAD_WIDTH = 9
_UNLIMITED = 100_000
_MOST_DIFFERENCES = 30
_MOST_VERDICTS = 6
_DIFFERENCE_STYLES = {"better": "bold green", "worse": "bold red", "": ""}
_VERDICT_STYLES = {"met": "green", "odd": "yellow", "bad": "red", "": ""}


def answers(comparison: Comparison, notes: Sequence[str]) -> Iterator[RenderableType]:
    """Yield everything that the command prints.

    Args:
        comparison: the comparison.
        notes: notes from reading the store.
    """
    for note in (*notes, *comparison.notes):
        yield Text(note, style="yellow")
    yield from map(Text, key_words(comparison))
    yield configurations_table(shortened(comparison))
    yield from map(Text, shortened_words(comparison))
    yield from map(Text, not_judged_words(comparison))
    yield verdicts_table(comparison)
    yield from map(Text, leak_words(comparison))
    for cohort in comparison.cohorts:
        where = f"Data {cohort.label}. " if len(comparison.cohorts) > 1 else ""
        yield Text(where + " ".join(front_words(cohort)) + "\n")
        for effect in cohort.effects:
            yield effect_table(comparison, cohort, effect)
        yield from map(Text, effect_words(comparison, cohort))
        if any(one.interval for row in cohort.differences.values() for one in row.values()):
            yield differences_table(comparison, cohort)
        yield from map(Text, difference_words(comparison, cohort))
        if cohort.out_of_fold and pooled_gates(comparison):
            yield out_of_fold_table(comparison, cohort)
        yield from map(Text, out_of_fold_words(comparison, cohort))


@dataclass(frozen=True)
class _WhereItFits:
    """Shows ``wide`` if there is room for it, else ``narrow``."""

    wide: Table
    narrow: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = console.measure(self.wide, options=options.update(max_width=_UNLIMITED)).maximum
        yield self.wide if needed <= options.max_width else self.narrow


@dataclass(frozen=True)
class _Column:
    head: str
    cells: Sequence[str | Text]


def configurations_table(comparison: Comparison) -> RenderableType:
    """Make the table with one row per configuration: green meets the target, a star marks the best mean of a gate.

    A narrow terminal shows two tables, settings and gates.
    """
    rows = comparison.rows
    cohorts = {cohort.label: cohort for cohort in comparison.cohorts}
    names = [_Column("#", [str(one.number) for one in rows])]
    if len(cohorts) > 1:
        names.append(_Column("data", [one.cohort for one in rows]))
    settings = [
        _Column(broken(key.label, _HEAD_WIDTH), [Text(shown_value(one.values[key.name])) for one in rows])
        for key in comparison.keys
    ]
    results = [
        _Column(f"{comparison.replicates.noun}s", [str(len(one.runs)) for one in rows]),
        _Column("passed", [shown_passed(one) for one in rows]),
        *_test_columns(comparison),
        _Column("front", [front_mark(cohorts[one.cohort], one) for one in rows]),
        _Column("mean\nrank", [f"{one.mean_rank:.1f}" for one in rows]),
    ]
    gates = [
        _Column(_gate_head(gate), [_gate_cell(one, gate, cohorts[one.cohort]) for one in rows])
        for gate in comparison.gates
    ]
    ends = {place for place, one in enumerate(rows[:-1]) if one.cohort != rows[place + 1].cohort}
    wide = _filled(_table("Configurations"), [*names, *settings, *results, *gates], ends)
    upper = _filled(_table("Configurations"), [*names, *settings, *results], ends)
    lower = _filled(_table("Their gates"), [*names[:1], *gates], ends)
    for table in (wide, lower):
        over = comparison.replicates.words
        table.caption = Text(f"mean and standard deviation over the {over}; * best mean, green meets the target")
    return _WhereItFits(wide, Group(upper, lower))


def _test_columns(comparison: Comparison) -> list[_Column]:
    if "test" not in comparison.splits:
        return []
    rows = comparison.rows
    return [
        _Column("test\npassed", [shown_test_passed(one) for one in rows]),
        _Column(f"{comparison.replicates.noun}s\npassed", [f"{one.num_runs_passed}/{len(one.runs)}" for one in rows]),
    ]


def verdicts_table(comparison: Comparison) -> Table:
    """Make the table of the verdicts on both splits, one row per gate and one column per configuration."""
    shown = comparison.rows[:_MOST_VERDICTS]
    gates = comparison.gates
    columns = [_Column("gate", [gate.name for gate in gates]), _Column("target", [wanted(gate) for gate in gates])]
    for one in shown:
        cells = [
            Text(" ").join(
                Text(shown_verdicts(one, gate.name, split), style=_VERDICT_STYLES[verdict_kind(one, gate.name, split)])
                for split in comparison.splits
            )
            for gate in gates
        ]
        columns.append(_Column(f"#{one.number}", cells))
    splits = "validation and test split" if "test" in comparison.splits else "validation split"
    several = f"with several {comparison.replicates.noun}s, how many of them pass"
    table = _filled(_table(f"Verdicts on {splits}; {several}"), columns)
    if len(shown) < len(comparison.rows):
        table.caption = Text(f"{len(comparison.rows) - len(shown)} more configurations on the page")
    return table


def _gate_cell(one: Configuration, gate: Objective, cohort: Cohort) -> Text:
    summary = one.gates[gate.name]
    is_best = one.number in best_of(cohort, gate)
    style = "green" if meets(gate, summary.mean) else ""
    return Text(shown_summary(summary) + "*" * is_best, style=f"bold {style}" if is_best else style)


def effect_table(comparison: Comparison, cohort: Cohort, effect: Effect) -> Table:
    """Make the table of the mean of every gate for every value of a swept key."""
    title = f"Effect of {effect.key.name}{' (unbalanced)' * (not effect.balanced)}: mean over the runs with each value"
    values = list(effect.means)
    columns = [
        _Column("value", [*(Text(shown_value(value)) for value in values), "range"]),
        _Column("runs", [*(str(effect.num_runs[value]) for value in values), ""]),
    ]
    for gate in comparison.gates:
        means = [effect.means[value][gate.name] for value in values]
        columns.append(_Column(_gate_head(gate), [significant(one) for one in (*means, effect.ranges[gate.name])]))
    table = _filled(_table(title + of_data(comparison, cohort)), columns)
    table.rows[-1].style = "bold"
    return table


def differences_table(comparison: Comparison, cohort: Cohort) -> Table:
    """Make the table of the differences from the baseline."""
    numbers = list(cohort.differences)[:_MOST_DIFFERENCES]
    rows = [cohort.differences[number] for number in numbers]
    columns = [
        _Column("#", [str(number) for number in numbers]),
        _Column(f"shared\n{comparison.replicates.noun}s", [_most_shared(row) for row in rows]),
    ]
    for gate in comparison.gates:
        found = [row[gate.name] for row in rows]
        columns.append(_Column(_gate_head(gate), [_difference_cell(gate, one) for one in found]))
    table = _filled(_table(f"Differences from #{cohort.baseline.number}{of_data(comparison, cohort)}"), columns)
    if len(numbers) < len(cohort.differences):
        table.caption = Text(f"{len(cohort.differences) - len(numbers)} more on the page")
    return table


def _most_shared(row: Mapping[str, Difference]) -> str:
    return str(max(one.num_shared for one in row.values()))


def _difference_cell(gate: Objective, one: Difference | None) -> Text:
    if one is None:
        return Text("")
    return Text(shown_difference(one), style=_DIFFERENCE_STYLES[tells(gate, one)])


def out_of_fold_table(comparison: Comparison, cohort: Cohort) -> RenderableType:
    """Make the table of the pooled predictions of all folds, and below it that of differences from the baseline."""
    gates, numbers = pooled_gates(comparison), list(cohort.out_of_fold)[:_MOST_DIFFERENCES]
    found = [cohort.out_of_fold[number] for number in numbers]
    columns = [
        _Column("#", [str(number) for number in numbers]),
        _Column("subjects", [shown_subjects(one) for one in found]),
    ]
    for gate in gates:
        summaries = [one.metrics.get(gate.metric) for one in found]
        cells = ["" if summary is None else shown_pooled(summary) for summary in summaries]
        columns.append(_Column(_gate_head(gate), cells))
    table = _filled(_table(f"Out of fold{of_data(comparison, cohort)}"), columns)
    if len(numbers) < len(cohort.out_of_fold):
        table.caption = Text(f"{len(cohort.out_of_fold) - len(numbers)} more on the page")
    rows = [(number, one) for number, one in zip(numbers, found, strict=True) if one.differences]
    if not rows:
        return table
    columns = [
        _Column("#", [str(number) for number, _ in rows]),
        *(
            _Column(_gate_head(gate), [_difference_cell(gate, one.differences.get(gate.name)) for _, one in rows])
            for gate in gates
        ),
    ]
    return Group(table, _filled(_table(f"Out of fold: differences from #{cohort.baseline.number}"), columns))


def _gate_head(gate: Objective) -> str:
    return f"{broken(gate.name, _HEAD_WIDTH)}\n{wanted(gate)}"


def _table(title: str) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )


def _filled(table: Table, columns: Sequence[_Column], ends: set[int] | None = None) -> Table:
    """Fill a table; a section ends after the rows ``ends``."""
    for column in columns:
        table.add_column(column.head, justify="right")
    for place, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*row, end_section=place in (ends or ()))
    return table
