"""Test suites that every part of a group must pass, whether built in or from a plugin.

A plugin tests its part by subclassing the suite of the group in its own test module::

    from menvae.conformance import EncoderConformance

    class TestMine(EncoderConformance):
        names = ("mine",)
        variants = {"mine": [{}, {"depth": 2}]}

pytest runs the inherited tests once per variant, i.e. per set of values that deviate from ``conf/encoder/mine.yaml``.
Without ``names``, a suite runs on every registered part of its group. Only tests may import this package, because it
requires pytest.
"""

from __future__ import annotations

import pytest

_MODULES = (
    "suite",
    "encoders",
    "decoders",
    "heads",
    "models",
    "terms",
    "schedules",
    "optimizers",
    "updates",
    "data",
    "growth",
    "metrics",
    "observers",
    "pictures",
    "runners",
    "trackers",
)
pytest.register_assert_rewrite(*(f"menvae.conformance.{module}" for module in _MODULES))  # before they are imported

from menvae.conformance.data import DataConformance, SourceConformance, TableConformance  # noqa: E402
from menvae.conformance.decoders import DecoderConformance, RowDecoderConformance  # noqa: E402
from menvae.conformance.encoders import EncoderConformance, RowEncoderConformance  # noqa: E402
from menvae.conformance.growth import GrowthConformance  # noqa: E402
from menvae.conformance.heads import HeadConformance  # noqa: E402
from menvae.conformance.metrics import MetricConformance, SplitExample  # noqa: E402
from menvae.conformance.models import ModelConformance, RowModelConformance  # noqa: E402
from menvae.conformance.observers import ObserverConformance  # noqa: E402
from menvae.conformance.optimizers import OptimizerConformance  # noqa: E402
from menvae.conformance.pictures import PictureConformance  # noqa: E402
from menvae.conformance.runners import RunnerConformance  # noqa: E402
from menvae.conformance.schedules import ScheduleConformance  # noqa: E402
from menvae.conformance.suite import Case, PartConformance, VolumeConformance  # noqa: E402
from menvae.conformance.terms import TermConformance  # noqa: E402
from menvae.conformance.trackers import TrackerConformance  # noqa: E402
from menvae.conformance.updates import UpdateConformance  # noqa: E402

__all__ = [
    "Case",
    "DataConformance",
    "DecoderConformance",
    "EncoderConformance",
    "GrowthConformance",
    "HeadConformance",
    "MetricConformance",
    "ModelConformance",
    "ObserverConformance",
    "OptimizerConformance",
    "PartConformance",
    "PictureConformance",
    "RowDecoderConformance",
    "RowEncoderConformance",
    "RowModelConformance",
    "RunnerConformance",
    "ScheduleConformance",
    "SourceConformance",
    "SplitExample",
    "TableConformance",
    "TermConformance",
    "TrackerConformance",
    "UpdateConformance",
    "VolumeConformance",
]
