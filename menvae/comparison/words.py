"""Wording that tables, page and pictures of a comparison share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from menvae.comparison.judged import JudgedSplit
from menvae.comparison.pareto import RANGE_MARGIN, Objective
from menvae.comparison.replicates import label
from menvae.comparison.results import (
    Cohort,
    Comparison,
    Configuration,
    Difference,
    OutOfFold,
    Summary,
)
from menvae.comparison.swept_keys import ABSENT
from menvae.comparison.tracked_runs import TrackedRun, listed
from menvae.presentation.text import counted, significant, with_interval, with_spread
from menvae.statistics.discoveries import FALSE_DISCOVERY_RATE

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
NOTHING = "\N{EN DASH}"
VERDICTS = ("pass", "fail", "undecided", "not computed")
MOST_LEAKS = 3
MOST_ROWS = 200
"""Configurations that tables show; files have all."""
MOST_SENTENCES = 12
"""About single configurations."""
_LONGEST_TYPED = 9  # characters; longer numbers were drawn by a sampler, not typed


def wanted(gate: Objective) -> str:
    """Format the target of a gate.

    >>> wanted(Objective("max_dcor", 0.35, False))
    '< 0.35'
    """
    return f"{'>' if gate.larger_is_better else '<'} {gate.target:g}"


def shown_value(value: str) -> str:
    """Format the value of a key, or a dash if the run does not have the key; long numbers are rounded.

    >>> shown_value("8"), shown_value("0.0015"), shown_value("2.3978034484121404"), shown_value("cosine")
    ('8', '0.0015', '2.398', 'cosine')
    """
    if value == ABSENT:
        return NOTHING
    try:
        return value if len(value) <= _LONGEST_TYPED else f"{float(value):.4g}"
    except ValueError:
        return value


def shown_summary(summary: Summary) -> str:
    """Format a mean with the standard deviation over replicates, and the number of values if some are missing."""
    text = significant(summary.mean)
    if summary.mean is not None and summary.deviation is not None:
        text = with_spread(summary.mean, summary.deviation)
    return text + _missing_words(summary)


def shown_pooled(summary: Summary) -> str:
    """Format a metric of pooled predictions with its deviation over the repetitions and its interval over patients."""
    if summary.mean is None or summary.interval is None:
        return shown_summary(summary)
    return with_interval(summary.mean, summary.deviation, summary.interval) + _missing_words(summary)


def _missing_words(summary: Summary) -> str:
    """Return the number of values if some are missing."""
    if not summary.missing or summary.mean is None:
        return ""
    return f" ({len(summary.values) - summary.missing} of {len(summary.values)})"


def shown_difference(one: Difference) -> str:
    """Format a difference with the half-width of its interval; a star if it is clear."""
    if one.mean is None:
        return NOTHING
    sign = "+" * (one.mean > 0)
    if one.interval is None:
        return sign + significant(one.mean)
    return sign + with_spread(one.mean, (one.interval[1] - one.interval[0]) / 2) + "*" * one.is_clear


def shown_mean(mean: float | None, interval: tuple[float, float] | None) -> str:
    """Format a mean with the half-width of its interval, if it has one.

    >>> shown_mean(0.9, (0.85, 0.95)), shown_mean(0.9, None)
    ('0.900 \u00b10.050', '0.900')
    """
    if mean is None or interval is None:
        return significant(mean)
    return with_spread(mean, (interval[1] - interval[0]) / 2)


def shown_passed(one: Configuration) -> str:
    """Format the number of gates that a configuration passes, of those with a value, averaged over its runs."""
    return f"{one.gates_passed:.3g}/{one.gates_judged:.3g}"


def shown_test_passed(one: Configuration) -> str:
    """Format the number of gates passed on the test split like `shown_passed`; a dash if no run was judged on it."""
    if one.test_gates_passed is None:
        return NOTHING
    return f"{one.test_gates_passed:.3g}/{one.test_gates_judged:.3g}"


def verdict_counts(one: Configuration, gate: str, split: JudgedSplit) -> dict[str, int]:
    """Return verdict -> number of runs, all verdicts in order."""
    found = one.verdicts(gate, split)
    return {verdict: found[verdict] for verdict in VERDICTS}


def shown_verdicts(one: Configuration, gate: str, split: JudgedSplit) -> str:
    """Format the verdict of a single run, or how many of several pass; a dash without a verdict."""
    found = one.verdicts(gate, split)
    if not found:
        return NOTHING
    if found.total() == 1:
        (verdict,) = found
        return verdict.replace("not computed", "n/a")
    return f"{found['pass']}/{found.total()}"


def verdict_kind(one: Configuration, gate: str, split: JudgedSplit) -> str:
    """Return ``met`` if every run passes, ``bad`` if one fails, ``odd`` for others, empty without a verdict."""
    found = one.verdicts(gate, split)
    return "" if not found else "bad" if found["fail"] else "met" if set(found) == {"pass"} else "odd"


def largest_leaks(run: TrackedRun, split: JudgedSplit, most: int = MOST_LEAKS) -> str:
    """Name the largest leaks of a run that exceed their permutation null; empty without any."""
    leaks = [leak for leak in run.leaks.get(split, ()) if leak.is_above_null]
    return ", ".join(f"{leak.target} from {leak.source} {leak.value:.2f}" for leak in leaks[:most])


def leak_words(comparison: Comparison) -> list[str]:
    """Name the largest leaks of the best configurations, in their worst run; nothing for runs of earlier versions."""
    sentences = []
    for cohort in comparison.cohorts:
        best = cohort.configurations[0]
        found = [run for run in best.runs if largest_leaks(run, "val")]
        if not found:
            continue
        run = max(found, key=lambda run: run.leaks["val"][0].value)
        which = f", {comparison.replicates.name(run)}, the worst of {len(best.runs)}" * (len(best.runs) > 1)
        leaks = largest_leaks(run, "val")
        sentences.append(f"Largest leaks of #{best.number} (R2, validation split{which}): {leaks}.")
    return sentences


def not_judged_words(comparison: Comparison) -> list[str]:
    """Name the gates without a value, which "passed" does not count; for a part of the runs, with their number."""
    runs = [run for row in comparison.rows for run in row.runs]
    missing = {
        gate.name: sum(gate.name not in run.gates or run.gates[gate.name].value is None for run in runs)
        for gate in comparison.gates
    }
    named = [
        name if count == len(runs) else f"{name} ({count} of {len(runs)} runs)"
        for name, count in missing.items()
        if count
    ]
    return [f'Without a value (n/a), and not counted in "passed": {", ".join(named)}.'] * bool(named)


def shortened(comparison: Comparison) -> Comparison:
    """Return a comparison with only the rows that tables show."""
    return replace(comparison, rows=comparison.rows[:MOST_ROWS])


def shortened_words(comparison: Comparison) -> list[str]:
    """Say how many configurations tables leave out."""
    num = len(comparison.rows)
    return [f"Tables show the first {MOST_ROWS} of {num:,} configurations; the CSV files have all."] * (num > MOST_ROWS)


def meets(gate: Objective, value: float | None) -> bool:
    """Return whether a value meets the target of a gate."""
    return value is not None and (value > gate.target if gate.larger_is_better else value < gate.target)


def best_of(cohort: Cohort, gate: Objective) -> frozenset[int]:
    """Return the numbers of the configurations with the best mean of a gate; empty if all are equal."""
    least, most = cohort.extremes[gate.name]
    return most if gate.larger_is_better else least


def tells(gate: Objective, one: Difference) -> str:
    """Return ``better`` or ``worse`` if a difference is clear, else an empty string."""
    if not one.is_clear or one.mean is None:
        return ""
    return "better" if (one.mean > 0) == gate.larger_is_better else "worse"


def front_words(cohort: Cohort) -> list[str]:
    """Return sentences about the members of the Pareto front and its hypervolume."""
    front, count = cohort.front, len(cohort.configurations)
    if count == 1:
        return ["There is only one configuration, so there is no trade-off."]
    sentences = [
        f"Excluded from the front, because no configuration has a value in all its runs: {', '.join(front.unmeasured)}."
    ]
    sentences = sentences if front.unmeasured else []
    unplaced = [
        f"#{number} cannot be placed: one of its runs has no value for {listed(gates)}."
        for number, gates in front.excluded.items()
    ]
    if len(unplaced) > MOST_SENTENCES:
        numbers = listed([f"#{number}" for number in front.excluded], MOST_SENTENCES)
        why = "because one of their runs has no value for a gate"
        unplaced = [f"{len(unplaced)} configurations cannot be placed, {why}: {numbers}."]
    if not front.members:
        return [*sentences, *unplaced, f"There is no Pareto front: {_why_no_front(cohort)}."]
    members = f"{len(front.members)} of {count} configurations ({listed([f'#{one}' for one in front.members], 12)})"
    share = "every configuration" if len(front.members) == count else members
    sentences.append(f"Pareto front of the means over {counted(len(front.objectives), 'gate')}: {share}.")
    if len(front.members) > count / 2 > 1 and len(front.objectives) > 3:
        sentences.append("With this many gates, few configurations are dominated: choose fewer with front=[gate,gate].")
    sentences += unplaced
    if front.hypervolume > 0:
        sentences.append(f"Hypervolume beyond the targets of the gates: {significant(front.hypervolume)}.")
    else:
        sentences.append("Hypervolume beyond the targets of the gates: 0, because no configuration meets all of them.")
    return [*sentences, *_share_words(cohort)]


def _why_no_front(cohort: Cohort) -> str:
    front = cohort.front
    if len(front.objectives) == 1:
        return f"only one gate, {front.objectives[0]}, has values, and a single gate has no trade-off"
    num_placed = len(cohort.configurations) - len(front.excluded)
    if not front.objectives or num_placed == 0:
        return "no configuration has a value for every gate"
    return "only one configuration has a value for every gate, so there is nothing to compare it with"


def _share_words(cohort: Cohort) -> list[str]:
    front = cohort.front
    if front.range_share is None:
        return []
    equal = f"; excluded, because all are equal: {', '.join(front.constant)}" if front.constant else ""
    return [
        f"The front dominates {significant(front.range_share)} of the observed range (from the best value of every "
        f"gate to {RANGE_MARGIN:.0%} of the range beyond the worst{equal})."
    ]


def key_words(comparison: Comparison) -> list[str]:
    """Report which keys represent others, or that no key differs."""
    if not comparison.keys:
        if sum(len(row.runs) for row in comparison.rows) == 1:
            return ["There is one run."]
        differ = " and ".join([*["seed"] * comparison.replicates.has_seeds, *map(label, comparison.replicates.keys)])
        return [f"The runs differ only in their {differ or 'data'}: there is one configuration per data set."]
    return [
        f"{listed(key.followers)} changed together with {key.name}: their effects cannot be separated."
        for key in comparison.keys
        if key.followers
    ]


def effect_words(comparison: Comparison, cohort: Cohort) -> list[str]:
    """Report which keys are unbalanced."""
    unbalanced = [effect.key.name for effect in cohort.effects if not effect.balanced]
    if not unbalanced:
        return []
    return [
        f"Unbalanced: {', '.join(unbalanced)}. Not all values were run with the same settings of the other keys and "
        f"the same {comparison.replicates.words}, so differences may be due to those."
    ]


def difference_words(comparison: Comparison, cohort: Cohort) -> list[str]:
    """Explain how to read the differences from the baseline."""
    if not cohort.differences:
        return []
    found = [one for row in cohort.differences.values() for one in row.values()]
    words = comparison.replicates.words
    if max((one.num_shared for one in found), default=0) < 2:
        return [
            f"There are no intervals for the differences from #{cohort.baseline.number}: they need at least 2 shared "
            f"{words}."
        ]
    corrected = ", corrected for training subjects that folds share" * comparison.replicates.has_folds
    return [
        f"Differences from #{cohort.baseline.number} over shared {words}: mean {PLUS_MINUS} half-width of the 95 % "
        f"interval (paired t{corrected}). {_tests_words(found)}"
    ]


def out_of_fold_words(comparison: Comparison, cohort: Cohort) -> list[str]:
    """Explain how predictions were pooled, and which gates they do not judge; nothing without folds."""
    if not cohort.out_of_fold:
        return []
    sentences = [
        "Out of fold: the test splits of all folds pooled, so that each subject is judged by the model that has not "
        f"seen it; [95 % interval over patients]{f', {PLUS_MINUS} over seeds' * comparison.replicates.has_seeds}. "
        "Like every test split, it chooses nothing."
    ]
    sentences += _missing_folds_words(cohort)
    pooled = {gate.name for gate in pooled_gates(comparison)}
    if others := [gate.name for gate in comparison.gates if gate.name not in pooled]:
        sentences.append(
            "Not pooled, because they need more than per_subject.csv holds, such as latents, which each fold has of "
            f"its own: {listed(others, 12)}."
        )
    found = [one for row in cohort.out_of_fold.values() for one in row.differences.values()]
    if any(one.interval for one in found):
        sentences.append(
            f"Differences from #{cohort.baseline.number} of the same subjects: mean {PLUS_MINUS} half-width of the "
            f"95 % interval over patients (BCa), of these trained models: whether others would differ, only the "
            f"paired differences above say. {_tests_words(found)}"
        )
    return sentences


def _missing_folds_words(cohort: Cohort) -> list[str]:
    """Say which folds are missing, and how many subjects are therefore not pooled."""
    found: dict[str, list[int]] = {}
    for number, one in cohort.out_of_fold.items():
        words, lost = _lacking_words(one.missing), one.num_known - one.num_subjects
        if lost:
            end = f"{lost} of {one.num_known} subjects are not pooled"
            found.setdefault(f"{words}: {end}" if words else end, []).append(number)
        elif words:
            found.setdefault(f"{words}, so that not all subjects are pooled", []).append(number)
    sentences = [
        f"{listed([f'#{number}' for number in numbers], MOST_SENTENCES)}: {words}." for words, numbers in found.items()
    ]
    return sentences[:MOST_SENTENCES] + [
        f"Folds are missing for {len(sentences) - MOST_SENTENCES} other groups of configurations too."
    ] * (len(sentences) > MOST_SENTENCES)


def _lacking_words(missing: Mapping[str, Sequence[str]]) -> str:
    """Say which folds are missing for which repetitions.

    >>> _lacking_words({"seed 1": ("2",), "seed 2": ("0", "1"), "seed 3": ("2",)})
    'fold 2 is missing for seed 1, seed 3; folds 0, 1 are missing for seed 2'
    """
    names: dict[tuple[str, ...], list[str]] = {}
    for name, folds in missing.items():
        names.setdefault(tuple(folds), []).append(name)
    return "; ".join(
        f"{'folds' if len(folds) > 1 else 'fold'} {listed(folds)} {'are' if len(folds) > 1 else 'is'} missing for "
        f"{listed(of)}"
        for folds, of in names.items()
    )


def shown_subjects(one: OutOfFold) -> str:
    """Format the number of pooled subjects, of all that are known if some are missing."""
    return f"{one.num_subjects}" + f" of {one.num_known}" * (one.num_subjects < one.num_known)


def pooled_gates(comparison: Comparison) -> list[Objective]:
    """Return the gates whose metric is a mean over subjects, or a function of such means, in any configuration."""
    known = {key for cohort in comparison.cohorts for one in cohort.out_of_fold.values() for key in one.metrics}
    return [gate for gate in comparison.gates if gate.metric in known]


def _tests_words(found: Sequence[Difference]) -> str:
    """Explain the stars of differences that are one family of tests."""
    count = sum(one.p_value is not None for one in found)
    return (
        f"* marks p-values below {FALSE_DISCOVERY_RATE} after adjustment for {counted(count, 'test')} (false discovery "
        "rate, Benjamini and Hochberg)."
    )


def front_mark(cohort: Cohort, one: Configuration) -> str:
    """Return ``yes`` for a configuration on the front, ``n/a`` for one that cannot be placed."""
    return "yes" if one.number in cohort.front.on_front else "n/a" if one.number in cohort.front.excluded else ""


def of_data(comparison: Comparison, cohort: Cohort) -> str:
    """Return the cohort of a table as a suffix of its title, if there are several cohorts."""
    return f", data {cohort.label}" if len(comparison.cohorts) > 1 else ""
