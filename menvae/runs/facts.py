"""Facts about a run, formatted for readers of its report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from menvae.presentation.text import significant
from menvae.runs.reading import flat, value_at


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
        ("Trained on from run", Path(first("trainer.extend") or "").name),
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
