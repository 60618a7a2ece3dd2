"""What each recommendation changes in SemiVAE Run 6 (specification, section 6), and that nothing else does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from figures import NO_SUCH_KEY, assert_figures, changes
from omegaconf import DictConfig

from menvae.registry import configuration_folder

Compose = Callable[..., DictConfig]

BRANCHED: dict[str, Any] = {
    "encoder.name": "branched",
    "encoder.attention": "none",
    "encoder.multi_scale": [],
    "encoder.hierarchical": False,
    "encoder.order": None,
}
LACKING: dict[str, Any] = {"model.modality_dropout": 0.25, "data.missing_modalities": "allow"}


def cycle(partition: str) -> dict[str, Any]:
    """Return the keys of a cycle; the reports name neither weight nor warm-up."""
    term, schedule = f"loss.terms.cycle_{partition}", f"loss.schedules.cycle_{partition}"
    return {
        f"{term}.name": "cycle",
        f"{term}.partition": partition,
        f"{term}.train_encoder": True,
        f"{schedule}.name": "linear",
        f"{schedule}.start": 150.0,
        f"{schedule}.length": 50.0,
        f"{schedule}.initial": 0.0,
        f"{schedule}.decay_start": None,
        f"{schedule}.decay_length": 0.0,
        f"{schedule}.decay_to": 1.0,
        f"loss.lambda_cycle_{partition}": 1.0,
    }


CHANGES: dict[str, dict[str, Any]] = {
    "semivae_aggressive": {"update.name": "aggressive", "update.encoder_steps": 5, "update.length": 30.0},
    "semivae_attention": {**BRANCHED, "encoder.attention": "channel"},
    "semivae_cross_partition": {"loss.lambda_cross_partition": 1.0},
    "semivae_cycle": {**cycle("vol"), **cycle("loc"), **cycle("shape")},
    "semivae_experts": {
        **LACKING,
        "encoder.name": "product_of_experts",
        "encoder.shared_weights": False,
        "encoder.stem": NO_SUCH_KEY,
        # Each expert is the encoder of Run 6.
        "encoder.expert.name": "resnet",
        "encoder.expert.base_filters": 32,
        "encoder.expert.pool": "average",
        "encoder.expert.residual_gain": 1.0,
        "encoder.expert.block_means": None,
        "encoder.expert.initial_logvar": None,
        "encoder.expert.spectral_norm": True,
        "encoder.expert.stem": "shared",
    },
    "semivae_exponential": {
        f"loss.schedules.{partition}.{key}": value
        for partition in ("vol", "loc", "shape")
        for key, value in {
            "name": "exponential",
            "rate": 5.0,
            "initial": NO_SUCH_KEY,  # and the decay, which the loss sets, is ignored
        }.items()
    },
    "semivae_free_bits": {
        "loss.terms.kl.partitions": None,
        "loss.terms.kl.free_bits": NO_SUCH_KEY,  # one number for all
        "loss.terms.kl.free_bits.vol": 0.1,
        "loss.terms.kl.free_bits.loc": 0.1,
        "loss.terms.kl.free_bits.shape": 0.15,
        "loss.terms.kl.free_bits.residual": 0.25,
    },
    "semivae_hierarchical": {**BRANCHED, "encoder.hierarchical": True, "model.isolation": "latent"},
    "semivae_manifold": {"loss.lambda_manifold": 0.1},
    "semivae_modalities": {**LACKING, "encoder.stem": "per_modality"},
    "semivae_modality_decoders": {
        "decoder.name": "per_modality",
        "decoder.activation": NO_SUCH_KEY,
        # Each decoder is that of Run 6.
        "decoder.each.name": "sbd",
        "decoder.each.base_filters": 32,
        "decoder.each.mixing_layers": 1,
        "decoder.each.latent_gain": 1.0,
        "decoder.each.final_norm": True,
        "decoder.each.upsampling": "resize_conv",
        "decoder.each.activation": "linear",
        "decoder.each.spectral_norm": True,
        "loss.terms.recon.name": "calibrated",
        "loss.terms.recon.per_modality": True,
        "loss.terms.recon.reduction": NO_SUCH_KEY,
    },
    "semivae_multiscale": {**BRANCHED, "encoder.multi_scale": ["shape"]},
    "semivae_structured": {
        "model.heads.vol.name": "structured",
        "model.heads.loc.name": "structured",
        "model.heads.shape.name": "structured",
        "model.partitions.loc": 9,  # three coordinates for each of three targets; 8 do not divide
        "model.partitions.residual": 83,
    },
    "semivae_t1c": {"data.modalities": ["t1c"]},
    "semivae_tumour_weight": {"loss.terms.recon.tumour_weight": 5.0},
}


def test_every_recommendation_is_in_the_table() -> None:
    folder = (configuration_folder("menvae") or Path()) / "experiment"
    assert {path.stem for path in folder.glob("semivae_*.yaml")} == {*CHANGES, "semivae_run6"}


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_but_the_recommendation_changes(compose_train: Compose, name: str) -> None:
    found = changes(compose_train(f"experiment={name}"), compose_train("experiment=semivae_run6"))
    assert found == {"name": name, **CHANGES[name]}


def test_visits_are_fine_tuned_in_pairs(compose_train: Compose) -> None:
    figures = {
        "name": "contrastive_finetune",
        "data.name": "phantom_growth",
        "data.pairs": True,
        "loss.terms.contrastive.name": "contrastive",
        "loss.terms.contrastive.partitions": ["residual"],
        "loss.lambda_contrastive": 5.0,
    }
    assert_figures(compose_train("experiment=contrastive_finetune"), figures)
