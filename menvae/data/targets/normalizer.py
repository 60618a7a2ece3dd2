"""Normalisation of targets: residualisation and z-scoring, and the inverse to physical units."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from menvae.errors import UserError, nearest

_log = logging.getLogger(__name__)

RawTargets = Mapping[str, float | None]
Missing = Literal["mask", "zero", "sentinel"]

SENTINEL = -10.0
"""Raw value that stands for a feature that was not observed, with ``targets.missing=sentinel``."""

RESIDUALISE: Mapping[str, Sequence[str]] = {
    "sphericity_total": ["vol_total"],
    "surface_area_total": ["vol_total"],
    "solidity_total": ["vol_total"],
    "aspect_xy_total": ["vol_total"],
    "sphericity_ncr": ["vol_total", "vol_ncr"],
    "surface_area_ncr": ["vol_total", "vol_ncr"],
}


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """Keys of ``targets.*``.

    Attributes:
        residualise: feature -> volumes regressed out of it before z-scoring. Log surface area and log volume correlate
            at 0.99, so without this no loss can make the partitions independent.
        missing: how to treat features that were not observed, such as the volume of an absent core: ``mask`` excludes
            them from losses, metrics and statistics; for comparison, ``zero`` and ``sentinel`` replace them by the raw
            value 0 or -10, which is then learnt like any other.
    """

    residualise: Mapping[str, Sequence[str]] = field(default_factory=lambda: RESIDUALISE)
    missing: Missing = "mask"


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of one feature, fitted on the training subjects.

    Attributes:
        mean: mean of the (residualised) feature; None if it was never observed.
        sd: its standard deviation (population form); 1 for a constant.
        slopes: {regressor: slope} of the residualisation; empty without one.
        intercept: intercept of the residualisation; 0 without one.
        num_observed: number of training subjects with the feature and all its regressors.
        reason: why a fit failed or is degenerate, or empty.
    """

    mean: float | None
    sd: float
    slopes: Mapping[str, float]
    intercept: float
    num_observed: int
    reason: str


