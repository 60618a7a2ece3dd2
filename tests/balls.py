"""A cohort of noisy balls, of which every target has a closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from menvae.data.masks.features import ED, ET, mask_features
from menvae.data.targets.normalizer import TargetNormalizer, TargetSettings
from menvae.encoders.resnet import ResNetEncoder
from menvae.latent import LatentLayout
from menvae.references.cohort import ReferenceCohort
from menvae.types import Batch

SIDE, SPACING_MM = 16, 2.0
SUPERVISION = {"vol": ["vol_total", "vol_ed"], "loc": ["loc_x", "loc_y", "loc_z"]}
LAYOUT = LatentLayout({"vol": 4, "loc": 4, "residual": 8})


@dataclass
class Loader:
    """Batches of a fixed set of subjects, counted each time they are read."""

    rows: Batch
    size: int = 4
    shuffle: bool = False
    epochs: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.rows) / self.size)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        self.epochs += 1
        order = np.random.default_rng(epoch).permutation(len(self.rows)) if self.shuffle else np.arange(len(self.rows))
        for start in range(0, len(order), self.size):
            index = torch.from_numpy(order[start : start + self.size])
            yield taken(self.rows, index)


def taken(rows: Batch, index: torch.Tensor) -> Batch:
    return replace(
        rows,
        inputs=rows.inputs[index],
        mask=None if rows.mask is None else rows.mask[index],
        subject_id=tuple(rows.subject_id[place] for place in index.tolist()),
        targets={name: values[index] for name, values in rows.targets.items()},
        observed={name: values[index] for name, values in rows.observed.items()},
        available=None if rows.available is None else rows.available[index],
    )


def balls(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images [N, 1, D, H, W] and masks: a bright ET ball in a shell of darker ED, in noise."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(SIDE) + 0.5] * 3, indexing="ij"))
    centres = random.uniform(6.0, 10.0, size=(num, 3))
    radii = random.uniform(2.0, 5.0, size=num)
    distances = np.linalg.norm(grid[None] - centres[:, :, None, None, None], axis=1)
    masks = np.where(distances < 0.6 * radii[:, None, None, None], ET, 0)
    masks = np.where((masks == 0) & (distances < radii[:, None, None, None]), ED, masks).astype(np.uint8)
    images = np.select([masks == ED, masks == ET], [1.0, 2.0], 0.0) + 0.1 * random.normal(size=masks.shape)
    return images[:, None].astype(np.float32), masks


def rows_of(images: np.ndarray, masks: np.ndarray, normalizer: TargetNormalizer, name: str) -> Batch:
    raw = [mask_features(mask, (SPACING_MM,) * 3) for mask in masks]
    scores = {
        partition: [[normalizer.normalise(each, target) for target in targets] for each in raw]
        for partition, targets in SUPERVISION.items()
    }
    return Batch(
        inputs=torch.from_numpy(images),
        subject_id=tuple(f"{name}-{number:03d}" for number in range(len(images))),
        targets={key: torch.tensor([[z or 0.0 for z in row] for row in found]) for key, found in scores.items()},
        observed={key: torch.tensor([[z is not None for z in row] for row in found]) for key, found in scores.items()},
        mask=torch.from_numpy(masks)[:, None],
    )


def cohort() -> ReferenceCohort:
    """Return a cohort of 48 training subjects, 16 for validation and 16 for test."""
    parts = {name: balls(num, seed) for seed, (name, num) in enumerate({"train": 48, "val": 16, "test": 16}.items())}
    raw = [mask_features(mask, (SPACING_MM,) * 3) for mask in parts["train"][1]]
    names = [name for names in SUPERVISION.values() for name in names]
    normalizer = TargetNormalizer.fit(raw, TargetSettings(residualise={}), names)
    rows = {name: rows_of(*arrays, normalizer, name) for name, arrays in parts.items()}
    return ReferenceCohort(
        train=Loader(rows["train"], shuffle=True),
        splits={name: Loader(batch) for name, batch in rows.items()},
        num_subjects=80,
        num_observed=[48],
        supervision=SUPERVISION,
        normalizer=normalizer,
        num_channels=1,
        size=(SIDE,) * 3,
        spacing_mm={subject: (SPACING_MM,) * 3 for batch in rows.values() for subject in batch.subject_id},
        build_encoder=partial(ResNetEncoder, 1, (SIDE,) * 3, LAYOUT, base_filters=8),
        z_dim=LAYOUT.z_dim,
        identity={"data_hash": "balls"},
        training_identity={},
        encoder_identity={"name": "resnet"},
    )
