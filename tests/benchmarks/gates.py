"""Does the recipe pass every gate on cohorts that nobody has seen, and what does Run 6 reach on them?

Draws the seeds of some cohorts and prints them. For each cohort, trains ``experiment=semivae`` and, at the same size,
with the same epochs, batches and optimiser, ``experiment=semivae_run6``, by real ``menvae-train`` commands; judges both
on test splits of at least 256 subjects, with intervals; and prints the gates of both, and the R2 of every feature
beside its references (floor, ceiling, segment then measure). The recipe is judged once more with noise in place of its
label maps. Claims: the recipe fails no gate on any cohort, and passes those of `DECIDED`; with noise, no probe reads a
volume from its partition. The exit status is 1 where one does not hold, or where a run fails.

On a CPU, as many models as there are cores train side by side, which is a fifth faster than one after the other.

    python tests/benchmarks/gates.py             # three cohorts of 32^3: an hour and a half on two cores
    python tests/benchmarks/gates.py --cohorts 1
    python tests/benchmarks/gates.py --size 64   # on a GPU, if there is one
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from torch import Tensor

from menvae.cores import num_cores
from menvae.errors import UserError
from menvae.presentation.text import significant
from menvae.runs.evaluate import evaluate_run
from menvae.runs.gates_table import gates_table, judged_gates
from menvae.runs.loading import load_named
from menvae.runs.references_table import reference_rows

HERE = Path(__file__).resolve().parents[2]
PARTITIONS = ("vol", "loc", "shape")
DECIDED = ("vol_r2", "loc_r2", "residual_active_units", "mean_z_ratio", "shuffled_ratio", "mean_image_ratio")
"""Gates whose whole interval must lie beyond the target."""
MOST_FROM_NOISE = 0.05
NUM_TRAIN, NUM_JUDGED = 576, 256
NUM_SUBJECTS = NUM_TRAIN + 2 * NUM_JUDGED
SHARE_JUDGED = NUM_JUDGED / NUM_SUBJECTS
SPLIT_SEED = 42
AS_THE_RECIPE = (
    *("schedule@learning_rate=cosine", "optimizer.learning_rate=3e-3", "optimizer.betas=[0.9,0.99]"),
    *("trainer.precision=fp32", "data.spacing_mm=null", "augmentation.flip=0.5"),
)
MODELS: Mapping[str, Sequence[str]] = {
    "semivae": ("experiment=semivae",),
    "semivae_run6": ("experiment=semivae_run6", *AS_THE_RECIPE),
}


def command(program: str, *arguments: str, beside: str = "") -> None:
    """Run a command of menvae, its progress visible; raises `subprocess.CalledProcessError` where it fails.

    Args:
        program: name of the command without ``menvae-``.
        arguments: its arguments.
        beside: begins each line of its output, which tells it from others that run beside it; empty: it runs alone.
    """
    paths = os.pathsep.join([str(HERE), str(HERE / "launchers"), os.environ.get("PYTHONPATH", "")])
    call = [sys.executable, "-c", f"from menvae.apps.{program} import main; main()", *arguments]
    environ, folder = {**os.environ, "PYTHONPATH": paths}, tempfile.gettempdir()
    if not beside:
        subprocess.run(call, env=environ, cwd=folder, check=True)
        return
    environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(call, env=environ, cwd=folder, **streams) as process:  # type: ignore[call-overload]
        for line in process.stdout:
            sys.stderr.write(f"{beside} | {line}")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, call)


def trained(name: str, folder: Path, *overrides: str, beside: str = "") -> Path:
    """Train a model, unless it was, with a share of `SHARE_JUDGED` in either split that is judged; return its run."""
    command(
        "train",
        *(f"name={name}", f"output_dir={folder}", "pictures.num_subjects=0", f"data.split_seed={SPLIT_SEED}"),
        *(f"data.val_fraction={SHARE_JUDGED}", f"data.test_fraction={SHARE_JUDGED}", *overrides),
        beside=beside,
    )
    found = list((folder / "runs").glob(f"{name}_{'[0-9a-f]' * 10}"))
    if len(found) != 1:
        raise UserError(f"'{folder}' has {len(found)} runs of {name}, such as of other options; give another --folder")
    return found[0]


def on_phantoms(seed: int, options: argparse.Namespace) -> list[str]:
    """Return the overrides of a model of a cohort of phantoms."""
    return [
        *("data=phantom", f"data.seed={seed}", f"data.num_subjects={options.subjects}"),
        *(f"data.roi_size=[{options.size},{options.size},{options.size}]", f"trainer.max_epochs={options.epochs}"),
        f"trainer.batch_size={options.batch_size}",
    ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of cohorts of phantoms and their models."""
    parser.add_argument("--size", type=int, default=32, help="voxels per side")
    parser.add_argument("--subjects", type=int, default=NUM_SUBJECTS, help="in all splits")
    parser.add_argument("--epochs", type=int, default=12, help="of the models of images")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="keeps the runs for another call; default: a temporary one")


