"""Detection of posterior collapse."""

from __future__ import annotations

from menvae.evaluation.collapse import CollapseWatch
from menvae.observers import ObserverContext
from menvae.registry import register


@register("observer", "collapse_watch")
def collapse_watch(context: ObserverContext) -> CollapseWatch:
    """Warns of posterior collapse or ends the run, as set by ``watch.*``."""
    return CollapseWatch(context.settings["watch"], context.max_epochs)
