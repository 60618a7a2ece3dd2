"""``menvae-plan-resources``: what fits into a memory and a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.apps import application

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> int:
    """Plan; the heavy imports wait until here."""
    from menvae.capacity.plan import plan_resources
    from menvae.interruption import stop_requests

    with stop_requests():
        return plan_resources(config)


def main() -> None:
    """Entry point."""
    application.run("plan_resources", task, "plan-resources")
