"""Figures and curriculum of SemiVAE Run 6 (specification, section 5) as ``experiment=semivae_run6`` composes them."""

from collections.abc import Callable
from typing import Any

import pytest
from figures import assert_figures
from omegaconf import DictConfig, OmegaConf

from menvae.composition.loss import Loss
from menvae.latent import LatentLayout
from menvae.objective import Objective
from menvae.terms import TermContext
from menvae.training.curriculum import Curriculum
from menvae.types import Progress

TABLE = {
    "recon": (1.0, [(0, 1.0), (600, 1.0)]),
    "vol": (20.0, [(0, 0.0), (30, 0.0), (50, 0.5), (70, 1.0), (400, 1.0), (475, 0.75), (550, 0.5), (600, 0.5)]),
    "loc": (12.0, [(0, 0.0), (80, 0.0), (100, 0.5), (120, 1.0), (400, 1.0), (475, 0.75), (550, 0.5), (600, 0.5)]),
    "shape": (15.0, [(0, 0.0), (120, 0.0), (145, 0.5), (170, 1.0), (400, 1.0), (475, 0.75), (550, 0.5), (600, 0.5)]),
    "dcor": (5.0, [(0, 0.0), (150, 0.0), (175, 0.5), (200, 1.0), (400, 1.0), (600, 1.0)]),
    "kl": (
        1.0,
        [
            *[(0, 0.0), (15, 0.5), (30, 1.0), (59, 1.0), (60, 0.0), (75, 0.5), (90, 1.0), (120, 0.0), (135, 0.5)],
            *[(180, 0.0), (195, 0.5), (210, 1.0), (239, 1.0), (240, 1.0), (241, 1.0), (300, 1.0), (600, 1.0)],
        ],
    ),
    "aux_recon": (0.5, [(0, 1.0), (600, 1.0)]),
}
"""{scalar: (weight, [(epoch, expected factor)])}, from the formulas of the specification."""

