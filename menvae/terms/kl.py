"""Kullback-Leibler divergence from posterior to prior, with free bits or a capacity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Literal

import torch
from torch import Tensor

from menvae.collectives import mean_over_ranks
from menvae.errors import UserError, nearest
from menvae.registry import Field, register
from menvae.statistics.gaussian import FreeBitsClamping, free_bits
from menvae.terms import Term, TermContext, Unit
from menvae.types import Batch, ModelOutput, Progress

Nats = Annotated[float, Field(ge=0.0)]
Reduction = Literal["sum", "mean", "per_voxel"]

_UNITS: Mapping[Reduction, Unit] = {
    "sum": "nats_per_subject",
    "mean": "nats_per_dimension",
    "per_voxel": "nats_per_voxel",
}


@register("term", "kl", reference="Kingma & Welling 2014; free bits: Kingma et al. 2016; capacity: Burgess et al. 2018")
class KullbackLeibler(Term):
    """KL(q(z|x) || N(0, I)) of some partitions, in nats, nats per dimension or nats per voxel.

    ``lambda_kl`` is the beta of the papers or, with a capacity, the gamma of Burgess et al. An objective may have
    several KL terms with different keys and scalars: ``beta_supervised`` of Run 6 is the weight
    ``lambda_kl_supervised`` of a second one.
    """

    floors: Tensor
    limits_information = True
    remedies = MappingProxyType({"nats_per_voxel": ".reduction=per_voxel"})

    def __init__(
        self,
        context: TermContext,
        *,
        scalar: Annotated[str, Field(pattern="^kl(_[a-z0-9_]+)?$")] = "kl",
        partitions: Sequence[str] | None = None,
        free_bits: Nats | Mapping[str, Nats] = 0.0,
        clamping: FreeBitsClamping = "batch_mean",
        reduction: Reduction = "sum",
        max_capacity_nats: Nats | None = None,
        capacity_length: Annotated[float, Field(gt=0.0)] = 100.0,
    ) -> None:
        """Choose the dimensions, the unit, and the free bits or the capacity.

        Args:
            context: run context.
            scalar: name of the scalar, ``kl`` or ``kl_<something>``.
            partitions: partitions to include; None: all.
            free_bits: floor in nats per dimension (despite the name, which is the paper's): one value for all
                dimensions, or {partition: floor}, 0 for partitions without an entry.
            clamping: apply the floor to the batch mean or to each subject.
            reduction: ``sum`` over dimensions, ``mean`` over dimensions, or the sum ``per_voxel``, the unit of
                ``calibrated``.
            max_capacity_nats: final capacity C; the scalar becomes |KL - C|, where the KL includes its floor and C
                rises linearly from 0. Both are sums in nats; ``reduction`` scales their difference. None: disabled.
            capacity_length: length of that rise in reference epochs.

        Raises:
            UserError: a partition does not exist, or free bits are given for one that is not included.
        """
        super().__init__()
        self.layout = context.layout
        self.partitions = context.layout.chosen(partitions)
        sizes = {name: stop - start for name in self.partitions for start, stop in [self.layout.bounds(name)]}
        by_partition = free_bits if isinstance(free_bits, Mapping) else dict.fromkeys(sizes, free_bits)
        for name in by_partition:
            if name not in sizes:
                raise UserError(f"free_bits.{name}: the term has no partition '{name}'; {nearest(name, sizes)}")
        floors = [torch.full((size,), float(by_partition.get(name, 0.0))) for name, size in sizes.items()]
        self.register_buffer("floors", torch.cat(floors), persistent=False)  # a setting, not a state
        self.floor_nats = sum(float(by_partition.get(name, 0.0)) * size for name, size in sizes.items())
        self.clamping: FreeBitsClamping = clamping
        self.reduction: Reduction = reduction
        self.unit = _UNITS[reduction]
        self.scale = 1.0 / {"sum": 1, "mean": sum(sizes.values()), "per_voxel": context.num_input_values}[reduction]
        self.max_capacity_nats, self.capacity_length = max_capacity_nats, capacity_length
        self.capacity_nats = 0.0
        self.scalar, self.scalars = scalar, (scalar,)

    def at(self, progress: Progress) -> None:
        """Set the capacity for this position."""
        if self.max_capacity_nats is not None:
            self.capacity_nats = self.max_capacity_nats * min(1.0, progress.epoch / self.capacity_length)

    def forward(self, batch: Batch, output: ModelOutput) -> dict[str, Tensor]:
        """Return ``kl`` in the chosen unit and, in nats, ``kl_raw``, ``kl_constrained`` (floored), ``kl_capacity``."""
        kl = self.layout.join(output.posterior.kl(), self.partitions)
        floors = self.floors.to(kl.dtype)
        if self.clamping == "batch_mean":
            kl = mean_over_ranks(kl.mean(dim=0, keepdim=True))
            constrained = free_bits(kl, floors, "batch_mean")
        else:
            constrained = mean_over_ranks(free_bits(kl, floors, "per_sample"))
        raw = mean_over_ranks(kl.detach().sum(dim=1).mean())
        values = {f"{self.scalar}_raw": raw, f"{self.scalar}_constrained": constrained.detach()}
        if self.max_capacity_nats is None:
            return {self.scalar: constrained if self.scale == 1.0 else self.scale * constrained, **values}
        values[f"{self.scalar}_capacity"] = torch.full_like(raw, self.capacity_nats)
        return {self.scalar: self.scale * (constrained - self.capacity_nats).abs(), **values}

    def constants(self) -> Mapping[str, float]:
        """Return the sum of the free-bits floors in nats."""
        return {f"expected_{self.scalar}_floor": self.floor_nats}
