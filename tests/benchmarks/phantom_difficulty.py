"""Is the phantom neither trivial nor hopeless? Linear features must fail where a supervised network passes.

Generates a cohort in memory, measures the targets at the geometry of training and predicts them twice:

- ridge regression on the means of an 8 x 8 x 8 grid of blocks of each z-scored modality (2048 inputs), its strength
  chosen on a split inside the training subjects;
- a small 3D network, trained on the same subjects with the missing features masked out.

Claim: ridge stays below the shape gate, the network is above every R2 gate. The exit status is 1 when it does not hold.

    python tests/benchmarks/phantom_difficulty.py --size 64 --subjects 1200 --epochs 24
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from menvae.data.features import FEATURES, LOCATION_FEATURES, SHAPE_FEATURES, VOLUME_FEATURES, mask_features
from menvae.data.phantom import DISTRIBUTIONS_VERSION, FIELD_OF_VIEW_MM, MODALITIES, phantom_subject

GATES = {"volume": (VOLUME_FEATURES, 0.85), "location": (LOCATION_FEATURES, 0.91), "shape": (SHAPE_FEATURES, 0.40)}
BLOCKS = 8
Array = NDArray[np.float32]


# --- cohort ---------------------------------------------------------------------------------------------------------


def make_subject(job: tuple[int, int, int]) -> tuple[NDArray[np.float16], list[float]]:
    """One subject: z-scored images [4, D, H, W] (0 stays 0) and its features (missing: nan)."""
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
    return images, [np.nan if found[name] is None else float(found[name] or 0.0) for name in FEATURES]


def make_cohort(seed: int, num_subjects: int, size: int, processes: int) -> tuple[NDArray[np.float16], Array]:
    """Images [N, 4, D, H, W] and features [N, 13] of a whole cohort."""
    images = np.zeros((num_subjects, len(MODALITIES), size, size, size), dtype=np.float16)
    features = np.zeros((num_subjects, len(FEATURES)), dtype=np.float32)
    jobs = [(seed, index, size) for index in range(num_subjects)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for index, (image, values) in enumerate(pool.imap(make_subject, jobs, chunksize=8)):
            images[index], features[index] = image, values
            show_progress("cohort", index + 1, num_subjects)
    return images, features


def load_cohort(options: argparse.Namespace) -> tuple[NDArray[np.float16], Array]:
    """The cohort, from the file of an earlier run if there is one."""
    if options.cohort is not None and options.cohort.exists():
        with np.load(options.cohort) as kept:
            return kept["images"], kept["features"]
    images, features = make_cohort(options.seed, options.subjects, options.size, options.processes)
    if options.cohort is not None:
        np.savez(options.cohort, images=images, features=features)
    return images, features


def show_progress(label: str, done: int, total: int) -> None:
    """Rewrite one line on a terminal, write a line per tenth elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{label} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % max(1, total // 5) == 0:
        print(f"{label} {done}/{total}", file=sys.stderr, flush=True)


# --- targets --------------------------------------------------------------------------------------------------------


def residualised_targets(features: Array, train: NDArray[np.intp]) -> tuple[Array, float]:
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


def ridge_predict(inputs: Array, targets: Array, fit: NDArray[np.intp], ask: NDArray[np.intp], alpha: float) -> Array:
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


def ridge_scores(images: NDArray[np.float16], targets: Array, train: NDArray[np.intp], test: NDArray[np.intp]) -> Array:
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
    """Mass, centroid and spread of non-negative maps: how much there is of something, where, and how far it reaches.

    Volumes, areas and centroids are sums of local quantities, so pooling over the whole box needs few subjects; the
    logarithm makes small and large tumours equally easy.
    """

    def __init__(self, channels: int, num_maps: int) -> None:
        """Build the 1x1x1 convolution that draws the maps."""
        super().__init__()
        self.maps = nn.Conv3d(channels, num_maps, 1)
        nn.init.constant_(self.maps.bias, -2.0)  # maps start sparse

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, D, H, W] to [B, 7 K]: log mass, centroid (3), log spread (3) of each map."""
        density = nn.functional.softplus(self.maps(x)).flatten(2)
        places = torch.stack(
            torch.meshgrid(*(torch.linspace(-1.0, 1.0, n) for n in x.shape[2:]), indexing="ij"), dim=-1
        ).reshape(-1, 3)
        sums = density @ torch.cat([torch.ones(len(places), 1), places, places**2], dim=1)
        mass = sums[..., :1] + 1e-3
        centroid = sums[..., 1:4] / mass
        spread = (sums[..., 4:] / mass - centroid**2).clamp_min(1e-4)
        return torch.cat([mass.log() / 2 - 2, 2 * centroid, spread.log() / 2 + 1], dim=-1).flatten(1)


class Network(nn.Module):
    """A stem at half resolution, blocks down to a 4 x 4 x 4 grid; moments of the fine maps join the flattened grid."""

    def __init__(self, size: int, width: int, num_features: int) -> None:
        """Build the layers."""
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(len(MODALITIES), width, 3, 2, 1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            Block(width, width, 1),
        )
        num_maps, edge, layers = width, size // 2, list[nn.Module]()
        self.fine = MomentPool(width, num_maps)
        while edge > 4:
            wider = min(2 * width, 128)
            layers.append(Block(width, wider, 2))
            width, edge = wider, edge // 2
        self.coarse = nn.Sequential(*layers, nn.Conv3d(width, 16, 1), nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(7 * num_maps + 16 * edge**3, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, num_features)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 4, D, H, W] to [B, 13]."""
        local = self.stem(x)
        found: torch.Tensor = self.head(torch.cat([self.fine(local), self.coarse(local)], dim=1))
        return found


