"""A cohort whose images are drawn from known factors, in three splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from menvae.types import Batch

Floats = NDArray[np.float64]

SUPERVISION: Mapping[str, tuple[str, ...]] = {
    "vol": ("vol_total",),
    "loc": ("loc_x", "loc_y", "loc_z"),
    "shape": ("aspect_xy_total", "aspect_xz_total"),
}
"""Partition -> its targets; each target is one factor."""
NUM_TEXTURES = 24
FACTORS: Mapping[str, int] = {**{name: len(own) for name, own in SUPERVISION.items()}, "residual": NUM_TEXTURES}
"""Partition -> number of factors; all factors have mean 0 and standard deviation 1."""
SPLITS = ("train", "val", "test")

_SIDE = 12
_RADIUS = 2.6
_LN_RADIUS_PER_SD = 0.16
_VOXELS_PER_SD = 0.8
_LN_AXIS_PER_SD = 0.16
_EDGE = 0.2
_TEXTURE_SD = 0.3
_TARGET_NOISE_SD = 0.15
_BATCH_SIZE = 100


@dataclass(frozen=True)
class Subjects:
    """The subjects of a split, one row per visit.

    Attributes:
        factors: partition -> [N, F].
        images: [N, 1, D, H, W], with noise.
        masks: tumour [N, 1, D, H, W].
        targets: partition -> [N, F], the factors with errors of measurement.
        names: of the visits.
        patients: patient of each visit.
    """

    factors: Mapping[str, Floats]
    images: Tensor
    masks: Tensor
    targets: Mapping[str, Tensor]
    names: tuple[str, ...]
    patients: tuple[str, ...]

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of an evaluation."""
        for start in range(0, len(self.names), _BATCH_SIZE):
            rows = slice(start, start + _BATCH_SIZE)
            targets = {name: values[rows] for name, values in self.targets.items()}
            yield Batch(
                self.images[rows],
                self.names[rows],
                targets,
                {name: torch.ones_like(values, dtype=torch.bool) for name, values in targets.items()},
                mask=self.masks[rows],
                patient_id=self.patients[rows],
            )

    def with_shuffled_targets(self, seed: int) -> Subjects:
        """Give every visit the targets of another one, all of them from the same."""
        order = np.random.default_rng(seed).permutation(len(self.names))
        return replace(self, targets={name: values[order] for name, values in self.targets.items()})


@dataclass(frozen=True)
class DrawnCohort:
    """Ellipsoids of known volume, location and shape in a textured box.

    Attributes:
        seed: of everything.
        sizes: patients of each of `SPLITS`.
        visits: visits of each patient. Location, texture and most of volume and shape belong to the patient.
        noise_sd: noise of the images, whose own standard deviation is about 0.5.
        twins: whether patients outside training are copies of training patients, with other noise and identifiers.
    """

    seed: int
    sizes: tuple[int, ...] = (600, 200, 200)
    visits: int = 1
    noise_sd: float = 0.15
    twins: bool = False
    splits: Mapping[str, Subjects] = field(init=False)

    def __post_init__(self) -> None:
        """Draw all splits."""
        random = np.random.default_rng(self.seed)
        splits: dict[str, Subjects] = {}
        for name, size in zip(SPLITS, self.sizes, strict=True):
            factors = {part: self._of_visits(random, size, num, part) for part, num in FACTORS.items()}
            if self.twins and splits:
                factors = {part: values[:size] for part, values in splits["train"].factors.items()}
            splits[name] = self._drawn(random, name, factors)
        object.__setattr__(self, "splits", splits)

    @property
    def train(self) -> Subjects:
        """The training split."""
        return self.splits["train"]

    def draw(self, factors: Mapping[str, Tensor]) -> Tensor:
        """Factors by partition [N, F] -> images without noise [N, 1, D, H, W]."""
        inside = torch.sigmoid((1.0 - self._distances(factors)) / _EDGE)
        texture = (factors["residual"] @ self._textures).reshape(-1, _SIDE, _SIDE, _SIDE)
        return (2.0 * inside + texture)[:, None]

    @staticmethod
    def _distances(factors: Mapping[str, Tensor]) -> Tensor:
        """Return the distances of all voxels from the centre, 1 on the surface [N, D, H, W]."""
        first, second = factors["shape"].unbind(dim=1)
        axes = torch.stack([first + second, -first, -second], dim=1)  # of the same volume
        radii = _RADIUS * torch.exp(_LN_RADIUS_PER_SD * factors["vol"] + _LN_AXIS_PER_SD * axes)
        centres = 0.5 * (_SIDE - 1) + _VOXELS_PER_SD * factors["loc"]
        places = torch.arange(_SIDE, dtype=radii.dtype)
        along = ((places - centres[:, :, None]) / radii[:, :, None]).square()
        return (along[:, 0, :, None, None] + along[:, 1, None, :, None] + along[:, 2, None, None, :]).sqrt()

    @cached_property
    def _textures(self) -> Tensor:
        """Smooth fields [K, D H W], orthogonal, that add up to `_TEXTURE_SD` per voxel on average."""
        waves = np.cos(np.pi * (np.arange(_SIDE) + 0.5)[:, None] * np.arange(4) / _SIDE)
        fields = np.einsum("xa,yb,zc->abcxyz", waves, waves, waves).reshape(-1, _SIDE**3)[1:]
        mixed = np.random.default_rng(7).normal(size=(NUM_TEXTURES, len(fields))) @ fields
        orthogonal, _ = np.linalg.qr(mixed.T)
        return torch.from_numpy(orthogonal.T * _TEXTURE_SD * np.sqrt(_SIDE**3 / NUM_TEXTURES)).float()

    def _of_visits(self, random: np.random.Generator, size: int, num: int, part: str) -> Floats:
        own = np.repeat(random.normal(size=(size, num)), self.visits, axis=0)
        changes = 0.5 if self.visits > 1 and part in ("vol", "shape") else 0.0
        return np.sqrt(1.0 - changes**2) * own + changes * random.normal(size=own.shape)

    def _drawn(self, random: np.random.Generator, name: str, factors: Mapping[str, Floats]) -> Subjects:
        given = {part: torch.from_numpy(values).float() for part, values in factors.items()}
        clean = self.draw(given)
        patients = [f"{name}{row // self.visits:04d}" for row in range(len(clean))]

        def noisy(values: Tensor, sd: float) -> Tensor:
            return values + sd * torch.from_numpy(random.normal(size=values.shape)).float()

        return Subjects(
            factors,
            noisy(clean, self.noise_sd),
            (self._distances(given) < 1.0)[:, None],
            {part: noisy(given[part], _TARGET_NOISE_SD) for part in SUPERVISION},
            tuple(f"{patient}-{row % self.visits}" for row, patient in enumerate(patients)),
            tuple(patients),
        )
