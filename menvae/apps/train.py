"""``menvae-train``: one run, or with ``-m`` a sweep."""

from __future__ import annotations

from omegaconf import DictConfig

from menvae.apps import hydra_application


def task(config: DictConfig) -> int:
    """Train one run; the heavy imports wait until here."""
    from menvae.runs.train import train

    return train(config)


def main() -> None:
    """Entry point."""
    hydra_application.run("train", task)
