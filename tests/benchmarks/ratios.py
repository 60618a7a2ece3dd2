"""Figures beside their goals: what every benchmark of `make bench-train` prints and writes."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: what was measured, and beside what.
        value: the figure.
        goal: the bound; None: for information.
        at_least: whether the goal is a lower bound.
    """

    name: str
    value: float
    goal: float | None = None
    at_least: bool = True

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, or nothing without a goal."""
        if self.goal is None:
            return ""
        return "met" if (self.value >= self.goal) == self.at_least or self.value == self.goal else "missed"

    def __str__(self) -> str:
        """One line of a table."""
        bound = "" if self.goal is None else f"{'>=' if self.at_least else '<='} {self.goal:g}"
        return f"{self.name:<84}{self.value:>10.3g}  {bound:>8}  {self.verdict}"


def report(figures: Sequence[Figure], path: Path | None) -> None:
    """Print figures, and write them with machine, versions and date to a JSON file, if one is given."""
    for figure in figures:
        print(figure, flush=True)
    if path is not None:
        rows = [{**asdict(figure), "verdict": figure.verdict} for figure in figures]
        path.write_text(json.dumps({**machine(), "figures": rows}, indent=2) + "\n")


def machine() -> dict[str, object]:
    """Return date, processor or GPU, cores and versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