MLP = {"name": "mlp", "dropout": 0.1}
FIGURES: dict[str, Any] = {
    "name": "semivae_run6",
    "seed": 42,
    "model.name": "semivae",
    "model.z_dim": 128,
    "model.partitions": {"vol": 24, "loc": 8, "shape": 12, "residual": 84},
    "model.supervision": {
        "vol": ["vol_total", "vol_ncr", "vol_ed", "vol_et"],
        "loc": ["loc_x", "loc_y", "loc_z"],
        "shape": [
            *("sphericity_total", "surface_area_total", "solidity_total", "aspect_xy_total"),
            *("sphericity_ncr", "surface_area_ncr"),
        ],
    },
    "model.heads": {"vol": MLP, "loc": MLP, "shape": MLP},
    "model.isolation": "none",
    "model.modality_dropout": 0.0,
    "model.auxiliary_partition": "residual",
    "model.logvar_min": -6.0,
    # Layers as torch initialises them and nothing beside them: the report knows no other.
    "encoder": {
        "name": "resnet",
        "base_filters": 32,
        "pool": "average",
        "residual_gain": 1.0,
        "block_means": None,
        "initial_logvar": None,
        "spectral_norm": True,
        "stem": "shared",
    },
    "decoder": {
        "name": "sbd",
        "base_filters": 32,
        "mixing_layers": 1,
        "latent_gain": 1.0,
        "final_norm": True,
        "upsampling": "resize_conv",
        "activation": "linear",
        "spectral_norm": True,
    },
    "auxiliary_decoder": {
        "name": "auxiliary",
        "base_filters": 32,  # 64, 32, 16, 16 channels
        "upsampling": "resize_conv",
        "activation": "linear",
        "spectral_norm": False,
    },
    "data.roi_size": [160, 160, 160],
    "data.spacing_mm": [1.25, 1.25, 1.25],
    "data.modalities": ["t1c", "t1n", "t2f", "t2w"],
    "data.val_fraction": 0.1,
    "data.test_fraction": 0.1,
    "data.split_seed": 42,
    "data.normalisation": "zscore",
    "data.missing_modalities": "fail",
    "data.pairs": False,
    "targets.missing": "mask",
    "augmentation": {"flip": 0.0, "max_shift": [0, 0, 0], "contrast": 0.0, "brightness": 0.0},
    "loss.terms.recon": {"name": "mse", "reduction": "mean", "tumour_weight": 1.0},
    "loss.terms.kl.partitions": ["residual"],
    "loss.terms.kl.free_bits": 0.2,
    "loss.terms.kl.clamping": "batch_mean",
    "loss.terms.kl.reduction": "sum",
    "loss.terms.kl.max_capacity_nats": None,
    "loss.terms.kl_supervised.partitions": ["vol", "loc", "shape"],
    "loss.terms.vol.partition": "vol",
    "loss.terms.loc.partition": "loc",
    "loss.terms.shape.partition": "shape",
    "loss.terms.dcor": {"name": "dcor", "partitions": None, "buffer_size": 256, "gradient_scale": "batch"},
    "loss.terms.aux_recon.name": "aux_recon",
    "loss.terms.tcvae.partitions": ["residual"],
    "loss.terms.cross_partition.statistic": "covariance",
    "loss.lambda_kl_supervised": 0.0,
    "loss.lambda_mi": 0.0,
    "loss.lambda_tc": 0.0,
    "loss.lambda_dwkl": 0.0,
    "loss.lambda_cross_partition": 0.0,
    "loss.lambda_manifold": 0.0,
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 5e-5,
    "optimizer.weight_decay": 0.01,
    "optimizer.betas": [0.9, 0.999],
    "learning_rate": {"name": "constant", "value": 1.0},
    "update": {"name": "joint"},
    "curriculum.reference_epochs": 600.0,
    "trainer.max_epochs": 600,
    "trainer.batch_size": 2,
    "trainer.precision": "bf16",
    "trainer.gradient_clip": 1.0,
    "trainer.activation_checkpointing": False,
    "trainer.devices": None,  # its 4 GPUs are for torchrun, a launcher or the command line to name
    "trainer.init_from": None,
    "gates.vol_r2.above": 0.85,
    "gates.loc_r2.above": 0.91,
    "gates.shape_r2.above": 0.40,
    "gates.max_dcor.below": 0.35,
    "gates.residual_active_units.above": 0.60,
    "pictures.every_epochs": 10,
}


def test_figures(compose_train: Callable[..., DictConfig]) -> None:
    assert_figures(compose_train("experiment=semivae_run6"), FIGURES)


@pytest.fixture
def objective(compose_train: Callable[..., DictConfig]) -> Objective:
    config = OmegaConf.to_container(compose_train("experiment=semivae_run6").loss, resolve=True)
    assert isinstance(config, dict)
    layout = LatentLayout({"vol": 24, "loc": 8, "shape": 12, "residual": 84})
    return Loss.from_config({str(key): value for key, value in config.items()}).build(TermContext(layout, 1, 1))


@pytest.mark.parametrize("scalar", TABLE)
def test_weight(objective: Objective, scalar: str) -> None:
    weight, factors = TABLE[scalar]
    for epoch, factor in factors:
        assert objective.weight(scalar, Progress(epoch, 600)) == pytest.approx(weight * factor, abs=1e-9), epoch


def test_every_scalar_is_in_the_table(objective: Objective) -> None:
    assert set(objective.scalars) == set(TABLE)


@pytest.mark.parametrize("max_epochs", [20, 600, 1200])
def test_curriculum_scales_with_the_length_of_the_run(objective: Objective, max_epochs: int) -> None:
    curriculum = Curriculum(reference_epochs=600.0)
    for scalar, (weight, factors) in TABLE.items():
        for epoch, factor in factors:
            progress = curriculum.progress(epoch * max_epochs / 600.0, max_epochs)
            assert objective.weight(scalar, progress) == pytest.approx(weight * factor, abs=1e-6), (scalar, epoch)


def test_free_bits_floor_is_told(objective: Objective) -> None:
    assert objective.schedule_metrics(Progress(30, 600))["sched/expected_kl_floor"] == pytest.approx(84 * 0.2)
