"""Kullback-Leibler divergence of the posterior from the prior, with free bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from torch import Tensor

from menvae.collectives import mean_over_ranks
from menvae.registry import Field, register
from menvae.statistics.gaussian import FreeBitsClamping, free_bits
from menvae.terms import Term, TermContext
from menvae.types import Batch, ModelOutput


@register("term", "kl", reference="Kingma & Welling 2014; free bits: Kingma et al. 2016")
class KullbackLeibler(Term):
    """KL(q(z|x) || N(0, I)) of some partitions, in nats, or divided by the number of voxels."""

    scalars = ("kl",)

    def __init__(
        self,
        context: TermContext,
        *,
        partitions: Sequence[str] | None = None,
        free_bits: Annotated[float, Field(ge=0.0)] = 0.0,
        clamping: FreeBitsClamping = "batch_mean",
        reduction: Literal["sum", "mean", "per_voxel"] = "sum",
    ) -> None:
        """Choose the dimensions and the unit.

        Args:
            context: of the run.
            partitions: which partitions count; None is all.
            free_bits: floor in nats per dimension (nats, whatever the name, which is the paper's).
            clamping: whether the floor applies to the batch mean or to each subject.
            reduction: ``sum`` over dimensions in nats, their ``mean``, or the sum ``per_voxel``, the unit of
                ``calibrated``.
        """
        super().__init__()
        self.layout = context.layout
        self.partitions = list(context.layout) if partitions is None else list(partitions)
        self.free_bits = free_bits
        self.clamping: FreeBitsClamping = clamping
        self.num_dims = sum(stop - start for start, stop in map(self.layout.bounds, self.partitions))
        self.scale = 1.0 / {"sum": 1, "mean": self.num_dims, "per_voxel": context.num_input_values}[reduction]

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``kl`` in the chosen unit; ``kl_raw`` (no floor) and ``kl_constrained`` (with floor) in nats."""
        kl = self.layout.join(output.posterior.kl(), self.partitions)
        if self.clamping == "batch_mean":
            kl = mean_over_ranks(kl.mean(dim=0, keepdim=True))
            constrained = free_bits(kl, self.free_bits, "batch_mean")
        else:
            constrained = mean_over_ranks(free_bits(kl, self.free_bits, "per_sample"))
        raw = mean_over_ranks(kl.detach().sum(dim=1).mean())
        return {"kl": self.scale * constrained, "kl_raw": raw, "kl_constrained": constrained.detach()}

    def constants(self) -> Mapping[str, float]:
        """The KL that free bits alone allow, in nats."""
        return {"expected_kl_floor": self.free_bits * self.num_dims}
