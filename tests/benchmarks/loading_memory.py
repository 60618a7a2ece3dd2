"""Whether preparing and loading a cohort takes memory that does not grow with the number of its subjects.

A process each draws, prepares and loads a small and a large cohort of phantoms and reads two epochs of it; printed is
the peak of its resident memory. The exit status is 1 when a further subject costs more than a tenth of its stored size.

    python tests/benchmarks/loading_memory.py
    python tests/benchmarks/loading_memory.py --few 20 --many 200 --side 64
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from interleaved import judged

sys.path.insert(0, str(Path(__file__).parents[1]))

LARGEST_SHARE = 0.1


def peak_mib(num_subjects: int, side: int) -> float:
    """Prepare, load and read in this process, and return its peak in MiB."""
    import torch
    from shrunk import composed

    from menvae.composition.experiment import Experiment
    from menvae.training.place import Place

    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        box = [f"data.roi_size=[{side},{side},{side}]", f"data.spacing_mm={[192 / side] * 3}".replace(" ", "")]
        cohort = ["data=phantom", f"data.num_subjects={num_subjects}", "trainer.batch_size=2", f"output_dir={folder}"]
        data = Experiment.from_config(composed(*cohort, *box)).load_data(Place(device, 0, 1))
        for epoch in range(2):
            for batch in data.train.epoch(epoch):
                batch.to(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=15)
    parser.add_argument("--many", type=int, default=60)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--alone", type=int, help="number of subjects to measure in this process")
    options = parser.parse_args()
    if options.alone:
        print(peak_mib(options.alone, options.side))
        return 0
    peaks = []
    for num in (options.few, options.many):
        command = [sys.executable, __file__, "--side", str(options.side), "--alone", str(num)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        peaks.append(float(output.splitlines()[-1]))
        print(f"{num:5} subjects of {options.side}^3: {peaks[-1]:.0f} MiB")
    slope = (peaks[1] - peaks[0]) / (options.many - options.few)
    stored = 5 * 2 * options.side**3 / 2**20  # four modalities and a mask, in 16 bits
    words = f"{slope:.3f} MiB for each further subject, of {stored:.1f} MiB; wanted at most {LARGEST_SHARE:g} of it"
    return judged([(words, slope <= LARGEST_SHARE * stored)])


if __name__ == "__main__":
    sys.exit(main())
