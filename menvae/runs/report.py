"""The report of a run: one self-contained HTML page, and the table of gates for the terminal.

The page is generated from the files in the run directory, so it can be regenerated at any time. The page names missing
files, so a run that was stopped half-way has a report too.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from menvae.files import write_text
from menvae.pictures import SECTIONS, Section, registered_pictures
from menvae.presentation.page import Album, Picture, render
from menvae.presentation.text import significant
from menvae.runs.facts import plain_text, summary_facts, trained_facts
from menvae.runs.gates_table import gate_row
from menvae.runs.reading import flat, read_mapping, read_metrics, read_text, split_sizes, value_at

IGNORED_RATIO: Final = 1.05
"""Below this ratio of errors, a decoder is considered to ignore its latent space: the difference is noise."""
LONGEST_TEXT: Final = 40_000


@dataclass(frozen=True)
class _Banner:
    kind: str
    headline: str
    text: str


def _overall_banner(gates: Sequence[Mapping[str, Any]]) -> _Banner:
    met = [gate for gate in gates if gate.get("passed") is True]
    rows = [gate_row(gate) for gate in gates if gate.get("passed") is not True]
    if not rows:
        return _Banner("good", f"The run passed all {len(met)} gates.", "")
    failed = ", ".join(f"{row.name} {row.value} (target {row.target})" for row in rows if row.kind == "bad")
    unknown = ", ".join(row.name for row in rows if row.kind == "odd")
    sentences = [f"Not met: {failed}."] * bool(failed) + [f"Not computed: {unknown}."] * bool(unknown)
    headline = f"The run did not pass: it meets {len(met)} of {len(gates)} gates."
    return _Banner("bad" if failed else "odd", headline, " ".join(sentences))


def _decoder_banner(gates: Sequence[Mapping[str, Any]], collapsed: bool) -> _Banner | None:
    """Report whether the decoder uses its latent space, which good reconstructions do not prove."""
    # older gates.json name no metric; the gates were then called as their metrics
    found = {str(gate.get("metric") or f"diag/{gate.get('name')}"): gate for gate in gates}
    phrases = {
        "diag/mean_z_ratio": "when z is replaced by the mean training latent",
        "diag/shuffled_ratio": "when z is shuffled between subjects",
    }
    decoder = {name: found[name] for name in phrases if name in found}
    if not decoder and not collapsed:
        return None
    ratios = {
        name: float(gate["value"])
        for name, gate in decoder.items()
        if isinstance(gate.get("value"), int | float) and math.isfinite(gate["value"])
    }
    measured = " and ".join(f"{significant(ratio)} times as large {phrases[name]}" for name, ratio in ratios.items())
    evidence = f"The reconstruction error is {measured}." if measured else ""
    if collapsed or (ratios and max(ratios.values()) < IGNORED_RATIO):
        advice = (
            "Its reconstructions are a template, however good they look: do not interpret the latent space. "
            "Give the reconstruction more weight (the calibrated likelihood does) or the KL less."
        )
        headline = "Warning: posterior collapse. The decoder ignores its latent space."
        return _Banner("bad", headline, f"{evidence} {advice}".strip())
    if not ratios:
        return _Banner("odd", "Whether the decoder uses its latent space is unknown.", "No ratio was computed.")
    if all(gate.get("passed") is True for gate in decoder.values()):
        return _Banner("good", "The decoder uses its latent space.", evidence)
    return _Banner("odd", "The decoder uses its latent space, but less than required.", evidence)


@dataclass(frozen=True)
class _Epoch:
    epoch: int
    pictures: list[Picture]
    note: str


def _epochs(pictures: Path, album: Album) -> tuple[list[_Epoch], str]:
    """Embed the reconstructions, the latest epoch first, within the size budget."""
    folders = {
        int(found.group(1)): folder
        for folder in pictures.glob("epoch_*")
        if (found := re.fullmatch(r"epoch_(\d+)", folder.name)) and folder.is_dir()
    }
    epochs: list[_Epoch] = []
    skipped = []
    for epoch in sorted(folders, reverse=True):
        files = sorted(folders[epoch].glob("*.png"))
        if not files:
            continue
        shown = [
            picture
            for place, file in enumerate(files)
            if (picture := album.embed(file, f"{file.stem}, epoch {epoch}", always=not epochs and place == 0))
        ]
        missing = len(files) - len(shown)
        if shown:
            note = (
                f"{missing} more in pictures/{folders[epoch].name}/, omitted to keep this page small."
                if missing
                else ""
            )
            epochs.append(_Epoch(epoch, shown, note))
        else:
            skipped.append(epoch)
    listing = ", ".join(str(epoch) for epoch in sorted(skipped))
    return epochs, f"Omitted to keep this page small: epoch {listing} (in pictures/)." if skipped else ""


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` from the files in a run directory.

    Args:
        run_dir: contains any of ``gates.json``, ``metrics.jsonl``, ``config.yaml``, ``environment.json``,
            ``splits.csv``, ``targets.json``, ``summary.json`` and ``pictures/``.

    Returns:
        The path of the page.

    Raises:
        ValueError: ``run_dir`` is not a directory.
    """
    if not run_dir.is_dir():
        raise ValueError(f"run_dir is {str(run_dir)!r}, which is not a directory")
    page = render(Path(__file__).with_name("templates") / "report.html", _page(run_dir))
    return write_text(run_dir / "report.html", page)


