"""Does the run of ``make train`` hold what the README says of it?

Trains it in a temporary folder and looks at what it left. Claims: the objective goes down, and on validation and test
no gate fails and those of `gates.DECIDED` pass. The exit status is 1 when one does not hold.

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

from gates import not_met

from menvae.runs.gates_table import judged_gates


def main() -> int:
    """Run and judge; 0 when the claim holds, 1 when it does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="as for menvae-train, such as seed=1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = "from menvae.apps.train import main; main()"
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", program, "experiment=semivae", f"output_dir={folder}", *options.overrides],
            check=True,
        )
        seconds = time.monotonic() - started
        (run,) = (Path(folder) / "runs").iterdir()
        epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        judged = judged_gates(json.loads((run / "gates.json").read_text()))
    first, last = epochs[0]["train_epoch/loss"], epochs[-1]["train_epoch/loss"]
    claims = [(f"training objective {first:.2f} -> {last:.2f}", last < first)]
    claims += [(f"gate {gate}", False) for gate in not_met(judged)] or [("gates", True)]
    print(f"\n{seconds:.0f} s, preparation included")
    for words, holds in claims:
        print(f"{'holds' if holds else 'FAILS':<6} {words}")
    return 0 if all(holds for _, holds in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
