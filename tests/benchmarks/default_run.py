"""Does the default run hold what the README says of it?

Trains it in a temporary folder and looks at what it left. Claim: the objective goes down, and the gates of location, of
shuffled z and of a decoder that reads the residual, and the R2 of the total volume (wanted: 0.85) are met. The exit
status is 1 when it does not hold.

    python tests/benchmarks/default_run.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GATES = ("loc_r2", "shuffled_ratio", "decoder_reads_residual")
LEAST_VOL_TOTAL_R2 = 0.85


def main() -> int:
    """Run and judge; 0 when the claim holds, 1 when it does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="as for menvae-train, such as seed=1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = "from menvae.apps.train import main; main()"
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", program, f"output_dir={folder}", *options.overrides], check=True)
        seconds = time.monotonic() - started
        (run,) = (Path(folder) / "runs").iterdir()
        epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        gates = {gate["name"]: gate for gate in json.loads((run / "gates.json").read_text())["gates"]}
    best = min(epochs, key=lambda epoch: epoch["val_epoch/loss_at_final_weights"])
    first, last = epochs[0]["train_epoch/loss"], epochs[-1]["train_epoch/loss"]
    claims = [
        (f"training objective {first:.2f} -> {last:.2f}", last < first),
        (f"R2 of vol_total in epoch {best['epoch']} {best['sem/vol_total_r2']:.3f}", _above(best["sem/vol_total_r2"])),
        *((f"gate {name} {gates[name]['value']:.3f}", gates[name]["passed"]) for name in GATES),
    ]
    print(f"\n{seconds:.0f} s, preparation included")
    for words, holds in claims:
        print(f"{'holds' if holds else 'FAILS':<6} {words}")
    return 0 if all(holds for _, holds in claims) else 1


def _above(value: float | None) -> bool:
    return value is not None and value > LEAST_VOL_TOTAL_R2


if __name__ == "__main__":
    sys.exit(main())
