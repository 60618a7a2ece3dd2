"""``menvae-train``: train one run, or with ``-m`` a sweep."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any, cast

from menvae.apps import application

if TYPE_CHECKING:
    from omegaconf import DictConfig

_log = logging.getLogger(__name__)


def task(config: DictConfig) -> int:
    """Train one run, or answer for one that has ended; the heavy imports wait until here."""
    gc.disable()  # imports make little garbage, and collecting it takes a tenth of the time
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from menvae.apps.launching import check_single_run, join_tasks_of_srun
    from menvae.console import logs
    from menvae.runs.answer import answer
    from menvae.sweeps.runners import build_runner

    hydra = HydraConfig.get()
    where = check_single_run(hydra)
    # nothing is launched now, but a wrong key is a mistake all the same
    build_runner(cast(dict[str, Any], OmegaConf.to_container(hydra.launcher, resolve=True)))
    join_tasks_of_srun()
    if where:
        logs.configure(None)
        _log.info("%s", where)
    whole = _extended(
        config, cast(list[str], OmegaConf.to_container(hydra.overrides.task))
    )  # as typed, with any ${...}
    if (code := answer(whole)) is not None:
        return code
    from menvae.runs.train import train

    gc.enable()
    return train(whole)


def _extended(config: DictConfig, overrides: list[str]) -> DictConfig:
    """Return the configuration itself, or with ``trainer.extend`` that of the named run with overrides on top."""
    from omegaconf import OmegaConf

    if OmegaConf.select(config, "trainer.extend") is None:
        return config
    from menvae.runs.parent import extended

    composed = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    return OmegaConf.create(dict(extended(composed, overrides)))


def main() -> None:
    """Entry point."""
    application.run("train", task)