def network_scores(
    images: NDArray[np.float16],
    targets: Array,
    middle_x: float,
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    options: argparse.Namespace,
) -> Array:
    """Held-out R2 of the network after the last epoch (nothing is selected on the test subjects).

    `middle_x` is the z-scored loc_x of the midline: the only augmentation mirrors left and right about it.
    """
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    network = Network(images.shape[-1], options.width, targets.shape[1]).to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=0.02)
    steps = options.epochs * (len(train) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps, pct_start=0.1)
    goal = torch.from_numpy(np.nan_to_num(targets))
    seen = torch.from_numpy(np.isfinite(targets).astype(np.float32))
    loc_x = FEATURES.index("loc_x")
    for epoch in range(options.epochs):
        network.train()
        order, started, total = rng.permutation(train), time.monotonic(), 0.0
        for step in range(len(train) // options.batch):
            chosen = order[step * options.batch : (step + 1) * options.batch]
            batch, wanted = images[chosen], goal[chosen].clone()
            flipped = rng.random(len(chosen)) < 0.5  # left and right: x becomes 1 - x, the rest stays
            batch[flipped] = batch[flipped, :, ::-1]
            wanted[torch.from_numpy(flipped), loc_x] = 2 * middle_x - wanted[torch.from_numpy(flipped), loc_x]
            found = network(torch.from_numpy(batch).float().contiguous(memory_format=torch.channels_last_3d))
            weights = seen[chosen]
            loss = (weights * nn.functional.smooth_l1_loss(found, wanted, reduction="none")).sum() / weights.sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        line = f"epoch {epoch + 1}/{options.epochs} loss {total / (len(train) // options.batch):.4f}"
        if (epoch + 1) % 4 == 0 or epoch + 1 == options.epochs:
            scores = r2_per_feature(network_predict(network, images[test], options.batch), targets[test])
            line += " held-out " + " ".join(f"{name} {mean_score(scores, name):.3f}" for name in GATES)
        print(f"{line} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
    return scores


def network_predict(network: Network, images: NDArray[np.float16], batch: int) -> Array:
    """Predictions [N, 13]."""
    network.eval()
    with torch.no_grad():
        parts = [
            network(torch.from_numpy(images[i : i + batch]).float().contiguous(memory_format=torch.channels_last_3d))
            for i in range(0, len(images), batch)
        ]
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
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=16, help="channels of the stem")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cohort", type=Path, help="an .npz to keep the cohort in between runs")
    parser.add_argument("--processes", type=int, default=2, help="that generate the cohort")
    options = parser.parse_args()
    if options.size % BLOCKS:
        parser.error(f"--size must be a multiple of {BLOCKS}, got {options.size}")
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    images, features = load_cohort(options)
    order = np.random.default_rng(options.seed + 1).permutation(options.subjects)
    test, train = order[: options.subjects // 6], order[options.subjects // 6 :]
    targets, middle_x = residualised_targets(features, train)
    made = time.monotonic()
    ridge = ridge_scores(images, targets, train, test)
    fitted = time.monotonic()
    print(
        f"phantom {DISTRIBUTIONS_VERSION}, {len(train)} training, {len(test)} held-out subjects at {options.size}^3; "
        f"cohort {made - started:.0f} s, ridge {fitted - made:.0f} s; ridge "
        + " ".join(f"{gate} {mean_score(ridge, gate):.3f}" for gate in GATES),
        flush=True,
    )
    network = network_scores(images, targets, middle_x, train, test, options)
    print(f"network {time.monotonic() - fitted:.0f} s")
    return 0 if report(ridge, network, features) else 1


if __name__ == "__main__":
    sys.exit(main())
