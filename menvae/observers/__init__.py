"""Observers: parts that watch training without influencing its steps.

A part of group ``observer`` is a class or function that takes an `ObserverContext` and tunables and returns a
`menvae.types.Observer`, or None for a run that it does not apply to. Built-in observers watch every run. An observer of
a plugin watches only runs whose configuration names it (``+observer@observers.mine=mine``), because an observer can end
a run or exclude an epoch from being the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from menvae.errors import UserError
from menvae.metrics import Metric
from menvae.models import Model
from menvae.pictures import VolumeFacts
from menvae.registry import Bound, bind, parts_of
from menvae.studies import Trial
from menvae.types import Observer


@dataclass(frozen=True, kw_only=True)
class ObserverContext:
    """What an observer knows about its run.

    Attributes:
        model: the model in training.
        metrics: metrics that every validation computes.
        channels: names of the C channels.
        max_epochs: length of the run.
        settings: section of the configuration, such as ``watch`` -> its dataclass of settings.
        folder: the run directory; only the main rank writes to it.
        is_main: whether this process is the main rank.
        volumes: facts about the volumes; None for the rows of a table.
        trial: trial of a study that this run belongs to, or None.
    """

    model: Model
    metrics: Sequence[Metric]
    channels: tuple[str, ...]
    max_epochs: int
    settings: Mapping[str, Any]
    folder: Path
    is_main: bool
    volumes: VolumeFacts | None = None
    trial: Trial | None = None


def bound_observers(named: Mapping[str, Any]) -> dict[str, Bound]:
    """Return the observers of a run by key, with checked configurations.

    Args:
        named: the section ``observers`` of the configuration.

    Raises:
        UserError: a named observer is not registered or is built in, or its configuration is not valid.
    """
    if not isinstance(named, Mapping):
        raise UserError(f"observers: {named!r} is not allowed; add one with +observer@observers.<name>=<name>")
    own = [part.name for part in parts_of("observer") if part.origin == "menvae"]
    for key, config in named.items():
        for name in (key, config.get("name") if isinstance(config, Mapping) else None):
            if name in own:
                raise UserError(f"observers.{key}: '{name}' is built in and already watches every run; remove it")
    everything = {name: {"name": name} for name in own} | dict(named)
    return {key: bind("observer", config, f"observers.{key}") for key, config in everything.items()}


def build_observers(bound: Mapping[str, Bound], context: ObserverContext) -> list[Observer]:
    """Build the observers of a run, sorted in calling order.

    Args:
        bound: output of `bound_observers`.
        context: run context.

    Raises:
        UserError: two observers have the same class; a checkpoint stores the state of only one.
    """
    keys: dict[str, str] = {}
    observers: list[Observer] = []
    for key, part in bound.items():
        observer: Observer | None = part(context)
        if observer is None:
            continue
        other = keys.setdefault(type(observer).__name__, key)
        if other != key:
            raise UserError(
                f"observers.{key}: '{other}' is a {type(observer).__name__} too, but a checkpoint stores the state of "
                "only one; remove one of them"
            )
        observers.append(observer)
    return sorted(observers, key=lambda observer: observer.order)
