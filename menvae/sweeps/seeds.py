"""``sweep.until``: seeds that a sweep adds, until the interval of a metric over replicates is narrow enough."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from menvae.comparison.judged import read_evaluation, read_gates
from menvae.comparison.replicates import FOLD, shared_by_folds
from menvae.comparison.summaries import mean_interval
from menvae.composition.until import Until
from menvae.errors import UserError, nearest
from menvae.runs.reading import EVALUATION, FINAL_PREFIX
from menvae.sweeps.status import PointStatus
from menvae.sweeps.sweep import label_of

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
        folds: folds of its points.
        seeds: seeds of its points.
        asked: the seed that was added last; None before the first.
        values: (overrides without the seed, seed) -> value of the metric, of finished runs that have one.
        has_failed: whether a run has not finished.
    """

    overrides: tuple[str, ...]
    points: dict[tuple[str, ...], None] = field(default_factory=dict)
    num_folds: str = ""
    folds: set[int] = field(default_factory=set)
    seeds: set[int] = field(default_factory=set)
    asked: int | None = None
    values: dict[tuple[tuple[str, ...], int], float] = field(default_factory=dict)
    has_failed: bool = False

    @property
    def is_left_out(self) -> bool:
        """Whether the added seed did not become a point, because it does not meet the condition of the sweep."""
        return self.asked is not None and self.asked not in self.seeds

    @property
    def width(self) -> float | None:
        """Width of the interval over its runs, that of ``menvae-compare``; None for fewer than two values."""
        shared = shared_by_folds(len(self.folds), self.num_folds)
        interval = mean_interval(list(self.values.values()), shared)
        return None if interval is None else interval[1] - interval[0]


class AddedSeeds:
    """Decides which seeds a sweep adds to which configurations.

    Args:
        until: the wanted interval.
        most: number of seeds of a configuration at most, those of the command line included.
    """

    def __init__(self, until: Until, most: int) -> None:
        self._until, self._most = until, most
        self._configurations: dict[tuple[str, ...], _Configuration] = {}
        self._known: set[str] = set()

    def add(self, overrides: Sequence[str], config: Mapping[str, Any], status: PointStatus | None) -> None:
        """Add a point that has ended.

        Args:
            overrides: all overrides of the point.
            config: its composed configuration.
            status: its status; None if it cannot run.
        """
        own = tuple(text for text in overrides if _key(text) != _SEED)
        shared = tuple(text for text in own if _key(text) != FOLD)
        one = self._configurations.setdefault(shared, _Configuration(shared))
        one.points[own] = None
        one.seeds.add(config[_SEED])
        data = config["data"]
        if data.get("fold") is not None:
            one.folds.add(data["fold"])
            one.num_folds = str(data["num_folds"])
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
            if one.has_failed or one.is_left_out or self._is_known(one) or len(one.seeds) >= self._most:
                continue
            seed = max(one.seeds) + 1
            _log.info("%s; adding seed %d", self._words(one, shared), seed)
            one.asked = seed
            points += [[*own, f"{_SEED}={seed}"] for own in one.points]
        return points

    def log_end(self) -> None:
        """Log for which configurations the interval is narrow enough."""
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
            elif one.is_left_out:
                why = f"sweep.where leaves out seed {one.asked}"
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
        runs = f"{len(one.values)} run{'s' * (len(one.values) != 1)}"
        return f"{f'{label_of(own)}: ' * bool(own)}{self._until.metric} has {found} over {runs}"


def _figures(run_dir: Path) -> dict[str, float | None]:
    """Return the gates and metrics of the validation split of a run, by name."""
    judged = read_evaluation(run_dir / EVALUATION, read_gates(run_dir / "gates.json"))
    figures = {
        key.removeprefix(_OF_VALIDATION): value
        for key, value in judged.figures.items()
        if key.startswith(_OF_VALIDATION) and not key.endswith(("/low", "/high"))
    }
    return {**figures, **{name: gate.value for name, gate in judged.gates.items()}}


def _key(override: str) -> str:
    """Return the key that an override sets.

    >>> _key("++seed=1")
    'seed'
    """
    return override.partition("=")[0].lstrip("+~")
