"""Lenient readers of the files of a run directory, which may be missing, damaged or of another version."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

EVALUATION = "evaluation.json"
PER_SUBJECT = "per_subject.csv"
FINAL_PREFIX = "final/"
"""Prefix of the metrics of the judged checkpoint for trackers: ``final/<split>/<key>``."""


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


def final_values(described: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the content of ``evaluation.json`` as metrics ``final/<split>/<key>``, with ``/low`` and ``/high``.

    >>> found = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40, "reason": ""}
    >>> final_values({"splits": {"val": {"metrics": {"sem/vol_r2": found}}}})
    {'final/val/sem/vol_r2': 0.9, 'final/val/sem/vol_r2/low': 0.8, 'final/val/sem/vol_r2/high': 0.95}
    """
    return {
        f"{FINAL_PREFIX}{split}/{key}{ending}": estimate[end]
        for split, judged in described.get("splits", {}).items()
        for key, estimate in judged["metrics"].items()
        for end, ending in (("value", ""), ("low", "/low"), ("high", "/high"))
        if estimate[end] is not None
    }
