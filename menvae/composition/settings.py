"""Settings of sections that belong to no other package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from menvae.composition.condition import Condition
from menvae.composition.until import Until
from menvae.errors import UserError

SHARED_BY_POINTS = ("sweep", "hydra", "output_dir", "tracking")
"""Sections and keys that the points of a sweep have in common."""


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Keys of ``sweep.*``.

    Attributes:
        name: folder of the sweep and name of its run in trackers; None derives it from the run's name, the swept keys
            and the other overrides, so that a further value extends the sweep and a further key starts another.
        on_code_change: what to do about a point that a different version of the code has finished: ``warn`` keeps it,
            ``rerun`` runs it again.
        action: ``run`` unfinished points, only ``plan`` them, or ``retry`` only failed points.
        cause: for ``retry``: only points that failed so: a fate such as ``out_of_memory``, or the name of an exception.
        changes: for ``retry`` with a cause: overrides, such as ``trainer.batch_size=4``. Each point that fails so runs
            with them, as a new point that stands for it if they change its result.
        cost: whether ``plan`` estimates how long the points take: it times some steps, and prepares missing data.
        space: {key: its values} in the syntax of ``-m``: ``1..5``, ``choice(8,16,24)``, ``range(8,33,8)``,
            ``zip(1,5,10)``; for sweepers that search also ``interval(0,10)``, ``tag(log,interval(1e-4,1e-2))``. Keys of
            the command line replace them.
        points: CSV or YAML file of a table of points, whose columns are keys; combined with all other axes.
        where: condition that a point has to meet, see `menvae.composition.condition`; others are left out.
        until: interval over replicates that a configuration has to reach, see `menvae.composition.until`; after the
            points have ended, each gets one seed more, with all of its folds, until it does. None adds no seeds.
        max_seeds: number of seeds of a configuration at most, with ``until``.
        objectives: {metric: ``maximize`` or ``minimize``}; a key of ``metrics.jsonl``, at the best epoch, or
            ``gate/<name>``.
        constraints: gates that the best trial, or those of the Pareto front, have to pass: names of ``gates.*``, or
            ``passed`` for all of a run.
    """

    name: str | None = None
    on_code_change: Literal["warn", "rerun"] = "warn"
    action: Literal["run", "plan", "retry"] = "run"
    cause: str | None = None
    changes: tuple[str, ...] = ()
    cost: bool = False
    space: Mapping[str, str] = field(default_factory=dict)
    points: str | None = None
    where: str | None = None
    until: str | None = None
    max_seeds: Annotated[int, Field(ge=2)] = 10
    objectives: Mapping[str, Literal["maximize", "minimize"]] = field(default_factory=dict)
    constraints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the condition, the wanted interval, and what only a retry has; raises `UserError`."""
        _ = self.condition, self.wanted_interval
        if self.changes and self.cause is None:
            raise UserError("sweep.changes: needs sweep.cause; give menvae-sweep retry --cause CAUSE KEY=VALUE")
        if self.cause is not None and self.action != "retry":
            raise UserError(f"sweep.cause: only a retry has one; give menvae-sweep retry --cause {self.cause}")

    @property
    def condition(self) -> Condition | None:
        """The condition that points have to meet."""
        return None if self.where is None else Condition(self.where, "sweep.where")

    @property
    def wanted_interval(self) -> Until | None:
        """The interval that configurations have to reach."""
        return None if self.until is None else Until.parse(self.until, "sweep.until")
