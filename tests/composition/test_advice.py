"""Choices that are legal and seldom wise get advice, one sentence each, for parts of plugins too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from omegaconf import DictConfig, open_dict

from menvae.composition.experiment import Experiment
from menvae.decoders.transposed import TransposedDecoder
from menvae.errors import UserError
from menvae.registry import register, unregister
from menvae.terms import Term, TermContext, Unit

Compose = Callable[..., DictConfig]

SHRUNK = ("data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]", "encoder.base_filters=8")
RUN6 = ("experiment=semivae_run6", "decoder.base_filters=16", "auxiliary_decoder.base_filters=16", *SHRUNK)
EXP3 = ("experiment=exp3_semivae", "decoder.base_filters=16", *SHRUNK)
TUNED = ("experiment=contrastive_finetune", "trainer.init_from=another/run")
TEMPLATE = "loss.terms.recon is averaged over voxels and loss.terms.kl is not, so that it outweighs the reconstruction"


def said(compose_train: Compose, *overrides: str) -> list[str]:
    found = Experiment.from_config(compose_train(*overrides)).advice
    assert all("\n" not in sentence for sentence in found)
    return list(found)


def test_the_default_experiment_needs_no_advice(compose_train: Compose) -> None:
    assert said(compose_train, *SHRUNK) == []


def test_shifts_from_the_midline_beside_an_encoder_that_mirrors_hemispheres(compose_train: Compose) -> None:
    chosen = ("experiment=semivae", "encoder.others.base_filters=8", *SHRUNK[:2])
    assert said(compose_train, *chosen, "augmentation.max_shift=[0,2,2]") == []
    (sentence,) = said(compose_train, *chosen, "augmentation.max_shift=[3,0,0]")
    assert sentence.endswith(
        "augmentation.max_shift moves the head by up to 3 voxels from it: set its first number to 0"
    )
    assert said(compose_train, *SHRUNK, "augmentation.max_shift=[3,0,0]") == []


def test_a_decoder_that_can_draw_the_average_beside_a_mean_squared_error(compose_train: Compose) -> None:
    (sentence,) = said(compose_train, *RUN6)
    assert sentence.startswith(TEMPLATE)
    assert said(compose_train, "experiment=exp1_baseline", "decoder.base_filters=16", *SHRUNK) == []
    assert said(compose_train, *RUN6, "loss.terms.recon.reduction=sum") == []


@pytest.mark.parametrize("experiment", ["semivae_run6", "exp3_physics"])
def test_what_is_advised_instead_of_a_mean_squared_error_can_be_done(compose_train: Compose, experiment: str) -> None:
    chosen = (f"experiment={experiment}", "decoder.base_filters=16", *SHRUNK)
    advised = ("term@loss.terms.recon=calibrated", "loss.terms.kl.reduction=per_voxel")
    assert any(sentence.startswith(TEMPLATE) for sentence in said(compose_train, *chosen))
    of_small_batch = "loss.lambda_od=10 acts as 2.5"  # exp3_physics trains with batches of two
    others = [
        sentence for sentence in said(compose_train, *chosen, *advised) if not sentence.startswith(of_small_batch)
    ]
    assert others == []


def test_a_mean_squared_error_beside_a_kl_per_voxel_weighs_nothing_too_much(compose_train: Compose) -> None:
    mean = ("term@loss.terms.recon=mse", *SHRUNK)
    assert said(compose_train, *mean) == []
    (sentence,) = said(compose_train, *mean, "loss.terms.kl.reduction=mean")
    assert sentence.startswith(TEMPLATE)


def test_supervision_before_the_kl_has_warmed_up(compose_train: Compose) -> None:
    found = said(compose_train, *RUN6, "loss.schedules.vol.start=10", "loss.schedules.loc.start=20")
    (sentence,) = [sentence for sentence in found if not sentence.startswith(TEMPLATE)]
    assert sentence.startswith("supervision (vol, loc) starts before the warm-up of the KL ends, after 5% of the run")


@pytest.mark.parametrize(("weight", "expected"), [(0.5, 1), (1.0, 0), (5.0, 0), (6.0, 1), (0.0, 0)])
def test_total_correlation_of_the_residual_outside_its_range(
    compose_train: Compose, weight: float, expected: int
) -> None:
    found = said(compose_train, *EXP3, f"loss.lambda_tc={weight}")
    sentence = f"loss.lambda_tc={weight:g} is outside the range that loss.terms.tcvae was designed for, 1 to 5"
    assert found.count(sentence) == expected


def test_the_beta_tcvae_has_a_weight_of_its_own(compose_train: Compose) -> None:
    assert said(compose_train, "experiment=exp2_tcvae_sbd", "decoder.base_filters=16", *SHRUNK) == []


def test_a_weight_that_never_counts(compose_train: Compose) -> None:
    found = said(compose_train, "loss.schedules.dcor.start=100", *SHRUNK)
    (sentence,) = found
    assert sentence.startswith("loss.lambda_dcor is 0 throughout the run")


REFERENCE = "curriculum.reference_epochs"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=vae", "loss=tcvae"], "loss.lambda_tc=6 reaches at most 2.25"),  # 6 * 15 / 40
        (["model=vae", "loss=tcvae", f"{REFERENCE}=200"], None),
        (["model=vae", "loss=tcvae", f"{REFERENCE}=40"], None),
        (["experiment=semivae_exponential", *RUN6[1:]], None),
        (["schedule@loss.schedules.dcor=constant", "loss.schedules.dcor.value=0"], "loss.lambda_dcor is 0 throughout"),
    ],
)
def test_a_weight_that_does_not_come_to_what_it_should(
    compose_train: Compose, overrides: list[str], words: str | None
) -> None:
    found = [sentence for sentence in said(compose_train, *SHRUNK, *overrides) if not sentence.startswith(TEMPLATE)]
    assert [sentence.startswith(str(words)) for sentence in found] == ([] if words is None else [True])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss.terms.dcor.buffer_size=0", "trainer.batch_size=3"], "loss.terms.dcor needs at least 4 subjects"),
        (["loss.terms.dcor.buffer_size=0", "trainer.batch_size=4"], None),
        (["loss.terms.dcor.buffer_size=0", "trainer.batch_size=2", "trainer.devices=2"], None),
        (["loss.terms.dcor.buffer_size=3", "trainer.batch_size=3"], "loss.terms.dcor needs at least 4 subjects"),
        (["loss.terms.dcor.buffer_size=4", "trainer.batch_size=2"], None),
        (["experiment=exp2_dipvae", "trainer.batch_size=1"], "loss.terms.dip needs at least 2 subjects"),
        (["experiment=exp2_dipvae", "trainer.batch_size=2"], "loss.lambda_od=10 acts as 2.5, because loss.terms.dip"),
        (["experiment=exp2_dipvae", "trainer.batch_size=3"], "loss.lambda_od=10 acts as 4.44, because"),  # (2 / 3)^2
        (["experiment=exp2_dipvae", "trainer.batch_size=2", "trainer.devices=2"], None),
        (
            [*TUNED, "data.pairs=false"],
            "loss.terms.contrastive compares visits of a patient",
        ),
        ([*TUNED], None),
        (["experiment=contrastive_finetune"], "loss.terms.contrastive is meant for fine-tuning"),
        (["experiment=contrastive_finetune", "loss.lambda_contrastive=0"], None),
        (["model.modality_dropout=0.5", "data.modalities=[t1c]"], "model.modality_dropout has no effect"),
        (["model.modality_dropout=0.5"], None),
    ],
)
def test_what_can_have_no_effect(compose_train: Compose, overrides: list[str], words: str | None) -> None:
    found = said(compose_train, *SHRUNK, *overrides)
    assert [sentence.startswith(str(words)) for sentence in found] == ([] if words is None else [True])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["loss.terms.dcor.buffer_size=3", "trainer.batch_size=3"],
            "loss.terms.dcor needs at least 4 subjects, and the batch of all ranks has 3: increase "
            "trainer.batch_size or set loss.terms.dcor.buffer_size=4",
        ),
        (
            ["experiment=exp2_tcvae_sbd", "decoder.base_filters=16", "trainer.batch_size=1"],
            "loss.terms.tcvae needs at least 2 subjects, and the batch of all ranks has 1: increase trainer.batch_size",
        ),
        (
            [*TUNED, "trainer.batch_size=2"],
            "loss.terms.contrastive needs at least 3 subjects, and the batch of all ranks has 2: increase "
            "trainer.batch_size",
        ),
        (
            [*TUNED, "data.pairs=false"],
            "loss.terms.contrastive compares visits of a patient, and batches contain two of them only by chance: set "
            "data.pairs=true",
        ),
        (
            ["experiment=contrastive_finetune"],
            "loss.terms.contrastive is meant for fine-tuning, and this run starts from random weights: set "
            "trainer.init_from=<run directory>",
        ),
    ],
)
def test_advice_names_what_to_set(compose_train: Compose, overrides: list[str], expected: str) -> None:
    assert said(compose_train, *SHRUNK, *overrides) == [expected]


NONE: Mapping[str, str] = {}


class OfAPlugin(Term):
    """A term of a plugin: what it declares is all that anybody knows of it."""

    def __init__(
        self,
        context: TermContext,
        *,
        unit: Unit = "dimensionless",
        requires: Sequence[str] = (),
        batch_requires: Sequence[str] = (),
        min_rows: int = 1,
        memory_size: int = 0,
        compares_visits: bool = False,
        limits_information: bool = False,
        designed_for: Sequence[float] = (),
        remedies: Mapping[str, str] = NONE,
    ) -> None:
        super().__init__()
        self.scalars = ("plugin",)
        self.unit, self.min_rows, self.memory_size, self.remedies = unit, min_rows, memory_size, remedies
        self.requires, self.batch_requires = frozenset(requires), frozenset(batch_requires)
        self.compares_visits, self.limits_information = compares_visits, limits_information
        self.advised_weights = {"plugin": (designed_for[0], designed_for[1])} if designed_for else {}


@pytest.fixture
def plugin(compose_train: Compose) -> Iterator[Callable[..., Experiment]]:
    """Return a function from what a term of a plugin declares, and overrides, to an experiment with that term."""
    register("term", "of_a_plugin")(OfAPlugin)

    def built(declared: Mapping[str, object], *overrides: str, key: str = "mine") -> Experiment:
        composed = compose_train(*SHRUNK, *overrides)
        with open_dict(composed):
            composed.loss.terms[key] = {"name": "of_a_plugin", **declared}
            composed.loss.lambda_plugin = 2.0
        return Experiment.from_config(composed)

    yield built
    unregister("term", "of_a_plugin")


@pytest.mark.parametrize(
    ("declared", "overrides", "expected"),
    [
        ({}, [], []),
        ({"min_rows": 9}, ["trainer.batch_size=9"], []),
        ({"min_rows": 9, "memory_size": 9}, ["trainer.batch_size=8"], []),
        (
            {"min_rows": 9, "remedies": {"rows": ".bank.size=9"}},
            ["trainer.batch_size=8"],
            [
                "loss.terms.mine needs at least 9 subjects, and the batch of all ranks has 8: increase "
                "trainer.batch_size or set loss.terms.mine.bank.size=9"
            ],
        ),
        (
            {"compares_visits": True},
            [],
            ["loss.terms.mine compares visits of a patient, and batches contain two of them only by chance"],
        ),
        ({"compares_visits": True}, ["data=phantom_growth", "data.pairs=true"], []),
        (
            {"designed_for": [3.0, 4.0]},
            [],
            ["loss.lambda_plugin=2 is outside the range that loss.terms.mine was designed for, 3 to 4"],
        ),
        ({"designed_for": [2.0, 4.0]}, [], []),
        (
            {"limits_information": True, "unit": "nats_per_subject", "remedies": {"nats_per_voxel": ".per=voxel"}},
            ["term@loss.terms.recon=mse"],
            [
                "loss.terms.recon is averaged over voxels and loss.terms.mine is not, so that it outweighs the "
                "reconstruction, and the decoder can draw the average image without z: check mean_z_ratio, or set "
                "term@loss.terms.recon=calibrated loss.terms.mine.per=voxel"
            ],
        ),
        ({"limits_information": True, "unit": "nats_per_voxel"}, ["term@loss.terms.recon=mse"], []),
        (
            {"requires": ["reconstruction"], "unit": "squared_error_per_subject"},
            ["term@loss.terms.recon=mse", "loss.terms.kl.reduction=mean"],
            [],
        ),
    ],
)
def test_a_term_of_a_plugin_gets_advice_by_what_it_declares(
    plugin: Callable[..., Experiment], declared: dict[str, object], overrides: list[str], expected: list[str]
) -> None:
    assert list(plugin(declared, *overrides).advice) == expected


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (
            {"requires": ["depth"], "remedies": {"depth": ".depth=0"}},
            "loss.terms.mine requires 'depth', which model=semivae does not provide: set loss.terms.mine.depth=0",
        ),
        (
            {"requires": ["depth"]},
            "loss.terms.mine requires 'depth', which model=semivae does not provide: set loss.lambda_plugin=0",
        ),
        (
            {"requires": ["predictions.residual"]},
            "loss.terms.mine requires 'predictions.residual', which model=semivae does not provide: set "
            "loss.lambda_plugin=0, or supervise the partition with model.supervision.residual",
        ),
        (
            {"batch_requires": ["labels"], "remedies": {"labels": "data.label=grade"}},
            "loss.terms.mine requires 'labels' of every subject, which data=phantom does not provide as configured: "
            "set data.label=grade, or the key of data that provides it (see menvae-parts data)",
        ),
    ],
)
def test_a_term_of_a_plugin_is_refused_with_its_own_remedy(
    plugin: Callable[..., Experiment], declared: dict[str, object], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        plugin(declared)
    assert str(caught.value) == expected


class OwnBroadcast(TransposedDecoder):
    """A decoder of a plugin that draws from coordinates."""

    draws_from_coordinates = True


def test_a_decoder_of_a_plugin_gets_advice_by_what_it_declares(compose_train: Compose) -> None:
    composed = compose_train(*SHRUNK, "decoder=transposed", "term@loss.terms.recon=mse", "loss.terms.kl.reduction=sum")
    assert not any(sentence.startswith(TEMPLATE) for sentence in Experiment.from_config(composed).advice)
    register("decoder", "own_broadcast")(OwnBroadcast)
    try:
        composed.decoder.name = "own_broadcast"
        assert any(sentence.startswith(TEMPLATE) for sentence in Experiment.from_config(composed).advice)
    finally:
        unregister("decoder", "own_broadcast")
