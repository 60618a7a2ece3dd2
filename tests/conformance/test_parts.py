"""Every registered part, installed plugins included, against the suite of its group."""

from typing import ClassVar

from menvae.conformance import (
    DataConformance,
    DecoderConformance,
    EncoderConformance,
    HeadConformance,
    ModelConformance,
    OptimizerConformance,
    ScheduleConformance,
    TermConformance,
    UpdateConformance,
)
from menvae.registry import GROUPS


class TestEncoders(EncoderConformance):
    variants: ClassVar = {
        "resnet": [
            {},
            {"pool": "average", "spectral_norm": True, "base_filters": 8, "block_means": None, "initial_logvar": None},
        ]
    }


class TestDecoders(DecoderConformance):
    variants: ClassVar = {
        "sbd": [{}, {"upsampling": "resize_conv", "mixing_layers": 1}, {"spectral_norm": True, "final_norm": True}],
        "transposed": [{}, {"spectral_norm": True}],
        "auxiliary": [{}, {"upsampling": "resize_conv", "spectral_norm": True}],
    }


class TestHeads(HeadConformance):
    pass


class TestModels(ModelConformance):
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


class TestTerms(TermConformance):
    variants: ClassVar = {
        "semantic": [{"partition": "vol"}, {"partition": "shape"}],
        "kl": [
            {},
            {"partitions": ["residual"], "free_bits": 0.2},
            {"free_bits": 0.2, "clamping": "per_sample", "reduction": "per_voxel"},
        ],
        "mse": [{}, {"reduction": "sum"}],
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
    variants: ClassVar = {"brats": [{"root": "/nowhere"}]}


def test_every_group_has_a_suite() -> None:
    suites = (TestEncoders, TestDecoders, TestHeads, TestModels, TestTerms, TestSchedules, TestOptimizers)
    assert {suite.group for suite in (*suites, TestUpdates, TestData)} == set(GROUPS)
