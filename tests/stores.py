"""Real MLflow stores with made-up runs, filled through MLflow's own client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from menvae.comparison.judged import GateValue
from menvae.comparison.tracked_runs import TrackedRun
from menvae.tracking.mlflow.run import valid_key
from menvae.tracking.mlflow.store import open_experiment, tracking_uri
from menvae.tracking.tracker import TrackingSettings

TARGETS = {
    "vol_r2": (">", 0.85),
    "loc_r2": (">", 0.91),
    "shape_r2": (">", 0.4),
    "max_dcor": ("<", 0.35),
    "residual_active_units": (">", 0.6),
    "mean_z_ratio": (">", 1.5),
    "shuffled_ratio": (">", 1.3),
}
PARAMS: dict[str, Any] = {
    "model.name": "semivae",
    "model.partitions.vol": 24,
    "model.partitions.residual": None,
    "decoder.name": "sbd",
    "loss.lambda_dcor": 5.0,
    "data.modalities": ["t1c", "t1n"],
    "name": "semivae",
    "seed": 42,
    "output_dir": "/somewhere",
    "trainer.max_epochs": 15,
    "trainer.resume": "auto",
    "tracking.uri": None,
}
_numbers = count(1)


@dataclass
class MadeRun:
    """What a made-up run is to look like."""

    params: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, float | None] = field(default_factory=dict)
    name: str = ""
    status: str = "FINISHED"
    tags: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, tuple[str, float]] = field(default_factory=lambda: TARGETS)
    has_gates: bool = True
    test_values: Mapping[str, float | None] | None = None
    evaluation: Mapping[str, Any] | None = None
    pictures: Path | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)
    per_subject: str | None = None


def gates_of(
    values: Mapping[str, float | None],
    targets: Mapping[str, tuple[str, float]] = TARGETS,
    metrics: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the content of ``gates.json``; ``metrics`` are those that gates bound, by name of the gate."""
    gates = []
    for name, (comparison, target) in targets.items():
        value = values.get(name)
        value = None if value is None else float(value)  # NumPy's numbers are not JSON's
        passed = value is not None and (value > target if comparison == ">" else value < target)
        reason = "" if value is not None else "made up without"
        gates.append(
            {
                "name": name,
                "value": value,
                "target": target,
                "comparison": comparison,
                "reason": reason,
                "passed": passed,
                **({"metric": metrics[name]} if metrics and name in metrics else {}),
            }
        )
    return {"gates": gates, "passed": all(gate["passed"] for gate in gates), "note": ""}


def fill(output_dir: Path, runs: Sequence[MadeRun], experiment: str = "menvae") -> list[str]:
    """Log runs; return their MLflow ids."""
    from mlflow.entities import Metric, Param

    settings = TrackingSettings(experiment=experiment)
    client, experiment_id = open_experiment(tracking_uri(settings, output_dir), experiment, output_dir)
    ids = []
    for place, made in enumerate(runs):
        name = made.name or f"semivae_{place:010x}"
        tags = {"menvae.run": name, "menvae.data_hash": "d" * 32, "menvae.targets_hash": "t" * 16} | {
            "menvae.git_commit": "c" * 40,
            "menvae.state": "finished",
        }
        run = client.create_run(experiment_id, start_time=1000 + place, tags=tags | dict(made.tags), run_name=name)
        params = PARAMS | dict(made.params)
        table = gates_of(made.values, made.targets, made.metrics)
        metrics = {
            valid_key(f"gate/{gate['name']}"): gate["value"] for gate in table["gates"] if gate["value"] is not None
        }
        metrics |= {"gate/passed": float(table["passed"]), "val_epoch/loss": 1.0}
        client.log_batch(
            run.info.run_id,
            metrics=[Metric(key, value, 1, 15) for key, value in metrics.items()],
            params=[Param(key, v if isinstance(v, str) else json.dumps(v)) for key, v in params.items()],
        )
        if made.test_values is not None:
            table["test"] = gates_of(made.test_values, made.targets)
        if made.evaluation is not None:
            client.log_dict(run.info.run_id, made.evaluation, "evaluation.json")
        if made.per_subject is not None:
            client.log_text(run.info.run_id, made.per_subject, "per_subject.csv")
        if made.has_gates:
            client.log_dict(run.info.run_id, table, "gates.json")
        if made.pictures is not None:
            client.log_artifacts(run.info.run_id, str(made.pictures), "pictures")
        client.set_terminated(run.info.run_id, made.status)
        ids.append(run.info.run_id)
    return ids


def sweep(pictures: Path | None = None) -> list[MadeRun]:
    """Return 12 configurations with three seeds each, in which dependence costs accuracy."""
    generator = np.random.default_rng(0)
    runs = []
    for weight, size, seed in product((0, 1.0, 5.0, 10.0), (16, 24, 32), (0, 1, 2)):
        noise = np.random.default_rng(seed).normal(0, 1, 7) * 0.6 + generator.normal(0, 0.5, 7)
        values = {
            "vol_r2": 0.93 - 0.012 * weight + 0.0015 * size + 0.01 * noise[0],
            "loc_r2": 0.95 - 0.004 * weight + 0.004 * noise[1],
            "shape_r2": 0.43 - 0.01 * weight + 0.002 * size + 0.03 * noise[2],
            "max_dcor": 0.62 / (1 + 0.25 * weight) + 0.002 * size + 0.02 * noise[3],
            "residual_active_units": 1.0,
            "mean_z_ratio": 1.56 - 0.006 * weight + 0.02 * noise[5],
            "shuffled_ratio": 1.9 - 0.02 * weight + 0.03 * noise[6],
        }
        params = {"loss.lambda_dcor": weight, "model.partitions.vol": size, "seed": seed}
        runs.append(MadeRun(params, values, tags={"menvae.sweep": "a1b2c3"}, pictures=pictures))
    return runs


def copy_of(store: Path, output_dir: Path) -> Path:
    """Copy an empty store: creating one takes seconds."""
    output_dir.mkdir(parents=True, exist_ok=True)
    shutil.copy(store, output_dir / "mlflow.db")
    return output_dir


def write_picture(path: Path) -> None:
    """Write a small picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 60, 3), 200, dtype=np.uint8)).save(path)


def tracked(
    params: Mapping[str, Any] | None = None,
    values: Mapping[str, float | None] | None = None,
    targets: Mapping[str, tuple[str, float]] = TARGETS,
    test_values: Mapping[str, float | None] | None = None,
    **attributes: Any,
) -> TrackedRun:
    """Return a run as it would be read, without a store."""
    texts = {key: v if isinstance(v, str) else json.dumps(v) for key, v in (PARAMS | dict(params or {})).items()}
    number = next(_numbers)

    def read(given: Mapping[str, float | None]) -> dict[str, GateValue]:
        return {entry["name"]: GateValue.from_entry(entry) for entry in gates_of(given, targets)["gates"]}

    gates = read(dict.fromkeys(targets, 1.0) | dict(values or {}))
    test_gates = {} if test_values is None else read(test_values)
    defaults = {"run_id": f"{number:032x}", "name": f"run_{number}", "started_ms": number, "data_hash": "d" * 32}
    return TrackedRun(params=texts, gates=gates, test_gates=test_gates, **defaults | attributes)
