"""``menvae-evaluate``: judge finished runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from menvae.apps import application
from menvae.apps.encode import with_free_data

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> int:
    """Evaluate runs; the heavy imports wait until here."""
    from menvae.interruption import stop_requests
    from menvae.runs.evaluate import evaluate

    with stop_requests():
        return evaluate(config)


def main() -> None:
    """Entry point."""
    sys.argv[1:] = with_free_data(sys.argv[1:])
    application.run("evaluate", task)
