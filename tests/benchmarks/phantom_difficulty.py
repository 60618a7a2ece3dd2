"""Is the phantom neither trivial nor hopeless? Linear features must fail where a supervised network passes.

Generates a cohort in memory, measures the targets at the geometry of training and predicts them twice:

- ridge regression on the means of an 8 x 8 x 8 grid of blocks of each z-scored modality (2048 inputs), its strength
  chosen on a split inside the training subjects;
- a small 3D network, trained on the same subjects: on the features, missing ones masked out, and on their masks.

Claim: ridge stays below the shape gate, the network is above every R2 gate. The exit status is 1 when it does not hold.

    python tests/benchmarks/phantom_difficulty.py --size 64 --subjects 1200 --epochs 20
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

from menvae.data.features import FEATURES, LOCATION_FEATURES, SHAPE_FEATURES, VOLUME_FEATURES, mask_features
from menvae.data.phantom import DISTRIBUTIONS_VERSION, FIELD_OF_VIEW_MM, MODALITIES, phantom_subject

GATES = {"volume": (VOLUME_FEATURES, 0.85), "location": (LOCATION_FEATURES, 0.91), "shape": (SHAPE_FEATURES, 0.40)}
BLOCKS = 8
NUM_LABELS = 3
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
    found = mask_features(subject.mask, spacing_mm)
    return images, subject.mask, [np.nan if value is None else value for value in found.values()]


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


def residualised_targets(features: Array, train: Indices) -> tuple[Array, float]:
    """Shape without what volume explains (least squares on training subjects), then z-scored on them; nan: missing.

    Returns:
        Targets [N, 13] and the z-scored loc_x of the midline.
    """
    targets = features.astype(np.float64)
    column = {name: position for position, name in enumerate(FEATURES)}
    for name in SHAPE_FEATURES:
        regressors = ["vol_total", "vol_ncr"] if name.endswith("_ncr") else ["vol_total"]
        design = np.stack([features[:, column[r]] for r in regressors] + [np.ones(len(features))], axis=1)
        values = features[:, column[name]]
        seen = train[np.isfinite(values[train])]
        weights, *_ = np.linalg.lstsq(design[seen].astype(np.float64), values[seen].astype(np.float64))
        targets[:, column[name]] = values - design @ weights
    means, deviations = np.nanmean(targets[train], axis=0), np.nanstd(targets[train], axis=0)
    middle_x = (0.5 - means[column["loc_x"]]) / deviations[column["loc_x"]]
    return ((targets - means) / deviations).astype(np.float32), float(middle_x)


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


class Block(nn.Module):
    """Two 3x3x3 convolutions with GroupNorm and a skip."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        """Build the layers."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(channels_in, channels_out, 3, stride, 1, bias=False),
            nn.GroupNorm(8, channels_out),
            nn.ReLU(),
            nn.Conv3d(channels_out, channels_out, 3, 1, 1, bias=False),
            nn.GroupNorm(8, channels_out),
        )
        self.skip = nn.Conv3d(channels_in, channels_out, stride, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, D, H, W] to [B, C', D / stride, ...]."""
        return torch.relu(self.body(x) + self.skip(x))


class MomentPool(nn.Module):
    """How much of something there is, where it is, how it is stretched and how far it reaches for its amount.

    Volumes, areas and centroids are sums of local quantities, so sums over the whole box need few subjects. Logarithms
    make small and large tumours equally easy, and stretch, reach and amount are taken relative to size: what is left of
    shape without volume is a small difference of large numbers otherwise, which descent finds very slowly.
    """

    def forward(self, maps: torch.Tensor, log_tumour: torch.Tensor, full_edge: int) -> torch.Tensor:
        """Non-negative maps [B, K, D, H, W] and the log mass of the tumour [B, 1, 1] to [B, 9 K]."""
        lines = [torch.linspace(-1.0, 1.0, n) for n in maps.shape[2:]]
        places = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).reshape(-1, 3)
        sums = maps.flatten(2) @ torch.cat([torch.ones(len(places), 1), places, places**2], dim=1)
        mass = sums[..., :1]
        centroid = sums[..., 1:4] / (mass + 1e-3)
        log_spread = (sums[..., 4:] / (mass + 1e-3) - centroid**2).clamp_min(1e-4).log() / 2
        log_mass = (mass * (full_edge / maps.shape[-1]) ** 3 + 1.0).log()
        mean_spread = log_spread.mean(dim=-1, keepdim=True)
        amount = 3 * (log_mass - log_tumour * 2 / 3 - 1)  # a surface grows as volume^(2/3)
        reach = 3 * (mean_spread - log_mass / 3 + 3.5)
        found = [log_mass / 2 - 2, 2 * centroid, 3 * (log_spread - mean_spread), reach, amount]
        return torch.cat(found, dim=-1).flatten(1)


