"""Results of a comparison of runs, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from menvae.comparison.judged import GateValue, JudgedSplit
from menvae.comparison.pareto import Front, Objective
from menvae.comparison.replicates import Replicates
from menvae.comparison.swept_keys import SweptKey
from menvae.comparison.tracked_runs import TrackedRun
from menvae.statistics.discoveries import FALSE_DISCOVERY_RATE


@dataclass(frozen=True, slots=True)
class Summary:
    """One gate, or another number, of one configuration.

    Attributes:
        values: replicate (see `menvae.comparison.replicates`) -> value; None if it could not be computed.
        mean: mean over the computed values.
        deviation: standard deviation over the replicates (n - 1); None for fewer than two values.
        interval: 95 % confidence interval of the mean, None without one: over replicates, by Student's t; of pooled
            predictions, over patients, by the BCa bootstrap.
    """

    values: Mapping[str, float | None]
    mean: float | None
    deviation: float | None
    interval: tuple[float, float] | None

    @property
    def missing(self) -> int:
        """Number of runs without a value."""
        return sum(value is None for value in self.values.values())


@dataclass(frozen=True)
class Configuration:
    """Runs that differ only in their seed and their fold, or in other keys that tell replicates apart.

    Attributes:
        number: number in tables and pictures; 1 is the best of the largest cohort.
        cohort: label of its cohort.
        values: swept key -> value.
        runs: one run per replicate.
        gates: gate -> summary of the validation split.
        test_gates: gate -> summary of the test split, which ranks nothing; empty if no run was judged on it.
        gates_passed: number of gates passed on the validation split, averaged over the runs.
        mean_rank: rank in the cohort, averaged over the gates; 1 is best.
    """

    number: int
    cohort: str
    values: Mapping[str, str]
    runs: tuple[TrackedRun, ...]
    gates: Mapping[str, Summary]
    test_gates: Mapping[str, Summary]
    gates_passed: float
    mean_rank: float

    @property
    def gates_judged(self) -> float:
        """Number of gates with a value, averaged over the runs; the others count neither as passed nor as failed."""
        judged = [sum(gate.value is not None for gate in run.gates.values()) for run in self.runs]
        return sum(judged) / len(judged)

    @property
    def num_runs_passed(self) -> int:
        """Number of runs that passed every gate, on validation and on test split."""
        return sum(run.passed for run in self.runs)

    @property
    def test_gates_passed(self) -> float | None:
        """Number of gates passed on the test split, averaged over the runs judged on it; None without one."""
        return self._mean_on_test(lambda gate: gate.passed)

    @property
    def test_gates_judged(self) -> float | None:
        """Number of gates with a value on the test split, averaged over the runs judged on it; None without one."""
        return self._mean_on_test(lambda gate: gate.value is not None)

    def summaries(self, split: JudgedSplit) -> Mapping[str, Summary]:
        """Return gate -> summary of a split; empty if no run was judged on it."""
        return self.gates if split == "val" else self.test_gates

    def verdicts(self, gate: str, split: JudgedSplit) -> Counter[str]:
        """Return verdict -> number of runs; runs that were not judged on the split do not count."""
        return Counter(run.gates_on(split)[gate].verdict for run in self.runs if gate in run.gates_on(split))

    def _mean_on_test(self, counts: Callable[[GateValue], bool]) -> float | None:
        numbers = [sum(map(counts, run.test_gates.values())) for run in self.runs if run.test_gates]
        return sum(numbers) / len(numbers) if numbers else None


@dataclass(frozen=True, slots=True)
class Difference:
    """A gate of a configuration minus the same gate of the baseline, over their shared replicates.

    Attributes:
        num_shared: number of shared replicates; of pooled predictions, of shared repetitions of all folds.
        mean: mean difference; None without a shared replicate.
        interval: 95 % confidence interval of the mean, None without one: by paired t over at least two replicates; of
            pooled predictions, over patients, by the BCa bootstrap.
        p_value: two-sided p-value of a difference of 0, by the method of the interval; None if all are 0.
        q_value: the p-value adjusted for the number of tests, which bounds the false discovery rate.
    """

    num_shared: int
    mean: float | None
    interval: tuple[float, float] | None
    p_value: float | None = None
    q_value: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the adjusted p-value is below `FALSE_DISCOVERY_RATE`."""
        return self.q_value is not None and self.q_value < FALSE_DISCOVERY_RATE


