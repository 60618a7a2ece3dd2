"""Jobs of a sweep are composed as Hydra composes them."""

from __future__ import annotations

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra_plugins.menvae_launchers.composing import Composer
from omegaconf import OmegaConf, open_dict

from menvae.registry import configuration_folder

JOBS = [
    ["loss.lambda_dcor=1"],
    ["loss.lambda_dcor=10"],
    ["model.partitions.vol=8", "loss.lambda_dcor=2.5"],
    ["model.partitions={vol:4,loc:3}", "model.partitions.vol=8"],
    ["model.partitions.vol=8", "model.partitions={vol:4,loc:3}"],
    ["encoder=branched", "seed=3"],
    ["experiment=semivae_run6", "loss.lambda_dcor=3"],
    ["experiment=semivae_run6", "loss.lambda_dcor=4"],
    ["schedule@loss.schedules.dcor=constant", "seed=1"],
    ["+gates.mine={metric: sem/vol_r2, above: 0.5}"],
    ["~loss.schedules.dcor"],
    ["name='a, b'", "model.supervision.vol=[]"],
    ["output_dir=/tmp/${seed}", "seed=9"],
    ["name=job${hydra.job.num}"],
]


def test_as_hydra_composes_them() -> None:
    with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", [], run_mode=RunMode.MULTIRUN)
        composer = Composer(loader, master)
        for overrides in JOBS:
            expected = loader.load_sweep_config(master, overrides)
            with open_dict(expected):
                expected.hydra.job.num = 7
            whole = OmegaConf.to_container(expected, resolve=True)
            assert isinstance(whole, dict)
            del whole["hydra"]
            assert composer(overrides, 7) == whole, overrides
        with pytest.raises(HydraException, match="lambda_typo"):
            composer(["loss.lambda_typo=1"], 0)
