"""LatentLayout: names and sizes of the latent partitions, and the only place that computes their bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from menvae.errors import UserError, nearest


@dataclass(frozen=True)
class LatentLayout:
    """Ordered partition of the latent vector z = [first | second | ...].

    Attributes:
        sizes: partition name -> number of dimensions, in the order of z.

    >>> layout = LatentLayout.from_config(128, {"vol": 24, "loc": 8, "shape": 12, "residual": None})
    >>> layout.sizes["residual"], layout.bounds("loc")
    (84, (24, 32))
    >>> LatentLayout.from_config(16, {"vol": 24})
    Traceback (most recent call last):
        ...
    menvae.errors.UserError: model.partitions: vol=24 sum to 24, not to model.z_dim=16; set one of them to null
    """

    sizes: Mapping[str, int]

    @classmethod
    def from_config(cls, z_dim: int, partitions: Mapping[str, int | None]) -> LatentLayout:
        """Resolve the configured sizes.

        Args:
            z_dim: number of latent dimensions.
            partitions: name -> size; at most one may be None, which takes the remaining dimensions.

        Raises:
            UserError: no partition, a size below 1, more than one None, or sizes that do not sum to ``z_dim``.
        """
        if not partitions:
            raise UserError("model.partitions is empty; at least one partition is needed")
        for name, size in partitions.items():
            if size is not None and size < 1:
                raise UserError(f"model.partitions.{name}: {size} is not allowed; a partition has at least 1 dimension")
        open_names = [name for name, size in partitions.items() if size is None]
        if len(open_names) > 1:
            raise UserError(f"model.partitions: {' and '.join(open_names)} are null; only one may be null")
        fixed = sum(size for size in partitions.values() if size is not None)
        listing = ", ".join(f"{name}={size}" for name, size in partitions.items() if size is not None)
        if open_names and fixed >= z_dim:
            raise UserError(
                f"model.partitions: {listing} sum to {fixed}, which leaves no dimension of model.z_dim={z_dim} "
                f"for {open_names[0]}; make them smaller or model.z_dim larger"
            )
        if not open_names and fixed != z_dim:
            raise UserError(
                f"model.partitions: {listing} sum to {fixed}, not to model.z_dim={z_dim}; set one of them to null"
            )
        return cls({name: z_dim - fixed if size is None else size for name, size in partitions.items()})

    @property
    def z_dim(self) -> int:
        """Number of latent dimensions."""
        return sum(self.sizes.values())

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def bounds(self, partition: str) -> tuple[int, int]:
        """Return (start, stop) of ``partition`` in z.

        Raises:
            UserError: the partition does not exist.
        """
        start = 0
        for name, size in self.sizes.items():
            if name == partition:
                return start, start + size
            start += size
        raise UserError(f"partition '{partition}' does not exist; {nearest(partition, self.sizes)}")

    def chosen(self, partitions: Sequence[str] | None, *, at_least: int = 1) -> list[str]:
        """Return the names of the chosen partitions, in the given order; None selects all.

        Raises:
            UserError: a partition does not exist or appears twice, or there are fewer than ``at_least``.

        >>> LatentLayout({"vol": 2, "residual": 3}).chosen(None)
        ['vol', 'residual']
        """
        names = list(self) if partitions is None else list(partitions)
        for name in names:
            self.bounds(name)
        if len(set(names)) != len(names) or len(names) < at_least:
            needed = ("", "one or more ", "two or more ")[at_least]
            raise UserError(f"partitions {names} are not allowed; choose {needed}different ones")
        return names

    def of(self, partitions: Iterable[str]) -> LatentLayout:
        """Return the layout of what `join` makes of these partitions.

        Raises:
            UserError: a partition does not exist.

        >>> LatentLayout({"vol": 2, "loc": 1, "residual": 3}).of(["loc", "vol"]).sizes
        {'loc': 1, 'vol': 2}
        """
        return LatentLayout({name: self.bounds(name)[1] - self.bounds(name)[0] for name in partitions})

    def select(self, z: Tensor, partition: str) -> Tensor:
        """Return the columns of ``partition``: z [..., Z] -> [..., size]."""
        start, stop = self.bounds(partition)
        return z[..., start:stop]

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Return {partition: [..., size]} for z [..., Z]."""
        return {name: self.select(z, name) for name in self.sizes}

    def join(self, z: Tensor, partitions: Iterable[str]) -> Tensor:
        """Return the columns of several partitions side by side, in the given order: [..., sum of sizes]."""
        names = list(partitions)
        if names == list(self.sizes):
            return z
        return torch.cat([self.select(z, name) for name in names], dim=-1)
