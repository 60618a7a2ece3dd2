"""Whether preparing and loading a cohort takes memory that does not grow with the number of its subjects.

Subjects of 128^3 voxels in the BraTS layout are written: a head of shells with a ball as tumour, which compress so well
that 1,000 of them fit onto a small disk. A process for each size of the cohort prepares it into an empty cache, loads
it and reads an epoch of it. Printed are the resident peaks of this process and of the largest of the workers that
prepare. The exit status is 1 when a peak of 100 subjects, or with ``--full`` of 1,000, exceeds that of the size before
it by more than a tenth.

    python tests/benchmarks/loading_memory.py                     # 20 and 100 subjects, 2 to 3 minutes
    python tests/benchmarks/loading_memory.py --full              # 1,000 too, about 15 minutes more
    python tests/benchmarks/loading_memory.py --format arrays     # memory-mapped, 18 MiB of disk a subject
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from interleaved import at_most, judged

sys.path.insert(0, str(Path(__file__).parents[1]))

SIZES, FULL = (20, 100), 1000
LARGEST_RATIO = 1.1
MODALITIES = ("t1c", "t1n", "t2f", "t2w")
PROCESSES = ("main process", "largest worker")
SECONDS_BETWEEN_LOOKS = 0.1


def write_subject(root: Path, index: int, side: int) -> None:
    """Write a subject whose intensities and tumour differ from those of all others."""
    import nibabel

    generator = np.random.default_rng(index)
    axes = np.meshgrid(*[np.linspace(-1.0, 1.0, side, dtype=np.float32)] * 3, indexing="ij", sparse=True)
    depth = 1.0 - sum(axis**2 for axis in axes) / 0.8  # 1 in the centre of the head, 0 at its surface
    center, radius = generator.uniform(-0.3, 0.3, 3), generator.uniform(0.15, 0.3)
    distance = sum((axis - middle) ** 2 for axis, middle in zip(axes, center, strict=True))
    mask = np.select([distance < (radius * part) ** 2 for part in (0.3, 0.6, 1.0)], [1, 3, 2], 0).astype(np.uint8)
    name = f"BraTS-MEN-{index:05d}-000"
    folder = root / name
    folder.mkdir(parents=True)
    volumes = {"seg": mask}
    shells = np.where(depth > 0.0, 200 + 50 * np.floor(20 * depth), 0)
    for modality in MODALITIES:
        gains = generator.uniform(0.5, 2.0, 4)  # of tissue, and of three regions of the tumour
        volumes[modality] = (shells * gains.take(mask)).astype(np.int16)
    for kind, volume in volumes.items():
        image = nibabel.nifti1.Nifti1Image(volume, np.eye(4))
        image.header.set_xyzt_units("mm")
        (folder / f"{name}-{kind}.nii.gz").write_bytes(gzip.compress(image.to_bytes(), compresslevel=1))


def read_cohort(root: Path, side: int, cache_format: str) -> None:
    """Prepare, load and read in this process and its workers."""
    import torch
    from shrunk import composed

    from menvae.composition.experiment import Experiment
    from menvae.console import logs
    from menvae.training.place import Place

    device = torch.device("cpu")
    with tempfile.TemporaryDirectory(dir=root.parent) as folder, logs.only_errors():
        box = [f"data.roi_size=[{side},{side},{side}]", "data.spacing_mm=[1,1,1]", "data.box=center"]
        cohort = ["data=brats", f"data.root={root}", f"data.cache_format={cache_format}", "trainer.batch_size=2"]
        data = Experiment.from_config(composed(*cohort, *box, f"output_dir={folder}")).load_data(Place(device, 0, 1))
        for batch in data.train.epoch(0):
            batch.to(device)


def peaks_of(root: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return the peaks of a process of its own that reads the cohort, and of its largest worker, in MiB."""
    command = [sys.executable, __file__, "--side", str(options.side), "--format", options.format, "--read", str(root)]
    peaks = dict.fromkeys(PROCESSES, 0.0)
    with psutil.Popen(command) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                workers = [worker.pid for worker in process.children(recursive=True)]
                for name, pids in zip(PROCESSES, ([process.pid], workers), strict=True):
                    peaks[name] = max([peaks[name], *map(peak_mib, pids)])
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        sys.exit(process.returncode)
    return peaks


def peak_mib(pid: int) -> float:
    """Return the resident peak of a process so far; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="numbers of subjects, increasing")
    parser.add_argument("--full", action="store_true", help=f"{FULL} subjects too")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--format", choices=("compressed", "arrays"), default="compressed", help="of the cache")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read_cohort(options.read, options.side, options.format)
        return 0
    sizes = [*options.sizes, *([FULL] if options.full else [])]
    peaks: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root, num_written = Path(folder) / "subjects", 0
        for num in sizes:
            for index in range(num_written, num):
                write_subject(root, index, options.side)
            num_written, started = num, time.monotonic()
            peaks[num] = peaks_of(root, options)
            words = ", ".join(f"{name} {peak:.0f} MiB" for name, peak in peaks[num].items())
            print(f"{num:5} subjects of {options.side}^3: {words}; {time.monotonic() - started:.0f} s", flush=True)
    claims = [
        at_most(f"{name}, peak of {num} subjects / {fewer}", peaks[num][name] / peaks[fewer][name], LARGEST_RATIO)
        for fewer, num in pairwise(sizes)
        for name in PROCESSES
    ]
    return judged(claims)


if __name__ == "__main__":
    sys.exit(main())
