"""A simulated month: a sweep of 10,000 points on a cluster on which everything fails that fails on real ones.

5 % of the points fail (an exception, out of memory, the time limit, a node that dies), 2 % are preempted, one in ten
of the former fails whenever it runs. The launching process is killed six times (SIGKILL), twice between the submission
of jobs and their record, so that some are submitted twice; with fewer than 1,000 points three times. The tracking store
is away for an hour. Then ``retry`` and ``sync``. At the end every point has finished, or failed with its cause, and
nothing has happened twice: one table of checks, and exit code 1 if one fails.

Real: the commands, each a process of its own (``menvae-train -m``, again and again, ``menvae-sweep status``, ``retry``
and ``sync``), with composition, plan, campaign, status, locks, logs, trackers and MLflow on SQLite, whose file is moved
away for the hour. Simulated: the cluster behind the interface of runners, its queue with MaxSubmitJobs, its nodes, and
the clock; time passes while the launching process waits (`cluster.WaitingClock` takes the place of the module ``time``
in `menvae.sweeps.campaign`). Jobs do not train: they last, and leave the files of a run with menvae's own functions;
what they log goes to the store when they end, at no cost of time, and nothing of a job whose node dies.

    python tests/simulation/month.py                  # 10,000 points, 14 nodes, 30 days
    python tests/simulation/month.py --points 200     # a minute
    python tests/simulation/month.py --points 100 --fault lock    # must fail; so must each other fault
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
sys.path.insert(0, str(Path(__file__).parents[1]))  # of tests

import warm  # noqa: F401 - commands, which fork from this process, find it done
from checks import Check, checks, read_store
from cluster import HOUR, Asker, Ledger, Settings, WaitingClock, serve
from rich.console import Console
from rich.table import Table
from runner import askers, install

from menvae.apps import sweep as sweep_command
from menvae.apps import train as train_command
from menvae.runs.directory import RunDirectory
from menvae.sweeps import campaign
from menvae.sweeps.status import PointStatus, sweep_status
from menvae.sweeps.sweep import SWEEPS, Sweep
from menvae.tracking.mlflow.store import silence_mlflow

NAME = "month"
POINTS = ["experiment=lithology_vae", "data.num_rows=600", "data.num_classes=8", "data.num_holes=30"]
KLS, RATES, FOLDS = ("0.25", "1.0"), ("0.0003", "0.001"), ("0", "1", "2", "3", "4")
PER_SEED = len(KLS) * len(RATES) * len(FOLDS)
FAULTS = {
    "lock": "jobs release the lock of their run at once",
    "checkpoint": "jobs begin anew instead of at their checkpoint",
    "delivery": "the files with the ids of some runs in the store are lost before they are sent again",
    "loss": "runs count as delivered that are not, in the hour without the store",
}
_FORK = multiprocessing.get_context("fork")
_PAUSE = 2 * HOUR  # until somebody starts a killed launch again


class Failed(Exception):
    """A command has ended with another exit code than it should."""


class Month:
    """A simulation.

    Args:
        settings: what is simulated.
        folder: folder for the socket and the logs of commands.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._address = str(folder / "cluster")
        self._num_commands = 0
        self.sweep = Sweep(settings.output_dir / SWEEPS / NAME)

    def run(self) -> tuple[Ledger, list[PointStatus]]:
        """Launch the sweep until it ends, retry, and send what the store lacks; return what has happened."""
        place = f"output_dir={self._settings.output_dir}"
        epochs = f"trainer.max_epochs={self._settings.num_epochs}"
        axes = [f"seed=1..{self._settings.num_points // PER_SEED}"]
        axes += [f"loss.lambda_kl={','.join(KLS)}", f"optimizer.learning_rate={','.join(RATES)}"]
        axes += [f"data.fold={','.join(FOLDS)}"]
        launch = ["-m", *POINTS, epochs, *axes, f"sweep.name={NAME}", "hydra.launcher.runner=simulated", place]
        cluster = _FORK.Process(target=self._serve, daemon=True)
        cluster.start()
        while not Path(self._address).exists():
            time.sleep(0.01)
        try:
            while self._command(train_command.main, launch, (1, -signal.SIGKILL)) == -signal.SIGKILL:
                self._ask("pass_time", _PAUSE)
            self._command(sweep_command.main, ["status", place], (1,))
            self._command(sweep_command.main, ["retry", place], (1,))
            if self._settings.fault == "delivery":
                self._forget_ids()
            self._command(sweep_command.main, ["sync", place], (0,))
            before = read_store(self._settings.output_dir / "mlflow.db")
            self._command(sweep_command.main, ["sync", place], (0,))
            if read_store(self._settings.output_dir / "mlflow.db") != before:
                raise Failed("a second sync has changed the store")
            askers.append(Asker(self._address))
            return askers[0]("ledger"), sweep_status(self.sweep)
        except (ConnectionError, EOFError) as error:
            cluster.join(10)  # it writes why
            raise Failed(f"the cluster has ended\n{_end_of(self._folder / 'cluster.log')}") from error
        finally:
            cluster.kill()
            cluster.join()

    def _serve(self) -> None:
        _write_to(self._folder / "cluster.log")
        serve(self._settings, self._address)

    def _ask(self, name: str, *arguments: Any) -> Any:
        ask = Asker(self._address)
        try:
            return ask(name, *arguments)
        finally:
            ask.close()

    def _command(self, main: Callable[[], None], arguments: list[str], codes: tuple[int, ...]) -> int:
        """Carry out a command in a process of its own; return its exit code, that of a signal below 0."""
        self._num_commands += 1
        log = self._folder / f"command_{self._num_commands}.log"
        began = time.monotonic()
        process = _FORK.Process(target=self._be, args=(main, arguments, log))
        process.start()
        process.join()
        code = process.exitcode
        assert code is not None
        name = "menvae-train -m" if main is train_command.main else f"menvae-sweep {arguments[0]}"
        days = self._ask("now") / HOUR / 24
        sys.stdout.write(f"day {days:5.1f}  {name:<20} exit code {code:3}  ({time.monotonic() - began:.0f} s)\n")
        sys.stdout.flush()
        if code not in codes:
            raise Failed(f"{name}: exit code {code}\n{_end_of(log)}")
        return code

    def _be(self, main: Callable[[], None], arguments: list[str], log: Path) -> None:
        """Become a command."""
        _write_to(log)
        askers.append(Asker(self._address))
        campaign.time = WaitingClock(askers[0])  # type: ignore[assignment]
        sys.argv = ["menvae", *arguments]
        main()

    def _forget_ids(self) -> None:
        for point in self.sweep.points()[:3]:
            directory = RunDirectory(self.sweep.runs / point.run)
            (directory.path / "mlflow_run_id").unlink()
            directory.set_status(**{**directory.status(), "trackers": []})
            directory.release()


