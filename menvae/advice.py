"""What is legal in a configuration and seldom wise: said once, before training, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from menvae.decoders.sbd import SpatialBroadcastDecoder
from menvae.models import Model
from menvae.objective import Objective
from menvae.terms.kl import KullbackLeibler
from menvae.terms.mse import MeanSquaredError
from menvae.terms.tcvae import TotalCorrelation

Weights = Mapping[str, NDArray[np.float64]]

RESIDUAL_TC = (1.0, 5.0)
"""Range of ``lambda_tc`` on the residual in the design report of Exp3."""

_RISEN = 0.999  # of the largest weight: the warm-up is over


def advice(model: Model, objective: Objective, weights: Weights) -> list[str]:
    """Return what a user should know of an experiment that will run.

    Args:
        model: as built.
        objective: of the run.
        weights: {scalar: its weight at equidistant positions from the start of the run to its end}.
    """
    return [
        *_template(model, objective),
        *_early_supervision(objective, weights),
        *_residual_tc(objective, weights),
        *_never(weights),
    ]


def _template(model: Model, objective: Objective) -> Iterator[str]:
    """The failure that passed unnoticed for 85 epochs: an average image drawn from coordinates, at a good SSIM."""
    broadcasts = any(isinstance(module, SpatialBroadcastDecoder) for module in model.modules())
    in_nats = any(
        isinstance(term, KullbackLeibler | TotalCorrelation) and term.reduction != "per_voxel"
        for term in objective.active_terms.values()
    )
    for key, term in objective.active_terms.items():
        if broadcasts and in_nats and isinstance(term, MeanSquaredError) and term.reduction == "mean":
            yield (
                f"loss.terms.{key}.reduction=mean weighs the KL by the number of voxels, and decoder=sbd can draw the "
                "average image without z: look at mean_z_ratio, or choose a calibrated likelihood "
                f"with the KL in its unit (term@loss.terms.{key}=calibrated, reduction=per_voxel of the KL)"
            )


def _early_supervision(objective: Objective, weights: Weights) -> Iterator[str]:
    """A KL in nats beside supervision pulls z to the prior while it is being told what to hold.

    Divided by the number of voxels, as beside a calibrated likelihood, it does not outweigh anything: no word then.
    """
    warm_ups = [
        _first(weights[scalar] >= _RISEN * weights[scalar].max())
        for term in objective.active_terms.values()
        if isinstance(term, KullbackLeibler) and term.reduction == "sum"
        for scalar in term.scalars
        if scalar in weights
    ]
    end = max(warm_ups, default=0.0)
    early = [
        scalar
        for term in objective.active_terms.values()
        if any(need.startswith("predictions.") for need in term.requires)
        for scalar in term.scalars
        if scalar in weights and _first(weights[scalar] > 0.0) < end
    ]
    if early:
        yield (
            f"supervision ({', '.join(early)}) starts before the warm-up of the KL ends, after {end:.0%} of the run: "
            "later schedules (loss.schedules.<partition>) let z hold an image before it is told what to hold"
        )


def _first(condition: NDArray[np.bool_]) -> float:
    """Return where something holds for the first time, as a share of the run; 1 if it never does."""
    return float(np.argmax(condition)) / max(1, len(condition) - 1) if condition.any() else 1.0


def _residual_tc(objective: Objective, weights: Weights) -> Iterator[str]:
    """Where all of z is the residual, as in the beta-TCVAE, the weight has another range."""
    low, high = RESIDUAL_TC
    for term in objective.active_terms.values():
        if isinstance(term, TotalCorrelation) and "tc" in weights:
            if term.partitions != ["residual"] or list(term.layout) == ["residual"]:
                continue
            largest = float(weights["tc"].max())
            if largest and not low <= largest <= high:
                yield (
                    f"loss.lambda_tc={largest:g} on the residual is outside the {low:g} to {high:g} that it was "
                    "designed for"
                )


def _never(weights: Weights) -> Iterator[str]:
    for name, weight in weights.items():
        if not weight.any():
            yield (
                f"loss.lambda_{name} is 0 from the first epoch to the last: its schedule starts after the run; see "
                "curriculum.reference_epochs and loss.schedules"
            )
