"""All trackers of a run: a failing tracker affects neither the run nor the other trackers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from menvae.registry import Bound, bind
from menvae.tracking.facts import Facts
from menvae.tracking.local import LocalLog
from menvae.tracking.tracker import DatasetInput, Status, Tracker, TrackerContext, TrackingSettings

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


def bind_trackers(settings: TrackingSettings) -> dict[str, Bound]:
    """Return the checked trackers of a configuration by their keys; raises `UserError`."""
    return {key: bind("tracker", config, f"tracking.trackers.{key}") for key, config in settings.trackers.items()}


class Trackers:
    """The trackers of one run, with the methods of `Tracker`.

    Args:
        trackers: {key: tracker}.
        kept_for: context of the run; its folder keeps what trackers need to start the run later. None: keep nothing.
    """

    def __init__(self, trackers: Mapping[str, Tracker], kept_for: TrackerContext | None = None) -> None:
        self._working = dict(trackers)
        self._kept_for = kept_for

    @classmethod
    def of(cls, context: TrackerContext, only: Collection[str] | None = None, *, keeps_facts: bool = True) -> Trackers:
        """Build the trackers of a run.

        Args:
            context: context of the run.
            only: keys of the trackers to build; None: all that runs are sent to while they are trained.
            keeps_facts: whether `start` keeps in the folder of the run what it tells the trackers, unless tracking is
                off.

        Raises:
            UserError: the configuration of a tracker is invalid.
        """
        settings, bound = context.settings, bind_trackers(context.settings)
        keys = settings.active if only is None else settings.active & set(only)
        checked = bound.keys() if settings.enabled and settings.offline else keys  # built only to refuse wrong settings
        built = {key: bound[key](context) for key in bound if key in checked}
        keeps_facts = keeps_facts and settings.enabled and bool(bound)
        return cls({key: built[key] for key in built if key in keys}, context if keeps_facts else None)

    @property
    def addresses(self) -> dict[str, str]:
        """The address of each tracker, by key."""
        return {key: tracker.address for key, tracker in self._working.items()}

    def start(
        self,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        log: LocalLog,
        datasets: Sequence[DatasetInput] = (),
    ) -> None:
        """Open the run in all trackers."""
        if self._kept_for is not None:
            Facts.of(self._kept_for, params, tags, datasets).write(self._kept_for.run_dir)
        self._ask_each(lambda tracker: tracker.start(params, tags, log, datasets))

    def log(self, epoch: int, metrics: Mapping[str, float | None], timings: Mapping[str, float]) -> None:
        """Send one epoch."""
        self._ask_each(lambda tracker: tracker.log(epoch, metrics, timings))

    def log_artifacts(self, paths: Sequence[Path]) -> None:
        """Send files of the run directory."""
        self._ask_each(lambda tracker: tracker.log_artifacts(paths))

    def finish(
        self, status: Status, tags: Mapping[str, str] | None = None, *, patience_s: float | None = None
    ) -> frozenset[str]:
        """Close the run in all trackers; return the keys of those that have the complete run."""
        answers = self._ask_each(lambda tracker: tracker.finish(status, tags, patience_s=patience_s))
        return frozenset(key for key, has_all in answers.items() if has_all)

    def _ask_each(self, call: Callable[[Tracker], Answer]) -> dict[str, Answer]:
        answers = {}
        for key, tracker in list(self._working.items()):
            try:
                answers[key] = call(tracker)
            except Exception as error:  # noqa: BLE001 - third-party code or a store must not stop training
                del self._working[key]
                _log.warning(
                    "tracker '%s' failed: %s: %s; the run continues without it; menvae-sweep sync or the same command "
                    "sends the rest later",
                    *(key, type(error).__name__, str(error).strip().partition("\n")[0] or "no message"),
                )
                _log.debug("tracker '%s'", key, exc_info=True)
        return answers
