"""Observers: who watches training without taking part.

A part of group ``observer`` is a class or function that takes an `ObserverContext` and tunables and returns a
`menvae.types.Observer`, or None for a run in which it has nothing to do. menvae's own watch every run. Those of plugins
watch the runs whose configuration names them under ``observers``, because an observer can end a run or forbid an epoch
to be the best: ``+observer@observers.mine=mine``.
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
    """What observers are made from.

    Attributes:
        model: that is trained.
        metrics: that are computed of every validation.
        channels: names of the C channels.
        max_epochs: of the run.
        settings: section of the configuration -> its dataclass of settings, such as ``watch``.
        folder: the run directory; only the main rank writes there.
        is_main: whether this process is the main rank.
        volumes: None where the data are rows of a table.
        trial: the trial of a study that this run is, or None.
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
    """Return the observers of a run by key, ready to be built.

    Args:
        named: the section ``observers`` of the configuration.

    Raises:
        UserError: a part that is not registered, or a configuration that it refuses.
    """
    if not isinstance(named, Mapping):
        raise UserError(f"observers: {named!r} is not allowed; add one with +observer@observers.<name>=<name>")
    own = [part.name for part in parts_of("observer") if part.origin == "menvae"]
    for key, config in named.items():
        if isinstance(config, Mapping) and config.get("name") in own:
            raise UserError(f"observers.{key}: '{config['name']}' watches every run already; remove it")
    everything = {name: {"name": name} for name in own} | dict(named)
    return {key: bind("observer", config, f"observers.{key}") for key, config in everything.items()}


def build_observers(bound: Mapping[str, Bound], context: ObserverContext) -> list[Observer]:
    """Build the observers of a run, in the order in which they are called.

    Args:
        bound: see `bound_observers`.
        context: what they are made from.

    Raises:
        UserError: two of one class, of which a checkpoint can keep one.
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
                f"observers.{key}: '{other}' is a {type(observer).__name__} too, and a checkpoint keeps the state of "
                "one; remove one of them"
            )
        observers.append(observer)
    return sorted(observers, key=lambda observer: observer.order)
