"""Observers are registered: which ones watch a run, in which order, and what a configuration may name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from menvae.conformance import ObserverConformance
from menvae.errors import UserError
from menvae.observers import ObserverContext, bound_observers, build_observers
from menvae.pictures import PictureSettings
from menvae.registry import register, unregister
from menvae.types import Observer


class Counter(Observer):
    """Counts."""

    def __init__(self, every: int) -> None:
        self.every = every


@pytest.fixture(autouse=True)
def counter() -> Iterator[None]:
    def build_counter(context: ObserverContext, *, every: int = 2) -> Counter:
        """Counts epochs."""
        return Counter(every + context.max_epochs)

    register("observer", "counter")(build_counter)
    yield
    unregister("observer", "counter")


@pytest.fixture
def context(tmp_path: Path) -> ObserverContext:
    return ObserverConformance().context(tmp_path)


def built(named: dict[str, Any], context: ObserverContext) -> list[Observer]:
    return build_observers(bound_observers(named), context)


def names(observers: list[Observer]) -> list[str]:
    return [type(observer).__name__ for observer in observers]


def test_those_of_menvae_watch_every_run_and_checkpoints_know_them_by_these_names(context: ObserverContext) -> None:
    everything = ["SplitRecorder", "CollapseWatch", "TrialReporter", "ReconstructionPictures"]
    assert names(built({}, context)) == everything
    assert names(built({}, replace(context, trial=None))) == [
        "SplitRecorder",
        "CollapseWatch",
        "ReconstructionPictures",
    ]
    assert names(built({}, replace(context, is_main=False))) == everything[:3]
    assert names(built({}, replace(context, volumes=None))) == everything[:3]
    none_drawn = {**context.settings, "pictures": PictureSettings(num_subjects=0)}
    assert names(built({}, replace(context, settings=none_drawn))) == everything[:3]
    several_objectives = replace(context, trial=replace(context.trial, metric=""))  # type: ignore[type-var]
    assert "TrialReporter" not in names(built({}, several_objectives))


def test_one_of_a_plugin_watches_where_it_is_named_in_its_order(context: ObserverContext) -> None:
    observers = built({"mine": {"name": "counter", "every": 5}}, context)
    assert names(observers) == ["SplitRecorder", "CollapseWatch", "Counter", "TrialReporter", "ReconstructionPictures"]
    (mine,) = [observer for observer in observers if isinstance(observer, Counter)]
    assert mine.every == 5 + context.max_epochs


def test_settings_reach_them(context: ObserverContext) -> None:
    by_name = {type(observer).__name__: observer for observer in built({}, context)}
    assert by_name["CollapseWatch"].settings is context.settings["watch"]  # type: ignore[attr-defined]
    assert by_name["ReconstructionPictures"].settings is context.settings["pictures"]  # type: ignore[attr-defined]
    assert by_name["ReconstructionPictures"].folder == context.folder / "pictures"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ([], "observers: [] is not allowed; add one with +observer@observers.<name>=<name>"),
        ({"mine": {"name": "countr"}}, "observers.mine: 'countr' is not registered; did you mean 'counter'?"),
        (
            {"mine": {"name": "counter", "evry": 1}},
            "observers.mine.evry: no such key of 'counter'; did you mean 'every'?",
        ),
        ({"mine": None}, "observers.mine: None is not allowed; choose one"),
        (
            {"mine": {"name": "metrics"}},
            "observers.mine: 'metrics' is built in and already watches every run; remove it",
        ),
        (
            {"metrics": {"name": "counter"}},
            "observers.metrics: 'metrics' is built in and already watches every run; remove it",
        ),
    ],
)
def test_wrong_keys_are_refused(named: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        bound_observers(named)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_two_of_one_class_are_refused_because_a_checkpoint_keeps_one(context: ObserverContext) -> None:
    with pytest.raises(
        UserError, match=r"^observers\.b: 'a' is a Counter too, but a checkpoint stores the state of only one"
    ):
        built({"a": {"name": "counter"}, "b": {"name": "counter"}}, context)
