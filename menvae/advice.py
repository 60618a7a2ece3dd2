"""What is legal in a configuration and seldom wise: said once, before training, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from menvae.decoders.sbd import SpatialBroadcastDecoder
from menvae.models import Model
from menvae.models.semivae import SemiVAE
from menvae.objective import Objective
from menvae.statistics.pairwise import MIN_ROWS
from menvae.terms.contrastive import Contrastive
from menvae.terms.cross_partition import CrossPartition
from menvae.terms.dcor import DistanceCorrelation
from menvae.terms.dip import DisentangledInferredPrior
from menvae.terms.hsic import HilbertSchmidt
from menvae.terms.kl import KullbackLeibler
from menvae.terms.mse import MeanSquaredError
from menvae.terms.tcvae import TotalCorrelation

RESIDUAL_TC = (1.0, 5.0)
"""Range of ``lambda_tc`` on the residual in the design report of Exp3."""

_RISEN = 0.999  # of the largest weight: the warm-up is over
_REACHED = 0.99  # of the configured weight: an exponential warm-up ends at 1 - exp(-5)


@dataclass(frozen=True)
class Circumstances:
    """What a run will be, beside its model and its objective.

    Attributes:
        weights: {scalar: its weight at equidistant positions from the start of the run to its end}.
        num_rows: subjects in the joined batch of all ranks.
        channels: names of the channels.
        draws_pairs: whether visits of a patient come into one batch in pairs.
    """

    weights: Mapping[str, NDArray[np.float64]]
    num_rows: int
    channels: Sequence[str]
    draws_pairs: bool


def advice(model: Model, objective: Objective, run: Circumstances) -> list[str]:
    """Return what a user should know of an experiment that will run.

    Args:
        model: as built.
        objective: of the run.
        run: its circumstances.
    """
    return [
        *_template(model, objective),
        *_early_supervision(objective, run),
        *_residual_tc(objective, run),
        *_never(objective, run),
        *_too_few_rows(objective, run),
        *_nothing_to_hide(model, run),
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


def _early_supervision(objective: Objective, run: Circumstances) -> Iterator[str]:
    """A KL in nats beside supervision pulls z to the prior while it is being told what to hold.

    Divided by the number of voxels, as beside a calibrated likelihood, it does not outweigh anything: no word then.
    """
    weights = run.weights
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


def _residual_tc(objective: Objective, run: Circumstances) -> Iterator[str]:
    """Where all of z is the residual, as in the beta-TCVAE, the weight has another range."""
    low, high = RESIDUAL_TC
    for term in objective.active_terms.values():
        if isinstance(term, TotalCorrelation) and "tc" in run.weights:
            if term.partitions != ["residual"] or list(term.layout) == ["residual"]:
                continue
            largest = float(run.weights["tc"].max())
            if largest and not low <= largest <= high:
                yield (
                    f"loss.lambda_tc={largest:g} on the residual is outside the {low:g} to {high:g} that it was "
                    "designed for"
                )


def _never(objective: Objective, run: Circumstances) -> Iterator[str]:
    """A schedule that is written for a longer run than the curriculum ends in its midst."""
    for name, weight in run.weights.items():
        whole, largest = objective.weights[name], float(weight.max())
        if not largest:
            yield (
                f"loss.lambda_{name} is 0 from the first epoch to the last: see loss.schedules.{name} and "
                "curriculum.reference_epochs"
            )
        elif largest < _REACHED * whole:
            yield (
                f"loss.lambda_{name}={whole:g} comes to {largest:.3g} at most: loss.schedules.{name} goes on after the "
                "end of the run; set curriculum.reference_epochs to the epochs that it is written for"
            )


def _too_few_rows(objective: Objective, run: Circumstances) -> Iterator[str]:
    """Statistics of a batch that it has too few subjects for are 0, or say something else."""
    for key, term in objective.active_terms.items():
        if isinstance(term, DistanceCorrelation | HilbertSchmidt):
            if max(run.num_rows, term.memory.size) < MIN_ROWS:
                yield (
                    f"loss.terms.{key} is always 0: it needs {MIN_ROWS} subjects, in the batch of all ranks or in "
                    f"loss.terms.{key}.buffer_size"
                )
        elif isinstance(term, CrossPartition | DisentangledInferredPrior) and run.num_rows == 1:
            yield f"loss.terms.{key} is a covariance over the batch of all ranks, which has one subject"
        elif isinstance(term, Contrastive) and not run.draws_pairs:
            yield (
                f"loss.terms.{key} compares visits of a patient, and only chance brings two of them into one batch: "
                "set data.pairs=true"
            )


def _nothing_to_hide(model: Model, run: Circumstances) -> Iterator[str]:
    if isinstance(model, SemiVAE) and model.modality_dropout and len(run.channels) == 1:
        yield "model.modality_dropout hides nothing, for one modality is always left"