class Network(nn.Module):
    """Looks for the three labels at half resolution, then reads the features off what it found.

    The first half predicts which share of each coarse voxel is NCR, ED and ET (it learns from the masks too); the
    second half sees these maps alone and pools them, and maps drawn from them at three scales.
    """

    def __init__(self, width: int, num_features: int) -> None:
        """Build the layers."""
        super().__init__()
        groups = max(1, width // 4)
        self.find = nn.Sequential(
            nn.Conv3d(len(MODALITIES), width, 3, 2, 1, bias=False),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
            nn.Conv3d(width, width, 3, 1, 1, bias=False),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
            nn.Conv3d(width, NUM_LABELS, 1),
        )
        nn.init.constant_(self.find[-1].bias, -4.0)  # labels are rare
        num_maps = NUM_LABELS + 1  # and the whole tumour
        self.blocks = nn.ModuleList([Block(num_maps, 16, 2), Block(16, 32, 2)])
        self.draw = nn.ModuleList([nn.Conv3d(num_maps, 8, 3, 1, 1), nn.Conv3d(16, 8, 1), nn.Conv3d(32, 8, 1)])
        self.pool = MomentPool()
        self.head = nn.Sequential(
            nn.Linear(9 * (num_maps + 24), 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, num_features)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, 4, D, H, W] to features [B, 13] and logits of the label shares [B, 3, D / 2, ...]."""
        logits = self.find(x)
        shares = torch.sigmoid(logits)
        maps = torch.cat([shares, shares.sum(dim=1, keepdim=True)], dim=1)
        log_tumour = (maps[:, -1:].sum(dim=(2, 3, 4)) + 1.0).log()[:, :, None]
        edge = maps.shape[-1]
        pooled = [self.pool(maps, log_tumour, edge), self.pool(torch.relu(self.draw[0](maps)), log_tumour, edge)]
        for block, draw in zip(self.blocks, self.draw[1:], strict=True):
            maps = block(maps)
            pooled.append(self.pool(torch.relu(draw(maps)), log_tumour, edge))
        return self.head(torch.cat(pooled, dim=1)), logits


def network_scores(
    cohort: Cohort, targets: Array, middle_x: float, train: Indices, test: Indices, options: argparse.Namespace
) -> Array:
    """Held-out R2 of the network after the last epoch (nothing is selected on the test subjects).

    `middle_x` is the z-scored loc_x of the midline: the only augmentation mirrors left and right about it.
    """
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    network = Network(options.width, targets.shape[1]).to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.02)
    steps_per_epoch = len(train) // options.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.epochs * steps_per_epoch, pct_start=0.1
    )
    scores = np.full(targets.shape[1], np.nan, dtype=np.float32)
    for epoch in range(options.epochs):
        network.train()
        order, started, total = rng.permutation(train), time.monotonic(), np.zeros(2)
        for step in range(steps_per_epoch):
            chosen = order[step * options.batch : (step + 1) * options.batch]
            batch = training_batch(cohort, targets, middle_x, chosen, rng.random(len(chosen)) < 0.5)
            losses = network_losses(network, *batch)
            optimizer.zero_grad()
            (losses[0] + losses[1]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += [loss.item() for loss in losses]
        features_loss, mask_loss = total / steps_per_epoch
        line = f"epoch {epoch + 1}/{options.epochs} loss {features_loss:.4f} mask {mask_loss:.4f}"
        if (epoch + 1) % 4 == 0 or epoch + 1 == options.epochs:
            scores = r2_per_feature(network_predict(network, cohort.images[test], options.batch), targets[test])
            line += " held-out " + " ".join(f"{gate} {mean_score(scores, gate):.3f}" for gate in GATES)
        print(f"{line} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
    return scores


def training_batch(
    cohort: Cohort, targets: Array, middle_x: float, chosen: Indices, mirrored: NDArray[np.bool_]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, targets, which of them are present, and label shares at half resolution; some mirrored left to right."""
    images, wanted, masks = cohort.images[chosen], targets[chosen], cohort.masks[chosen]
    images[mirrored], masks[mirrored] = images[mirrored, :, ::-1], masks[mirrored, ::-1]
    loc_x = FEATURES.index("loc_x")
    wanted[mirrored, loc_x] = 2 * middle_x - wanted[mirrored, loc_x]
    labels = torch.from_numpy(masks)[:, None] == torch.arange(1, NUM_LABELS + 1)[:, None, None, None]
    shares = nn.functional.avg_pool3d(labels.float(), 2)
    seen = torch.from_numpy(np.isfinite(wanted)).float()
    return to_tensor(images), torch.from_numpy(np.nan_to_num(wanted)), seen, shares


def network_losses(
    network: Network, images: torch.Tensor, wanted: torch.Tensor, seen: torch.Tensor, shares: torch.Tensor
) -> list[torch.Tensor]:
    """Mean squared error of the features that are present, and cross entropy of the label shares."""
    found, logits = network(images)
    squared = seen * (found - wanted) ** 2
    crossed = nn.functional.binary_cross_entropy_with_logits(logits, shares)
    return [squared.sum() / seen.sum(), 10.0 * crossed]  # 10: most voxels are easy background


def to_tensor(images: NDArray[np.float16]) -> torch.Tensor:
    """To float32 in the memory format that CPU convolutions like best."""
    return torch.from_numpy(images).float().contiguous(memory_format=torch.channels_last_3d)


def network_predict(network: Network, images: NDArray[np.float16], batch: int) -> Array:
    """Predictions [N, 13]."""
    network.eval()
    with torch.no_grad():
        parts = [network(to_tensor(images[i : i + batch]))[0] for i in range(0, len(images), batch)]
    return torch.cat(parts).numpy()


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
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=16, help="channels of the first layers")
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
    targets, middle_x = residualised_targets(cohort.features, train)
    made = time.monotonic()
    ridge = ridge_scores(cohort.images, targets, train, test)
    fitted = time.monotonic()
    print(
        f"phantom {DISTRIBUTIONS_VERSION}, {len(train)} training, {len(test)} held-out subjects at {options.size}^3; "
        f"cohort {made - started:.0f} s, ridge {fitted - made:.0f} s; ridge "
        + " ".join(f"{gate} {mean_score(ridge, gate):.3f}" for gate in GATES),
        flush=True,
    )
    network = network_scores(cohort, targets, middle_x, train, test, options)
    print(f"network {time.monotonic() - fitted:.0f} s")
    return 0 if report(ridge, network, cohort.features) else 1


if __name__ == "__main__":
    sys.exit(main())
