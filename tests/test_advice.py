"""What is legal and seldom wise is said, in one sentence each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from omegaconf import DictConfig

from menvae.experiment import Experiment

Compose = Callable[..., DictConfig]

SHRUNK = ("data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]", "encoder.base_filters=8")
RUN6 = ("experiment=semivae_run6", "decoder.base_filters=16", "auxiliary_decoder.base_filters=16", *SHRUNK)
EXP3 = ("experiment=exp3_semivae", "decoder.base_filters=16", *SHRUNK)
TEMPLATE = "loss.terms.recon.reduction=mean weighs the KL by the number of voxels"


def said(compose_train: Compose, *overrides: str) -> list[str]:
    found = Experiment.from_config(compose_train(*overrides)).advice
    assert all("\n" not in sentence for sentence in found)
    return list(found)


def test_the_default_experiment_needs_no_advice(compose_train: Compose) -> None:
    assert said(compose_train, *SHRUNK) == []


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
    assert said(compose_train, *chosen, *advised) == []


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
    assert len([sentence for sentence in found if sentence.startswith(f"loss.lambda_tc={weight:g} on the")]) == expected


def test_the_beta_tcvae_has_a_weight_of_its_own(compose_train: Compose) -> None:
    assert said(compose_train, "experiment=exp2_tcvae_sbd", "decoder.base_filters=16", *SHRUNK) == []


def test_a_weight_that_never_counts(compose_train: Compose) -> None:
    found = said(compose_train, "loss.schedules.dcor.start=100", *SHRUNK)
    (sentence,) = found
    assert sentence.startswith("loss.lambda_dcor is 0 from the first epoch to the last")


REFERENCE = "curriculum.reference_epochs"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=vae", "loss=tcvae"], "loss.lambda_tc=6 comes to 2.25 at most"),  # 6 * 15 / 40
        (["model=vae", "loss=tcvae", f"{REFERENCE}=200"], None),
        (["model=vae", "loss=tcvae", f"{REFERENCE}=40"], None),
        (["experiment=semivae_exponential", *RUN6[1:]], None),
        (
            ["schedule@loss.schedules.dcor=constant", "loss.schedules.dcor.value=0"],
            "loss.lambda_dcor is 0 from the first",
        ),
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
        (["loss.terms.dcor.buffer_size=0", "trainer.batch_size=3"], "loss.terms.dcor is always 0: it needs 4 subjects"),
        (["loss.terms.dcor.buffer_size=0", "trainer.batch_size=4"], None),
        (["loss.terms.dcor.buffer_size=0", "trainer.batch_size=2", "trainer.devices=2"], None),
        (["loss.terms.dcor.buffer_size=3", "trainer.batch_size=3"], "loss.terms.dcor is always 0"),
        (["loss.terms.dcor.buffer_size=4", "trainer.batch_size=2"], None),
        (["experiment=exp2_dipvae", "trainer.batch_size=1"], "loss.terms.dip is a covariance over the batch"),
        (["experiment=exp2_dipvae", "trainer.batch_size=2"], None),
        (
            ["experiment=contrastive_finetune", "data.pairs=false"],
            "loss.terms.contrastive compares visits of a patient",
        ),
        (["experiment=contrastive_finetune"], None),
        (["model.modality_dropout=0.5", "data.modalities=[t1c]"], "model.modality_dropout hides nothing"),
        (["model.modality_dropout=0.5"], None),
    ],
)
def test_what_can_have_no_effect(compose_train: Compose, overrides: list[str], words: str | None) -> None:
    found = said(compose_train, *SHRUNK, *overrides)
    assert [sentence.startswith(str(words)) for sentence in found] == ([] if words is None else [True])
