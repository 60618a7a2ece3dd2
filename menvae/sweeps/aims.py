"""What a sweep aims at, checked before its first point: metrics that it optimises, and gates that it demands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from menvae.composition.experiment import Experiment
from menvae.composition.settings import SweepSettings
from menvae.composition.structure import Checker
from menvae.errors import UserError, nearest
from menvae.studies import ALL_GATES

_OPEN = ("train_epoch", "val_epoch", "sched", "diag", "epoch")
"""Families of ``metrics.jsonl`` to which terms, the trainer and the collapse watch add what nobody declares."""
_GATE = "gate"


def check_aims(settings: SweepSettings, configs: Iterable[Mapping[str, Any]]) -> None:
    """Check that a configuration has the objectives and constraints of a sweep, as far as known before training.

    Args:
        settings: settings of the sweep.
        configs: composed configurations of its points; invalid ones, which a launch reports, do not count.

    Raises:
        UserError: no valid configuration has all of them.
    """
    check, problem = Checker(), ""
    for config in configs if settings.objectives or settings.constraints else ():
        try:
            found = _problem(settings, check(config))
        except UserError:
            continue
        if not found:
            return
        problem = problem or found
    if problem:
        raise UserError(problem)


class Known(NamedTuple):
    """What the runs of an experiment are known to have before training.

    Attributes:
        of_epochs: keys of the metrics of an epoch.
        at_end: keys of those computed at the end.
        gates: names of the gates that bound one of them, which are all that it has.
    """

    of_epochs: frozenset[str]
    at_end: frozenset[str]
    gates: tuple[str, ...]


def known_of(experiment: Experiment) -> Known:
    """Return the metrics and gates of an experiment."""
    metrics = experiment.build_metrics()
    of_epochs = frozenset(key for metric in metrics if metric.when == "epoch" for key in metric.names())
    at_end = frozenset(key for metric in metrics if metric.when == "final" for key in metric.names())
    targets = experiment.settings["gates"].targets
    gates = tuple(name for name, gate in targets.items() if gate.metric in of_epochs | at_end)
    return Known(of_epochs, at_end, gates)


def _problem(settings: SweepSettings, experiment: Experiment) -> str:
    """Return a sentence about the first objective or constraint that an experiment lacks; empty if it has all."""
    of_epochs, at_end, own_gates = known_of(experiment)
    gates = [*own_gates, ALL_GATES]
    known = of_epochs | {f"{_GATE}/{name}" for name in gates}
    for name in settings.constraints:
        if name not in gates:
            return f"sweep.constraints: '{name}' is not a gate of these runs; {nearest(name, gates)}"
    has_others = any(bound.part.origin != "menvae" for bound in experiment.observers.values())  # they add metrics
    for metric in settings.objectives:
        if metric in at_end:
            gate = f"'+gates.NAME={{metric: {metric}, above: 0}}'"
            return f"sweep.objectives: '{metric}' is computed only at the end; add {gate}, and aim at gate/NAME"
        family = metric.partition("/")[0]
        if metric not in known and family not in _OPEN and not (has_others and family != _GATE):
            near = nearest(metric, known, "menvae-parts metric")
            return f"sweep.objectives: '{metric}' is not a metric of these runs; {near}"
    return ""