@dataclass(frozen=True)
class Effect:
    """Effect of one swept key on the gates, averaged over everything else.

    Attributes:
        key: the key.
        num_runs: value of the key -> number of runs with it.
        means: value of the key -> gate -> mean over these runs.
        ranges: gate -> largest mean minus smallest mean.
        balanced: whether every value was run with the same settings of all other swept keys and the same replicates,
            equally often.
        intervals: value of the key -> gate -> 95 % interval of the mean, None without one (see
            `menvae.comparison.effects`).
        intervals_over: what the intervals are over, such as ``seeds``.
    """

    key: SweptKey
    num_runs: Mapping[str, int]
    means: Mapping[str, Mapping[str, float | None]]
    ranges: Mapping[str, float | None]
    balanced: bool
    intervals: Mapping[str, Mapping[str, tuple[float, float] | None]]
    intervals_over: str


@dataclass(frozen=True)
class OutOfFold:
    """Pooled predictions of the folds of one configuration: each subject judged by the model that has not seen it.

    Attributes:
        num_subjects: number of subjects that every repetition has judged.
        num_patients: number of their patients.
        num_known: number of subjects that any repetition of any configuration of the cohort has judged.
        missing: repetition -> the folds that it lacks; without those that lack none.
        metrics: key of a metric -> its summary over the repetitions, with the interval over patients.
        differences: gate -> difference from the baseline, over the same subjects and repetitions.
    """

    num_subjects: int
    num_patients: int
    metrics: Mapping[str, Summary]
    differences: Mapping[str, Difference] = field(default_factory=dict)
    num_known: int = 0
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """Configurations with the same data and the same targets.

    Attributes:
        label: A, B, ...
        data_hash: hash of the data.
        targets_hashes: hashes of the targets, one for each split.
        configurations: the best first.
        front: Pareto front over the means.
        effects: effects of the keys that differ in the cohort.
        baseline: configuration that the others are compared with.
        differences: number of a configuration -> gate -> difference from the baseline.
        out_of_fold: number of a configuration -> its pooled predictions; empty without folds.
    """

    label: str
    data_hash: str
    targets_hashes: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    front: Front
    effects: tuple[Effect, ...]
    baseline: Configuration
    differences: Mapping[int, Mapping[str, Difference]]
    out_of_fold: Mapping[int, OutOfFold] = field(default_factory=dict)

    @property
    def targets_words(self) -> str:
        """The hash of the targets, or for how many splits they were fitted."""
        first, *others = self.targets_hashes
        return f"of {1 + len(others)} splits" if others else first[:8] or "unknown"

    @property
    def runs(self) -> list[TrackedRun]:
        """All runs."""
        return [run for configuration in self.configurations for run in configuration.runs]

    @cached_property
    def extremes(self) -> Mapping[str, tuple[frozenset[int], frozenset[int]]]:
        """Gate -> numbers of the configurations with the smallest mean and with the largest; none if all are equal."""
        found = {}
        for gate in self.configurations[0].gates:
            means = {one.number: mean for one in self.configurations if (mean := one.gates[gate].mean) is not None}
            if len(set(means.values())) < 2:
                found[gate] = (frozenset[int](), frozenset[int]())
                continue
            ends = (min(means.values()), max(means.values()))
            least, most = (frozenset(number for number, mean in means.items() if mean == end) for end in ends)
            found[gate] = (least, most)
        return found

    def sample(self, most: int) -> tuple[Configuration, ...]:
        """Return at most ``most`` (at least 2) configurations, spread evenly over the order of merit, with its ends."""
        count = len(self.configurations)
        if count <= most:
            return self.configurations
        return tuple(self.configurations[place * (count - 1) // (most - 1)] for place in range(most))

    def varying(self, keys: Sequence[SweptKey]) -> list[SweptKey]:
        """Return the keys that differ between the configurations."""
        return [key for key in keys if len({one.values[key.name] for one in self.configurations}) > 1]


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison.

    Attributes:
        gates: gates in the order of the table; if runs have different targets, with the most demanding one.
        keys: the swept keys, in the order of the configuration.
        cohorts: the largest first.
        rows: all configurations in the order of the table.
        notes: notes for the reader.
        replicates: what tells the runs of a configuration apart.
    """

    gates: tuple[Objective, ...]
    keys: tuple[SweptKey, ...]
    cohorts: tuple[Cohort, ...]
    rows: tuple[Configuration, ...]
    notes: tuple[str, ...]
    replicates: Replicates = field(default_factory=Replicates)

    @cached_property
    def splits(self) -> tuple[JudgedSplit, ...]:
        """The validation split, and the test split if any run was judged on it."""
        return ("val", "test") if any(row.test_gates for row in self.rows) else ("val",)
