"""What a sweep would run: its points, which of them are one, and what is left of each to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from menvae.errors import UserError
from menvae.sweeps.status import Fate, PointStatus, sweep_status
from menvae.sweeps.sweep import Point, Sweep, SweepSettings
from menvae.tracking.run_directory import free_name

Identify = Callable[[Mapping[str, Any]], str]
"""Composed configuration -> name of its run; raises `UserError` for a configuration that cannot be."""


@dataclass(frozen=True)
class PlannedPoint:
    """One job of a sweep before it is run.

    Attributes:
        overrides: what sets it apart.
        config: composed configuration, plain values.
        status: what is known of it; None for a configuration that cannot be.
        problem: why it cannot be, or empty.
        duplicate_of: index of an earlier job that is the same run, or None.
        other_code: whether other code finished it.
    """

    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    status: PointStatus | None = None
    problem: str = ""
    duplicate_of: int | None = None
    other_code: bool = False


def plan_points(
    sweep: Sweep,
    jobs: Sequence[tuple[Sequence[str], Mapping[str, Any]]],
    identify: Identify,
    settings: SweepSettings,
    code_hash: str,
) -> list[PlannedPoint]:
    """Return one planned point for every job.

    Args:
        sweep: where they belong; nothing is written.
        jobs: (overrides, composed configuration) of each.
        identify: gives the name of a run.
        settings: what to do about code that changed.
        code_hash: of the code as it is now.
    """
    known = {point.run: point for point in sweep.points()}
    taken: dict[str, int] = {}
    planned: list[PlannedPoint] = []
    points: dict[int, Point] = {}
    for index, (overrides, config) in enumerate(jobs):
        planned.append(PlannedPoint(tuple(overrides), config))
        try:
            identity = identify(config)
        except UserError as error:
            planned[index] = replace(planned[index], problem=str(error))
            continue
        if identity in taken and config["trainer"]["resume"] != "never":
            planned[index] = replace(planned[index], duplicate_of=taken[identity])
            continue
        run, other_code = _run_of(sweep, identity, config, settings, code_hash, taken)
        taken[identity] = taken[run] = index
        planned[index] = replace(planned[index], other_code=other_code)
        points[index] = known.get(run) or Point(len(known) + len(points), run, tuple(overrides))
    for index, status in zip(points, sweep_status(sweep, points.values()), strict=True):
        planned[index] = replace(planned[index], status=status)
    return planned


def _run_of(
    sweep: Sweep,
    identity: str,
    config: Mapping[str, Any],
    settings: SweepSettings,
    code_hash: str,
    taken: Mapping[str, int],
) -> tuple[str, bool]:
    """Return the run directory for an identity, and whether other code has finished it."""
    if config["trainer"]["resume"] == "never":
        return free_name(sweep.runs, identity, taken), False
    newest = max(
        (path for path in sweep.runs.glob(f"{identity}*") if path.name.removeprefix(identity).lstrip("_").isdigit()),
        key=lambda path: int(path.name.removeprefix(identity).lstrip("_")),
        default=sweep.runs / identity,
    )
    path = newest / "status.json"
    status = json.loads(path.read_text()) if path.is_file() else {}
    other_code = status.get("state") == Fate.FINISHED and status.get("code", code_hash) != code_hash
    if other_code and settings.on_code_change == "rerun":
        return free_name(sweep.runs, identity, taken), False
    return newest.name, other_code
