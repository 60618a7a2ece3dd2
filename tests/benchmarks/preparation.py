"""What preparing a subject and loading it again cost, beside MONAI, interleaved in one run.

- preparation: five files to the arrays of training on the native grid; the pipeline of MONAI whose result menvae equals
- loading: a batch of one subject from a warm cache, by MONAI's PersistentDataset and collation (image and mask as
  float32) and from both formats of menvae; what z-scoring costs on the device that trains is printed beside it
- size of a subject, beside image and mask as float16 and uint8 arrays

Times are process-CPU milliseconds in one thread with the files in the page cache. The exit status is 1 when a wanted
ratio is missed, or when the z-scores differ from those of MONAI by more than 1e-6 (of the larger of 1 and the z-score).

    python tests/benchmarks/preparation.py --repeats 5
    python tests/benchmarks/preparation.py --root FOLDER     # your own subjects of 240 x 240 x 155 voxels
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from menvae.data.batches.dataset import SubjectDataset, collate
from menvae.data.batches.order import Draw
from menvae.data.cache.prepare import prepare
from menvae.data.cache.storage import stored
from menvae.data.files.subjects import SubjectFiles
from menvae.data.geometry.transforms import load_and_resample
from menvae.data.masks.features import FEATURES
from menvae.data.phantom.head import phantom_subject, write_subject
from menvae.data.sources.brats import BratsSource
from menvae.data.targets.normalizer import TargetNormalizer, TargetSettings

Pipeline = Callable[[Any], Any]
SPACING_MM = (1.0, 1.0, 1.0)
BOX = (160, 160, 160)
LEAST_RATIOS = {"preparation": 3.5, "arrays": 4.0, "compressed": 1.5, "size": 3.0}


def monai_pipeline(channels: list[str]) -> Pipeline:
    """The pipeline that menvae equals on the native grid."""
    from monai.transforms import (
        Compose,
        ConcatItemsd,
        EnsureTyped,
        LoadImaged,
        NormalizeIntensityd,
        Orientationd,
        ResizeWithPadOrCropd,
        SelectItemsd,
    )

    everything = [*channels, "seg"]
    return Compose(
        [
            LoadImaged(everything, image_only=True, ensure_channel_first=True),
            Orientationd(everything, axcodes="RAS", labels=None),
            ResizeWithPadOrCropd(everything, spatial_size=BOX),
            NormalizeIntensityd(channels, nonzero=True, channel_wise=True),
            ConcatItemsd(channels, name="image"),
            SelectItemsd(["image", "seg"]),
            EnsureTyped(["image", "seg"], track_meta=False),
        ]
    )


def cpu_ms(function: Callable[[], object]) -> float:
    """Process-CPU time of a call."""
    started = time.process_time()
    function()
    return (time.process_time() - started) * 1000.0


def interleaved(variants: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each variant, after one round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, function in variants.items():
            took = cpu_ms(function)
            if repeat:
                found[name].append(took)
    return {name: statistics.median(values) for name, values in found.items()}


def greatest_difference(subject: SubjectFiles, source: BratsSource, pipeline: Pipeline) -> float:
    """Greatest difference of a z-score from MONAI's, over the larger of 1 and the z-score."""
    arrays = load_and_resample(subject, source.geometry)
    found = stored(arrays.channels, arrays.mask, "arrays")
    expected = pipeline(subject.files)["image"].numpy()
    greatest = 0.0
    for channel, mean, sd, wanted in zip(found.image, found.mean, found.sd, expected, strict=True):
        z_scores = np.where(channel == 0, 0, (channel.astype(np.float32) - np.float32(mean)) / np.float32(sd))
        greatest = max(greatest, float((np.abs(z_scores - wanted) / np.maximum(1.0, np.abs(wanted))).max()))
    return greatest


def loaders(subjects: list[SubjectFiles], source: BratsSource, folder: Path, pipeline: Pipeline) -> dict[str, Any]:
    """Return what gives sample 0 by each way, and the size of an entry in each format of menvae."""
    from monai.data import PersistentDataset, list_data_collate

    files = [subject.files for subject in subjects]
    persistent = PersistentDataset(files, pipeline, cache_dir=folder / "monai", weights_only=False)
    variants: dict[str, Callable[[], object]] = {"PersistentDataset": lambda: list_data_collate([persistent[0]])}
    sizes = {}
    for name in ("arrays", "compressed"):
        cohort = prepare(replace(source, cache_format=name), folder / "cache")  # type: ignore[arg-type]
        normalizer = TargetNormalizer.fit([one.features for one in cohort.subjects], TargetSettings(), FEATURES)
        dataset = SubjectDataset(cohort.subjects, normalizer, {"all": FEATURES})
        variants[name] = lambda dataset=dataset: collate([dataset[Draw(0, 0)]])  # type: ignore[misc]
        sizes[name] = sum(path.stat().st_size for path in cohort.subjects[0].folder.iterdir()) / 1e6
    batch = collate([dataset[Draw(0, 0)]])
    variants["z-scores, on the CPU"] = lambda: batch.to(torch.device("cpu"))
    return {"variants": variants, "sizes": sizes}


def main() -> int:
    """Measure and judge; 0 when ratios and differences are as wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--root", type=Path, help="folder of subjects in the BraTS layout; default: two phantoms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.root is None:
            for index in range(2):
                write_subject(phantom_subject(0, index, SPACING_MM), folder / "phantoms")
        root = options.root or folder / "phantoms"
        source = BratsSource(root=str(root), roi_size=BOX, spacing_mm=SPACING_MM, box="center")
        subjects = source.subjects(folder, lambda items, description, total: items)
        pipeline = monai_pipeline(list(source.modalities))

        def menvae() -> None:
            arrays = load_and_resample(subjects[0], source.geometry)
            stored(arrays.channels, arrays.mask, "arrays")

        took = interleaved({"MONAI": lambda: pipeline(subjects[0].files), "menvae": menvae}, options.repeats)
        difference = max(greatest_difference(subject, source, pipeline) for subject in subjects)
        found = loaders(subjects, source, folder, pipeline)
        loading = interleaved(found["variants"], 4 * options.repeats)

    as_float16_mb = np.prod(BOX) * (2 * len(source.modalities) + 1) / 1e6
    print(f"box {BOX}, {len(source.modalities)} channels; medians of {options.repeats}, {os.cpu_count()} cores")
    for name, value in took.items():
        print(f"preparation  {name:<22}{value:8.1f} ms  (x {took['MONAI'] / value:.2f})")
    for name, value in loading.items():
        print(f"loading      {name:<22}{value:8.2f} ms  (x {loading['PersistentDataset'] / value:.2f})")
    print(f"size         {'float16 arrays':<22}{as_float16_mb:8.2f} MB")
    for name, value in found["sizes"].items():
        print(f"size         {name:<22}{value:8.2f} MB  (x {as_float16_mb / value:.2f} smaller)")
    ratios = {
        "preparation": took["MONAI"] / took["menvae"],
        "arrays": loading["PersistentDataset"] / loading["arrays"],
        "compressed": loading["PersistentDataset"] / loading["compressed"],
        "size": as_float16_mb / found["sizes"]["compressed"],
    }
    claims = [
        (f"{name} {ratios[name]:.2f}, wanted {least}", ratios[name] >= least) for name, least in LEAST_RATIOS.items()
    ]
    claims.append((f"z-scores differ from those of MONAI by at most {difference:.1e}", difference <= 1e-6))
    for words, holds in claims:
        print(f"{'holds' if holds else 'FAILS':<6} {words}")
    return 0 if all(holds for _, holds in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
