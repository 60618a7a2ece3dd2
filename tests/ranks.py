"""Scripts that run as ranks, for tests of what ranks compute together; torchrun itself is that of a test of runs."""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from runs import become, environment, fork

from menvae.training.place import RENDEZVOUS


def run_script(script: Path, *arguments: str, num_ranks: int = 1, timeout: float = 600.0) -> None:
    """Run a script as one process or as ranks, which fork from the server of `runs`, and check that all of them end."""
    with tempfile.TemporaryDirectory() as folder:
        log, shared = Path(folder) / "output", environment()
        if num_ranks > 1:
            shared |= {RENDEZVOUS: (Path(folder) / "rendezvous").as_uri(), "WORLD_SIZE": str(num_ranks)}
        ranks = [
            fork(_be, str(script), arguments, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, log)
            for rank in range(num_ranks)
        ]
        deadline = time.monotonic() + timeout
        while any(rank.exitcode is None for rank in ranks) and not any(rank.exitcode for rank in ranks):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        for rank in ranks:
            rank.kill()  # any are left only after an error or the deadline
            rank.join()
        assert [rank.exitcode for rank in ranks] == [0] * num_ranks, log.read_text(errors="replace")[-4000:]


def _be(script: str, arguments: Sequence[str], environ: dict[str, str], log: Path) -> None:
    become(environ, log, log)
    os.chdir(Path(script).parent)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
