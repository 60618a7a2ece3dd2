"""``menvae-evaluate``: judge finished runs."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from menvae.apps import hydra_application
from menvae.apps.encode import with_free_data


def task(config: DictConfig) -> int:
    """Evaluate runs; the heavy imports wait until here."""
    from menvae.interruption import stop_requests
    from menvae.runs.evaluate import evaluate

    with stop_requests():
        return evaluate(config)


def main() -> None:
    """Entry point."""
    sys.argv[1:] = with_free_data(sys.argv[1:])
    hydra_application.run("evaluate", task)
