"""Every registered part, installed plugins included, against the suite of its group."""

from pathlib import Path
from typing import ClassVar

from menvae.conformance import (
    DataConformance,
    DecoderConformance,
    EncoderConformance,
    HeadConformance,
    ModelConformance,
    OptimizerConformance,
    RowDecoderConformance,
    RowEncoderConformance,
    RowModelConformance,
    ScheduleConformance,
    TableConformance,
    TermConformance,
    UpdateConformance,
)
from menvae.registry import GROUPS

TABLE = Path(__file__).parents[1] / "data" / "table.csv"


class TestEncoders(EncoderConformance):
    others = ("mlp",)
    variants: ClassVar = {
        "resnet": [
            {},
            {"pool": "average", "spectral_norm": True, "base_filters": 8, "block_means": None, "initial_logvar": None},
        ]
    }


class TestDecoders(DecoderConformance):
    others = ("mlp",)
    variants: ClassVar = {
        "sbd": [{}, {"upsampling": "resize_conv", "mixing_layers": 1}, {"spectral_norm": True, "final_norm": True}],
        "transposed": [{}, {"spectral_norm": True}],
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
                "auxiliary_partition": "two",
            },
        ]
    }


class TestRowEncoders(RowEncoderConformance):
    names = ("mlp",)
    variants: ClassVar = {"mlp": [{}, {"widths": [8]}]}


class TestRowDecoders(RowDecoderConformance):
    names = ("mlp",)
    variants: ClassVar = {"mlp": [{}, {"widths": []}]}


class TestRowModels(RowModelConformance):
    names = ("tabular_vae",)
    variants: ClassVar = {"tabular_vae": [{"input_mask": 0.1}, {"input_mask": 0.5, "z_dim": 4}]}


class TestTerms(TermConformance):
    variants: ClassVar = {
        "semantic": [{"partition": "vol"}, {"partition": "shape"}],
        "kl": [
            {},
            {"partitions": ["residual"], "free_bits": 0.2},
            {"free_bits": 0.2, "clamping": "per_sample", "reduction": "per_voxel"},
            {"reduction": "mean", "partitions": ["vol", "loc"]},
        ],
        "mse": [{}, {"reduction": "sum"}],
        "cross_entropy": [{}, {"reduction": "sum"}],
        "dcor": [{}, {"buffer_size": 0}, {"buffer_size": 10, "partitions": ["vol", "residual"]}],
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
    }


class TestOptimizers(OptimizerConformance):
    pass


class TestUpdates(UpdateConformance):
    pass


class TestData(DataConformance):
    others = ("table", "lithology")
    variants: ClassVar = {
        "brats": [{"root": "/nowhere"}, {"root": "/nowhere", "patient_pattern": r"(\w+)_\d", "dates": "/nowhere.csv"}]
    }


class TestTables(TableConformance):
    names = ("lithology", "table")
    variants: ClassVar = {
        "lithology": [{"num_rows": 203, "num_holes": 20}, {"num_rows": 40, "num_holes": 4, "labelled_fraction": 0.2}],
        "table": [
            {"path": str(TABLE), "columns": ["density", "gamma"], "transforms": {"gamma": "log1p"}},
            {"path": str(TABLE), "columns": ["gamma"], "label": "rock", "group": "hole", "val_fraction": 0.3},
        ],
    }


def test_every_group_has_a_suite() -> None:
    suites = (TestEncoders, TestDecoders, TestHeads, TestModels, TestTerms, TestSchedules, TestOptimizers)
    assert {suite.group for suite in (*suites, TestUpdates, TestData)} == set(GROUPS)
