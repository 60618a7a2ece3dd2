"""Importance of the swept keys: the share of a gate's variance that each explains, by Optuna's functional ANOVA.

A random forest predicts the gate from the keys; its variance over all combinations of values is then split into that of
each key alone and the rest, which keys explain only together (Hutter, Hoos and Leyton-Brown 2014, An efficient approach
for assessing hyperparameter importance, ICML). Optuna weighs values by their distance and gives every word a column of
its own, of which it counts impossible combinations too. Here, each key is therefore the position among its values: all
values weigh the same, on whatever scale they were swept. Words are in the order of their means, in which a regression
tree finds its best split of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from menvae.comparison.pareto import Objective
from menvae.comparison.results import Cohort, Configuration
from menvae.comparison.swept_keys import SweptKey, natural
from menvae.comparison.tracked_runs import listed

FEWEST: Final = 8
"""Configurations that an importance needs."""
MOST: Final = 200
"""Configurations that it is computed from: the time grows faster than their number."""
_MOST_LEVELS: Final = 8
"""A key with more values, such as one of a random search, is cut into so many levels of equally many values."""
_NUM_TREES: Final = 32
_DEPTH: Final = 8
_SEED: Final = 0


@dataclass(frozen=True)
class Importance:
    """Importance of the keys of one cohort.

    Attributes:
        shares: gate -> name of a key -> share of the gate's variance, in [0, 1]; the rest belongs to interactions.
        num_configurations: configurations that it was computed from.
        notes: sentences about what it does not say.
    """

    shares: Mapping[str, Mapping[str, float]]
    num_configurations: int
    notes: tuple[str, ...]


def importance_of(cohort: Cohort, keys: Sequence[SweptKey], gates: Sequence[Objective]) -> Importance:
    """Compute the importance of every key for every gate, from the means of the validation split.

    Args:
        cohort: the configurations.
        keys: the swept keys.
        gates: the gates.
    """
    varying = cohort.varying(keys)
    fixed = [key.name for key in keys if key not in varying]
    count = len(cohort.configurations)
    notes = [f"Without importance, because it never varies here: {', '.join(fixed)}."] * bool(fixed and varying)
    if len(varying) < 2:
        if varying and count > 1:
            notes.append(f"Only {varying[0].name} varies, so there is nothing to share between keys.")
        return Importance({}, count, tuple(notes))
    if count < FEWEST:
        notes.append(f"The importance of keys needs at least {FEWEST} configurations; there are {count}.")
        return Importance({}, count, tuple(notes))
    shares: dict[str, Mapping[str, float]] = {}
    sample, unmeasured, constant = cohort.sample(MOST), [], []
    for gate in gates:
        known = [(one, mean) for one in sample if (mean := one.gates[gate.name].mean) is not None]
        if len(known) < FEWEST:
            unmeasured.append(gate.name)
        elif len({mean for _, mean in known}) == 1:
            constant.append(gate.name)
        else:
            shares[gate.name] = _shares([one for one, _ in known], [mean for _, mean in known], varying)
    if unmeasured:
        notes.append(f"Fewer than {FEWEST} configurations have a value for {listed(unmeasured)}.")
    if constant:
        notes.append(f"All configurations are equal in {listed(constant)}.")
    return Importance(shares, len(sample), tuple(notes))


def _shares(
    configurations: Sequence[Configuration], means: Sequence[float], keys: Sequence[SweptKey]
) -> Mapping[str, float]:
    """Return key -> share of the variance of the means; keys with one value among these configurations have 0."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    columns = {key.name: levels([one.values[key.name] for one in configurations], means) for key in keys}
    spaces = {name: optuna.distributions.IntDistribution(0, max(column)) for name, column in columns.items()}
    study = optuna.create_study()
    study.add_trials(
        optuna.trial.create_trial(
            params={name: column[place] for name, column in columns.items()},
            distributions=dict(spaces),
            value=mean,
        )
        for place, mean in enumerate(means)
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_NUM_TREES, max_depth=_DEPTH, seed=_SEED)
    found = evaluator.evaluate(study)
    return {key.name: float(found[key.name]) for key in keys}


def levels(values: Sequence[str], means: Sequence[float]) -> list[int]:
    """Return the level of each value, from 0: its position among all values, or a coarser one if there are many.

    Args:
        values: value of the key in each configuration.
        means: value of the gate in each configuration, which orders words.

    >>> levels(["10", "0.1", "1", "0.1"], [0.0, 0.0, 0.0, 0.0])
    [2, 0, 1, 0]
    >>> levels(["resize", "shuffle", "resize", "sbd"], [1.0, 0.0, 3.0, 5.0])
    [1, 0, 1, 2]
    """
    distinct = sorted(set(values), key=natural)
    if any(natural(value)[0] for value in distinct):
        of_word: dict[str, list[float]] = {}
        for value, mean in zip(values, means, strict=True):
            of_word.setdefault(value, []).append(mean)
        distinct.sort(key=lambda value: fmean(of_word[value]))
    num = min(len(distinct), _MOST_LEVELS)
    level = {value: place * num // len(distinct) for place, value in enumerate(distinct)}
    return [level[value] for value in values]


def importance_words(importance: Importance, cohort: Cohort) -> list[str]:
    """Explain how to read the importance, and say what is missing."""
    if not importance.shares:
        return list(importance.notes)
    count = len(cohort.configurations)
    of_all = f" of {count:,}, evenly along the order of merit" * (importance.num_configurations < count)
    return [
        "Importance: the share of a gate's variance between configurations that a key explains alone, by functional "
        f"ANOVA of a random forest (Optuna), from {importance.num_configurations} configurations{of_all}; the rest is "
        "due to keys that act together. It depends on the values that were swept.",
        *importance.notes,
    ]
