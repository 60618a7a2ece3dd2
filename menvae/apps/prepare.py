"""``menvae-prepare``: check, prepare and describe a cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING

from menvae.apps import application

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> int:
    """Prepare one cohort; the heavy imports wait until here."""
    from menvae.interruption import stop_requests
    from menvae.preparation.report import prepare_cohort

    with stop_requests():
        return prepare_cohort(config)


def main() -> None:
    """Entry point."""
    application.run("prepare", task)
