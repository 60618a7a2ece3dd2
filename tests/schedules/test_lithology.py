"""Figures of the tabular family (specification, section 8) as ``experiment=lithology_*`` composes them."""

from collections.abc import Callable
from typing import Any

import pytest
from figures import assert_figures
from omegaconf import DictConfig, OmegaConf

COMMON: dict[str, Any] = {
    "model.name": "tabular_vae",
    "model.z_dim": 10,
    "model.partitions": {"residual": None},
    "model.logvar_min": -6.0,
    "model.input_mask": 0.0,
    "model.classifier": {"name": "classifier", "width": 64, "dropout": 0.3},
    "encoder": {"name": "mlp", "widths": [64, 32]},
    "decoder": {"name": "mlp", "widths": [32, 64]},
    "data.num_classes": 139,
    "data.columns": ["bulk_density", "magnetic_susceptibility", "natural_gamma", "red", "green", "blue"],
    "data.transforms": {
        "magnetic_susceptibility": "signed_log",
        "natural_gamma": "signed_log",
        "red": "log1p",
        "green": "log1p",
        "blue": "log1p",
    },
    "loss.terms.recon.name": "mse",
    "loss.terms.recon.reduction": "sum",
    "loss.terms.kl.name": "kl",
    "loss.terms.kl.partitions": None,
    "loss.terms.kl.free_bits": 0.0,
    "loss.terms.kl.reduction": "sum",
    "loss.terms.kl.max_capacity_nats": None,
    "loss.schedules": {},
}
FIGURES: dict[str, dict[str, Any]] = {
    "lithology_vae": COMMON,
    "lithology_semisup": {
        **COMMON,
        "loss.terms.cross_entropy": {"name": "cross_entropy", "reduction": "sum"},
    },
    "lithology_hybrid": {
        **{key: value for key, value in COMMON.items() if key != "loss.schedules"},
        "model.input_mask": 0.1,
        "loss.terms.recon.reduction": "mean",
        "loss.terms.masked.name": "masked_mse",
        "loss.terms.kl.reduction": "mean",
        "loss.terms.cross_entropy": {"name": "cross_entropy", "reduction": "mean"},
        "loss.schedules.kl.name": "linear",
        "loss.schedules.kl.start": 0.0,
        "loss.schedules.kl.length": 30.0,
        "loss.schedules.kl.initial": 2e-6,  # of a weight of 0.5: beta begins at 1e-6
        "loss.schedules.kl.decay_start": None,
        "curriculum.reference_epochs": 40.0,
        "trainer.max_epochs": 40,
    },
}
WEIGHTS = {
    "lithology_vae": {"recon": 1.0, "kl": 1.0},
    "lithology_semisup": {"recon": 1.0, "kl": 1.0, "cross_entropy": 0.1},
    "lithology_hybrid": {"recon": 1.0, "masked": 0.5, "kl": 0.5, "cross_entropy": 0.5},
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures(compose_train: Callable[..., DictConfig], name: str) -> None:
    composed = compose_train(f"experiment={name}")
    assert_figures(composed, {"name": name, **FIGURES[name]})
    loss = OmegaConf.to_container(composed.loss)
    assert isinstance(loss, dict)
    weights = {str(key): value for key, value in loss.items() if key not in ("terms", "schedules")}
    assert weights == {f"lambda_{scalar}": weight for scalar, weight in WEIGHTS[name].items()}
