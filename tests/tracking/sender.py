"""Sends offline runs, to be killed. Run as a script: MLflow is imported once, then every sender is a fork.

sender.py DIRECTORY   kill -9 a sender right after its n-th write to MLflow, for several n, then let two at once send
                      what is left; print how many were killed
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import victim

from menvae.sweeps.sync import Destination, Outcome, sync


def fork(output_dir: Path, killed_at_write: int = 0) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if killed_at_write:
                victim.die_after_write(killed_at_write)
            counts = sync(output_dir, Destination())
            code = int(any(counts[outcome] for outcome in (Outcome.UNANSWERED, Outcome.IMPOSSIBLE)))
        finally:
            if code:
                sys.excepthook(*sys.exc_info())
            os._exit(code)
    return pid


def main() -> None:
    directory = Path(sys.argv[1])
    os.environ["MLFLOW_LOGGING_LEVEL"] = "CRITICAL"
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking  # noqa: F401

    num_killed = 0
    for number in (1, 1, 1, 2, 3, 5, 8, 13):
        num_killed += os.WIFSIGNALED(os.waitpid(fork(directory, number), 0)[1])
    sys.stdout.write(f"{num_killed}\n")
    sys.exit(any(os.waitpid(pid, 0)[1] for pid in [fork(directory) for _ in range(2)]))


if __name__ == "__main__":
    main()
