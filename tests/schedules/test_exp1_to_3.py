"""Figures and curricula of Exp1 to Exp3 (specification, sections 1 to 4b) as ``experiment=...`` composes them."""

from collections.abc import Callable
from typing import Any

import pytest
from figures import assert_figures
from omegaconf import DictConfig

from menvae.composition.experiment import Experiment
from menvae.latent import LatentLayout
from menvae.models.semivae import SemiVAE
from menvae.types import Progress

Compose = Callable[..., DictConfig]

CYCLES = [
    (0, 0.0),
    (10, 0.5),
    (20, 1.0),
    (39, 1.0),
    (40, 0.0),
    (50, 0.5),
    (120, 0.0),
    (140, 1.0),
    (160, 1.0),
    (200, 1.0),
]
COVARIANCE = [(0, 0.0), (20, 0.0), (40, 0.5), (60, 1.0), (200, 1.0)]
SEMANTIC = [(0, 0.0), (10, 0.0), (20, 0.5), (30, 1.0), (200, 1.0)]
FULL = [(0, 1.0), (200, 1.0)]
RISE = [(0, 0.0), (20, 0.5), (40, 1.0), (200, 1.0)]

EXP1 = {"recon": (1.0, FULL), "kl": (1.0, CYCLES)}
EXP2A = {**EXP1, "od": (10.0, COVARIANCE), "d": (5.0, COVARIANCE)}
TABLE = {
    "exp1_baseline": EXP1,
    "exp1_linear": {"recon": (1.0, FULL), "kl": (1.0, RISE)},
    "exp2_dipvae": EXP2A,
    "exp2_dipvae_sbd": EXP2A,
    "exp2_dipvae_freebits": EXP2A,
    "exp2_dipvae_offdiag": {**EXP1, "od": (10.0, COVARIANCE)},
    "exp2_tcvae_sbd": {"recon": (1.0, FULL), "mi": (1.0, FULL), "tc": (6.0, RISE), "dwkl": (1.0, FULL)},
    "exp3_semivae": {
        **EXP1,
        "tc": (1.0, FULL),
        "vol": (20.0, SEMANTIC),
        "loc": (12.0, SEMANTIC),
        "shape": (15.0, SEMANTIC),
    },
    "exp3_physics": {
        "recon": (1.0, FULL),
        "kl": (1.0, RISE),
        "vol": (20.0, SEMANTIC),
        "loc": (12.0, SEMANTIC),
        "shape": (15.0, SEMANTIC),
        "od": (10.0, COVARIANCE),
        "d": (5.0, COVARIANCE),
    },
}
"""{experiment: {scalar: (weight, [(epoch, expected factor)])}}."""

