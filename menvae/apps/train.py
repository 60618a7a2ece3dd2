"""``menvae-train``: train one run, or with ``-m`` a sweep."""

from __future__ import annotations

import gc

from omegaconf import DictConfig

from menvae.apps import hydra_application


def task(config: DictConfig) -> int:
    """Train one run; the heavy imports wait until here."""
    gc.disable()  # imports make little garbage, and collecting it takes a tenth of the time
    from menvae.runs.train import train

    gc.enable()
    return train(config)


def main() -> None:
    """Entry point."""
    hydra_application.run("train", task)
