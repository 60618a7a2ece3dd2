"""Every file of ``conf/`` composes, builds, and says the same as the code."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from menvae.experiment import _PARTS, _SETTINGS, Experiment
from menvae.registry import GROUPS, configuration_folder, known, validated
from menvae.sweeps.sweep import SweepSettings
from menvae.types import Batch

Compose = Callable[..., DictConfig]

CONF = configuration_folder("menvae") or Path()
SHRUNK = ("data.roi_size=[16,16,16]", "data.spacing_mm=[12.5,12.5,12.5]", "encoder.base_filters=8")
OWN = {"targets", "experiment", "hydra", "loss", "site", "sweep"}
"""Folders that are no registry groups."""


def composed_small(compose_train: Compose, *overrides: str) -> DictConfig:
    """Compose what is asked for, with those of the sizes shrunk that it has."""
    whole = compose_train(*overrides)
    there = [shrunk for shrunk in SHRUNK if OmegaConf.select(whole, shrunk.partition("=")[0], default=OWN) is not OWN]
    return compose_train(*overrides, *there)


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (CONF / folder).glob("*.yaml"))


def test_every_folder_is_a_group_and_every_file_a_part() -> None:
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == set(GROUPS) | OWN
    for group in GROUPS:
        assert set(names(group)) <= set(known(group))


@pytest.mark.parametrize("name", names("loss"))
def test_every_loss_composes_and_fits_the_model(compose_train: Compose, name: str) -> None:
    """The model of the experiment of its name, if there is one, or else the default model."""
    overrides = [f"experiment={name}" if name in names("experiment") else f"loss={name}"]
    experiment = Experiment.from_config(composed_small(compose_train, *overrides))
    assert experiment.loss.weights


@pytest.mark.parametrize("name", [None, *names("experiment")])
def test_every_experiment_takes_two_real_steps(compose_train: Compose, name: str | None) -> None:
    overrides = [] if name is None else [f"experiment={name}"]
    experiment = Experiment.from_config(composed_small(compose_train, *overrides))
    model, objective = experiment.build(num_training_subjects=8)
    optimizer = experiment.parts["optimizer"](model.parameters())
    update, curriculum = experiment.parts["update"](), experiment.settings["curriculum"]
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    model.train()

    class Step:
        """A stepper on noise, at the end of the curriculum, where every weight counts."""

        def evaluate(self) -> Any:
            batch = noise(experiment, rows=4)
            output = model(batch)
            return output, objective(batch, output, curriculum.progress(600.0, 600))

        def descend(self, total: torch.Tensor) -> float:
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            return 1.0

    for _ in range(2):
        output, report, _ = update(Step())
        objective.commit(output)
        assert torch.isfinite(report.total)
        assert set(report.scalars) == {key for key, weight in experiment.loss.weights.items() if weight}
    unmoved = [key for key, parameter in model.named_parameters() if torch.equal(before[key], parameter)]
    assert not unmoved


def noise(experiment: Experiment, rows: int) -> Batch:
    source = experiment.source
    sizes = {partition: len(features) for partition, features in experiment.supervision.items()}
    return Batch(
        inputs=torch.randn(rows, len(source.channels), *source.size),
        subject_id=tuple(str(row) for row in range(rows)),
        targets={partition: torch.randn(rows, size) for partition, size in sizes.items()},
        observed={partition: torch.rand(rows, size) > 0.3 for partition, size in sizes.items()},
        labels=torch.arange(rows) % 2 if "labels" in source.gives else None,
    )


@pytest.mark.parametrize("section", _SETTINGS)
def test_every_section_of_settings_says_the_same_as_its_dataclass(compose_train: Compose, section: str) -> None:
    composed = OmegaConf.to_container(compose_train()[section], resolve=False)
    assert isinstance(composed, dict)
    defaults = {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(_SETTINGS[section])
    }
    assert set(composed) == set(defaults)
    for key, default in defaults.items():
        assert composed[key] == (list(default) if isinstance(default, tuple) else default), f"{section}.{key}"


def test_every_section_is_read_by_something(compose_train: Compose) -> None:
    assert set(compose_train()) == {"name", "seed", "output_dir", "loss", *_PARTS, *_SETTINGS}


def test_keys_that_stay(compose_train: Compose) -> None:
    """The keys that specification and scripts rely on."""
    config = compose_train("data=brats")
    for key in (
        *("seed", "trainer.max_epochs", "trainer.batch_size", "trainer.precision", "trainer.compile"),
        *("trainer.resume", "data.root", "data.roi_size", "data.spacing_mm", "data.modalities", "data.label_map"),
        *("model.z_dim", "model.partitions.vol", "model.supervision.vol", "loss.lambda_dcor", "output_dir"),
        *("pictures.every_epochs", "pictures.num_subjects", "curriculum.reference_epochs", "curriculum.scale"),
        *("tracking.uri", "tracking.experiment", "gates.strict"),
    ):
        node, _, last = key.rpartition(".")
        parent = OmegaConf.select(config, node) if node else config
        assert last in list(parent), key


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.lambda_dcor=5", "model.partitions.vol=16"],
        ["schedule@loss.schedules.vol=cyclical", "loss.schedules.vol.cycles=2"],
        ["+term@loss.terms.mine=semantic", "+loss.terms.mine.partition=vol", "~loss.terms.vol"],
        ["+schedule@loss.schedules.recon=linear", "loss.schedules.recon.length=3"],
        ["loss.lambda_vol=0", "loss.lambda_aux_recon=0.5"],
        ["model.supervision.shape=[sphericity_total]", "loss.terms.kl.partitions=null"],
        ["decoder=transposed", "decoder@auxiliary_decoder=auxiliary", "learning_rate.warmup=0"],
    ],
    ids=str,
)
def test_documented_overrides_compose_and_build(compose_train: Compose, overrides: list[str]) -> None:
    Experiment.from_config(compose_train(*overrides, *SHRUNK))


def test_lambda_0_leaves_out_the_branch(compose_train: Compose) -> None:
    model, _ = Experiment.from_config(compose_train("loss.lambda_vol=0", *SHRUNK)).build(1)
    assert set(model.supervision) == {"loc", "shape"}


def test_term_that_the_model_cannot_feed_is_refused(compose_train: Compose) -> None:
    with pytest.raises(ValueError, match=r"loss\.terms\.vol requires 'predictions\.vol'"):
        Experiment.from_config(compose_train("model.supervision.vol=[]", *SHRUNK))


@pytest.mark.parametrize("name", names("sweep"))
def test_every_search_has_a_space_that_can_be_searched(name: str, compose_train: Compose) -> None:
    composed = compose_train(f"sweep={name}")
    content = OmegaConf.to_container(composed.sweep)
    assert isinstance(content, dict)
    settings = validated(SweepSettings, content, "sweep")
    assert bool(settings.space) == bool(settings.objectives) == (name != "default")
    for key in settings.space:
        assert OmegaConf.select(composed, key) is not None, key


@pytest.mark.parametrize("name", names("site"))
def test_every_site_says_what_the_launcher_knows(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train", ["hydra/launcher=slurm", f"site={name}"], return_hydra_config=True)
    assert composed.hydra.launcher._target_.endswith("SlurmLauncher")
    assert composed.hydra.launcher.partition == "gpu"
