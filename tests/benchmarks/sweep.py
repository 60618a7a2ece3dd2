"""Sweeps of 100, 1,000 and 10,000 points: planned, launched, looked at and compared; growth of time per point.

The points are those of ``experiment=lithology_vae`` on a small table: seeds x 5 weights of the KL x 4 learning rates x
5 folds. One of them is trained and tracked. All others end at once: a runner of this script takes the jobs that a whole
``menvae-train -m`` prepares, and leaves run directories of finished runs, with the files of the trained one and gates
of their own. So the points an hour are those that launching alone would allow. The runs of the store are copies of the
tracked one, made with SQL, with the names, parameters and gates of the points. Printed, for each number of points:

- plan: ``menvae-sweep plan``, before and after the sweep has run;
- sweep: the whole ``menvae-train -m``, and of it what the launching process spends on preparing and recording jobs;
- status: ``menvae-sweep status``;
- compare: ``menvae-compare`` beside one plain ``mlflow.search_runs`` of the same runs, with the memory of both.

Beside them, for fewer points: the time that Hydra's basic launcher takes for a job that does nothing, and, where there
is a SLURM, that of menvae's runner and of submitit's plain array until the jobs are submitted.

    python tests/benchmarks/sweep.py                          # an hour on a machine that does nothing else
    python tests/benchmarks/sweep.py --points 100 1000        # some minutes
    eval "$(launchers/dev_cluster/up)"; python tests/benchmarks/sweep.py --only slurm; launchers/dev_cluster/down
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from interleaved import Claim, at_most, judged, noted

HERE = Path(__file__).resolve().parents[2]
POINTS = (100, 1000, 10_000)
PLAN_SECONDS, STATUS_SECONDS, COMPARE_RATIO, COMPARE_MB, LAUNCH_SECONDS = 30.0, 3.0, 1.2, 1000.0, 2.0
"""Goals: of 10,000 points; the last one of a thousand jobs."""

TABLE = ["experiment=lithology_vae", "data.num_rows=600", "data.num_classes=8", "data.num_holes=30"]
SHORT = ["trainer.max_epochs=2", "sweep.name=many"]
VALUES = {
    "loss.lambda_kl": ("0.25", "0.5", "1.0", "2.0", "4.0"),
    "optimizer.learning_rate": ("0.0003", "0.001", "0.003", "0.01"),
    "data.fold": ("0", "1", "2", "3", "4"),
}
PER_SEED = 100

TRAIN = "from menvae.apps.train import main; main()"
SWEEP = "from menvae.apps.sweep import main; main()"
COMPARE = "from menvae.apps.compare import main; main()"
SEARCH = """
import sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
print(len(mlflow.search_runs(experiment_names=["menvae"], max_results=1_000_000)))
"""
BASIC = """
import sys
import hydra
from menvae.groups import configuration_folder
sys.argv[1:1] = ["-m", "hydra/launcher=basic", "hydra/sweeper=basic", "output_dir=" + sys.argv.pop()]
hydra.main(version_base="1.3", config_path=str(configuration_folder("menvae")), config_name="train")(lambda _: None)()
"""
LAUNCH = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import sweep
sweep.install_finishing_runner(Path({trained!r}), Path({times!r}))
from menvae.apps.train import main
main()
"""
SUBMIT = """
import sys
from pathlib import Path
folder, num, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if how == "menvae":
    from menvae.sweeps.runners.slurm import SlurmRunner
    runner = SlurmRunner(array_parallelism=2)
    runner.prepare(folder, {})
    jobs = runner.submit({f"run_{i}": folder / "points" / f"run_{i}" / "job.json" for i in range(num)})
    ids = [job.job for job in jobs.values()]
else:
    import submitit
    executor = submitit.AutoExecutor(folder=folder / "%j", cluster="slurm")
    executor.update_parameters(timeout_min=1, slurm_array_parallelism=2)
    ids = [job.job_id for job in executor.map_array(abs, list(range(num)))]
print(*{one.partition("_")[0] for one in ids}, sep=",")
"""


@dataclass
class Measured:
    """A command: seconds from start to end, and the largest memory of its process in MB."""

    seconds: float
    megabytes: float
    output: str


