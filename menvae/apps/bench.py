"""``menvae-bench``: how fast this machine trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.apps import application

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> int:
    """Measure this machine; the heavy imports wait until here."""
    from menvae.capacity.bench import bench
    from menvae.interruption import stop_requests

    with stop_requests():
        return bench(config)


def main() -> None:
    """Entry point."""
    application.run("bench", task)