def _page(run_dir: Path) -> dict[str, Any]:
    """Collect the content of the template."""
    config, summary = read_mapping(run_dir / "config.yaml"), read_mapping(run_dir / "summary.json")
    metrics = read_metrics(run_dir / "metrics.jsonl")
    experiment = value_at(config, "experiment.name") or config.get("experiment") or config.get("name")
    subtitle = f"Experiment {experiment}" if isinstance(experiment, str) else "Report of a training run"
    return {
        "title": run_dir.resolve().name,
        "subtitle": subtitle,
        **_passed(read_mapping(run_dir / "gates.json"), summary, metrics),
        "trained": trained_facts(config, split_sizes(run_dir / "splits.csv")) if config else [],
        "summary": summary_facts({key: value for key, value in summary.items() if key != "lacks"}),
        "targets": _clipped(_pretty(read_mapping(run_dir / "targets.json"))),
        **_metrics(metrics),
        **_pictures(run_dir / "pictures", config, summary),
        "columns": _column_errors(config, metrics),
        **_reproduction(read_mapping(run_dir / "environment.json")),
        "config": _clipped(read_text(run_dir / "config.yaml")),
    }


def _passed(
    loaded: Mapping[str, Any], summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    listed = loaded.get("gates")
    gates = [gate for gate in listed if isinstance(gate, Mapping)] if isinstance(listed, list) else []
    # A run that is not evaluated has no gates, but its last epoch says whether it has collapsed.
    watched = not gates and bool(metrics) and metrics[-1].get("diag/collapsed") == 1
    collapsed = summary.get("collapsed") is True or watched
    banners = [_overall_banner(gates)] if gates else []
    decoder = _decoder_banner(gates, collapsed)
    return {
        "gates": [gate_row(gate) for gate in gates],
        "gates_note": str(loaded.get("note") or ""),
        "banners": [*banners, *([decoder] if decoder else [])],
    }


def _metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last: Mapping[str, Any] = rows[-1] if rows else {}
    count = f"{len(rows)} epoch{'s' * (len(rows) != 1)} recorded." if rows else ""
    return {
        "training_note": count,
        "metrics_epoch": last.get("epoch", "unknown"),
        "metrics": [(name, significant(value)) for name, value in sorted(last.items()) if name != "epoch"],
    }


def _lacks(config: Mapping[str, Any], summary: Mapping[str, Any]) -> set[str]:
    """Return the fields of `PictureContext` that a run does not have; those of an older run by its configuration."""
    known = summary.get("lacks")
    if isinstance(known, list):
        return set(map(str, known))
    model = config.get("model")
    supervision = model.get("supervision") if isinstance(model, Mapping) else True
    of_volumes = {"volumes", "traversals", "targets", "correlation"}
    return (set() if supervision else {"leaks", "targets"}) | (
        of_volumes if value_at(config, "data.columns") else set()
    )


def _left_out(config: Mapping[str, Any]) -> set[str]:
    """Return the names of the pictures that the configuration removes."""
    parts = value_at(config, "pictures.parts")
    return {str(name) for name, part in parts.items() if part is None} if isinstance(parts, Mapping) else set()


def _column_errors(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what a run on a table shows instead of pictures: the final squared error of each column."""
    columns, prefix = value_at(config, "data.columns"), "val_epoch/mse_"
    last: Mapping[str, Any] = rows[-1] if rows else {}
    # the source of a plugin may call its columns otherwise; only runs on tables have these metrics
    measured = [key.removeprefix(prefix) for key in last if key.startswith(prefix)]
    names = columns if isinstance(columns, list) else measured
    return [(str(name), significant(last.get(f"{prefix}{name}"))) for name in names]


def _pictures(pictures: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Embed the pictures of every section in order, and the names of missing ones."""
    album = Album()
    lacking, left_out = _lacks(config, summary), _left_out(config)
    # Registered pictures come first; reconstructions get the rest of the budget.
    sections: dict[Section, list[tuple[str, Picture | None]]] = {section: [] for section in SECTIONS}
    known = registered_pictures()
    for name, kind in known.items():
        if name in left_out:
            continue
        shown = album.embed(pictures / kind.file, kind.alt, kind.caption, always=True)
        if shown or not kind.needs & lacking:
            sections[kind.section].append((kind.file, shown))
    epochs, note = _epochs(pictures, album)
    files = {kind.file for kind in known.values()}
    more = [path for path in sorted(pictures.glob("*.png")) if path.name not in files]
    others = [picture for path in more if (picture := album.embed(path, path.stem, path.stem.replace("_", " ")))]
    return {"pictures": sections, "epochs": epochs, "epochs_note": note, "others": others}


def _reproduction(environment: Mapping[str, Any]) -> dict[str, Any]:
    command = environment.get("command")
    text = shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")
    rows = [(key, value) for key, value in flat(environment) if key != "command"]
    return {"command": text, "environment": [(name, plain_text(value)) for name, value in rows if value is not None]}


def _pretty(mapping: Mapping[str, Any]) -> str:
    return json.dumps(mapping, indent=2, ensure_ascii=False) if mapping else ""


def _clipped(text: str) -> str:
    """Truncate a very long text, to keep the page readable."""
    return (
        text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}\n… ({len(text) - LONGEST_TEXT} more characters)"
    )