def _write_to(log: Path) -> None:
    """Let this process write to a file instead of standard output and error."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


def report(checked: Iterable[Check], ledger: Ledger, seconds: float) -> bool:
    """Print the table; return whether all checks hold."""
    table = Table(title="checks", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("", "should be", "is", ""):
        table.add_column(column, justify="left" if not column else "right")
    holds = True
    for words, expected, found in checked:
        is_so = expected == found
        holds = holds and is_so
        table.add_row(words, _short(expected), _short(found), "holds" if is_so else "FAILS")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    untracked = f"{len(ledger.untracked)} runs ended while the store was away"
    doubles = f"{ledger.num_locked} jobs found their run trained by another, {ledger.num_idle} found it finished"
    sys.stdout.write(
        f"{ledger.now / HOUR / 24:.1f} days in {seconds:.0f} s; {len(ledger.attempts)} trainings; {untracked}; "
        f"{doubles}; {ledger.num_killed} launches were killed\n"
    )
    return holds


def _short(value: object) -> str:
    return str(len(value)) if isinstance(value, dict) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--points", type=int, default=10_000, help=f"a multiple of {PER_SEED}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fault", choices=FAULTS, default="", help="the checks must fail then")
    options = parser.parse_args()
    if options.points % PER_SEED or options.points < 2 * PER_SEED:
        parser.error(f"--points: a multiple of {PER_SEED}, at least {2 * PER_SEED}")
    silence_mlflow()
    import mlflow.store.tracking.sqlalchemy_store  # what commands import, once for all of them
    import mlflow.tracking  # noqa: F401

    import menvae.sweeps.launch
    import menvae.sweeps.sync  # noqa: F401

    install()
    began, is_large = time.monotonic(), options.points >= 1000
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
        settings = Settings(
            num_points=options.points,
            output_dir=Path(folder) / "outputs",
            num_nodes=14 if is_large else 4,
            kills=(0.15, 0.45, 0.55, 0.8) if is_large else (0.15, 0.55),
            killed_submissions=(1, 3) if is_large else (1,),
            most_jobs=min(500, max(20, options.points // 5)),
            seed=options.seed,
            fault=options.fault,
        )
        month = Month(settings, Path(folder))
        ledger, statuses = month.run()
        found = checks(settings, month.sweep, statuses, ledger)
        return 0 if report(found, ledger, time.monotonic() - began) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"FAILED: {failure}")
