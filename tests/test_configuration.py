"""Every file of ``conf/`` composes, builds, and says the same as the code."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from shrunk import CONF, TINY, TINY_VISITS, Losses, composed, names, of_rows, tiny_rows, trainer_of

from menvae.composition.experiment import _PARTS, _SETTINGS, Experiment
from menvae.composition.settings import SweepSettings
from menvae.configuration import check_folder_name
from menvae.data.tables.tabular import TabularSource
from menvae.errors import UserError
from menvae.registry import GROUPS, folder_of, known, lookup, validated
from menvae.types import Batch

Compose = Callable[..., DictConfig]

SHRUNK = ("data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]", "encoder.base_filters=8")
OWN = {"decoder_loss", "encoder_loss", "targets", "experiment", "hydra", "loss", "site", "source", "sweep"}
"""Folders that are no registry groups."""


@cache
def as_it_is(*overrides: str) -> DictConfig:
    """Return a configuration that several tests only read."""
    return composed(*overrides)


def tiny(configuration: DictConfig) -> tuple[str, ...]:
    """Return what shrinks an experiment."""
    if of_rows(configuration):
        return tiny_rows(configuration)
    return TINY_VISITS if configuration.data.pairs else TINY


def test_every_folder_is_a_group_and_every_file_a_part() -> None:
    folders = {Path(folder_of(group)).parts[0] for group in GROUPS}
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == folders | OWN
    for group in GROUPS:
        assert set(names(folder_of(group))) <= set(known(group))


@pytest.mark.parametrize("name", names("loss"))
def test_every_loss_composes_and_fits_the_model(compose_train: Compose, name: str) -> None:
    """The model of the experiment of its name, if there is one, or else the default model."""
    overrides = [f"experiment={name}" if name in names("experiment") else f"loss={name}"]
    experiment = Experiment.from_config(compose_train(*overrides, *(() if of_rows(as_it_is(*overrides)) else SHRUNK)))
    assert experiment.loss.weights


@pytest.mark.parametrize("name", [None, *names("experiment")])
def test_every_experiment_takes_two_real_steps(
    compose_train: Compose, name: str | None, prepared_cache: Path, tmp_path: Path
) -> None:
    """The first at the start of the curriculum, the second in the middle of it, and a checkpoint that is read again."""
    (tmp_path / "cache").symlink_to(prepared_cache)
    overrides = [] if name is None else [f"experiment={name}"]
    experiment = Experiment.from_config(
        compose_train(*overrides, *tiny(as_it_is(*overrides)), f"output_dir={tmp_path}")
    )
    trainer = trainer_of(experiment, tmp_path)
    before = {key: parameter.detach().clone() for key, parameter in trainer.model.named_parameters()}
    losses = Losses()
    trainer.fit(losses)
    assert len(losses.steps) == 2
    counted = {key for key, weight in experiment.loss.weights.items() if weight}
    for step in losses.steps:
        assert set(step) == {"loss", *counted}
        assert all(math.isfinite(value) for value in step.values())
    assert all(math.isfinite(losses.metrics[f"val_epoch/{key}"] or 0.0) for key in counted)
    unmoved = [key for key, value in trainer.model.named_parameters() if torch.equal(before[key], value)]
    assert not unmoved
    again = trainer_of(experiment, tmp_path)
    again.restore(tmp_path / "last.ckpt")
    assert again.state == trainer.state
    trained = trainer.model.state_dict()
    assert all(torch.equal(value, trained[key]) for key, value in again.model.state_dict().items())


@pytest.mark.parametrize("name", names("experiment"))
def test_every_experiment_composes_with_real_data(compose_train: Compose, name: str, tmp_path: Path) -> None:
    overrides = [f"experiment={name}"]
    if of_rows(as_it_is(*overrides)):
        real, channels = ("data=table", f"data.path={tmp_path}/a.csv", "data.columns=[a,b]", "data.label=c"), ("a", "b")
    else:
        real, channels = (
            ("data=brats", f"data.root={tmp_path}", *SHRUNK),
            ("t1c",) if name == "semivae_t1c" else ("t1c", "t1n", "t2f", "t2w"),
        )
    assert Experiment.from_config(compose_train(*overrides, *real)).source.channels == channels


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
    assert set(compose_train()) == {
        "name",
        "seed",
        "output_dir",
        "loss",
        "gates",
        "metrics",
        "observers",
        *_PARTS,
        *_SETTINGS,
    }


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
        ["loss.lambda_dcor=0", "+term@loss.terms.hsic=hsic", "+loss.lambda_hsic=5"],
        ["model.supervision.shape=[sphericity_total]", "loss.terms.kl.partitions=null"],
        ["loss.terms.recon.tumour_weight=5", "loss.terms.kl.free_bits={residual:0.25}"],
        ["loss.terms.kl.max_capacity_nats=25", "loss.terms.kl.capacity_length=10"],
        ["+term@loss.terms.tcvae=tcvae", "+loss.lambda_mi=0", "+loss.lambda_tc=1", "+loss.lambda_dwkl=0"],
        ["model=vae", "loss=vae", "schedule@loss.schedules.kl=linear"],
        ["experiment=exp1_baseline", "loss=dip", "loss.lambda_d=0"],
        ["experiment=semivae_run6", "loss.lambda_tc=1", "loss.lambda_cross_partition=1", "loss.lambda_manifold=0.1"],
        ["experiment=semivae_run6", "loss.lambda_kl_supervised=0.1"],
        ["+term@loss.terms.contrastive=contrastive", "+loss.lambda_contrastive=1", "data.pairs=true"],
        ["data.missing_modalities=allow", "data.modality_missing=0.3", "encoder.stem=per_modality"],
        ["experiment=semivae_modalities", "data.modality_missing=0.3"],
        ["experiment=semivae_experts", "encoder.expert.base_filters=8", "data.modality_missing=0.3"],
        ["decoder=transposed", "decoder@auxiliary_decoder=auxiliary", "learning_rate.warmup=0"],
        ["encoder=branched", "encoder.attention=spatial", "encoder.multi_scale=[shape]", "model.isolation=trunk"],
        ["head@model.heads.vol=structured", "encoder.stem=per_modality", "model.modality_dropout=0.25"],
        [
            *("head@model.heads.loc=identity", "head@model.inverse_heads.loc=identity", "model.partitions.loc=3"),
            *("+term@loss.terms.cycle=cycle", "loss.terms.cycle.partition=loc", "+loss.lambda_cycle_loc=1"),
        ],
    ],
    ids=str,
)
def test_documented_overrides_compose_and_build(compose_train: Compose, overrides: list[str]) -> None:
    Experiment.from_config(compose_train(*overrides, *SHRUNK))


def test_lambda_0_leaves_out_the_branch(compose_train: Compose) -> None:
    model, _ = Experiment.from_config(compose_train("loss.lambda_vol=0", *SHRUNK)).build(1)
    assert set(model.supervision) == {"loc", "shape"}


def test_term_that_the_model_cannot_feed_is_refused(compose_train: Compose) -> None:
    with pytest.raises(UserError) as caught:
        Experiment.from_config(compose_train("model.supervision.vol=[]", *SHRUNK))
    assert str(caught.value) == (
        "loss.terms.vol requires 'predictions.vol', which model=semivae does not provide: set loss.lambda_vol=0, or "
        "supervise the partition with model.supervision.vol"
    )


def test_the_weight_to_switch_off_is_that_of_the_scalar(compose_train: Compose) -> None:
    with pytest.raises(UserError) as caught:
        Experiment.from_config(
            compose_train("+term@loss.terms.hidden_values=masked_mse", "+loss.lambda_masked=1", *SHRUNK)
        )
    assert str(caught.value) == (
        "loss.terms.hidden_values requires 'hidden', which model=semivae does not provide: set loss.lambda_masked=0"
    )


def test_weight_inside_the_mask_is_refused_where_there_are_no_masks(compose_train: Compose) -> None:
    composed = compose_train("loss.terms.recon.tumour_weight=5", *SHRUNK)
    data = Experiment.from_config(composed).parts["data"]

    class Maskless(data.part.factory):  # type: ignore[misc, name-defined]
        gives = frozenset[str]()

    maskless = dataclasses.replace(data, part=dataclasses.replace(data.part, factory=Maskless))
    experiment = Experiment.from_config(composed)
    experiment = dataclasses.replace(experiment, parts={**experiment.parts, "data": maskless})
    with pytest.raises(UserError) as caught:
        experiment.build(8)
    assert str(caught.value) == (
        "loss.terms.recon requires 'mask' of every subject, which data=phantom does not provide as configured: set "
        "loss.terms.recon.tumour_weight=1, or the key of data that provides it (see menvae-parts data)"
    )


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
    assert composed.hydra.launcher.runner == "slurm"
    launcher = OmegaConf.to_container(composed.hydra.launcher)
    assert isinstance(launcher, dict)
    keys = {str(key): value for key, value in launcher.items() if key not in ("_target_", "runner")}
    assert validated(lookup("runner", "slurm").factory, keys, "hydra.launcher").partition == "gpu"


TANH = ("decoder.activation=tanh", "auxiliary_decoder.activation=tanh")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            TANH,
            "decoder.activation: tanh is not allowed; its range is -1 to 1, which intensities with "
            "data.normalisation=zscore exceed; choose linear or data.normalisation=minmax",
        ),
        (TANH[1:], "auxiliary_decoder.activation: tanh is not allowed"),
        (
            (*TANH, "data.normalisation=minmax", "augmentation.contrast=0.1"),
            "augmentation.contrast and brightness exceed",
        ),
        (("decoder.activation=softplus",), "decoder.activation: 'softplus' is not allowed"),
    ],
)
def test_an_output_that_cannot_reach_its_target_is_refused(
    compose_train: Compose, overrides: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        Experiment.from_config(compose_train(*overrides, *SHRUNK))
    assert words in str(caught.value)


def test_tanh_draws_what_lies_between_minus_1_and_1(compose_train: Compose) -> None:
    experiment = Experiment.from_config(compose_train(*TANH, "data.normalisation=minmax", *SHRUNK))
    model, _ = experiment.build(1)
    with torch.no_grad():
        output = model(Batch(torch.randn(2, 4, *experiment.source.roi_size), ("a", "b")))
        for drawn in (
            output.reconstruction,
            output.extras["auxiliary_reconstruction"],
            model.decode(torch.zeros(1, 128)),
        ):
            assert drawn.abs().max() < 1.0
        model.decoder.output.bias.fill_(9.0)
        assert model.decode(torch.zeros(1, 128)).max() == pytest.approx(1.0, abs=1e-6)


def test_decoders_of_single_modalities_are_chosen_like_every_other(compose_train: Compose) -> None:
    chosen = ("decoder=per_modality", "decoder@decoder.each=transposed", "decoder.each.base_filters=32", *SHRUNK)
    experiment = Experiment.from_config(compose_train(*chosen))
    assert experiment.config["decoder"]["each"]["name"] == "transposed"
    model, _ = experiment.build(1)
    assert model.decode(torch.zeros(1, 128)).shape == (1, 4, 16, 16, 16)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.transforms={gamma: log1p}", {"gamma": "log1p"}),
        ("+data.transforms.gamma=log1p", {"gamma": "log1p"}),
        ("data.label=null", None),
    ],
)
def test_columns_of_a_table_are_transformed_from_the_command_line(
    compose_train: Compose, override: str, expected: dict[str, str] | None
) -> None:
    chosen = ["experiment=lithology_vae", "data=table", "data.path=a.csv", "data.columns=[density,gamma]", override]
    source = Experiment.from_config(compose_train(*chosen)).source
    assert isinstance(source, TabularSource)
    assert source.transforms == expected


@pytest.mark.parametrize("name", ["", ".", "a/b", "a\n", "a\udcff", "a" * 151, ["a"]], ids=ascii)
def test_names_that_no_folder_can_have(name: object) -> None:
    """``\\udcff`` is how Python reads a byte of a command line that is not UTF-8."""
    with pytest.raises(UserError, match=r"^name: .* is not allowed; it names a folder"):
        check_folder_name("name", name)
