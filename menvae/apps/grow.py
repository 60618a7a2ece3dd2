"""``menvae-grow``: forecasts of tumour growth."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from menvae.apps import application
from menvae.apps.encode import with_free_data

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> int:
    """Forecast a cohort; the heavy imports wait until here."""
    from menvae.forecasting.forecast import forecast
    from menvae.interruption import stop_requests

    with stop_requests():
        return forecast(config)


def main() -> None:
    """Entry point."""
    if "source=run" in sys.argv:  # the keys of data are those of the run
        sys.argv[1:] = with_free_data(sys.argv[1:])
    application.run("grow", task)
