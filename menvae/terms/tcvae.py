"""Decomposition of the aggregate KL divergence: mutual information, total correlation, dimension-wise KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from menvae.collectives import gather_rows, rank, sum_over_ranks
from menvae.registry import register
from menvae.statistics.gaussian import standard_log_density
from menvae.statistics.total_correlation import Estimator, log_densities, weights
from menvae.terms import Term, TermContext, Unit
from menvae.types import Batch, ModelOutput

Reduction = Literal["sum", "mean", "per_voxel"]

RESIDUAL_TC = (1.0, 5.0)
"""Range of ``lambda_tc`` on the residual in the design report of Exp3."""

_UNITS: Mapping[Reduction, Unit] = {
    "sum": "nats_per_batch",
    "mean": "nats_per_subject",
    "per_voxel": "nats_per_voxel",
}

_SEED = 7_370_029  # seed of the samples in evaluation, unlikely to be the seed of a run


@register("term", "tcvae", reference="Chen et al. 2018 (beta-TCVAE), eq. 2 and section 3.1; MSS: appendix C.2")
class TotalCorrelation(Term):
    """``mi``, ``tc`` and ``dwkl`` of the aggregate posterior, computed once.

    ``lambda_mi`` is alpha, ``lambda_tc`` is beta_tc and ``lambda_dwkl`` is gamma of the papers. With equal weights,
    their sum is a one-sample estimate of the KL, so an objective uses all three, or ``kl`` plus ``tc``. None is
    clamped, and each may be negative because the estimators are biased (see `menvae.statistics.total_correlation`).
    """

    scalars = ("mi", "tc", "dwkl")
    min_rows = 2
    limits_information = True
    remedies = MappingProxyType({"nats_per_voxel": ".reduction=per_voxel"})

    def __init__(
        self,
        context: TermContext,
        *,
        partitions: Sequence[str] | None = None,
        estimator: Estimator = "mws",
        reduction: Reduction = "sum",
    ) -> None:
        """Choose the dimensions, the estimator and the unit.

        Args:
            context: run context.
            partitions: partitions to include; None: all.
            estimator: minibatch-weighted (``mws``) or minibatch-stratified (``mss``) sampling.
            reduction: ``sum`` over the batch of all ranks, as in the reports, to use with ``mse`` in ``batch_sum``;
                ``mean`` over the batch, with ``mse`` in ``sum``; the mean ``per_voxel``, with ``calibrated``.
        """
        super().__init__()
        self.layout = context.layout
        self.partitions = context.layout.chosen(partitions)
        self.estimator: Estimator = estimator
        self.reduction: Reduction = reduction
        self.unit = _UNITS[reduction]
        if self.partitions == ["residual"] != list(self.layout):  # beta-TCVAE, on all of z, has another range
            self.advised_weights = {"tc": RESIDUAL_TC}
        self.num_training_subjects, self.num_input_values = context.num_training_subjects, context.num_input_values

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``mi``, ``tc`` and ``dwkl`` in the unit of the reduction."""
        z, mean, logvar = (
            self.layout.join(values.float(), self.partitions)
            for values in (self._latent(output), output.posterior.mean, output.posterior.logvar)
        )
        means, logvars = gather_rows(mean), gather_rows(logvar)
        num_subjects = max(self.num_training_subjects, len(means))  # a batch may exceed a tiny cohort
        densities = log_densities(
            z, means, logvars, weights(self.estimator, len(means), num_subjects), first=rank() * len(z)
        )
        product = densities.per_dimension.sum(dim=1)
        rows = {
            "mi": densities.own - densities.joint,
            "tc": densities.joint - product,
            "dwkl": product - standard_log_density(z).sum(dim=1),
        }
        return {name: self._scale(len(means)) * sum_over_ranks(values.sum()) for name, values in rows.items()}

    def _latent(self, output: ModelOutput) -> Tensor:
        """Return the decoded z or, in evaluation, where that is the mean, a reproducible sample instead."""
        if self.training or output.latent is not output.posterior.mean:
            return output.latent
        device = output.latent.device
        return output.posterior.sample(torch.Generator(device).manual_seed(_SEED + rank()))

    def _scale(self, num_rows: int) -> float:
        if self.reduction == "sum":
            return 1.0
        return 1.0 / num_rows / (1.0 if self.reduction == "mean" else self.num_input_values)
