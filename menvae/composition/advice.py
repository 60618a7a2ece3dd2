"""Advice before training: one sentence for each choice that is valid but seldom wise.

This module names no concrete part: terms, decoders and models declare what advice needs to know (see
`menvae.terms.Term`, `menvae.decoders.Decoder`, `menvae.models.Model`), so that parts of plugins get the same advice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from menvae.decoders import Decoder
from menvae.encoders import Encoder
from menvae.models import Model
from menvae.objective import Objective

_RISEN = 0.999  # of the largest weight: the warm-up is over
_SHRUNK = 0.5  # from four subjects on, a squared covariance is above it
_REACHED = 0.99  # of the configured weight: an exponential warm-up ends at 1 - exp(-5)


@dataclass(frozen=True)
class Circumstances:
    """What advice needs to know about a run besides its model and objective.

    Attributes:
        weights: {scalar: its weight at equidistant positions from the start of the run to its end}.
        num_rows: subjects in the joined batch of all ranks.
        channels: names of the channels.
        draws_pairs: whether batches are drawn so that they contain pairs of visits of a patient.
        starts_from_weights: whether the run starts from the weights of another run.
        lateral_shift: largest shift to the left or right of the images of training subjects, in voxels.
    """

    weights: Mapping[str, NDArray[np.float64]]
    num_rows: int
    channels: Sequence[str]
    draws_pairs: bool
    starts_from_weights: bool
    lateral_shift: int


def advice(model: Model, objective: Objective, run: Circumstances) -> list[str]:
    """Return sentences of advice about a valid experiment.

    Args:
        model: the built model, on any device.
        objective: objective of the run.
        run: circumstances of the run.
    """
    return [
        *_template(model, objective),
        *_early_supervision(objective, run),
        *_unusual_weights(objective, run),
        *_never(objective, run),
        *_too_few_rows(objective, run),
        *_shrunk_by_batch(objective, run),
        *_nothing_to_fine_tune(objective, run),
        *_nothing_to_hide(model, run),
        *_off_the_midline(model, run),
    ]


def _template(model: Model, objective: Objective) -> Iterator[str]:
    """Detect a failure that once went unnoticed for 85 epochs: an average image from coordinates, with good SSIM."""
    if not any(isinstance(module, Decoder) and module.draws_from_coordinates for module in model.modules()):
        return
    terms = objective.active_terms
    likelihoods = {
        key: term for key, term in terms.items() if "reconstruction" in term.requires and term.unit != "dimensionless"
    }
    unlike = {key: term for key, term in terms.items() if term.limits_information and term.unit != "nats_per_voxel"}
    if not unlike or {term.unit for term in likelihoods.values()} != {"mean_squared_error"}:
        return
    first = next(iter(likelihoods))
    remedies = [term.remedy("nats_per_voxel", f"loss.terms.{key}") for key, term in unlike.items()]
    overrides = [f"term@loss.terms.{first}=calibrated", *(remedy for remedy in remedies if remedy)]
    others = " and ".join(f"loss.terms.{key}" for key in unlike)
    verb, outweigh = ("is", "it outweighs") if len(unlike) == 1 else ("are", "they outweigh")
    yield (
        f"loss.terms.{first} is averaged over voxels and {others} {verb} not, so that {outweigh} the reconstruction, "
        "and the decoder can draw the average image without z: check mean_z_ratio, or set "
        f"{' '.join(overrides)}"
    )


def _early_supervision(objective: Objective, run: Circumstances) -> Iterator[str]:
    """Detect supervision during the KL warm-up: a KL in nats pulls z to the prior before z encodes the image.

    A KL divided by the number of voxels, as with a calibrated likelihood, outweighs nothing and gets no advice.
    """
    warm_ups = [
        _first(run.weights[scalar] >= _RISEN * run.weights[scalar].max())
        for term in objective.active_terms.values()
        if term.limits_information and term.unit in ("nats_per_subject", "nats_per_batch")
        for scalar in term.scalars
        if scalar in run.weights
    ]
    end = max(warm_ups, default=0.0)
    early = [
        scalar
        for term in objective.active_terms.values()
        if any(need.startswith("predictions.") for need in term.requires)
        for scalar in term.scalars
        if scalar in run.weights and _first(run.weights[scalar] > 0.0) < end
    ]
    if early:
        yield (
            f"supervision ({', '.join(early)}) starts before the warm-up of the KL ends, after {end:.0%} of the run: "
            "start it later with loss.schedules.<partition>, so that z encodes the image first"
        )


def _first(condition: NDArray[np.bool_]) -> float:
    """Return where a condition first holds, as a fraction of the run in [0, 1]; 1 if it never holds."""
    return float(np.argmax(condition)) / max(1, len(condition) - 1) if condition.any() else 1.0


def _unusual_weights(objective: Objective, run: Circumstances) -> Iterator[str]:
    for key, term in objective.active_terms.items():
        for scalar, (low, high) in term.advised_weights.items():
            largest = float(run.weights[scalar].max()) if scalar in run.weights else 0.0
            if largest and not low <= largest <= high:
                yield (
                    f"loss.lambda_{scalar}={largest:g} is outside the range that loss.terms.{key} was designed for, "
                    f"{low:g} to {high:g}"
                )


def _never(objective: Objective, run: Circumstances) -> Iterator[str]:
    """Detect weights that never reach their full value, because their schedule is written for a longer run."""
    for name, weight in run.weights.items():
        whole, largest = objective.weights[name], float(weight.max())
        if not largest:
            yield (
                f"loss.lambda_{name} is 0 throughout the run: check loss.schedules.{name} and "
                "curriculum.reference_epochs"
            )
        elif largest < _REACHED * whole:
            yield (
                f"loss.lambda_{name}={whole:g} reaches at most {largest:.3g}, because the run ends before "
                f"loss.schedules.{name} does: set curriculum.reference_epochs to the number of epochs that the "
                "schedule is written for"
            )


def _too_few_rows(objective: Objective, run: Circumstances) -> Iterator[str]:
    """Detect terms whose batch statistics are constant, because the batch has too few subjects."""
    for key, term in objective.active_terms.items():
        if max(run.num_rows, term.memory_size) < term.min_rows:
            remedy = term.remedy("rows", f"loss.terms.{key}")
            yield (
                f"loss.terms.{key} needs at least {term.min_rows} subjects, and the batch of all ranks has "
                f"{run.num_rows}: increase trainer.batch_size{f' or set {remedy}' if remedy else ''}"
            )
        elif term.compares_visits and not run.draws_pairs:
            remedy = term.remedy("visits", f"loss.terms.{key}")
            yield (
                f"loss.terms.{key} compares visits of a patient, and batches contain two of them only by chance"
                f"{f': set {remedy}' if remedy else ''}"
            )


def _shrunk_by_batch(objective: Objective, run: Circumstances) -> Iterator[str]:
    """Detect weights that a small batch reduces, because a statistic is divided by the number of its subjects."""
    for key, term in objective.active_terms.items():
        if run.num_rows < term.min_rows:
            continue  # other advice
        for scalar, factor in term.effect_of_batch(run.num_rows).items():
            whole = objective.weights.get(scalar, 0.0)
            if whole and factor < _SHRUNK:
                yield (
                    f"loss.lambda_{scalar}={whole:g} acts as {whole * factor:.3g}, because loss.terms.{key} divides by "
                    f"the number of subjects and the batch of all ranks has {run.num_rows}: increase "
                    "trainer.batch_size, or the weight"
                )


def _nothing_to_fine_tune(objective: Objective, run: Circumstances) -> Iterator[str]:
    """Detect a term for fine-tuning in a run that starts from random weights."""
    for key, term in objective.active_terms.items():
        if term.fine_tunes and not run.starts_from_weights:
            yield (
                f"loss.terms.{key} is meant for fine-tuning, and this run starts from random weights: set "
                "trainer.init_from=<run directory>"
            )


def _nothing_to_hide(model: Model, run: Circumstances) -> Iterator[str]:
    if model.modality_dropout and len(run.channels) == 1:
        yield "model.modality_dropout has no effect on a single modality, because one is always kept"


def _off_the_midline(model: Model, run: Circumstances) -> Iterator[str]:
    mirrors = any(isinstance(module, Encoder) and module.compares_hemispheres for module in model.modules())
    if mirrors and run.lateral_shift:
        yield (
            "the encoder mirrors one hemisphere onto the other about the middle of the box, and "
            f"augmentation.max_shift moves the head by up to {run.lateral_shift} voxels from it: set its first number "
            "to 0"
        )
