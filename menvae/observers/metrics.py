"""Metrics of every validation."""

from __future__ import annotations

from menvae.evaluation.metrics import SplitRecorder
from menvae.observers import ObserverContext
from menvae.registry import register


@register("observer", "metrics")
def metrics(context: ObserverContext) -> SplitRecorder:
    """Computes every metric of the validation split."""
    return SplitRecorder(context.model, context.metrics)