COMMON: dict[str, Any] = {
    "seed": 42,
    "model.z_dim": 128,
    "model.logvar_min": -6.0,
    "encoder.name": "resnet",
    "encoder.base_filters": 32,
    "encoder.pool": "flatten",
    "encoder.residual_gain": 1.0,
    "encoder.block_means": None,
    "encoder.initial_logvar": None,
    "encoder.spectral_norm": False,
    "encoder.stem": "shared",
    "decoder.base_filters": 32,
    "decoder.activation": "linear",
    "decoder.spectral_norm": False,
    "data.roi_size": [128, 128, 128],
    "data.modalities": ["t1c", "t1n", "t2f", "t2w"],
    "data.normalisation": "zscore",
    "data.val_fraction": 0.1,
    "data.split_seed": 42,
    "loss.terms.recon.tumour_weight": 1.0,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-4,
    "optimizer.weight_decay": 0.01,
    "optimizer.betas": [0.9, 0.999],
    "learning_rate": {"name": "constant", "value": 1.0},
    "update": {"name": "joint"},
    "augmentation": {"flip": 0.0, "max_shift": [0, 0, 0], "contrast": 0.0, "brightness": 0.0},
    "curriculum.reference_epochs": 200.0,
    "trainer.max_epochs": 200,
    "trainer.devices": None,
    "trainer.init_from": None,
}
BROADCAST = {"decoder.name": "sbd", "decoder.mixing_layers": 1, "decoder.latent_gain": 1.0, "decoder.final_norm": True}
EXP1_FIGURES = {
    "model.name": "vae",
    "decoder.name": "transposed",
    "trainer.batch_size": 2,
    "trainer.gradient_clip": 5.0,
    "trainer.precision": "fp32",
    "loss.terms.recon.name": "mse",
    "loss.terms.recon.reduction": "mean",
    "loss.terms.kl.free_bits": 0.1,
    "loss.terms.kl.clamping": "batch_mean",
    "loss.terms.kl.partitions": None,
    "loss.terms.kl.reduction": "sum",
    "loss.terms.kl.max_capacity_nats": None,
}
DIP = {"name": "dip", "kind": "ii", "partitions": None}
EXP2A_FIGURES = {**EXP1_FIGURES, "loss.terms.dip": DIP, "loss.terms.kl.free_bits": 0.2}
MLP, IDENTITY = {"name": "mlp", "dropout": 0.1}, {"name": "identity"}
SUPERVISION = {
    "vol": ["vol_total", "vol_ncr", "vol_ed", "vol_et"],
    "loc": ["loc_x", "loc_y", "loc_z"],
    "shape": [
        *("sphericity_total", "surface_area_total", "solidity_total", "aspect_xy_total"),
        *("sphericity_ncr", "surface_area_ncr"),
    ],
}
FIGURES: dict[str, dict[str, Any]] = {
    "exp1_baseline": EXP1_FIGURES,
    "exp1_linear": EXP1_FIGURES,
    "exp2_dipvae": EXP2A_FIGURES,
    "exp2_dipvae_sbd": {**EXP2A_FIGURES, **BROADCAST},
    "exp2_dipvae_freebits": {
        **EXP2A_FIGURES,
        "loss.terms.kl.free_bits": 0.3,
        "loss.terms.kl.clamping": "per_sample",
    },
    "exp2_dipvae_offdiag": EXP2A_FIGURES,
    "exp2_tcvae_sbd": {
        **BROADCAST,
        "model.name": "vae",
        "decoder.upsampling": "transposed",
        "trainer.batch_size": 8,
        "trainer.precision": "bf16",
        "trainer.gradient_clip": None,
        "trainer.activation_checkpointing": True,
        "loss.terms.recon.name": "mse",
        "loss.terms.recon.reduction": "batch_sum",
        "loss.terms.tcvae.estimator": "mws",
        "loss.terms.tcvae.reduction": "sum",
        "loss.terms.tcvae.partitions": None,
    },
    "exp3_semivae": {
        "model.name": "semivae",
        "model.partitions": {"vol": 16, "loc": 12, "shape": 24, "residual": 76},
        "loss.terms.tcvae.partitions": ["residual"],
        "loss.lambda_mi": 0.0,
        "loss.lambda_dwkl": 0.0,
        "model.supervision": SUPERVISION,
        "model.heads": {"vol": MLP, "loc": MLP, "shape": MLP},
        "loss.terms.kl.partitions": ["residual"],
        "loss.terms.kl.free_bits": 0.1,
        "trainer.batch_size": 2,
        "trainer.gradient_clip": 1.0,
    },
    "exp3_physics": {
        **BROADCAST,
        "encoder.pool": "average",
        "decoder.upsampling": "transposed",
        "model.name": "semivae",
        "model.partitions": {"vol": 1, "loc": 3, "shape": 12, "residual": None},
        "model.supervision": {**SUPERVISION, "vol": ["vol_total"]},
        "model.heads": {"vol": IDENTITY, "loc": IDENTITY, "shape": MLP},
        "model.inverse_heads": {"vol": IDENTITY, "loc": IDENTITY, "shape": MLP},
        "loss.terms.recon.name": "mse",
        "loss.terms.recon.reduction": "mean",
        "loss.terms.kl.partitions": ["residual"],
        "loss.terms.kl.free_bits": 0.2,
        "loss.terms.kl.clamping": "batch_mean",
        "loss.terms.kl.reduction": "sum",
        "loss.terms.dip": DIP,
        "data.test_fraction": 0.1,
        "trainer.batch_size": 2,
        "trainer.precision": "bf16",
        "trainer.gradient_clip": 1.0,
    },
}
"""{experiment: {key: value}}; what sections 4 and 4b leave open is as in sections 2 and 5."""


@pytest.mark.parametrize("name", TABLE)
def test_weights_follow_the_curriculum(compose_train: Compose, name: str) -> None:
    small = ("data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]", "encoder.base_filters=8")
    experiment = Experiment.from_config(compose_train(f"experiment={name}", *small))
    objective = experiment.build_objective(1000)
    assert set(objective.scalars) == set(TABLE[name])
    for scalar, (weight, factors) in TABLE[name].items():
        for epoch, factor in factors:
            found = objective.weight(scalar, Progress(epoch, 200))
            assert found == pytest.approx(weight * factor, abs=1e-9), (scalar, epoch)


@pytest.mark.parametrize("name", FIGURES)
def test_figures(compose_train: Compose, name: str) -> None:
    assert_figures(compose_train(f"experiment={name}"), {"name": name, **COMMON, **FIGURES[name]})


def test_every_weight_has_its_figures() -> None:
    assert set(TABLE) == set(FIGURES)


def test_broadcast_decoder_has_the_channels_of_the_report(compose_train: Compose) -> None:
    """131 -> 256 -> 128 -> 64 -> 32 -> 16 -> 4, the first of kernel 1, on a grid 16 times coarser."""
    decoder = Experiment.from_config(
        compose_train("experiment=exp2_tcvae_sbd", "data.roi_size=[16,16,16]", "encoder.base_filters=8")
    ).parts["decoder"](LatentLayout({"all": 128}), 4, (128, 128, 128))
    assert decoder.coordinates.shape == (1, 3, 8, 8, 8)
    channels = [(p.shape[0], p.shape[1]) for name, p in decoder.named_parameters() if p.ndim == 5]
    assert channels == [(256, 131), (256, 128), (128, 64), (64, 32), (32, 16), (4, 16)]  # transposed ones: in, out


def test_plain_vae_is_a_semivae_without_heads(compose_train: Compose) -> None:
    small = ("data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]", "encoder.base_filters=8")
    model, objective = Experiment.from_config(compose_train("experiment=exp1_baseline", *small)).build(10)
    assert isinstance(model, SemiVAE)
    assert dict(model.layout.sizes) == {"residual": 128}
    assert not model.heads
    assert model.auxiliary_decoder is None
    assert objective.schedule_metrics(Progress(0, 200))["sched/expected_kl_floor"] == pytest.approx(12.8)