def run(program: str, *arguments: str, allowed: Sequence[int] = (0,)) -> Measured:
    """Run a program with the modules of this checkout."""
    paths = os.pathsep.join([str(HERE), str(HERE / "launchers"), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, "PYTHONPATH": paths},
            cwd=tempfile.gettempdir(),  # which python -c puts before the checkout
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode not in allowed:
        sys.exit(text[-4000:])
    return Measured(seconds, usage.ru_maxrss / 1024, text)


def axes(num: int) -> list[str]:
    """Return the axes of so many points."""
    seeds = num // PER_SEED
    return [
        f"seed=1..{seeds}" if seeds > 1 else "seed=1",
        *(f"{key}={','.join(values)}" for key, values in VALUES.items()),
    ]


# --------------------------------------------------------------------------------------------------------------------
# Points that end at once
# --------------------------------------------------------------------------------------------------------------------


def gates_of(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the gates of a run that was not trained: those of the trained one, moved by what its name says."""
    gates = []
    for place, gate in enumerate(table["gates"]):
        if gate["value"] is not None:
            digits = uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {place}").int % 10_000
            gate = {**gate, "value": gate["value"] * (0.9 + digits / 50_000)}
        gates.append(gate)
    return {**table, "gates": gates}


def install_finishing_runner(trained: Path, report: Path) -> None:
    """Register a runner whose jobs are finished as soon as they are submitted.

    Args:
        trained: directory of a trained run.
        report: receives what `menvae.sweeps.campaign.Campaign` spends before, in and after the runner, in seconds.
    """
    from menvae.registry import register
    from menvae.runs.directory import RunDirectory
    from menvae.sweeps.campaign import Campaign
    from menvae.sweeps.runners import JobState, Runner
    from menvae.sweeps.sweep import Submission

    times: dict[str, float] = {}
    kept = {name: (trained / name).read_bytes() for name in ("config.yaml", "metrics.jsonl", "evaluation.json")}
    judged = (trained / "per_subject.csv").read_text()
    table = json.loads((trained / "gates.json").read_text())
    status = json.loads((trained / "status.json").read_text())
    clock = time.perf_counter

    @register("runner", "finishing")
    class Finishing(Runner):
        """Leaves finished runs."""

        poll_s = 0.01

        def __init__(self, *, num_parallel: None = None, gpus_per_run: None = None, points_per_gpu: int = 1) -> None:
            """Take the keys of the local runner."""

        def submit(self, jobs: Mapping[str, Path]) -> dict[str, Submission]:
            times["prepared"] = clock()
            times["prepare"] = times["prepared"] - times["started"]
            for run, job in jobs.items():
                directory = RunDirectory(job.parents[4] / "runs" / run)
                for name, content in kept.items():
                    (directory.path / name).write_bytes(content)
                (directory.path / "gates.json").write_text(json.dumps(gates_of(run, table)))
                fold = json.loads(job.read_text())["config"]["data"]["fold"]  # each tests other subjects
                (directory.path / "per_subject.csv").write_text(judged.replace("row-", f"fold{fold}-row-"))
                directory.set_status(**status)
                directory.release()
            times["submitted"] = clock()
            times["finish"] = clock() - times["prepared"]
            return {run: Submission("finishing", "0", str(job.with_name("output.log"))) for run, job in jobs.items()}

        def advance(self) -> dict[str, Submission]:
            times.setdefault("record", clock() - times["submitted"])
            return {}

        def stop(self) -> None:
            """Nothing is left to stop."""

        @staticmethod
        def states(submissions: Mapping[str, Submission]) -> dict[str, JobState]:
            return {}

    run_campaign = Campaign._run

    def timed(self: Campaign, *arguments: Any) -> Any:
        times["started"] = clock()
        answer = run_campaign(self, *arguments)
        report.write_text(json.dumps({name: times[name] for name in ("prepare", "finish", "record")}))
        return answer

    Campaign._run = timed  # type: ignore[method-assign]


# --------------------------------------------------------------------------------------------------------------------
# The store
# --------------------------------------------------------------------------------------------------------------------


def fill(database: Path, output_dir: Path, trained: str) -> int:
    """Add a copy of the tracked run for every other point; return how many runs there are.

    Args:
        database: MLflow's store.
        output_dir: output directory of the points.
        trained: name of the trained run.
    """
    from menvae.sweeps.sweep import Sweep
    from menvae.tracking.mlflow.run import valid_key

    sweep = Sweep(output_dir / "sweeps" / "many")
    with closing(sqlite3.connect(database)) as store, store:
        (original,) = store.execute(
            "select run_uuid from tags where key = 'menvae.run' and value = ?", (trained,)
        ).fetchone()
        points = [point for point in sweep.points() if point.run != trained]
        for number, point in enumerate(points):
            new = uuid.uuid5(uuid.NAMESPACE_OID, point.run).hex
            nowhere = (output_dir / "mlartifacts" / new).as_uri()  # the files are in the run directory
            about = {"run_uuid": new, "name": point.run, "start_time": 1_000 + number, "artifact_uri": nowhere}
            _copy(store, "runs", original, about)
            for table in ("params", "latest_metrics", "tags"):
                _copy(store, table, original, {"run_uuid": new})
            values = dict(override.split("=") for override in point.overrides)
            _set(store, "params", new, values.items())
            _set(store, "tags", new, [("menvae.run", point.run), ("mlflow.runName", point.run)])
            gates = json.loads((sweep.runs / point.run / "gates.json").read_text())["gates"]
            known = [(valid_key(f"gate/{gate['name']}"), gate["value"]) for gate in gates if gate["value"] is not None]
            _set(store, "latest_metrics", new, known)
    return len(points) + 1


def _copy(store: sqlite3.Connection, table: str, original: str, changes: Mapping[str, Any]) -> None:
    columns = [row[1] for row in store.execute(f"pragma table_info({table})")]
    chosen = ", ".join("?" if column in changes else column for column in columns)
    given = [changes[column] for column in columns if column in changes]
    store.execute(
        f"insert into {table} ({', '.join(columns)}) select {chosen} from {table} where run_uuid = ?",
        (*given, original),
    )


def _set(store: sqlite3.Connection, table: str, run_id: str, values: Any) -> None:
    store.executemany(
        f"update {table} set value = ? where run_uuid = ? and key = ?", [(value, run_id, key) for key, value in values]
    )


# --------------------------------------------------------------------------------------------------------------------
# Measurements
# --------------------------------------------------------------------------------------------------------------------


def train_one(output_dir: Path) -> Path:
    """Train and track a point of all sweeps; return its directory."""
    fixed = ["seed=1", *(f"{key}={values[0]}" for key, values in VALUES.items())]
    run(TRAIN, "-m", *TABLE, *SHORT, *fixed, f"output_dir={output_dir}")
    (directory,) = (output_dir / "runs").iterdir()
    return directory


def measure(num: int, template: Path, trained: Path, repeats: int) -> dict[str, float]:
    """Return the figures of a sweep of so many points.

    Args:
        num: number of points.
        template: output directory of the trained run.
        trained: its directory.
        repeats: how often commands that take seconds are measured; the shortest time counts.
    """
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
        output_dir = Path(folder) / "outputs"
        times = Path(folder) / "times.json"
        place = f"output_dir={output_dir}"
        sweep = [*TABLE, *SHORT, *axes(num), place]
        found["plan, s"] = shortest(repeats, SWEEP, "plan", *sweep)
        shutil.copytree(trained, output_dir / "runs" / trained.name)
        program = LAUNCH.format(folder=str(Path(__file__).parent), trained=str(trained), times=str(times))
        launched = run(program, "-m", *sweep, "hydra.launcher.runner=finishing", "tracking.enabled=false")
        spent = json.loads(times.read_text())
        found["sweep, s"] = launched.seconds - spent["finish"]
        found["points an hour"] = 3600 * num / found["sweep, s"]
        found["launcher's own, s per 1000 jobs"] = 1000 / num * (spent["prepare"] + spent["record"])
        found["plan of finished points, s"] = shortest(repeats, SWEEP, "plan", *sweep)
        found["status, s"] = shortest(repeats, SWEEP, "status", place)
        shutil.copy(template / "mlflow.db", output_dir / "mlflow.db")
        assert fill(output_dir / "mlflow.db", output_dir, trained.name) == num
        searched, compared = [], []
        for _ in range(repeats if num < POINTS[-1] else 1):
            searched.append(run(SEARCH, f"sqlite:///{output_dir / 'mlflow.db'}"))
            compared.append(run(COMPARE, place))
        found["search_runs, s"] = min(one.seconds for one in searched)
        found["compare, s"] = min(one.seconds for one in compared)
        found["search_runs, MB"] = max(one.megabytes for one in searched)
        found["compare, MB"] = max(one.megabytes for one in compared)
    return found


def shortest(repeats: int, program: str, *arguments: str) -> float:
    return min(run(program, *arguments).seconds for _ in range(repeats))


def basic_launcher(num: int) -> float:
    """Return the seconds per job of Hydra's basic launcher, without what it takes for a single one."""
    with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
        one, many = (run(BASIC, f"seed=range(0,{count})", *TABLE, folder).seconds for count in (1, 1 + num))
    return (many - one) / num


def submissions(num: int) -> Iterator[tuple[str, float]]:
    """Yield seconds until an array is submitted, by menvae's runner and by submitit alone; the jobs are cancelled."""
    for how in ("menvae", "submitit"):
        with tempfile.TemporaryDirectory(prefix="menvae-", dir=Path.cwd()) as folder:  # which all nodes see
            one, many = (run(SUBMIT, folder, str(count), how) for count in (1, num))
            ids = [one_id for measured in (one, many) for one_id in measured.output.split()[-1].split(",")]
            subprocess.run(["scancel", *ids], check=False)
        yield how, 1000 * (many.seconds - one.seconds) / num


def slurm_answers() -> bool:
    if shutil.which("sinfo") is None:
        return False
    return subprocess.run(["sinfo"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def growth(figures: Mapping[int, Mapping[str, float]], name: str) -> Iterator[tuple[str, float]]:
    """Yield by how much the time of one more point grows from each number of points to the next."""
    steps = list(pairwise(sorted(figures)))
    slopes = [(figures[more][name] - figures[less][name]) / (more - less) for less, more in steps]
    for ((_, less), (_, more)), (before, after) in zip(pairwise(steps), pairwise(slopes), strict=True):
        if before > 0:
            yield f"{name}: a point more up to {more:,} / up to {less:,} points", after / before


def claims_of(num: int, found: Mapping[str, float]) -> list[Claim]:
    return [
        at_most(f"plan of {num:,} points, s", found["plan, s"], PLAN_SECONDS),
        at_most(f"status of {num:,} points, s", found["status, s"], STATUS_SECONDS),
        at_most(
            f"compare of {num:,} runs / mlflow.search_runs",
            found["compare, s"] / found["search_runs, s"],
            COMPARE_RATIO,
        ),
        at_most(f"compare of {num:,} runs, MB", found["compare, MB"], COMPARE_MB),
        at_most("launcher's own start, s per 1,000 jobs", found["launcher's own, s per 1000 jobs"], LAUNCH_SECONDS),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--points", type=int, nargs="+", default=list(POINTS), help="multiples of 100")
    parser.add_argument("--repeats", type=int, default=3, help="of commands that take seconds")
    parser.add_argument("--only", choices=["sweep", "hydra", "slurm"], help="measure one part")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    if any(num % PER_SEED or num < PER_SEED for num in options.points):
        parser.error("--points: multiples of 100")
    figures: dict[int, dict[str, float]] = {}
    claims: list[Claim] = []
    if options.only in (None, "sweep"):
        with tempfile.TemporaryDirectory(prefix="menvae-") as folder:
            template = Path(folder) / "outputs"
            trained = train_one(template)
            for num in sorted(options.points):
                figures[num] = measure(num, template, trained, options.repeats)
                for name, value in figures[num].items():
                    print(f"{num:>6,} points  {name:<34} {value:12,.2f}", flush=True)
        claims = claims_of(max(figures), figures[max(figures)])
        for name in ("plan, s", "sweep, s", "status, s", "compare, s", "search_runs, s"):
            for words, ratio in growth(figures, name):
                noted(words, ratio)
    if options.only in (None, "hydra"):
        noted("Hydra's basic launcher, ms per job that does nothing", 1000 * basic_launcher(50))
    if options.only in (None, "slurm"):
        if not slurm_answers():
            print("no SLURM answers: submissions are not measured; launchers/dev_cluster/up starts one")
        else:
            for how, seconds in submissions(1000):
                noted(f"submission by {how}, s per 1,000 jobs", seconds)
    if options.json is not None:
        machine = {"machine": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
        options.json.write_text(json.dumps({**machine, "points": figures}, indent=2))
    return judged(claims)


if __name__ == "__main__":
    sys.exit(main())
