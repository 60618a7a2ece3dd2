"""``menvae-train``: train one run, or with ``-m`` a sweep."""

from __future__ import annotations

import gc
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from menvae.apps import hydra_application


def task(config: DictConfig) -> int:
    """Train one run; the heavy imports wait until here."""
    gc.disable()  # imports make little garbage, and collecting it takes a tenth of the time
    from menvae.runs.train import train
    from menvae.sweeps.runners import build_runner

    gc.enable()
    launcher = HydraConfig.get().launcher
    if "runner" in launcher:  # one of menvae; nothing is launched now, but a wrong key is a mistake all the same
        build_runner(cast(dict[str, Any], OmegaConf.to_container(launcher, resolve=True)))
    return train(config)


def main() -> None:
    """Entry point."""
    hydra_application.run("train", task)
