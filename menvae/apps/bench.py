"""``menvae-bench``: how fast this machine trains."""

from __future__ import annotations

from omegaconf import DictConfig

from menvae.apps import hydra_application


def task(config: DictConfig) -> int:
    """Measure this machine; the heavy imports wait until here."""
    from menvae.capacity.bench import bench
    from menvae.interruption import stop_requests

    with stop_requests():
        return bench(config)


def main() -> None:
    """Entry point."""
    hydra_application.run("bench", task)
