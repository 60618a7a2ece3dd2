"""``menvae-plan-resources``: what fits into a memory and a time."""

from __future__ import annotations

from omegaconf import DictConfig

from menvae.apps import hydra_application


def task(config: DictConfig) -> int:
    """Plan; the heavy imports wait until here."""
    from menvae.capacity.plan import plan_resources
    from menvae.interruption import stop_requests

    with stop_requests():
        return plan_resources(config)


def main() -> None:
    """Entry point."""
    hydra_application.run("plan_resources", task, "plan-resources")
