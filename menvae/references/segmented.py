"""Segment, then measure: a U-Net labels the voxels of an image, and the features of its labels are the readings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from menvae.data.masks.features import FEATURES, mask_features
from menvae.encoders import only_available
from menvae.layers import set_memory_format
from menvae.references.cohort import ReferenceCohort
from menvae.references.fitting import SEED, fit, in_chunks, seeded
from menvae.references.readings import Readings, by_subject
from menvae.references.unet import UNet
from menvae.statistics.segmentation import dice, dice_of_masks, label_sums
from menvae.types import NUM_LABELS, Batch

Labels = NDArray[np.uint8]

LEARNING_RATE = 2e-3
LEAST_FALL = 0.05
"""The last voxels change the features little."""
SMALLEST_CROP = 8
"""Smallest side of a training crop, whose sides are half of those of the image."""
SMALLEST_PART = 0.1
"""Parts of a predicted tumour smaller than this share of its largest part are dropped."""


def measurable(cohort: ReferenceCohort) -> tuple[str, ...]:
    """Return the targets that a mask determines: its features, residualised by no other targets than features."""
    statistics = cohort.normalizer.statistics
    return tuple(
        name for name in cohort.targets if name in FEATURES and all(one in FEATURES for one in statistics[name].slopes)
    )


def read_segmented(cohort: ReferenceCohort) -> tuple[Readings, UNet]:
    """Train a U-Net on the masks of the training subjects, segment the judged subjects, and measure their tumours."""
    weights, turns = _label_weights(cohort).to(cohort.device), tumour_turns()

    def loss_of_crops(batch: Batch, generator: torch.Generator, turns: Iterator[bool]) -> Tensor:
        images, labels = crops(*_images_and_labels(batch), generator, turns)
        return segmentation_loss(in_chunks(network, cohort.chunk_size, images), labels, weights)

    def loss(batch: Batch) -> Tensor:
        return loss_of_crops(batch, generator, turns)

    def validate() -> float:
        same, own = torch.Generator().manual_seed(SEED), tumour_turns()  # the same crops every time
        return float(np.mean([float(loss_of_crops(batch, same, own)) for batch in cohort.batches("val")]))

    with seeded(cohort.device) as generator:
        network = UNet(cohort.num_channels, NUM_LABELS).to(cohort.device)
        set_memory_format(network, cohort.memory_format)
        fitted = fit(
            network, loss, validate, cohort, learning_rate=LEARNING_RATE, least_fall=LEAST_FALL, name="segmentation"
        )
    targets = measurable(cohort)
    values, facts = {}, {}
    for split in cohort.judged:
        values[split], facts[split] = _measure(network, cohort, split, targets)
    return Readings(targets, values, {"training": asdict(fitted), "segmentation": facts}), network


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy plus 1 - Dice, the latter over the batch and averaged over the labels of the tumour.

    Args:
        logits: [B, K, D, H, W].
        labels: [B, D, H, W].
        weights: of each label in the cross-entropy [K].
    """
    sums = label_sums(logits, labels)
    return (weights @ sums.surprise) / (weights @ sums.true) + 1.0 - dice(sums).mean()


@torch.no_grad()
def _measure(
    network: UNet, cohort: ReferenceCohort, split: str, targets: tuple[str, ...]
) -> tuple[dict[str, list[float]], dict[str, object]]:
    """Return the z-scores of each subject of a split, its mean Dice, and how often a target could not be measured.

    A feature of a region that the predicted mask does not have is read as the training mean.
    """
    rows, subjects, agreements = [], [], []
    for batch in cohort.batches(split):
        images, labels = _images_and_labels(batch)
        predicted = in_chunks(network, cohort.chunk_size, images).argmax(dim=1).to(torch.uint8).cpu().numpy()
        for subject, mask, truth in zip(batch.subject_id, predicted, labels.cpu().numpy(), strict=True):
            mask = without_small_parts(mask)
            found = mask_features(mask, cohort.spacing_mm[subject])
            scores = [cohort.normalizer.normalise(found, name) for name in targets]
            rows.append([np.nan if score is None else score for score in scores])
            subjects.append(subject)
            agreements.append(dice_of_masks(mask > 0, truth > 0))
    read = np.array(rows, dtype=np.float64).reshape(len(rows), len(targets))
    missing = {name: int(count) for name, count in zip(targets, np.isnan(read).sum(axis=0), strict=True) if count}
    facts = {"dice_of_whole_tumour": float(np.mean(agreements)), "not_measured": missing}
    return by_subject(subjects, np.nan_to_num(read, nan=0.0)), facts


def without_small_parts(mask: Labels) -> Labels:
    """Return a mask without parts of the tumour smaller than `SMALLEST_PART` of the largest, usually false alarms."""
    from scipy.ndimage import label

    parts, number = label(mask > 0, structure=np.ones((3, 3, 3)))
    if number < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.where((sizes >= SMALLEST_PART * sizes.max())[parts], mask, 0).astype(np.uint8)


def _images_and_labels(batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.mask is not None, "segmentation needs masks"
    return only_available(batch.inputs, batch.available), batch.mask[:, 0].long()


def tumour_turns() -> Iterator[bool]:
    """Return whether the crops of successive subjects contain tumour: every second one, whatever the batches."""
    return cycle((True, False))


def crops(images: Tensor, labels: Tensor, generator: torch.Generator, turns: Iterator[bool]) -> tuple[Tensor, Tensor]:
    """Cut each subject to half its sides.

    Args:
        images: [B, C, D, H, W].
        labels: [B, D, H, W].
        generator: draws the crops.
        turns: whether the next crop must contain a random voxel of the tumour; one of each subject is taken.
    """
    sides = [min(side, max(SMALLEST_CROP, side // 2)) for side in labels.shape[1:]]
    cut_images, cut_labels = [], []
    for image, mask in zip(images, labels, strict=True):
        tumour = mask.nonzero() if next(turns) else mask.new_zeros((0, 3))
        chosen = int(torch.randint(max(1, len(tumour)), (1,), generator=generator))
        place = []
        for axis, side in enumerate(sides):
            free = mask.shape[axis] - side
            start = int(torch.randint(free + 1, (1,), generator=generator))
            if len(tumour):
                start = int(tumour[chosen, axis]) - int(torch.randint(side, (1,), generator=generator))
            start = max(0, min(free, start))
            place.append(slice(start, start + side))
        cut_images.append(image[:, place[0], place[1], place[2]])
        cut_labels.append(mask[place[0], place[1], place[2]])
    return torch.stack(cut_images), torch.stack(cut_labels)


def _label_weights(cohort: ReferenceCohort) -> Tensor:
    """Return weights [K] of mean 1 that fall with the square root of the share of training voxels of a label."""
    counts = torch.zeros(NUM_LABELS)
    for batch in cohort.batches("train"):
        counts += torch.bincount(_images_and_labels(batch)[1].flatten(), minlength=NUM_LABELS).cpu()
    weights = torch.where(counts > 0, counts.clamp(min=1.0).rsqrt(), 0.0)
    return weights * (counts > 0).sum() / weights.sum()
