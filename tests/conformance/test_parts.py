"""Every registered part, installed plugins included, against the suite of its group."""

from pathlib import Path
from typing import ClassVar

from pretrained import CHECKPOINT, TRANSFORMER

from menvae.conformance import (
    DataConformance,
    DecoderConformance,
    EncoderConformance,
    GrowthConformance,
    HeadConformance,
    MetricConformance,
    ModelConformance,
    ObserverConformance,
    OptimizerConformance,
    PictureConformance,
    RowDecoderConformance,
    RowEncoderConformance,
    RowModelConformance,
    RunnerConformance,
    ScheduleConformance,
    TableConformance,
    TermConformance,
    UpdateConformance,
)
from menvae.registry import GROUPS

(BRATS,) = (Path(__file__).parents[1] / "golden" / "artefacts").glob("0.1.0/cohort/cache/phantom/*")
BOX = {"roi_size": [16, 16, 16], "spacing_mm": [10.0, 10.0, 10.0], "val_fraction": 0.25}
TABLE = Path(__file__).parents[1] / "data" / "table.csv"


class TestEncoders(EncoderConformance):
    others = ("mlp", "projection")
    variants: ClassVar = {
        "resnet": [
            {},
            {"pool": "average", "spectral_norm": True, "base_filters": 8, "block_means": None, "initial_logvar": None},
            {"stem": "per_modality", "base_filters": 8},
        ],
        "branched": [
            {"base_filters": 8},
            {"attention": "channel", "multi_scale": ["shape"], "pool": "average", "stem": "per_modality"},
            {"attention": "spatial", "base_filters": 8, "spectral_norm": True, "multi_scale": ["vol", "residual"]},
            {"hierarchical": True, "base_filters": 8, "initial_logvar": None},
            {
                "hierarchical": True,
                "order": ["residual", "vol", "shape", "loc"],
                "base_filters": 8,
                "block_means": None,
            },
        ],
        "segmenting": [
            {},
            {"others_stride": 4},
            {"others_stride": 1, "measured": {"vol": "volume"}, "others": {"name": "branched", "base_filters": 8}},
        ],
        "product_of_experts": [
            {"expert": {"name": "resnet", "base_filters": 8}},
            {"expert": {"name": "branched", "base_filters": 8, "hierarchical": True}, "shared_weights": True},
        ],
        "frozen": [
            {"checkpoint": str(CHECKPOINT), "trained": {"name": "resnet", "base_filters": 8}},
            {"checkpoint": str(CHECKPOINT), "partition": "shape", "pool": "flatten", "initial_logvar": None},
        ],
        "frozen_slices": [
            {"checkpoint": str(TRANSFORMER), "slices": 4, "trained": {"name": "resnet", "base_filters": 8}},
            {"checkpoint": str(TRANSFORMER), "partition": "shape", "image_size": 24, "initial_logvar": None},
        ],
    }


class TestDecoders(DecoderConformance):
    others = ("mlp",)
    variants: ClassVar = {
        "sbd": [
            {},
            {"upsampling": "resize_conv", "mixing_layers": 1},
            {"spectral_norm": True, "final_norm": True},
            {"upsampling": "nearest", "spectral_norm": True},
        ],
        "transposed": [{}, {"spectral_norm": True, "activation": "tanh"}],
        "per_modality": [{}, {"each": {"name": "transposed"}}],
        "composite": [
            {},
            {"stride": 4},
            {"stride": 1, "head": {"name": "transposed"}, "head_partitions": ["loc", "residual"]},
        ],
        "auxiliary": [{}, {"upsampling": "resize_conv", "spectral_norm": True}],
    }


class TestHeads(HeadConformance):
    pass


class TestModels(ModelConformance):
    others = ("tabular_vae",)
    variants: ClassVar = {
        "semivae": [
            {},
            {
                "z_dim": 14,
                "partitions": {"one": 8, "two": None},
                "supervision": {"one": ["vol_total"]},
                "heads": {"one": {"name": "mlp"}},
                "inverse_heads": {"one": {"name": "linear"}},
                "auxiliary_partition": "two",
            },
            {"isolation": "trunk"},
            {"modality_dropout": 0.5},
        ],
        "vae": [{}, {"z_dim": 6, "partitions": {"one": 4, "two": None}}],
    }


class TestRowEncoders(RowEncoderConformance):
    names = ("mlp", "projection")
    variants: ClassVar = {
        "mlp": [{}, {"widths": [8]}],
        "projection": [{"input_noise": 0.0}, {"input_noise": 0.0, "logvar": -2.0}],
    }


class TestRowDecoders(RowDecoderConformance):
    names = ("mlp",)
    variants: ClassVar = {"mlp": [{}, {"widths": []}]}


class TestRowModels(RowModelConformance):
    names = ("tabular_vae",)
    variants: ClassVar = {"tabular_vae": [{"input_mask": 0.1}, {"input_mask": 0.5, "z_dim": 4}]}