def explained(error: subprocess.CalledProcessError | UserError) -> str:
    """Return what went wrong, in a sentence."""
    if isinstance(error, UserError):
        return str(error)
    return f"the command with {error.cmd[3]} ended with exit code {error.returncode}"


def features_table(described: Mapping[str, Any], title: str) -> Table:
    """Return the R2 of each partition and feature with its interval, beside the references."""
    found = reference_rows(described, PARTITIONS)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("R²", "split", found.columns[0], "95 % interval", *found.columns[1:]):
        table.add_column(name, justify="left" if name in ("R²", "split") else "right")
    for name, split, (own, *others) in found.rows:
        interval = f"{significant(own.get('low'))} to {significant(own.get('high'))}"
        cells = (significant(own.get("value")), interval, *(significant(one.get("value")) for one in others))
        table.add_row(name, split, *cells)
    return table


def read_from_noise(run: Path) -> float:
    """Return the largest R2 of a volume that a ridge probe reads from the vol of a run whose label maps are noise."""
    (finished,) = load_named(str(run), "best", torch.device("cpu"), str(run), {})
    segment = finished.model.encoder.get_submodule("segment")
    generator = torch.Generator().manual_seed(0)

    def noise(images: Tensor) -> Tensor:
        return torch.randn(len(images), 4, *images.shape[2:], generator=generator)

    segment.forward = noise  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        _, described = evaluate_run(finished, ["val"], Path(folder))
    leaks = described["splits"]["val"]["leaks"]
    own = [leak["r2"] for leak in leaks if leak["partition"] == leak["source"] == "vol" and leak["probe"] == "ridge"]
    return max(own)


def judged_model(model: str, seed: int, options: argparse.Namespace, console: Console) -> list[str]:
    """Train and judge a model on a cohort, print what it reaches, and return the claims that do not hold."""
    folder, of_cohort = options.folder / f"cohort_{seed}", f"{model} of cohort {seed}"
    beside, started = of_cohort if options.jobs > 1 else "", time.monotonic()
    try:
        overrides = (*MODELS[model], *on_phantoms(seed, options), *options.overrides)
        run = trained(model, folder, *overrides, beside=beside)
        seconds = time.monotonic() - started
        command("evaluate", f"run={run}", "references=true", "overwrite=true", f"output_dir={folder}", beside=beside)
    except (subprocess.CalledProcessError, UserError) as error:
        console.print(f"{of_cohort}: {explained(error)}", markup=False)
        return [of_cohort]
    (evaluation,) = run.glob("evaluations/*/evaluation.json")
    judged, broken = judged_gates(json.loads((run / "gates.json").read_text())), []
    on_noise = read_from_noise(run) if model == "semivae" else None
    parts: list[RenderableType] = [
        Rule(f"{of_cohort}, {options.size}^3, {seconds:.0f} s"),
        gates_table(judged),
        features_table(json.loads(evaluation.read_text()), of_cohort),
    ]
    if on_noise is not None:
        parts.append(f"with noise as label maps, a probe reads a volume from vol with an R² of {on_noise:.2f}")
        broken = [f"{gate} of cohort {seed}" for gate in not_met(judged)]
        broken += [f"noise of cohort {seed}"] if on_noise > MOST_FROM_NOISE else []
    console.print(Group(*parts))
    return broken


def not_met(judged: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the gates of either split that fail, and those of `DECIDED` that are undecided."""
    return [
        f"{gate['name']} ({split}: {gate['verdict']})"
        for split, gates in judged.items()
        for gate in gates
        if gate["verdict"] != "pass" and not (gate["verdict"] == "undecided" and gate["name"] not in DECIDED)
    ]


def main() -> int:
    """Train, judge and print; 0 where the claims hold, 1 where one does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of both models, such as loss.lambda_dcor=50")
    parser.add_argument("--cohorts", type=int, default=3, help="number of cohorts")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the cohorts; default: drawn")
    add_options(parser)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--jobs", type=int, help="models that train at once; default: as cores, on a GPU one")
    options = parser.parse_args()
    seeds = options.seeds or [secrets.randbelow(2**31) for _ in range(options.cohorts)]
    # Run 6 takes twice as long as the recipe, so it comes first.
    models = [(model, seed) for model in sorted(options.models, reverse=True) for seed in seeds]
    options.jobs = min(len(models), options.jobs or (1 if torch.cuda.is_available() else num_cores()))
    torch.set_num_threads(max(1, num_cores() // options.jobs))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"cohorts: {' '.join(map(str, seeds))}")
    with nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder).resolve()
        with ThreadPoolExecutor(options.jobs) as pool:
            found = pool.map(lambda each: judged_model(*each, options, console), models)
            broken = [claim for claims in found for claim in claims]
    holds = f"holds  {' and '.join(options.models)} on {len(seeds)} cohorts"
    console.print(f"FAILS  {', '.join(broken)}" if broken else holds)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
