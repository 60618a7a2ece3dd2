"""The report of a run: one self-contained HTML page, and the table of gates for the terminal.

The page is written from what lies in the run directory, so it can be written again at any time. Whatever is missing is
named on the page: a run that was stopped half-way has a report too.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped, unused-ignore]
from rich import box
from rich.table import Table
from rich.text import Text

from menvae.files import write_text
from menvae.presentation.page import Album, Picture, render
from menvae.presentation.text import LATENT_PICTURES, gate_meaning, significant

IGNORED_RATIO: Final = 1.05
"""Below this ratio of errors a decoder ignores its latent space: the difference is no more than noise."""
LONGEST_TEXT: Final = 40_000

OTHER_KNOWN: Final = {"schedule.png", "training_curves.png", "target_correlation.png"}


# --------------------------------------------------------------------------------------------------------------------
# Numbers and gates
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _GateRow:
    name: str
    value: str
    target: str
    verdict: str
    kind: str
    reason: str
    meaning: str


def _gate_row(gate: Mapping[str, Any]) -> _GateRow:
    name, value = str(gate.get("name", "unnamed")), gate.get("value")
    known = isinstance(value, int | float) and not math.isnan(value)
    target = gate.get("target")
    wanted = f"{target:g}" if isinstance(target, int | float) else str(target)
    if gate.get("passed") is True:
        verdict, kind = "pass", "good"
    else:
        verdict, kind = ("FAIL", "bad") if known else ("not computed", "odd")
    return _GateRow(
        name=name,
        value=significant(value),
        target=f"{gate.get('comparison', '>')} {wanted}",
        verdict=verdict,
        kind=kind,
        reason=str(gate.get("reason") or ""),
        meaning=gate_meaning(name),
    )


def gates_table(gates: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """Make the table of gates for the terminal: coloured there, plain in a log.

    Args:
        gates: entries of ``gates.json``: name, value (or None), target, comparison, passed and, if any, reason.
        note: a line below the table, such as how wide chance is in a small split.

    Returns:
        A table for ``rich.console.Console.print``.
    """
    rows = [_gate_row(gate) for gate in gates]
    table = Table(box=box.SIMPLE_HEAD, title="Gates", title_justify="left", caption_justify="left", pad_edge=False)
    table.caption = Text(note) if note else None
    table.add_column("gate", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("wanted", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    reasons = any(row.reason for row in rows)
    if reasons:
        table.add_column("reason", overflow="fold")
    styles = {"good": "green", "bad": "bold red", "odd": "yellow"}
    for row in rows:
        # Text, not str: a reason may hold square brackets, which rich would read as markup.
        cells = [Text(row.name), Text(row.value), Text(row.target), Text(row.verdict, style=styles[row.kind])]
        table.add_row(*cells, *([Text(row.reason)] if reasons else []))
    return table


@dataclass(frozen=True)
class _Banner:
    kind: str
    headline: str
    text: str


def _overall_banner(gates: Sequence[Mapping[str, Any]]) -> _Banner:
    met = [gate for gate in gates if gate.get("passed") is True]
    rows = [_gate_row(gate) for gate in gates if gate.get("passed") is not True]
    if not rows:
        return _Banner("good", f"The run passed: all {len(met)} gates are met.", "")
    failed = ", ".join(f"{row.name} {row.value} (wanted {row.target})" for row in rows if row.kind == "bad")
    unknown = ", ".join(row.name for row in rows if row.kind == "odd")
    sentences = [f"Not met: {failed}."] * bool(failed) + [f"Not computed: {unknown}."] * bool(unknown)
    headline = f"The run did not pass: {len(met)} of {len(gates)} gates are met."
    return _Banner("bad" if failed else "odd", headline, " ".join(sentences))


def _decoder_banner(gates: Sequence[Mapping[str, Any]], collapsed: bool) -> _Banner | None:
    """Say whether the decoder uses its latent space: a good picture does not show it."""
    found = {str(gate.get("name")): gate for gate in gates}
    phrases = {
        "mean_z_ratio": "when z is replaced by the mean training latent",
        "shuffled_ratio": "when z is shuffled between subjects",
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
            "Its pictures are a template, however good they look: read nothing into the latent space. "
            "Weigh the reconstruction more (the calibrated likelihood does) or the KL less."
        )
        headline = "Warning, posterior collapse: the decoder ignores its latent space."
        return _Banner("bad", headline, f"{evidence} {advice}".strip())
    if not ratios:
        return _Banner("odd", "It is not known whether the decoder uses its latent space.", "No ratio was computed.")
    if all(gate.get("passed") is True for gate in decoder.values()):
        return _Banner("good", "The decoder uses its latent space.", evidence)
    return _Banner("odd", "The decoder uses its latent space, but less than wanted.", evidence)


# --------------------------------------------------------------------------------------------------------------------
# Reading a run directory
# --------------------------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    """Return the text of a file, or an empty string if there is none that can be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON or YAML file that holds a mapping; an empty one if the file is missing or damaged."""
    text = _read_text(path)
    try:
        loaded = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text or "{}")
    except (ValueError, yaml.YAMLError):
        return {}
    return {str(key): value for key, value in loaded.items()} if isinstance(loaded, dict) else {}


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a torn last line of a killed run is left out."""
    rows = []
    for line in _read_text(path).splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _split_sizes(path: Path) -> str:
    counts = Counter(row.get("split") or "unnamed" for row in csv.DictReader(io.StringIO(_read_text(path))))
    return ", ".join(f"{count} {split}" for split, count in counts.items())


