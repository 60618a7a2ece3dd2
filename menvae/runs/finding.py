"""Finding a finished run: its run directory, or a copy downloaded from a tracking store."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from menvae.errors import UserError, nearest
from menvae.files import new_folder
from menvae.runs.directory import RUNS
from menvae.tracking.mlflow.reading import answer, name_of, open_store, state_of
from menvae.tracking.mlflow.run import run_ids
from menvae.tracking.tracker import TrackingSettings

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

DOWNLOADED = "downloaded"
"""Folder of an output directory for downloaded runs; in ``runs/``, menvae-train would resume them."""

_NEEDED = frozenset(
    {"config.yaml", "targets.json", "splits.csv", "gates.json", "summary.json", "metrics.jsonl", "checkpoints"}
)
"""Top-level artifacts to download. MLflow would drop the folder of a single file, such as ``checkpoints/best.ckpt``."""


def find_run(run: str | Path, output_dir: Path, tracking_uri: str | None = None) -> Path:
    """Return the directory of a run; download it once if only a tracking store has it.

    Args:
        run: run directory, name of a run in ``output_dir/runs``, or MLflow run id.
        output_dir: contains ``runs/``, ``downloaded/`` and, by default, the tracking store.
        tracking_uri: URI of the tracking store; see `menvae.tracking.tracker.TrackingSettings`.

    Raises:
        UserError: the run does not exist, or is not finished and only the tracking store has it.
    """
    path, runs = Path(run).expanduser(), output_dir / RUNS
    for folder in (path, runs / path):
        if is_run(folder):
            return folder.resolve()
    if path.is_dir():
        raise UserError(f"run: '{run}' is not a run directory, because it has no config.yaml")
    if re.fullmatch("[0-9a-f]{32}", str(run)):
        return _find_by_id(str(run), output_dir, tracking_uri)
    names = [folder.name for folder in runs.iterdir() if is_run(folder)] if runs.is_dir() else []
    raise UserError(
        f"run: '{run}' is neither a run directory, nor a run in '{runs}', nor an MLflow id; "
        + nearest(path.name, names)
    )


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory."""
    return (folder / "config.yaml").is_file()


def _find_by_id(run_id: str, output_dir: Path, tracking_uri: str | None) -> Path:
    client, place = open_store(TrackingSettings(uri=tracking_uri), output_dir)
    run = _run(client, run_id, place)
    if kind := run.data.tags.get("menvae.kind"):
        raise UserError(f"run: '{run_id}' is a {kind}; menvae.load_runs lists the runs in {place}")
    there = Path(run.data.params.get("output_dir", output_dir))
    folders = [folder / RUNS / name_of(run) for folder in (output_dir, there)]
    # a run of the same name without this id was trained again, perhaps on another machine
    mine = [folder for folder in folders if is_run(folder) and run_id in run_ids(folder)]
    return mine[0].resolve() if mine else _download(client, run, output_dir / DOWNLOADED, place)


def _run(client: MlflowClient, run_id: str, place: str) -> Run:
    from mlflow.exceptions import MlflowException

    def run_or_none() -> Run | None:
        try:
            return client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    found = answer(run_or_none, place)
    if found is None:
        raise UserError(f"run: '{run_id}' does not exist in {place}")
    return found


def _download(client: MlflowClient, run: Run, folder: Path, place: str) -> Path:
    """Download a finished run; the folder appears complete or not at all."""
    run_id = run.info.run_id
    path = folder / f"{name_of(run)}_{run_id[:8]}"
    if is_run(path):
        return path.resolve()
    there = {file.path for file in answer(lambda: client.list_artifacts(run_id), place)}
    if missing := sorted({"config.yaml", "summary.json"} - there):
        raise UserError(
            f"run: '{run_id}' is {state_of(run)}: {missing[0]} is missing in {place}; load finished runs only"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with new_folder(path) as temporary:
        for name in sorted(_NEEDED & there):
            answer(partial(client.download_artifacts, run_id, name, str(temporary)), place)
    return path.resolve()
