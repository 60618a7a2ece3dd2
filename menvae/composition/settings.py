"""Settings of sections that no other room owns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Keys of ``sweep.*``.

    Attributes:
        name: folder of the sweep and name of its run in trackers; None derives it from the run's name, what is swept,
            and the other overrides, so that a value more is the same sweep and a key more another one.
        on_code_change: what to do about a point that other code has finished: ``warn`` keeps it, ``rerun`` runs it
            again.
        action: ``run`` what is left to do, ``plan`` it only, or ``retry`` what failed and nothing else.
        cost: whether ``plan`` says how long the points take: it times a step, and prepares what the cache lacks.
        space: {key: what is searched there}, as it is typed for ``-m``: ``choice(8,16,24)``, ``range(8,33,8)``,
            ``interval(0,10)``, ``tag(log,interval(1e-4,1e-2))``; for sweepers that search.
        objectives: {metric: ``maximize`` or ``minimize``}; a key of ``metrics.jsonl``, at the best epoch, or
            ``gate/<name>``.
    """

    name: str | None = None
    on_code_change: Literal["warn", "rerun"] = "warn"
    action: Literal["run", "plan", "retry"] = "run"
    cost: bool = False
    space: Mapping[str, str] = field(default_factory=dict)
    objectives: Mapping[str, Literal["maximize", "minimize"]] = field(default_factory=dict)
