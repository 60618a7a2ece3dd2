"""Every encoder with every decoder and every objective: what fits is built, the rest is refused in words."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from itertools import product

import pytest
from omegaconf import DictConfig, OmegaConf
from pretrained import pretrained, transformer, write, write_transformer
from shrunk import composed, names

from menvae.composition.experiment import Experiment
from menvae.errors import UserError

OF_TABLES = {"mlp", "projection"}
"""Encoders and decoders of rows; all others are of volumes."""
OF_CHECKPOINTS = {"frozen", "frozen_slices"}
"""Encoders that need one."""
OF_OTHER_SIZES = {"auxiliary"}
"""Decoders of a smaller cube than the box."""
NEEDING_A_TERM = {"segmenting", "composite"}
"""Parts with an output that only a term trains, which their files bring: put in by hand, they lack it. They need
several partitions, and keys of other parts that experiments set (``initial_logvar: null``) are wrong for them."""
BOX = ("data.roi_size=[32,32,32]", "data.spacing_mm=[6.25,6.25,6.25]")
TINY = (
    *("data.roi_size=[32,32,32]", "model.z_dim=16"),
    "model.partitions={vol:4,loc:3,shape:4}",
)


@cache
def part(group: str, name: str) -> DictConfig:
    """Return a part's own configuration with its defaults, as composed."""
    chosen = composed(f"{group}={name}")[group]
    assert isinstance(chosen, DictConfig)
    return chosen


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], DictConfig]:
    """Return every encoder and decoder, small, and a checkpoint for those that need one."""
    folder = tmp_path_factory.mktemp("frozen")
    checkpoints = {
        "frozen": write(folder / "best.ckpt", {"model": as_of_a_run(pretrained(4))}),
        "frozen_slices": write_transformer(folder / "transformer", transformer()),
    }
    found = {(group, name): deepcopy(part(group, name)) for group in ("encoder", "decoder") for name in names(group)}
    for (group, name), config in found.items():
        OmegaConf.set_struct(config, False)
        for section in (
            config,
            *(config[key] for key in ("trained", "expert", "each", "others", "head") if key in config),
        ):
            if "base_filters" in section:
                section.base_filters = 8 if group == "encoder" else 16
        if "checkpoint" in list(config):
            config.checkpoint = str(checkpoints[name])
    return found


def as_of_a_run(encoder: object) -> dict[str, object]:
    return {f"encoder.{name}": value for name, value in encoder.state_dict().items()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("loss", [name for name in names("loss") if not name.startswith(("lithology", "table"))])
def test_what_fits_is_built_and_the_rest_is_refused(loss: str, parts: dict[tuple[str, str], DictConfig]) -> None:
    base = composed(f"loss={loss}", *TINY)
    OmegaConf.set_struct(base, False)
    for encoder, decoder in product(names("encoder"), names("decoder")):
        base.encoder, base.decoder = parts["encoder", encoder], parts["decoder", decoder]
        fits = not {encoder, decoder} & (OF_TABLES | OF_OTHER_SIZES | NEEDING_A_TERM)
        if fits:
            Experiment.from_config(base)
            continue
        with pytest.raises(UserError) as refused:
            Experiment.from_config(base)
        words = str(refused.value)
        assert "\n" not in words, words
        assert encoder in words or decoder in words, words


SWAPS = [
    (experiment, f"{group}={name}")
    for experiment in ("exp1_baseline", "exp2_tcvae_sbd", "exp3_semivae", "exp3_physics", "semivae_run6")
    for group, others in (("encoder", OF_TABLES | OF_CHECKPOINTS), ("decoder", OF_TABLES | OF_OTHER_SIZES))
    for name in names(group)
    if name not in others | NEEDING_A_TERM
]


@pytest.mark.parametrize("loss", ["dcor", "semivae_run6"])
def test_parts_bring_their_terms_into_any_loss(loss: str) -> None:
    experiment = Experiment.from_config(composed(f"loss={loss}", "encoder=segmenting", "decoder=composite", *TINY))
    assert {"segmentation", "drawn_segmentation"} <= experiment.build(8, 0)[1].requires
    plain = Experiment.from_config(composed(f"loss={loss}", "encoder=segmenting", "decoder=sbd", *TINY))
    assert "drawn_segmentation" not in plain.build(8, 0)[1].requires


@cache
def alone(experiment: str) -> DictConfig:
    """Return an experiment as it is."""
    return composed(f"experiment={experiment}", *BOX)


@pytest.mark.parametrize(("experiment", "swap"), SWAPS, ids=str)
def test_another_part_takes_its_place_in_an_experiment(experiment: str, swap: str) -> None:
    """What the experiment says of its own part is left out where the other has no such key, and that is told."""
    built = Experiment.from_config(composed(f"experiment={experiment}", swap, *BOX))
    group, name = swap.split("=")
    assert built.config[group]["name"] == name
    left_out = [sentence for sentence in built.left_out if sentence.startswith(f"{group}={name} has no ")]
    foreign = set(alone(experiment)[group]) - set(part(group, name))
    assert bool(left_out) == bool(foreign), (left_out, foreign)
    assert not set(built.config[group]) & foreign


@pytest.mark.parametrize(
    ("experiment", "swap", "words"),
    [
        (
            "semivae_run6",
            "schedule@loss.schedules.vol=exponential",
            "loss.schedules.vol=exponential has no decay_start, decay_length, decay_to: ignored",
        ),
        ("semivae_run6", "schedule@loss.schedules.kl=linear", "loss.schedules.kl=linear has no "),
        (
            "exp2_tcvae_sbd",
            "term@loss.terms.recon=calibrated",
            "loss.terms.recon=calibrated has no reduction: ignored",
        ),
    ],
)
def test_another_term_or_schedule_takes_its_place_too(experiment: str, swap: str, words: str) -> None:
    built = Experiment.from_config(composed(f"experiment={experiment}", swap, *BOX))
    (sentence,) = built.left_out
    assert sentence.startswith(words)


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.lambda_vol=0"],
        [
            *("model.supervision.vol=[vol_total]", "+model.supervision.residual=[vol_ed]"),
            "+head@model.heads.residual=mlp",
            *(
                "+term@loss.terms.residual=semantic",
                "loss.terms.residual.partition=residual",
                "+loss.lambda_residual=1",
            ),
            "+gates.residual_r2={metric: sem/residual_r2, above: 0.5}",
        ],
    ],
    ids=["a weight of 0", "what the advice says"],
)
def test_supervision_that_a_term_could_read_is_no_mistake(overrides: list[str]) -> None:
    built = Experiment.from_config(composed(*overrides, *BOX))
    assert built.advice == ()
