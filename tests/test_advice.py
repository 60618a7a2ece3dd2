"""What is legal and seldom wise is said, in one sentence each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from omegaconf import DictConfig

from menvae.experiment import Experiment

Compose = Callable[..., DictConfig]

SHRUNK = ("data.roi_size=[16,16,16]", "data.spacing_mm=[12.5,12.5,12.5]", "encoder.base_filters=8")
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
