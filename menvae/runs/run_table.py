"""Read runs into a data frame, from an output directory or a tracking store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from menvae.errors import UserError
from menvae.gates import gate_values
from menvae.runs.directory import RUNS
from menvae.runs.finding import is_run
from menvae.runs.reading import EVALUATION, final_values, flat, read_mapping, value_at
from menvae.tracking.local import LocalLog, finite_values
from menvae.tracking.mlflow.reading import answer, experiment_id, name_of, open_store, runs_of, state_of, value_of
from menvae.tracking.tracker import TrackingSettings

if TYPE_CHECKING:
    import pandas as pd

_SECTIONS = ("params", "metrics")


def load_runs(source: str | Path = "outputs", *, experiment: str | None = None) -> pd.DataFrame:
    """Read runs in any state into a data frame, with one row per run and columns as in `mlflow.search_runs`.

    Args:
        source: output directory, or URI of an MLflow store, such as ``sqlite:////absolute/path.db``.
        experiment: value of ``tracking.experiment`` of the runs to read. None: all runs.

    Returns:
        A data frame indexed by the name of the run, with these columns; values that a run lacks are missing.

        - ``status``: state of the run, such as ``finished``, ``collapsed`` or ``interrupted``.
        - ``path`` of an output directory, ``run_id`` of an MLflow store: the argument for `menvae.load_run`.
        - ``params.<key>``: configuration, with lists as JSON.
        - ``metrics.<key>``: last value of each metric; ``metrics.gate/<name>``: value of each gate.

    Raises:
        UserError: the output directory, store or experiment does not exist.
    """
    import pandas as pd  # takes half a second

    is_store = "://" in str(source)
    rows = list(_of_store(str(source), experiment) if is_store else _of_folder(Path(source).expanduser(), experiment))
    columns = dict.fromkeys(["name", "status", *(column for row in rows for column in row)])
    order = sorted(
        columns,
        key=lambda column: _SECTIONS.index(section) if (section := column.partition(".")[0]) in (_SECTIONS) else -1,
    )
    return pd.DataFrame(rows, columns=order).set_index("name")


def _of_folder(output_dir: Path, experiment: str | None) -> Iterator[dict[str, Any]]:
    runs = output_dir / RUNS
    if not runs.is_dir():
        raise UserError(
            f"source: '{output_dir}' has no folder '{RUNS}'; pass an output directory or the URI of an MLflow store"
        )
    for path in sorted(runs.iterdir()):
        if not is_run(path):
            continue
        config = read_mapping(path / "config.yaml")
        if experiment in (None, value_at(config, "tracking.experiment")):
            table, metrics = read_mapping(path / "gates.json"), LocalLog(path).last_values()
            gates = finite_values(gate_values(table)) if table else {}
            gates |= finite_values(final_values(read_mapping(path / EVALUATION)))
            state = read_mapping(path / "status.json").get("state", "new")
            yield _row(path.name, state, {"path": str(path)}, dict(flat(config)), {**metrics, **gates})


def _of_store(uri: str, experiment: str | None) -> Iterator[dict[str, Any]]:
    client, place = open_store(TrackingSettings(uri=uri), Path())
    if experiment is None:
        ids = [str(found.experiment_id) for found in answer(client.search_experiments, place)]
    else:
        ids = [experiment_id(client, experiment, place)]
    for identifier in ids:
        for run in runs_of(client, identifier, place):
            if "menvae.run" in run.data.tags:  # the store may contain runs of other software
                params = {key: value_of(text) for key, text in run.data.params.items()}
                yield _row(name_of(run), state_of(run), {"run_id": run.info.run_id}, params, run.data.metrics)


def _row(
    name: str, state: str, place: Mapping[str, str], params: Mapping[str, Any], metrics: Mapping[str, float]
) -> dict[str, Any]:
    cells = {f"params.{key}": json.dumps(value) if isinstance(value, list) else value for key, value in params.items()}
    return {"name": name, "status": state, **place, **cells, **{f"metrics.{key}": metrics[key] for key in metrics}}
