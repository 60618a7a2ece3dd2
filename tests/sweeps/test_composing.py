"""Jobs of a sweep are composed as Hydra composes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra_plugins.menvae_launchers.composing import Composer
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from menvae.registry import configuration_folder

JOBS = [
    ["loss.lambda_dcor=1"],
    ["loss.lambda_dcor=10"],
    ["model.partitions.vol=8", "loss.lambda_dcor=2.5"],
    ["encoder=branched", "seed=3"],
    ["seed=3", "encoder=branched"],
    ["experiment=semivae_run6", "loss.lambda_dcor=3"],
    ["loss.lambda_dcor=4", "experiment=semivae_run6"],
    ["schedule@loss.schedules.dcor=constant", "seed=1"],
    ["encoder=branched", "encoder.base_filters=16"],
    # the later of two for one key counts
    ["seed=1", "seed=2"],
    ["model.partitions={vol:4,loc:3}", "model.partitions.vol=8"],
    ["model.partitions.vol=8", "model.partitions={vol:4,loc:3}"],
    ["model.z_dim=32", "model={z_dim: 64}"],
    ["model={z_dim: 64}", "model.z_dim=32"],
    ["loss.lambda_dcor=1", "loss={lambda_dcor: 7}"],
    ["data.modalities=[t1c]", "++data.modalities=[t2f]"],
    ["++data.modalities=[t2f]", "data.modalities=[t1c]"],
    ["data.modalities=[t1c]", "+data.modalities=[t2f]"],
    # keys that come and go
    ["+gates.mine={metric: sem/vol_r2, above: 0.5}"],
    ["gates.vol_r2.above=0.5", "+gates={vol_r2: {above: 0.9}}"],
    ["+gates.mine={metric: sem/vol_r2, above: 0.5}", "gates.mine.above=0.7"],
    ["gates.vol_r2=null", "seed=2"],
    ["~loss.schedules.dcor"],
    ["loss.schedules.dcor.start=3", "~loss.schedules.dcor", "seed=4"],
    ["+metrics.active_units=null", "seed=5"],
    ["~site", "seed=6"],
    # values
    ["name='a, b'", "model.supervision.vol=[]"],
    ["name='it\\'s'", "trainer.resume='x=y'"],
    ["augmentation.max_shift=[1,2,3]", "optimizer.learning_rate=1e-4"],
    ["output_dir=/tmp/${seed}", "seed=9"],
    ["output_dir=/tmp/hydra/${seed}", "seed=9"],
    ["name=${oc.env:HOME}"],
    ["name=job${hydra.job.num}"],
    ["name='job${ hydra.job.num }'"],
    ["name='job${oc.select:hydra.job.num,x}'"],
    # values that others refer to, directly or through a third, and values of kinds that a key did not have
    ["name=run_${seed}", "seed=4"],
    ["seed=4", "name=run_${seed}"],
    ["trainer.resume=${name}", "name=run_${seed}", "seed=5"],
    ["model.name=semivae", "seed=6"],
    ["experiment=table_semivae", "data=table", "data.path=a.csv", "data.target_columns=[c,d]", "seed=7"],
    ["seed=null", "trainer.max_epochs=many", "trainer.compile=7", "data.fold=2"],
    ["name=???", "seed=8"],
    ["name=12", "trainer.max_epochs=12"],
    ["name=13", "trainer.max_epochs=13", "seed=007", "data.fold=1_0"],
    ["encoder=branched", "seed=14", "loss.lambda_dcor=14"],
    ["trainer=3", "seed=9"],
    ["seed=[1,2]", "trainer.max_epochs=3"],
]

REFUSED = [
    ["loss.lambda_typo=1"],
    ["gates.mine.above=0.7", "+gates.mine={metric: sem/vol_r2}"],
    ["+seed=1"],
    ["~seed.x"],
    ["seed=1", "encoder=nosuch"],
    ["name=${nosuch.key}"],
    ["trainer.max_epochs.x=1"],
]


Both = tuple[Callable[[list[str]], object], Callable[[list[str]], object]]
"""Ways to compose a job: Hydra's own, and `Composer`."""


def _by_hydra(loader: ConfigLoader, master: DictConfig, overrides: list[str]) -> object:
    composed = loader.load_sweep_config(master, overrides)
    with open_dict(composed):
        composed.hydra.job.num = 7
    whole = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(whole, dict)
    del whole["hydra"]
    return whole


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[ConfigLoader, DictConfig]]:
    with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield loader, loader.load_configuration("train", [], run_mode=RunMode.MULTIRUN)


@pytest.fixture(scope="module")
def by_hydra_and_composer(loaded: tuple[ConfigLoader, DictConfig]) -> Both:
    composer = Composer(*loaded)
    return (lambda overrides: _by_hydra(*loaded, overrides)), (lambda overrides: composer(overrides, 7))


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_as_hydra_composes_them(by_hydra_and_composer: Both, overrides: list[str]) -> None:
    by_hydra, composer = by_hydra_and_composer
    assert composer(overrides) == by_hydra(overrides)


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_refused_as_by_hydra(by_hydra_and_composer: Both, overrides: list[str]) -> None:
    messages = []
    for compose in by_hydra_and_composer:
        with pytest.raises((HydraException, OmegaConfBaseException)) as error:
            compose(overrides)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_jobs_share_the_sections_in_which_they_are_alike(loaded: tuple[ConfigLoader, DictConfig]) -> None:
    composer = Composer(*loaded)
    one, other = (composer([f"loss.lambda_dcor={weight}", "trainer.max_epochs=3"], 0) for weight in (1, 2))
    assert one["model"] is other["model"]
    assert one["loss"]["terms"] is other["loss"]["terms"]
    assert (one["loss"]["lambda_dcor"], other["loss"]["lambda_dcor"]) == (1, 2)
    assert composer([], 0)["trainer"]["max_epochs"] == 15


def test_a_thousand_jobs_are_composed_in_a_moment(loaded: tuple[ConfigLoader, DictConfig]) -> None:
    """Hydra takes a hundred times as long."""
    composer = Composer(*loaded)
    composer(["seed=0"], 0)
    started = time.process_time()
    for seed in range(1000):
        composer([f"seed={seed}", f"loss.lambda_dcor={seed % 10}", "trainer.max_epochs=3"], seed)
    assert time.process_time() - started < 5.0


def test_jobs_that_differ_in_values_are_composed_once(loaded: tuple[ConfigLoader, DictConfig]) -> None:
    loader, master = loaded
    calls: list[list[str]] = []
    composer = Composer(Counting(loader, calls), master)  # type: ignore[arg-type]
    for weight in range(8):
        for encoder in ("resnet", "branched"):
            composer([f"loss.lambda_dcor={weight}", f"encoder={encoder}", f"seed={weight}"], 0)
    assert calls == [["encoder=resnet"], ["encoder=branched"]]


class Counting:
    """Hydra's loader, which remembers what it was asked to compose."""

    def __init__(self, loader: ConfigLoader, calls: list[list[str]]) -> None:
        self._loader, self._calls = loader, calls

    def load_sweep_config(self, master: DictConfig, overrides: list[str]) -> DictConfig:
        self._calls.append(list(overrides))
        return self._loader.load_sweep_config(master, overrides)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)
