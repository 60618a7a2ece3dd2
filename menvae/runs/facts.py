"""Facts about a run, read leniently from its directory and formatted for readers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from menvae.presentation.text import significant


def read_text(path: Path) -> str:
    """Return the text of a file, or an empty string if it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a mapping from a JSON or YAML file; empty if the file is missing or damaged."""
    text = read_text(path)
    try:
        loaded = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text or "{}")
    except (ValueError, yaml.YAMLError):
        return {}
    return {str(key): value for key, value in loaded.items()} if isinstance(loaded, dict) else {}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``, skipping invalid lines, such as the truncated last line of a killed run."""
    rows = []
    for line in read_text(path).splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def split_sizes(path: Path) -> str:
    """Return the number of subjects of each split in ``splits.csv``, such as ``576 train, 72 val``."""
    counts = Counter(row.get("split") or "unnamed" for row in csv.DictReader(io.StringIO(read_text(path))))
    return ", ".join(f"{count} {split}" for split, count in counts.items())


def value_at(config: Mapping[str, Any], dotted: str) -> Any:
    """Return the value at a dotted key, or None."""
    value: Any = config
    for key in dotted.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested mappings into dotted keys."""
    rows: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def plain_text(value: Any) -> str:
    """Format a configuration value for readers."""
    if isinstance(value, list | tuple):
        return ", ".join(plain_text(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def duration_text(seconds: float) -> str:
    """Format a duration.

    >>> duration_text(171.2), duration_text(4.0), duration_text(7325.0)
    ('2 min 51 s', '4.0 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _partition_sizes(model: Mapping[str, Any]) -> str:
    sizes, total = model.get("partitions"), model.get("z_dim")
    if not isinstance(sizes, Mapping):
        return ""
    fixed = sum(size for size in sizes.values() if isinstance(size, int))
    rest = f"{total - fixed}" if isinstance(total, int) else "the rest"
    return " | ".join(f"{name} {rest if size is None else size}" for name, size in sizes.items())


def trained_facts(config: Mapping[str, Any], splits: str) -> list[tuple[str, str]]:
    """Return the most important settings of a configuration; missing keys are omitted."""

    def first(*keys: str) -> Any:
        return next((value for key in keys if isinstance(value := value_at(config, key), str | int | float)), None)

    def joined(*keys: str) -> str:
        return ", ".join(str(value) for key in keys if isinstance(value := value_at(config, key), str))

    model = config.get("model")
    model = model if isinstance(model, Mapping) else {}
    loss = config.get("loss")
    weights = {
        key.removeprefix("lambda_"): value
        for key, value in (loss.items() if isinstance(loss, Mapping) else ())
        if str(key).startswith("lambda_")
    }
    supervision = model.get("supervision")
    heads = supervision.items() if isinstance(supervision, Mapping) else ()
    voxels, spacing = (_extent(value_at(config, key)) for key in ("data.roi_size", "data.spacing_mm"))
    volume = [f"{voxels} voxels"] * bool(voxels) + [f"of {spacing} mm"] * bool(spacing)
    rows = [
        ("Experiment", first("experiment.name", "experiment", "name", "tracking.experiment")),
        ("Model, encoder, decoder", joined("model.name", "encoder.name", "decoder.name")),
        ("Data", joined("data.name")),
        ("Subjects", splits),
        ("Box", " ".join(volume)),
        ("Modalities", plain_text(value_at(config, "data.modalities") or "")),
        ("Columns", plain_text(value_at(config, "data.columns") or "")),
        ("Latent dimensions", first("model.z_dim")),
        ("Partitions", _partition_sizes(model)),
        ("Objective", joined("loss.name")),
        ("Weights of its terms", ", ".join(f"{name} {plain_text(value)}" for name, value in weights.items())),
        ("Epochs", first("trainer.max_epochs")),
        ("Batch size", first("trainer.batch_size")),
        (
            "Optimiser and learning rate",
            "; ".join(map(plain_text, _known(config, "optimizer.name", "optimizer.learning_rate"))),
        ),
        ("Precision", first("trainer.precision")),
        ("Seed", first("seed")),
        *((f"Targets of {partition}", plain_text(features)) for partition, features in heads if features),
    ]
    return [(name, plain_text(value)) for name, value in rows if value not in (None, "")]


def _extent(value: Any) -> str:
    """Format sizes along three axes, or a single number."""
    return (
        " \N{MULTIPLICATION SIGN} ".join(map(plain_text, value)) if isinstance(value, list) else plain_text(value or "")
    )


def _known(config: Mapping[str, Any], *keys: str) -> list[Any]:
    return [value for key in keys if (value := value_at(config, key)) is not None]


def summary_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return ``summary.json`` as rows of (name, value), with durations formatted."""
    rows = []
    for key, value in flat(summary):
        name = key.replace("_", " ")
        if key.endswith("_s") and isinstance(value, int | float) and math.isfinite(value):
            rows.append((name.removesuffix(" s"), duration_text(float(value))))
        else:
            rows.append((name, ", ".join(map(significant, value)) if isinstance(value, list) else significant(value)))
    return rows