class TestTerms(TermConformance):
    variants: ClassVar = {
        "segmentation": [{}, {"output": "drawn_segmentation"}],
        "semantic": [{"partition": "vol"}, {"partition": "shape"}],
        "kl": [
            {},
            {"partitions": ["residual"], "free_bits": 0.2},
            {"free_bits": 0.2, "clamping": "per_sample", "reduction": "per_voxel"},
            {"scalar": "kl_supervised", "partitions": ["vol", "loc"], "free_bits": {"vol": 0.1}},
            {"max_capacity_nats": 5.0, "free_bits": {"residual": 0.25}},
            {"reduction": "mean", "partitions": ["vol", "loc"]},
        ],
        "cycle": [{"partition": "vol"}, {"partition": "loc"}],
        "mse": [{}, {"reduction": "sum"}, {"reduction": "batch_sum", "tumour_weight": 5.0}],
        "calibrated": [{}, {"tumour_weight": 5.0}, {"per_modality": True}],
        "cross_entropy": [{}, {"reduction": "sum"}],
        "tcvae": [
            {},
            {"estimator": "mss", "partitions": ["residual"], "reduction": "mean"},
            {"estimator": "mss", "reduction": "per_voxel"},
        ],
        "dip": [{}, {"kind": "i", "partitions": ["vol", "residual"]}],
        "contrastive": [{}, {"partitions": None, "temperature": 0.5}],
        "cross_partition": [{}, {"statistic": "correlation", "partitions": ["vol", "residual"]}],
        "manifold": [{}, {"partitions": ["residual"]}],
        "dcor": [{}, {"buffer_size": 0}, {"buffer_size": 10, "partitions": ["vol", "residual"]}],
        "hsic": [
            {},
            {"buffer_size": 0, "bandwidth": 2.0, "normalise": False, "gradient_scale": "all_rows"},
            {"buffer_size": 10, "partitions": ["vol", "residual"], "estimator": "biased"},
        ],
    }


class TestSchedules(ScheduleConformance):
    variants: ClassVar = {
        "linear": [
            {},
            {"start": 30.0, "length": 40.0},
            {"length": 30.0, "initial": 2.0e-6},
            {"start": 30.0, "length": 40.0, "decay_start": 400.0, "decay_length": 150.0, "decay_to": 0.5},
        ],
        "cosine": [{}, {"warmup": 0.0}, {"warmup": 40.0, "final": 0.1}],
        "cyclical": [{}, {"cycles": 3, "length": 7.0, "ratio": 1.0}],
        "constant": [{}, {"value": 0.0}],
        "exponential": [{}, {"start": 30.0, "length": 40.0, "rate": 2.0}],
    }


class TestOptimizers(OptimizerConformance):
    pass


class TestUpdates(UpdateConformance):
    pass


class TestObservers(ObserverConformance):
    pass


class TestPictures(PictureConformance):
    pass


class TestData(DataConformance):
    others = ("table", "lithology", "features")
    variants: ClassVar = {
        "brats": [
            {"root": "/nowhere"},
            {"root": "/nowhere", "patient_pattern": r"(\w+)_\d", "dates": "/nowhere.csv"},
            {"root": "/nowhere", "file_names": {"t1c": "_t1ce", "seg": "_mask"}},
        ]
    }
    loadable: ClassVar = {
        "brats": {"root": str(BRATS), **BOX},
        "phantom": {"num_subjects": 8, **BOX},
        "phantom_growth": {"num_patients": 6, "visits": [1, 2], **BOX},
    }


class TestTables(TableConformance):
    names = ("features", "lithology", "table")
    variants: ClassVar = {
        "features": [
            {"num_rows": 50, "columns": ["f{0..7}"], "target_columns": ["loc_x"]},
            {"num_rows": 20, "target_columns": ["loc_x", "loc_y"]},
        ],
        "lithology": [{"num_rows": 203, "num_holes": 20}, {"num_rows": 40, "num_holes": 4, "labelled_fraction": 0.2}],
        "table": [
            {"path": str(TABLE), "columns": ["density", "gamma"], "transforms": {"gamma": "log1p"}},
            {"path": str(TABLE), "columns": ["density"], "target_columns": ["gamma", "density"]},
            {"path": str(TABLE), "columns": ["gamma"], "label": "rock", "group": "hole", "val_fraction": 0.3},
        ],
    }


class TestRunners(RunnerConformance):
    others = ("slurm",)  # in tests/slurm
    variants: ClassVar = {"local": [{}, {"num_parallel": 2}, {"points_per_gpu": 2}]}


def test_every_group_has_a_suite() -> None:
    """Those of metrics are in test_metrics.py, of trackers in tests/tracking, of growth models in tests/growth."""
    suites = (TestEncoders, TestDecoders, TestHeads, TestModels, TestTerms, TestSchedules, TestOptimizers)
    others = (TestUpdates, TestData, TestRunners, TestObservers, TestPictures, MetricConformance, GrowthConformance)
    assert {suite.group for suite in (*suites, *others)} | {"tracker"} == set(GROUPS)