@dataclass(frozen=True)
class TargetNormalizer:
    """Raw feature -> residual -> z-score, fitted on training subjects only.

    Attributes:
        statistics: {feature: its fitted statistics}.
        missing: how features that were not observed are treated, see `TargetSettings`.
    """

    statistics: Mapping[str, FeatureStatistics]
    missing: Missing = "mask"

    @classmethod
    def fit(cls, training: Sequence[RawTargets], settings: TargetSettings, features: Sequence[str]) -> TargetNormalizer:
        """Fit residualisation (ordinary least squares on raw values) and z-score.

        Args:
            training: raw features of the training subjects; None where a feature was not observed.
            settings: residualisation and treatment of missing values.
            features: names of the features to fit.

        Raises:
            UserError: if a feature does not exist.
        """
        known = set().union(*training)
        for name in (*features, *(one for feature in features for one in settings.residualise.get(feature, ()))):
            if known and name not in known:
                raise UserError(f"targets: feature '{name}' does not exist; {nearest(name, known)}")
        filled = [_filled(raw, settings.missing) for raw in training]
        fitted = {name: _fit_feature(name, filled, settings.residualise.get(name, ())) for name in features}
        concerned: dict[str, list[str]] = {}
        for name, statistics in fitted.items():
            if statistics.reason:
                concerned.setdefault(statistics.reason, []).append(name)
        for reason, names in concerned.items():
            _log.warning("target %s: %s", ", ".join(names), reason)
        normalizer = cls(fitted, settings.missing)
        for name in features:
            scores = [score for raw in training if (score := normalizer.normalise(raw, name)) is not None]
            _assert_standard(name, scores, fitted[name])
        return normalizer

    def normalise(self, raw: RawTargets, feature: str) -> float | None:
        """Return the z-scored residual, or None if it or a regressor was not observed, or the feature never fitted."""
        statistics, raw = self.statistics[feature], _filled(raw, self.missing)
        value = raw[feature]
        regressors = [raw[name] for name in statistics.slopes]
        if value is None or statistics.mean is None or any(regressor is None for regressor in regressors):
            return None
        residual = value - self._explained(statistics, dict(zip(statistics.slopes, regressors, strict=True)))
        return (residual - statistics.mean) / statistics.sd

    def to_physical(self, z_scores: Mapping[str, float | None]) -> dict[str, float | None]:
        """Invert z-score and residualisation, the latter with the predicted volumes.

        Args:
            z_scores: {feature: predicted z-score} of one subject.

        Returns:
            {feature: value in its unit}, None where a prediction or a regressor is missing.
        """
        physical: dict[str, float | None] = {}
        for name in sorted(z_scores, key=lambda feature: len(self.statistics[feature].slopes)):
            statistics, z_score = self.statistics[name], z_scores[name]
            regressors = {regressor: physical.get(regressor) for regressor in statistics.slopes}
            known = {key: value for key, value in regressors.items() if value is not None}
            if z_score is None or statistics.mean is None or len(known) < len(regressors):
                physical[name] = None
            else:
                residual = z_score * statistics.sd + statistics.mean
                physical[name] = residual + self._explained(statistics, known)
        return physical

    @staticmethod
    def _explained(statistics: FeatureStatistics, regressors: Mapping[str, float | None]) -> float:
        slopes = statistics.slopes
        return statistics.intercept + sum(slope * float(regressors[name] or 0.0) for name, slope in slopes.items())

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description with its hash, for ``targets.json``."""
        statistics = {name: asdict(value) for name, value in self.statistics.items()}
        return {"hash": self.hash, "missing": self.missing, "statistics": statistics}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> TargetNormalizer:
        """Read what `as_dict` wrote."""
        statistics = {name: FeatureStatistics(**value) for name, value in description["statistics"].items()}
        return cls(statistics, description["missing"])

    @property
    def hash(self) -> str:
        """Hash of all fields; runs with the same hash learn the same targets."""
        statistics = {name: asdict(value) for name, value in self.statistics.items()}
        canonical = json.dumps([self.missing, statistics], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _filled(raw: RawTargets, missing: Missing) -> RawTargets:
    """Return raw features with substitutes for those that were not observed."""
    if missing == "mask":
        return raw
    substitute = 0.0 if missing == "zero" else SENTINEL
    return {name: substitute if value is None else value for name, value in raw.items()}


def _assert_standard(name: str, scores: Sequence[float], statistics: FeatureStatistics) -> None:
    """Assert that training z-scores have mean 0 and standard deviation 1, or 0 for a constant."""
    if scores:
        mean, sd = float(np.mean(scores)), float(np.std(scores))
        wanted = 0.0 if "constant" in statistics.reason else 1.0
        assert abs(mean) < 1e-6 and abs(sd - wanted) < 1e-6, f"target {name}: mean {mean}, sd {sd}"  # noqa: PT018


def _fit_feature(name: str, training: Sequence[RawTargets], regressors: Sequence[str]) -> FeatureStatistics:
    rows = [
        [float(value) for value in values if value is not None]
        for values in ([raw[key] for key in (name, *regressors)] for raw in training)
        if all(value is not None for value in values)
    ]
    if not rows:
        return FeatureStatistics(None, 1.0, {}, 0.0, 0, "not observed in any training subject; masked everywhere")
    table = np.asarray(rows, dtype=np.float64)
    values, reason, slopes, intercept = table[:, 0], "", {}, 0.0
    if regressors:
        design = np.column_stack([table[:, 1:], np.ones(len(table))])
        if len(table) > design.shape[1] and np.linalg.matrix_rank(design) == design.shape[1]:
            coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
            slopes = {key: float(slope) for key, slope in zip(regressors, coefficients, strict=False)}
            intercept = float(coefficients[-1])
            values = values - design @ coefficients
        else:
            reason = f"{len(table)} training subjects cannot fit {', '.join(regressors)}; not residualised"
    sd = float(values.std())
    if not sd > 1e-9 * max(1.0, math.fabs(float(values.mean()))):
        sd = 1.0
        reason = "; ".join(filter(None, [reason, f"constant over {len(table)} training subjects; sd set to 1"]))
    return FeatureStatistics(float(values.mean()), sd, slopes, intercept, len(table), reason)
