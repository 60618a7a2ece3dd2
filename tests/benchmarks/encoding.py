"""Visits a second of a cold cohort: menvae.encode beside a plain loop over MONAI's transforms, in turns.

The cohort lies on the disk as NIfTI files of 1 mm voxels without masks, and no cache has it. The loop reads, orients,
resamples, crops and z-scores one visit after another, and encodes it with the same model. menvae also checks every file
and draws from the posterior. Both turns count everything from the files to the latents. The exit status is 1 when the
wanted ratio is missed, or when the latents differ. MONAI's rounded coordinates turn some voxels of the background into
values near 1e-13, and so into brain; for the comparison of latents, and only there, the loop sets them to 0.

    python tests/benchmarks/encoding.py                          # 32 visits, 64^3 voxels of 3 mm
    python tests/benchmarks/encoding.py --side 96 --spacing 2
    python tests/benchmarks/encoding.py --root FOLDER            # your own visits in the BraTS layout
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from interleaved import judged
from numpy.typing import NDArray

import menvae

if TYPE_CHECKING:  # worker processes import this file: what is heavy is imported where it is used
    from monai.transforms import Compose

    from menvae.data.files.subjects import SubjectFiles
    from menvae.runs.finished import FinishedRun

LEAST_RATIO = 5.0
LARGEST_DIFFERENCE = 1e-3


def trained(output_dir: Path, side: int, spacing_mm: float) -> FinishedRun:
    """A run of one epoch on phantoms that are not in the cohort; only its architecture matters here."""
    overrides = [
        *(f"data.roi_size=[{side},{side},{side}]", f"data.spacing_mm=[{spacing_mm},{spacing_mm},{spacing_mm}]"),
        *("data.seed=1", "data.num_subjects=6", "data.val_fraction=0.3", "data.test_fraction=0.0"),
        *("trainer.max_epochs=1", "trainer.batch_size=4", "tracking.enabled=false", "pictures.every_epochs=100"),
    ]
    program = "from menvae.apps.train import main; main()"
    subprocess.run([sys.executable, "-c", program, f"output_dir={output_dir}", *overrides], check=True)
    (path,) = (output_dir / "runs").iterdir()
    return menvae.load_run(path)


def monai_pipeline(channels: list[str], side: int, spacing_mm: float, *, keeps_background: bool = False) -> Compose:
    """What a user of MONAI writes; ``keeps_background`` sets what is almost 0 to 0."""
    from monai.transforms import (
        Compose,
        ConcatItemsd,
        EnsureChannelFirstd,
        EnsureTyped,
        Lambdad,
        LoadImaged,
        NormalizeIntensityd,
        Orientationd,
        ResizeWithPadOrCropd,
        Spacingd,
    )

    cleaned = [Lambdad(channels, lambda image: image * (image.abs() > 1e-6))] if keeps_background else []
    return Compose(
        [
            LoadImaged(channels),
            EnsureChannelFirstd(channels),
            Orientationd(channels, axcodes="RAS", labels=None),
            Spacingd(channels, pixdim=(spacing_mm,) * 3, mode="bilinear"),
            *cleaned,
            ResizeWithPadOrCropd(channels, spatial_size=(side,) * 3),
            NormalizeIntensityd(channels, nonzero=True, channel_wise=True),
            ConcatItemsd(channels, name="image"),
            EnsureTyped(["image"], track_meta=False),
        ]
    )


def plain_loop(run: FinishedRun, files: list[dict[str, str]], pipeline: Compose) -> NDArray[Any]:
    """One visit after another, with the same model."""
    import torch

    found = []
    with torch.inference_mode():
        for images in files:
            posterior = run.model.encode(pipeline(images)["image"][None])
            run.model.predict(posterior.mean)
            found.append(posterior.mean.numpy())
    return np.concatenate(found)


def without_masks(subjects: list[SubjectFiles]) -> Path:
    """Remove the masks, which the loop does not read, and return the folder of the cohort."""
    for subject in subjects:
        subject.mask.unlink()
    return subjects[0].mask.parents[1]


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock time of a call: the work is shared by processes and threads, so let nothing else run."""
    started = time.monotonic()
    function()
    return time.monotonic() - started


def main() -> int:
    """Measure and judge; 0 when ratio and latents are as wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--visits", type=int, default=32)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--spacing", type=float, default=3.0)
    parser.add_argument("--root", type=Path, help="folder of visits in the BraTS layout; default: phantoms")
    options = parser.parse_args()
    from menvae.data.sources.brats import BratsSource
    from menvae.data.sources.phantom import PhantomSource
    from menvae.data.workers import unseen

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = trained(folder / "outputs", options.side, options.spacing)
        _ = run.model
        phantoms = PhantomSource(num_subjects=options.visits, spacing_mm=(1.0, 1.0, 1.0))
        root = options.root or without_masks(phantoms.subjects(folder, unseen))
        subjects = BratsSource(root=str(root)).found_subjects(folder)[: options.visits]
        files = [{name: str(path) for name, path in one.images.items()} for one in subjects]
        channels = list(subjects[0].images)
        pipeline = monai_pipeline(channels, options.side, options.spacing)
        latents: dict[str, NDArray[Any]] = {}

        def by_menvae() -> None:
            table = menvae.encode(run, data={"name": "brats", "root": str(root), "box": "center"})
            latents["menvae"] = table.filter(regex=r"^mean\.").to_numpy()

        def by_monai() -> None:
            plain_loop(run, files, pipeline)

        ways = {"MONAI": by_monai, "menvae": by_menvae}
        turns: dict[str, list[float]] = {way: [] for way in ways}
        for repeat in range(options.repeats):
            for way, function in ways.items():
                turns[way].append(seconds(function))
            print(f"repeat {repeat + 1}/{options.repeats}", file=sys.stderr, flush=True)
        pipeline = monai_pipeline(channels, options.side, options.spacing, keeps_background=True)
        latents["MONAI"] = plain_loop(run, files, pipeline)

    num = len(subjects)
    print(f"{num} visits, {options.side}^3 voxels of {options.spacing:g} mm, {os.cpu_count()} cores")
    for way, taken in turns.items():
        print(f"{way:<8}{num / statistics.median(taken):8.2f} visits a second")
    ratios = [monai / own for monai, own in zip(turns["MONAI"], turns["menvae"], strict=True)]
    ratio, difference = statistics.median(ratios), float(np.abs(latents["MONAI"] - latents["menvae"]).max())
    return judged(
        [
            (f"ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), wanted {LEAST_RATIO}", ratio >= LEAST_RATIO),
            (f"latents differ by at most {difference:.1e}", difference <= LARGEST_DIFFERENCE),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
