"""What could a code of so many numbers reach at best if it were linear? Principal components beside a finished run.

Components are those of the training images of the run, without augmentation; images of the validation split are
projected onto the first of them. Printed is the gate ``mean_image_ratio`` of both: the error of the mean training image
over that of the projection, or of the run.

    python tests/benchmarks/linear_code.py outputs/runs/semivae_0123456789
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
from torch import Tensor

from menvae import FinishedRun, load_run

COMPONENTS = (16, 32, 64, 84, 128, 256)


def images(run: FinishedRun, split: str) -> Tensor:
    """Return the z-scored images of a split, a row each [N, C D H W]."""
    return torch.cat([stored.to(run.device).inputs.flatten(1) for stored in run.loaders[split].epoch(0)])


def ratios(train: Tensor, judged: Tensor, components: Iterable[int]) -> dict[int, float]:
    """Return the error of the mean image over that of the projection onto so many components.

    Args:
        train: images [N, V]; they are centred in place.
        judged: other images [M, V].
        components: numbers of them; those that the training images do not have are left out.
    """
    mean = train.mean(dim=0)
    train -= mean
    judged = judged - mean
    variances, mixes = torch.linalg.eigh((train @ train.T).double())  # N x N: there are fewer images than voxels
    kept = variances > 1e-6 * variances.max()  # images that repeat make others
    scaled = (mixes[:, kept] / variances[kept].sqrt()).flip(1).float()
    found = {}
    for num in (num for num in components if num <= scaled.shape[1]):
        axes = train.T @ scaled[:, :num]
        found[num] = float(judged.square().mean() / (judged - judged @ axes @ axes.T).square().mean())
    return found


def main() -> None:
    """Project and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="path of a finished run")
    parser.add_argument("--components", type=int, nargs="+", default=COMPONENTS)
    options = parser.parse_args()
    run = load_run(options.run)
    train, val = (images(run, split) for split in ("train", "val"))
    print(f"{run.name}: {len(train)} training and {len(val)} validation images")
    for num, ratio in ratios(train, val, options.components).items():
        print(f"{num:4} principal components: mean_image_ratio {ratio:.2f}", flush=True)
    own = run.metrics.get("gate/mean_image_ratio")
    z_dim = run.config["model"]["z_dim"]
    print(f"{z_dim:4} latents of the run:     mean_image_ratio {'not computed' if own is None else f'{own:.2f}'}")


if __name__ == "__main__":
    main()
