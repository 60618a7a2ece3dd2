"""A comparison in words and numbers: tables for the terminal, and the table of all runs as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from menvae.presentation.text import broken, significant, with_spread
from menvae.sweeps.comparison import Cohort, Comparison, Configuration, Difference, Summary
from menvae.sweeps.pareto import RANGE_MARGIN, Objective
from menvae.sweeps.swept_keys import ABSENT
from menvae.sweeps.tracked_runs import listed
from menvae.tracking.run_directory import write_table

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
NOTHING = "\N{EN DASH}"


# --------------------------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------------------------


def wanted(gate: Objective) -> str:
    """Write what a gate asks for.

    >>> wanted(Objective("max_dcor", 0.35, False))
    '< 0.35'
    """
    return f"{'>' if gate.larger_is_better else '<'} {gate.target:g}"


def shown_value(value: str) -> str:
    """Write the value of a key, also where a run does not have the key."""
    return NOTHING if value == ABSENT else value


def shown_summary(summary: Summary) -> str:
    """Write a mean with the standard deviation over the seeds, and of how many where some have no value."""
    text = significant(summary.mean)
    if summary.mean is not None and summary.deviation is not None:
        text = with_spread(summary.mean, summary.deviation)
    if summary.missing and summary.mean is not None:
        text += f" ({len(summary.values) - summary.missing} of {len(summary.values)})"
    return text


def shown_difference(one: Difference) -> str:
    """Write a difference with the half width of its interval; a star where the interval leaves out 0."""
    if one.mean is None:
        return NOTHING
    sign = "+" * (one.mean > 0)
    if one.interval is None:
        return sign + significant(one.mean)
    return sign + with_spread(one.mean, (one.interval[1] - one.interval[0]) / 2) + "*" * one.is_clear


def shown_passed(one: Configuration, num_gates: int) -> str:
    """Write how many gates a configuration passes, on average over its runs."""
    return f"{one.gates_passed:.3g}/{num_gates}"


def meets(gate: Objective, value: float | None) -> bool:
    """Whether a value meets the target of a gate."""
    return value is not None and (value > gate.target if gate.larger_is_better else value < gate.target)


def best_of(cohort: Cohort, gate: Objective) -> set[int]:
    """Return the numbers of the configurations with the best mean of a gate; none where all are equal."""
    means = {one.number: mean for one in cohort.configurations if (mean := one.gates[gate.name].mean) is not None}
    if len(set(means.values())) < 2:
        return set()
    best = max(means.values()) if gate.larger_is_better else min(means.values())
    return {number for number, mean in means.items() if mean == best}


def tells(gate: Objective, one: Difference) -> str:
    """Return ``better`` or ``worse`` where the interval of a difference leaves out 0, else nothing."""
    if not one.is_clear or one.mean is None:
        return ""
    return "better" if (one.mean > 0) == gate.larger_is_better else "worse"


def front_words(cohort: Cohort) -> list[str]:
    """Say in sentences which configurations are on the Pareto front, and what the front is worth."""
    front, count = cohort.front, len(cohort.configurations)
    if count == 1:
        return ["There is one configuration only, so there is nothing to trade."]
    sentences = [f"Not in the front, as no configuration has it in all its runs: {', '.join(front.unmeasured)}."]
    sentences = sentences if front.unmeasured else []
    if not front.members:
        return [*sentences, "There is no Pareto front: no configuration has a value of every gate."]
    members = f"{len(front.members)} of {count} configurations ({listed([f'#{one}' for one in front.members], 12)})"
    share = "every configuration" if len(front.members) == count else members
    sentences.append(f"Pareto front of the means over {_count(len(front.objectives), 'gate')}: {share}.")
    if len(front.members) > count / 2 > 1 and len(front.objectives) > 3:
        sentences.append("Over so many gates few configurations dominate another: front=[gate,gate] weighs fewer.")
    for number, gates in front.excluded.items():
        sentences.append(f"#{number} cannot be placed, a run of it has no value of {listed(gates)}.")
    if front.hypervolume > 0:
        sentences.append(f"Hypervolume beyond the targets of the gates: {significant(front.hypervolume)}.")
    else:
        sentences.append("Hypervolume beyond the targets of the gates: 0, no configuration meets all of them.")
    return [*sentences, *_share_words(cohort)]


def _share_words(cohort: Cohort) -> list[str]:
    front = cohort.front
    if front.range_share is None:
        return []
    equal = f"; equal in all, so left out of it: {', '.join(front.constant)}" if front.constant else ""
    return [
        f"The front dominates {significant(front.range_share)} of the range that was found (from the best of every "
        f"gate to {RANGE_MARGIN:.0%} of the range beyond the worst{equal})."
    ]


def key_words(comparison: Comparison) -> list[str]:
    """Say which keys stand for others, and where nothing differs."""
    if not comparison.keys:
        return ["The runs differ in no key but the seed: there is one configuration for each data."]
    return [
        f"{key.name} also stands for {listed(key.followers)}, which tell the same runs apart."
        for key in comparison.keys
        if key.followers
    ]


def effect_words(cohort: Cohort) -> list[str]:
    """Say which keys the other keys do not leave alone."""
    unbalanced = [effect.key.name for effect in cohort.effects if not effect.balanced]
    if not unbalanced:
        return []
    return [
        f"Unbalanced: {', '.join(unbalanced)}. Their values did not meet the same settings of the other keys and the "
        "same seeds, so a difference may come from those."
    ]


def difference_words(comparison: Comparison, cohort: Cohort) -> list[str]:
    """Say how the differences from the baseline are to be read."""
    if not cohort.differences:
        return []
    seeds = [one.num_seeds for row in cohort.differences.values() for one in row.values()]
    if max(seeds, default=0) < 2:
        return [
            f"No interval can be given for the differences from #{cohort.baseline.number}: that takes at least 2 seeds "
            "which both configurations were run with."
        ]
    count = sum(one.interval is not None for row in cohort.differences.values() for one in row.values())
    return [
        f"Differences from #{cohort.baseline.number}, over the seeds both were run with: mean {PLUS_MINUS} half width "
        f"of the 95 % interval (paired t). * leaves out 0; of {_count(count, 'interval')} about "
        f"{max(1, round(0.05 * count))} would by chance alone."
    ]


def of_data(comparison: Comparison, cohort: Cohort) -> str:
    """Say which cohort a table is of, where there are several."""
    return f", data {cohort.label}" if len(comparison.cohorts) > 1 else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


# --------------------------------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------------------------------


def answers(comparison: Comparison, notes: Sequence[str]) -> Iterator[RenderableType]:
    """Yield everything that the command prints.

    Args:
        comparison: what was found.
        notes: what the reading of the store left out.
    """
    for note in (*notes, *comparison.notes, *key_words(comparison)):
        yield Text(note, style="yellow" if note in notes or note in comparison.notes else "")
    yield configurations_table(comparison)
    several = len(comparison.cohorts) > 1
    for cohort in comparison.cohorts:
        where = f"Data {cohort.label}. " if several else ""
        yield Text(where + " ".join([*front_words(cohort), *effect_words(cohort)]))
        if cohort.effects:
            yield effects_table(comparison, cohort)
        words = difference_words(comparison, cohort)
        if any(one.interval for row in cohort.differences.values() for one in row.values()):
            yield differences_table(comparison, cohort)
        yield from map(Text, words)


def configurations_table(comparison: Comparison) -> Table:
    """Make the table with one row a configuration: green meets the target, a star is the best mean of the gate."""
    several = len(comparison.cohorts) > 1
    table = _table("Configurations")
    for name in ("#", *["data"] * several):
        table.add_column(name, justify="right")
    for key in comparison.keys:
        table.add_column(broken(key.label), justify="right")
    for name in ("seeds", "passed", "front"):
        table.add_column(name, justify="right")
    _add_gate_columns(table, comparison.gates)
    table.add_column("mean\nrank", justify="right")
    cohorts = {cohort.label: cohort for cohort in comparison.cohorts}
    best = {label: {gate.name: best_of(cohort, gate) for gate in comparison.gates} for label, cohort in cohorts.items()}
    for place, one in enumerate(comparison.rows):
        if place and one.cohort != comparison.rows[place - 1].cohort:
            table.add_section()
        table.add_row(
            str(one.number),
            *[one.cohort] * several,
            *(Text(shown_value(one.values[key.name])) for key in comparison.keys),
            str(len(one.runs)),
            shown_passed(one, len(comparison.gates)),
            front_mark(cohorts[one.cohort], one),
            *(_gate_cell(one, gate, one.number in best[one.cohort][gate.name]) for gate in comparison.gates),
            f"{one.mean_rank:.1f}",
        )
    table.caption = Text("mean and standard deviation over the seeds; * best mean, green meets the target")
    return table


def front_mark(cohort: Cohort, one: Configuration) -> str:
    """Return ``yes`` for a configuration on the front, ``n/a`` for one that cannot be placed."""
    return "yes" if one.number in cohort.front.members else "n/a" if one.number in cohort.front.excluded else ""


def _gate_cell(one: Configuration, gate: Objective, is_best: bool) -> Text:
    summary = one.gates[gate.name]
    style = "green" if meets(gate, summary.mean) else ""
    return Text(shown_summary(summary) + "*" * is_best, style=f"bold {style}" if is_best else style)


def effects_table(comparison: Comparison, cohort: Cohort) -> Table:
    """Make the table of the mean of every gate for every value of every swept key."""
    table = _table("Effect of each swept key: mean over the runs with a value" + of_data(comparison, cohort))
    table.add_column("key")
    for name in ("value", "runs"):
        table.add_column(name, justify="right")
    _add_gate_columns(table, comparison.gates)
    for effect in cohort.effects:
        for place, (value, means) in enumerate(effect.means.items()):
            name = effect.key.name + " (unbalanced)" * (not effect.balanced)
            cells = (significant(means[gate.name]) for gate in comparison.gates)
            table.add_row(
                Text(name if place == 0 else ""), Text(shown_value(value)), str(effect.num_runs[value]), *cells
            )
        ranges = (significant(effect.ranges[gate.name]) for gate in comparison.gates)
        table.add_row("", "range", "", *ranges, style="bold", end_section=True)
    return table


def differences_table(comparison: Comparison, cohort: Cohort) -> Table:
    """Make the table of the differences from the baseline."""
    styles = {"better": "bold green", "worse": "bold red", "": ""}
    table = _table(f"Differences from #{cohort.baseline.number}" + of_data(comparison, cohort))
    for name in ("#", "shared\nseeds"):
        table.add_column(name, justify="right")
    _add_gate_columns(table, comparison.gates)
    for number, row in cohort.differences.items():
        cells = [
            Text(shown_difference(row[gate.name]), style=styles[tells(gate, row[gate.name])])
            for gate in comparison.gates
        ]
        table.add_row(str(number), str(max(one.num_seeds for one in row.values())), *cells)
    return table


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", caption_justify="left", pad_edge=False)


def _add_gate_columns(table: Table, gates: Sequence[Objective]) -> None:
    for gate in gates:
        table.add_column(f"{broken(gate.name)}\n{wanted(gate)}", justify="right")


# --------------------------------------------------------------------------------------------------------------------
# All runs
# --------------------------------------------------------------------------------------------------------------------


def write_runs(comparison: Comparison, path: Path) -> Path:
    """Write one row a run, with everything that differs between runs, in full precision; returns ``path``."""
    keys = [name for key in comparison.keys for name in (key.name, *key.followers)]
    gates = [gate.name for gate in comparison.gates]
    columns = ["configuration", "data", *keys, "seed", *gates, "gates_passed", "run", "run_id", "state"]
    rows: list[list[object]] = []
    for one in comparison.rows:
        for run in one.runs:
            values = [run.gates[name].value if name in run.gates else None for name in gates]
            passed = sum(gate.passed for gate in run.gates.values())
            settings = [run.params.get(key, ABSENT) for key in keys]
            rows.append([one.number, one.cohort, *settings, run.seed, *values, passed, run.name, run.run_id, run.state])
    return write_table(path, columns, rows)