def _at(config: Mapping[str, Any], dotted: str) -> Any:
    """Return the value at a dotted key, or None."""
    value: Any = config
    for key in dotted.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested mappings into dotted keys."""
    rows: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def _plain(value: Any) -> str:
    """Write a configuration value for a person."""
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    """Write a duration.

    >>> _duration(171.2), _duration(4.0), _duration(7325.0)
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


def _trained_facts(config: Mapping[str, Any], splits: str) -> list[tuple[str, str]]:
    """Pick from the configuration what a reader asks first; keys that an experiment lacks are left out."""

    def first(*keys: str) -> Any:
        return next((value for key in keys if isinstance(value := _at(config, key), str | int | float)), None)

    def joined(*keys: str) -> str:
        return ", ".join(str(value) for key in keys if isinstance(value := _at(config, key), str))

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
    voxels, spacing = (_extent(_at(config, key)) for key in ("data.roi_size", "data.spacing_mm"))
    volume = [f"{voxels} voxels"] * bool(voxels) + [f"of {spacing} mm"] * bool(spacing)
    rows = [
        ("Experiment", first("experiment.name", "experiment", "name", "tracking.experiment")),
        ("Model, encoder, decoder", joined("model.name", "encoder.name", "decoder.name")),
        ("Data", joined("data.name")),
        ("Subjects", splits),
        ("Box", " ".join(volume)),
        ("Modalities", _plain(_at(config, "data.modalities") or "")),
        ("Columns", _plain(_at(config, "data.columns") or "")),
        ("Latent dimensions", first("model.z_dim")),
        ("Partitions", _partition_sizes(model)),
        ("Objective", joined("loss.name")),
        ("Weights of its terms", ", ".join(f"{name} {_plain(value)}" for name, value in weights.items())),
        ("Epochs", first("trainer.max_epochs")),
        ("Batch size", first("trainer.batch_size")),
        (
            "Optimiser and learning rate",
            "; ".join(map(_plain, _known(config, "optimizer.name", "optimizer.learning_rate"))),
        ),
        ("Precision", first("trainer.precision")),
        ("Seed", first("seed")),
        *((f"Targets of {partition}", _plain(features)) for partition, features in heads if features),
    ]
    return [(name, _plain(value)) for name, value in rows if value not in (None, "")]


def _extent(value: Any) -> str:
    """Write the sizes along three axes, one number for a cube or an isotropic voxel given as such."""
    return " \N{MULTIPLICATION SIGN} ".join(map(_plain, value)) if isinstance(value, list) else _plain(value or "")


def _known(config: Mapping[str, Any], *keys: str) -> list[Any]:
    return [value for key in keys if (value := _at(config, key)) is not None]


def _summary_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in _flat(summary):
        name = key.replace("_", " ")
        if key.endswith("_s") and isinstance(value, int | float) and math.isfinite(value):
            rows.append((name.removesuffix(" s"), _duration(float(value))))
        else:
            rows.append((name, ", ".join(map(significant, value)) if isinstance(value, list) else significant(value)))
    return rows


# --------------------------------------------------------------------------------------------------------------------
# Pictures
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Epoch:
    epoch: int
    pictures: list[Picture]
    note: str


def _epochs(pictures: Path, album: Album) -> tuple[list[_Epoch], str]:
    """Embed the reconstructions, the newest epoch first, as long as there is room."""
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
                f"{missing} more in pictures/{folders[epoch].name}/, left out to keep this page small."
                if missing
                else ""
            )
            epochs.append(_Epoch(epoch, shown, note))
        else:
            skipped.append(epoch)
    listing = ", ".join(str(epoch) for epoch in sorted(skipped))
    return epochs, f"Not shown here, to keep this page small: epoch {listing} (in pictures/)." if skipped else ""


