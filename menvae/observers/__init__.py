"""Observers: parts that watch training and take no part in it.

A part of group ``observer`` is a class or function that takes an `ObserverContext` and tunables and returns a
`menvae.types.Observer`, or None for a run in which it has nothing to do. The observers of menvae watch every run. An
observer of a plugin watches only runs whose configuration names it (``+observer@observers.mine=mine``), because an
observer can end a run or rule out an epoch as the best one.
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
    """What observers are built from.

    Attributes:
        model: the model in training.
        metrics: those that are computed in every validation.
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
        for name in (key, config.get("name") if isinstance(config, Mapping) else None):
            if name in own:
                raise UserError(
                    f"observers.{key}: '{name}' is an observer of menvae, which watches every run; remove it"
                )
    everything = {name: {"name": name} for name in own} | dict(named)
    return {key: bind("observer", config, f"observers.{key}") for key, config in everything.items()}


def build_observers(bound: Mapping[str, Bound], context: ObserverContext) -> list[Observer]:
    """Build the observers of a run, in the order in which they are called.

    Args:
        bound: see `bound_observers`.
        context: what they are built from.

    Raises:
        UserError: two observers of one class; a checkpoint keeps the state of one only.
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
