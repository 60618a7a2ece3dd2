"""``sweep.until``: seeds that a sweep adds, until the interval of a metric over replicates is narrow enough."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from menvae.comparison.judged import read_evaluation, read_gates
from menvae.comparison.replicates import FOLD, VAL_FRACTION, shared_by_folds, validation_share
from menvae.comparison.summaries import mean_interval
from menvae.composition.structure import Checker
from menvae.composition.until import Until
from menvae.errors import UserError, nearest
from menvae.presentation.text import counted
from menvae.runs.reading import EVALUATION, FINAL_PREFIX
from menvae.sweeps.aims import known_of
from menvae.sweeps.status import PointStatus
from menvae.sweeps.sweep import key_of, label_of

_log = logging.getLogger(__name__)

_OF_VALIDATION = f"{FINAL_PREFIX}val/"
_SEED = "seed"


@dataclass
class _Configuration:
    """Points that differ only in their seed and fold.

    Attributes:
        overrides: overrides of all its points, without seed and fold.
        points: overrides of a point of each fold, without the seed.
        num_folds: the configured number of folds, as text.
        validation: share of all subjects that validates; None if unknown.
        folds: folds of its points.
        seeds: seeds of its points.
        left_out: the seed that was not added, because the condition of the sweep leaves it out; None without one.
        values: (overrides without the seed, seed) -> value of the metric, of finished runs that have one.
        has_failed: whether a run has not finished.
    """

    overrides: tuple[str, ...]
    points: dict[tuple[str, ...], None] = field(default_factory=dict)
    num_folds: str = ""
    validation: float | None = None
    folds: set[int] = field(default_factory=set)
    seeds: set[int] = field(default_factory=set)
    left_out: int | None = None
    values: dict[tuple[tuple[str, ...], int], float] = field(default_factory=dict)
    has_failed: bool = False

    @property
    def width(self) -> float | None:
        """Width of the interval over its runs, that of ``menvae-compare``; None for fewer than two values."""
        shared = shared_by_folds(len(self.folds), self.num_folds, self.validation)
        interval = mean_interval(list(self.values.values()), shared)
        return None if interval is None else interval[1] - interval[0]


class AddedSeeds:
    """Decides which seeds a sweep adds to which configurations.

    Args:
        until: the wanted interval.
        most: number of seeds of a configuration at most, those of the command line included.
        is_kept: whether the point with some overrides meets the condition of the sweep.
    """

    def __init__(self, until: Until, most: int, is_kept: Callable[[Sequence[str]], bool]) -> None:
        self._until, self._most, self._is_kept = until, most, is_kept
        self._configurations: dict[tuple[str, ...], _Configuration] = {}
        self._known: set[str] = set()

    def add(self, overrides: Sequence[str], config: Mapping[str, Any], status: PointStatus | None) -> None:
        """Add a point that has ended.

        Args:
            overrides: all overrides of the point.
            config: its composed configuration.
            status: its status; None if it cannot run.
        """
        own = tuple(text for text in overrides if key_of(text) != _SEED)
        shared = tuple(text for text in own if key_of(text) != FOLD)
        one = self._configurations.setdefault(shared, _Configuration(shared))
        one.points[own] = None
        one.seeds.add(config[_SEED])
        data = config["data"]
        if data.get("fold") is not None:
            one.folds.add(data["fold"])
            one.num_folds = str(data["num_folds"])
            one.validation = validation_share({f"data.{key}": value for key, value in data.items()})
        if status is None or status.run_dir is None or not status.fate.is_final:
            one.has_failed = True
            return
        found = _figures(status.run_dir)
        self._known |= found.keys()
        value = found.get(self._until.metric)
        if value is not None:
            one.values[own, config[_SEED]] = value

    def next_points(self) -> list[list[str]]:
        """Return the overrides of the points to run next: one more seed of every configuration that needs it.

        Raises:
            UserError: no finished run has the metric.
        """
        metric = self._until.metric
        if self._known and metric not in self._known:
            near = nearest(metric, self._known, "evaluation.json of a run")
            raise UserError(f"sweep.until: no run has a gate or metric '{metric}'; {near}")
        points, shared = [], self._shared()
        for one in self._configurations.values():
            is_out = one.left_out is not None
            if one.has_failed or is_out or self._is_known(one) or len(one.seeds) >= self._most:
                continue
            seed = max(one.seeds) + 1
            kept = [point for own in one.points if self._is_kept(point := [*own, f"{_SEED}={seed}"])]
            if kept:
                _log.info("%s; adding seed %d", self._words(one, shared), seed)
            else:
                one.left_out = seed
            points += kept
        return points

    def log_end(self) -> None:
        """Log for which configurations the interval is narrow enough, and what the intervals do not know."""
        if any(len(one.folds) > 1 and one.validation is None for one in self._configurations.values()):
            _log.warning(
                "sweep.until: intervals over folds may be too narrow: without %s it is unknown how many subjects "
                "validate instead of training; none are assumed to",
                VAL_FRACTION,
            )
        open_ones = [one for one in self._configurations.values() if not self._is_known(one)]
        num = len(self._configurations)
        if not open_ones:
            _log.info("sweep.until: the intervals of all configurations (%d) are narrow enough", num)
            return
        _log.warning("sweep.until: not all intervals are narrow enough (%d of %d are)", num - len(open_ones), num)
        shared = self._shared()
        for one in open_ones:
            why = f"sweep.max_seeds={self._most} is reached"
            if one.has_failed:
                why = "not all runs have finished"
            elif one.left_out is not None:
                why = f"sweep.where leaves out seed {one.left_out}"
            _log.warning("%s; %s", self._words(one, shared), why)

    def _is_known(self, one: _Configuration) -> bool:
        return one.width is not None and one.width < self._until.width

    def _shared(self) -> set[str]:
        """Return the overrides that all configurations have."""
        return set.intersection(*(set(one.overrides) for one in self._configurations.values()))

    def _words(self, one: _Configuration, shared: Collection[str]) -> str:
        """Return what distinguishes a configuration, and what is known of it."""
        own = [text for text in one.overrides if text not in shared]
        found = "no interval" if one.width is None else f"an interval of {one.width:.3g}"
        runs = counted(len(one.values), "run")
        return f"{f'{label_of(own)}: ' * bool(own)}{self._until.metric} has {found} over {runs}"


def check_number(points: Iterable[Sequence[str]], most: int) -> None:
    """Check that no configuration begins with more seeds than it may have; raises `UserError`."""
    seeds: dict[tuple[str, ...], set[str]] = {}
    for overrides in points:
        others = tuple(text for text in overrides if key_of(text) not in (_SEED, FOLD))
        of_seed = [text.partition("=")[2] for text in overrides if key_of(text) == _SEED]
        seeds.setdefault(others, set()).update(of_seed[-1:])
    num = max(map(len, seeds.values()), default=0)
    if num > most:
        raise UserError(f"sweep.max_seeds: {most} is not allowed; the sweep begins with {num} seeds of a configuration")


def check_metric(until: Until, configs: Iterable[Mapping[str, Any]]) -> None:
    """Check that a configuration has the gate or metric of ``sweep.until``, as far as that is known before training.

    Args:
        until: the wanted interval.
        configs: composed configurations of the points; one that is invalid is reported when it is launched.

    Raises:
        UserError: no configuration has it.
    """
    check, known = Checker(), set[str]()
    for config in configs:
        try:
            experiment = check(config)
        except UserError:
            return
        found = known_of(experiment)
        known |= {*found.of_epochs, *found.at_end, *found.gates}
        if until.metric in known:
            return
    if known:
        near = nearest(until.metric, known, "menvae-parts metric")
        raise UserError(f"sweep.until: no point of the sweep has a gate or metric '{until.metric}'; {near}")


def _figures(run_dir: Path) -> dict[str, float | None]:
    """Return the gates and metrics of the validation split of a run, by name."""
    judged = read_evaluation(run_dir / EVALUATION, read_gates(run_dir / "gates.json"))
    figures = {
        key.removeprefix(_OF_VALIDATION): value
        for key, value in judged.figures.items()
        if key.startswith(_OF_VALIDATION) and not key.endswith(("/low", "/high"))
    }
    return {**figures, **{name: gate.value for name, gate in judged.gates.items()}}
