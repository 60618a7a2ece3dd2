"""Is the phantom neither trivial nor hopeless? Linear features must fail where a supervised network passes.

Generates a cohort in memory, measures the targets at the geometry of training and predicts them twice:

- ridge regression on the means of an 8 x 8 x 8 grid of blocks of each z-scored modality (2048 inputs), its strength
  chosen on a split inside the training subjects;
- a small U-Net, trained on the masks of the same subjects; the features are measured on the masks that it draws.

Claim: ridge stays below the shape gate, the network is above every R2 gate. The exit status is 1 when it does not hold.

    python tests/benchmarks/phantom_difficulty.py --size 64 --subjects 1200 --epochs 4
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from menvae.data.masks.features import FEATURES, LOCATION_FEATURES, SHAPE_FEATURES, VOLUME_FEATURES, mask_features
from menvae.data.phantom.distributions import DISTRIBUTIONS_VERSION, FIELD_OF_VIEW_MM
from menvae.data.phantom.head import MODALITIES, phantom_subject
from menvae.data.targets.normalizer import TargetNormalizer, TargetSettings

GATES = {"volume": (VOLUME_FEATURES, 0.85), "location": (LOCATION_FEATURES, 0.91), "shape": (SHAPE_FEATURES, 0.40)}
BLOCKS = 8
NUM_LABELS = 4  # with background
Array = NDArray[np.float32]
Indices = NDArray[np.intp]


# --- cohort ---------------------------------------------------------------------------------------------------------


class Cohort(NamedTuple):
    """Images [N, 4, D, H, W] (z-scored over the head, 0 stays 0), masks [N, D, H, W], features [N, 13] (or nan)."""

    images: NDArray[np.float16]
    masks: NDArray[np.uint8]
    features: Array


def make_subject(job: tuple[int, int, int]) -> tuple[NDArray[np.float16], NDArray[np.uint8], list[float]]:
    """One row of the cohort from (seed, index, size)."""
    seed, index, size = job
    spacing_mm = (FIELD_OF_VIEW_MM / size,) * 3
    subject = phantom_subject(seed, index, spacing_mm)
    images = np.zeros((len(MODALITIES), size, size, size), dtype=np.float16)
    for channel, name in enumerate(MODALITIES):
        values = subject.images[name]
        head = values != 0
        inside = values[head].astype(np.float32)
        images[channel][head] = (inside - inside.mean()) / inside.std()
    return images, subject.mask, measure((subject.mask, size))


def measure(job: tuple[NDArray[np.uint8], int]) -> list[float]:
    """The 13 features of a mask from (mask, size); nan: missing."""
    mask, size = job
    found = mask_features(mask, (FIELD_OF_VIEW_MM / size,) * 3)
    return [np.nan if value is None else value for value in found.values()]


def make_cohort(options: argparse.Namespace) -> Cohort:
    """A whole cohort, or the one that an earlier run kept."""
    if options.cohort is not None and options.cohort.exists():
        with np.load(options.cohort) as kept:
            return Cohort(kept["images"], kept["masks"], kept["features"])
    num_subjects, size = options.subjects, options.size
    cohort = Cohort(
        np.zeros((num_subjects, len(MODALITIES), size, size, size), dtype=np.float16),
        np.zeros((num_subjects, size, size, size), dtype=np.uint8),
        np.zeros((num_subjects, len(FEATURES)), dtype=np.float32),
    )
    jobs = [(options.seed, index, size) for index in range(num_subjects)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for index, row in enumerate(pool.imap(make_subject, jobs, chunksize=8)):
            cohort.images[index], cohort.masks[index], cohort.features[index] = row
            show_progress("cohort", index + 1, num_subjects)
    if options.cohort is not None:
        np.savez(options.cohort, **cohort._asdict())
    return cohort


def show_progress(label: str, done: int, total: int) -> None:
    """Rewrite one line on a terminal, write a line per tenth elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{label} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % max(1, total // 5) == 0:
        print(f"{label} {done}/{total}", file=sys.stderr, flush=True)


# --- targets --------------------------------------------------------------------------------------------------------


class Targets:
    """Features -> targets as models see them, fitted on training subjects."""

    def __init__(self, features: Array, train: Indices) -> None:
        """Fit on the features [N, 13] of training subjects; nan: missing."""
        self.normalizer = TargetNormalizer.fit(
            [self._raw(features[index]) for index in train], TargetSettings(), FEATURES
        )

    def normalised(self, features: Array) -> Array:
        """Features [N, 13] -> targets [N, 13]; nan stays nan."""
        subjects = [self._raw(row) for row in features]
        rows = [[self.normalizer.normalise(raw, name) for name in FEATURES] for raw in subjects]
        return np.array(rows, dtype=np.float32)  # None becomes nan

    @staticmethod
    def _raw(row: Array) -> dict[str, float | None]:
        return {name: float(value) if np.isfinite(value) else None for name, value in zip(FEATURES, row, strict=True)}


def r2_per_feature(predictions: Array, targets: Array) -> Array:
    """Coefficient of determination of each feature over the subjects that have it."""
    seen = np.isfinite(targets)
    values = np.where(seen, targets, 0.0)
    means = values.sum(axis=0) / seen.sum(axis=0)
    residual = np.where(seen, predictions - values, 0.0)
    spread = np.where(seen, values - means, 0.0)
    scores: Array = 1.0 - (residual**2).sum(axis=0) / (spread**2).sum(axis=0)
    return scores


# --- ridge ----------------------------------------------------------------------------------------------------------


def block_means(images: NDArray[np.float16]) -> Array:
    """Means over an 8 x 8 x 8 grid of blocks, [N, 4 * 512]."""
    num, channels, size = images.shape[:3]
    edge = size // BLOCKS
    means = np.empty((num, channels * BLOCKS**3), dtype=np.float32)
    for index, image in enumerate(images):
        blocks = image.astype(np.float32).reshape(channels, BLOCKS, edge, BLOCKS, edge, BLOCKS, edge)
        means[index] = blocks.mean(axis=(2, 4, 6)).ravel()
    return means


def ridge_predict(inputs: Array, targets: Array, fit: Indices, ask: Indices, alpha: float) -> Array:
    """Ridge regression for each feature, on the subjects of `fit` that have it (dual form)."""
    centre, scale = inputs[fit].mean(axis=0), inputs[fit].std(axis=0) + 1e-6
    inputs = ((inputs - centre) / scale).astype(np.float64)
    predictions = np.zeros((len(ask), targets.shape[1]), dtype=np.float32)
    for column in range(targets.shape[1]):
        seen = fit[np.isfinite(targets[fit, column])]
        mean = targets[seen, column].mean()
        kernel = inputs[seen] @ inputs[seen].T
        kernel[np.diag_indices_from(kernel)] += alpha
        weights = inputs[seen].T @ np.linalg.solve(kernel, targets[seen, column] - mean)
        predictions[:, column] = inputs[ask] @ weights + mean
    return predictions


def ridge_scores(images: NDArray[np.float16], targets: Array, train: Indices, test: Indices) -> Array:
    """Held-out R2 of ridge; every feature has its own strength, from a split of the training subjects."""
    inputs = block_means(images)
    cut = int(0.8 * len(train))
    alphas = np.logspace(1, 6, 11)
    inner = np.stack(
        [
            r2_per_feature(ridge_predict(inputs, targets, train[:cut], train[cut:], alpha), targets[train[cut:]])
            for alpha in alphas
        ]
    )
    best = alphas[np.argmax(inner, axis=0)]
    scores = np.zeros(targets.shape[1], dtype=np.float32)
    for alpha in np.unique(best):
        outer = r2_per_feature(ridge_predict(inputs, targets, train, test, alpha), targets[test])
        scores[best == alpha] = outer[best == alpha]
    return scores


# --- network --------------------------------------------------------------------------------------------------------


def network_scores(
    cohort: Cohort, targets: Targets, train: Indices, test: Indices, options: argparse.Namespace
) -> Array:
    """Held-out R2 of features measured on the masks that a U-Net draws (nothing is selected on the test subjects).

    Each feature gets a line (slope, intercept) fitted on training subjects, so that a bias of the masks is no error.
    """
    network = train_network(cohort, train, options)
    ask = np.concatenate([train[: len(test)], test])
    masks = network_masks(network, cohort.images[ask], options.batch)
    jobs = [(mask, options.size) for mask in masks]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        measured = np.array(pool.map(measure, jobs, chunksize=8), dtype=np.float32)
    found = np.nan_to_num(targets.normalised(measured))  # nothing found where something is: the mean
    wanted = targets.normalised(cohort.features[ask])
    predictions = np.zeros_like(found[len(test) :])
    for column in range(found.shape[1]):
        fit = np.flatnonzero(np.isfinite(wanted[: len(test), column]))
        slope, intercept = np.polyfit(found[fit, column], wanted[fit, column], 1)
        predictions[:, column] = slope * found[len(test) :, column] + intercept
    return r2_per_feature(predictions, wanted[len(test) :])


def train_network(cohort: Cohort, train: Indices, options: argparse.Namespace) -> nn.Module:
    """A small U-Net for the four labels: Dice and cross entropy, half of the subjects mirrored left to right."""
    from monai.losses.dice import DiceCELoss
    from monai.networks.nets.basic_unet import BasicUNet

    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    network = BasicUNet(
        in_channels=len(MODALITIES),
        out_channels=NUM_LABELS,
        features=(8, 8, 16, 32, 32, 8),
        norm=("group", {"num_groups": 4}),
    ).to(memory_format=torch.channels_last_3d)
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr)
    steps_per_epoch = len(train) // options.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.epochs * steps_per_epoch, pct_start=0.1
    )
    for epoch in range(options.epochs):
        order, started, total = rng.permutation(train), time.monotonic(), 0.0
        for step in range(steps_per_epoch):
            chosen = order[step * options.batch : (step + 1) * options.batch]
            images, masks = cohort.images[chosen], cohort.masks[chosen]
            if rng.random() < 0.5:
                images, masks = images[:, :, ::-1], masks[:, ::-1]
            value = loss(network(to_tensor(images)), torch.from_numpy(masks.copy())[:, None].long())
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += value.item()
            if sys.stderr.isatty():
                show_progress(f"epoch {epoch + 1}/{options.epochs}, step", step + 1, steps_per_epoch)
        seconds = time.monotonic() - started
        line = f"epoch {epoch + 1}/{options.epochs} loss {total / steps_per_epoch:.4f} ({seconds:.0f} s)"
        print(line, file=sys.stderr, flush=True)
    return network.eval()


