"""Cohorts made by hand, with every number chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from menvae.data.cache.cohort import PreparedSubject
from menvae.data.geometry.box import BoxReport
from menvae.data.masks.features import FEATURES
from menvae.preparation.intensities import ChannelIntensities

SOUND = BoxReport(2000.0, 2000.0, 2000.0, 1.0, 1.0)
CHANNEL = ChannelIntensities(1.0, 0.01, 5.0)


def subject(name: str, box: BoxReport = SOUND, folder: Path = Path("nowhere"), **features: float | None) -> Any:
    values: dict[str, float | None] = {**dict.fromkeys(FEATURES, 0.5), **features}
    return PreparedSubject(
        subject_id=name,
        folder=folder,
        key=name,
        features=values,
        native_features=values,
        box=box,
        spacing_mm=(1.0, 1.0, 1.0),
        arrays={},
        patient_id=name,
        days=None,
    )
