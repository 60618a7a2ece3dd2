"""Settings of sections that belong to no other package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Keys of ``sweep.*``.

    Attributes:
        name: folder of the sweep and name of its run in trackers; None derives it from the run's name, the swept keys
            and the other overrides, so that a further value extends the sweep and a further key starts another.
        on_code_change: what to do about a point that a different version of the code has finished: ``warn`` keeps it,
            ``rerun`` runs it again.
        action: ``run`` unfinished points, only ``plan`` them, or ``retry`` only failed points.
        cost: whether ``plan`` estimates how long the points take: it times some steps, and prepares missing data.
        space: {key: search space} in the syntax of ``-m``: ``choice(8,16,24)``, ``range(8,33,8)``, ``interval(0,10)``,
            ``tag(log,interval(1e-4,1e-2))``; for sweepers that search.
        objectives: {metric: ``maximize`` or ``minimize``}; a key of ``metrics.jsonl``, at the best epoch, or
            ``gate/<name>``.
    """

    name: str | None = None
    on_code_change: Literal["warn", "rerun"] = "warn"
    action: Literal["run", "plan", "retry"] = "run"
    cost: bool = False
    space: Mapping[str, str] = field(default_factory=dict)
    objectives: Mapping[str, Literal["maximize", "minimize"]] = field(default_factory=dict)