def network_masks(network: nn.Module, images: NDArray[np.float16], batch: int) -> NDArray[np.uint8]:
    """The most likely label of each voxel [N, D, H, W]."""
    with torch.inference_mode():
        parts = [network(to_tensor(images[i : i + batch])).argmax(dim=1) for i in range(0, len(images), batch)]
    return torch.cat(parts).numpy().astype(np.uint8)


def to_tensor(images: NDArray[np.float16]) -> torch.Tensor:
    """To float32 in the memory format that CPU convolutions like best."""
    return torch.from_numpy(images.astype(np.float32)).contiguous(memory_format=torch.channels_last_3d)


# --- report ---------------------------------------------------------------------------------------------------------


def mean_score(scores: Array, gate: str) -> float:
    """Unweighted mean of R2 over the features of a gate."""
    return float(np.mean([scores[FEATURES.index(name)] for name in GATES[gate][0]]))


def report(ridge: Array, network: Array, features: Array) -> bool:
    """Print both columns and the gates; true when the claim holds."""
    print(f"\n{'feature':<20}{'present':>9}{'ridge R2':>10}{'network R2':>12}")
    for column, name in enumerate(FEATURES):
        present = np.isfinite(features[:, column]).mean()
        print(f"{name:<20}{present:>9.2f}{ridge[column]:>10.3f}{network[column]:>12.3f}")
    print()
    passes = {}
    for gate, (_, least) in GATES.items():
        by_ridge, by_network = mean_score(ridge, gate), mean_score(network, gate)
        passes[gate] = (by_ridge > least, by_network > least)
        verdicts = [f"{value:.3f} {'pass' if value > least else 'fail'}" for value in (by_ridge, by_network)]
        print(f"gate {gate:<9} > {least:.2f}   ridge {verdicts[0]:<12} network {verdicts[1]}")
    holds = not passes["shape"][0] and all(network_passes for _, network_passes in passes.values())
    print(f"claim (ridge fails shape, the network passes all): {'holds' if holds else 'DOES NOT HOLD'}")
    return holds