# --------------------------------------------------------------------------------------------------------------------
# The page
# --------------------------------------------------------------------------------------------------------------------


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` from what lies in a run directory.

    Args:
        run_dir: holds any of ``gates.json``, ``metrics.jsonl``, ``config.yaml``, ``environment.json``, ``splits.csv``,
            ``targets.json``, ``summary.json`` and ``pictures/``.

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
    """Collect what the template shows."""
    config, summary = _read_mapping(run_dir / "config.yaml"), _read_mapping(run_dir / "summary.json")
    metrics = _read_metrics(run_dir / "metrics.jsonl")
    experiment = _at(config, "experiment.name") or config.get("experiment") or config.get("name")
    subtitle = f"Experiment {experiment}" if isinstance(experiment, str) else "Report of a training run"
    return {
        "title": run_dir.resolve().name,
        "subtitle": subtitle,
        **_passed(_read_mapping(run_dir / "gates.json"), summary, metrics),
        "trained": _trained_facts(config, _split_sizes(run_dir / "splits.csv")) if config else [],
        "summary": _summary_facts(summary),
        "targets": _clipped(_pretty(_read_mapping(run_dir / "targets.json"))),
        **_metrics(metrics),
        **_pictures(run_dir / "pictures", _not_drawn(config)),
        "columns": _column_errors(config, metrics),
        **_reproduction(_read_mapping(run_dir / "environment.json")),
        "config": _clipped(_read_text(run_dir / "config.yaml")),
    }


def _passed(
    loaded: Mapping[str, Any], summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    listed = loaded.get("gates")
    gates = [gate for gate in listed if isinstance(gate, Mapping)] if isinstance(listed, list) else []
    # A run that the collapse watch stopped has no gates, but its last epoch says why it was stopped.
    watched = not gates and bool(metrics) and metrics[-1].get("diag/collapsed") == 1
    collapsed = summary.get("collapsed") is True or watched
    banners = [_overall_banner(gates)] if gates else []
    decoder = _decoder_banner(gates, collapsed)
    return {
        "gates": [_gate_row(gate) for gate in gates],
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


def _not_drawn(config: Mapping[str, Any]) -> set[str]:
    """Return the pictures that a run of this configuration does not draw, and that are not missing."""
    model = config.get("model")
    supervision = model.get("supervision") if isinstance(model, Mapping) else True
    names = set() if supervision else {"leak_matrix.png", "regression.png"}
    return names | {"traversals.png"} if _at(config, "data.columns") else names


def _column_errors(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what a run on a table has in place of pictures: the squared error of each column at the end."""
    columns = _at(config, "data.columns")
    last: Mapping[str, Any] = rows[-1] if rows else {}
    names = columns if isinstance(columns, list) else []
    return [(str(name), significant(last.get(f"val_epoch/mse_{name}"))) for name in names]


def _pictures(pictures: Path, not_drawn: Collection[str]) -> dict[str, Any]:
    album = Album()

    def main(name: str, alt: str, caption: str = "") -> Picture | None:
        return album.embed(pictures / name, alt, caption, always=True)

    # The pictures that a report always shows come first, so that reconstructions get what is left of the budget.
    shown = {
        "curves": main("training_curves.png", "Curves of the metrics against the epoch"),
        "schedule": main(
            "schedule.png", "Curriculum", "When each term of the objective acted, as planned before training began."
        ),
        "correlation": main(
            "target_correlation.png",
            "Correlation of the targets",
            "Partitions whose targets are strongly correlated cannot be independent, whatever the objective.",
        ),
        "latent": [
            (name, main(name, name.removesuffix(".png").replace("_", " "), caption))
            for name, caption in LATENT_PICTURES.items()
            if name not in not_drawn
        ],
    }
    epochs, note = _epochs(pictures, album)
    more = [path for path in sorted(pictures.glob("*.png")) if path.name not in OTHER_KNOWN | LATENT_PICTURES.keys()]
    others = [picture for path in more if (picture := album.embed(path, path.stem, path.stem.replace("_", " ")))]
    return {**shown, "epochs": epochs, "epochs_note": note, "others": others}


def _reproduction(environment: Mapping[str, Any]) -> dict[str, Any]:
    command = environment.get("command")
    text = shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")
    rows = [(key, value) for key, value in _flat(environment) if key != "command"]
    return {"command": text, "environment": [(name, _plain(value)) for name, value in rows if value is not None]}


def _pretty(mapping: Mapping[str, Any]) -> str:
    return json.dumps(mapping, indent=2, ensure_ascii=False) if mapping else ""


def _clipped(text: str) -> str:
    """Keep a page readable when a file is very long."""
    return (
        text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}\n… ({len(text) - LONGEST_TEXT} more characters)"
    )
