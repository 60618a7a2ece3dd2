"""What a comparison of runs finds, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from menvae.comparison.pareto import Front, Objective
from menvae.comparison.swept_keys import SweptKey
from menvae.comparison.tracked_runs import TrackedRun


@dataclass(frozen=True)
class Summary:
    """One gate of one configuration.

    Attributes:
        values: seed -> value; None where it could not be computed.
        mean: over the values there are.
        deviation: standard deviation of one run (n - 1); None below two values.
    """

    values: Mapping[str, float | None]
    mean: float | None
    deviation: float | None

    @property
    def missing(self) -> int:
        """Number of runs without a value."""
        return sum(value is None for value in self.values.values())


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in nothing but their seed.

    Attributes:
        number: its name in tables and pictures; 1 is the best of the largest cohort.
        cohort: label of the data it met.
        values: swept key -> value.
        runs: one a seed.
        gates: by name.
        gates_passed: mean over the runs of the number of gates passed.
        mean_rank: mean over the gates of the rank of its mean in the cohort; 1 is best.
    """

    number: int
    cohort: str
    values: Mapping[str, str]
    runs: tuple[TrackedRun, ...]
    gates: Mapping[str, Summary]
    gates_passed: float
    mean_rank: float

    @property
    def num_runs_passed(self) -> int:
        """Runs that passed every gate."""
        return sum(all(gate.passed for gate in run.gates.values()) for run in self.runs)


@dataclass(frozen=True)
class Difference:
    """A gate of a configuration minus the same gate of the baseline, over the seeds both have.

    Attributes:
        num_seeds: how many those are.
        mean: of the differences; None without a shared seed.
        interval: of the mean, 95 %, paired t; None below two shared seeds.
    """

    num_seeds: int
    mean: float | None
    interval: tuple[float, float] | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Effect:
    """What one swept key does to the gates, all else averaged.

    Attributes:
        key: the key.
        num_runs: value of the key -> number of runs with it.
        means: value of the key -> gate -> mean over these runs.
        ranges: gate -> largest mean minus smallest mean.
        balanced: whether every value met the same settings of all other swept keys and the same seeds, equally often.
    """

    key: SweptKey
    num_runs: Mapping[str, int]
    means: Mapping[str, Mapping[str, float | None]]
    ranges: Mapping[str, float | None]
    balanced: bool


@dataclass(frozen=True)
class Cohort:
    """Configurations that met the same data and the same targets.

    Attributes:
        label: A, B, ...
        data_hash: of the data.
        targets_hash: of the targets.
        configurations: the best first.
        front: the Pareto front over the means.
        effects: of the keys that differ in the cohort.
        baseline: what the others are compared with.
        differences: number of a configuration -> gate -> difference from the baseline.
    """

    label: str
    data_hash: str
    targets_hash: str
    configurations: tuple[Configuration, ...]
    front: Front
    effects: tuple[Effect, ...]
    baseline: Configuration
    differences: Mapping[int, Mapping[str, Difference]]

    @property
    def runs(self) -> list[TrackedRun]:
        """All runs."""
        return [run for configuration in self.configurations for run in configuration.runs]


@dataclass(frozen=True)
class Comparison:
    """Everything that is said about some runs.

    Attributes:
        gates: in the order of the table; where runs had different targets, the most demanding.
        keys: the swept keys, in the order of the configuration.
        cohorts: the largest first.
        rows: all configurations in the order of the table.
        notes: in words, what a reader must know.
    """

    gates: tuple[Objective, ...]
    keys: tuple[SweptKey, ...]
    cohorts: tuple[Cohort, ...]
    rows: tuple[Configuration, ...]
    notes: tuple[str, ...]