def main() -> int:
    """Run the comparison; 0 when the claim holds, 1 when it does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="voxels along each axis, a multiple of 8")
    parser.add_argument("--subjects", type=int, default=1200, help="one sixth of them are held out")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cohort", type=Path, help="an .npz to keep the cohort in between runs")
    parser.add_argument("--processes", type=int, default=2, help="that generate the cohort")
    options = parser.parse_args()
    if options.size % BLOCKS:
        parser.error(f"--size must be a multiple of {BLOCKS}, got {options.size}")
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    cohort = make_cohort(options)
    order = np.random.default_rng(options.seed + 1).permutation(options.subjects)
    test, train = order[: options.subjects // 6], order[options.subjects // 6 :]
    targets = Targets(cohort.features, train)
    made = time.monotonic()
    ridge = ridge_scores(cohort.images, targets.normalised(cohort.features), train, test)
    fitted = time.monotonic()
    print(
        f"phantom {DISTRIBUTIONS_VERSION}, {len(train)} training, {len(test)} held-out subjects at {options.size}^3; "
        f"cohort {made - started:.0f} s, ridge {fitted - made:.0f} s; ridge "
        + " ".join(f"{gate} {mean_score(ridge, gate):.3f}" for gate in GATES),
        flush=True,
    )
    network = network_scores(cohort, targets, train, test, options)
    print(f"network {time.monotonic() - fitted:.0f} s")
    return 0 if report(ridge, network, cohort.features) else 1


if __name__ == "__main__":
    sys.exit(main())
