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
from menvae.presentation.text import significant, split_words
from menvae.runs.facts import plain_text, summary_facts, trained_facts
from menvae.runs.gates_table import gate_row, judged_gates
from menvae.runs.reading import flat, read_mapping, read_metrics, read_text, split_sizes, value_at
from menvae.runs.references_table import reference_rows

IGNORED_RATIO: Final = 1.05
"""Below this ratio of errors, a decoder is considered to ignore its latent space: the difference is noise."""
LONGEST_TEXT: Final = 40_000
_SPLITS: Final = {"val": "Validation", "test": "Test"}
_MEAN_Z, _SHUFFLED = "diag/mean_z_ratio", "diag/shuffled_ratio"


@dataclass(frozen=True)
class _Banner:
    kind: str
    headline: str
    text: str


def _overall_banner(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> _Banner:
    rows = [(name, gate_row(gate)) for name, gates in splits.items() for gate in gates]
    met = [row for _, row in rows if row.kind == "good"]
    first = next(iter(splits))
    others = [(row, row.name if name == first else f"{row.name} ({name})") for name, row in rows if row.kind != "good"]
    if not others:
        where = "" if [*splits] == ["val"] else f" on {' and '.join(map(split_words, splits))}"
        return _Banner("good", f"The run passed all {len(next(iter(splits.values())))} gates{where}.", "")
    failed = ", ".join(f"{name} {row.value} (target {row.target})" for row, name in others if row.verdict == "fail")
    open_ = ", ".join(
        f"{name} {row.interval or row.value} (target {row.target})"
        for row, name in others
        if row.verdict == "undecided"
    )
    unknown = ", ".join(name for row, name in others if row.verdict == "not computed")
    sentences = [f"Not met: {failed}."] * bool(failed) + [f"Undecided: {open_}."] * bool(open_)
    sentences += [f"Not computed: {unknown}."] * bool(unknown)
    headline = f"The run did not pass: it meets {len(met)} of {len(rows)} gates."
    return _Banner("bad" if failed else "odd", headline, " ".join(sentences))


def _decoder_banner(gates: Sequence[Mapping[str, Any]], collapsed: bool) -> _Banner | None:
    """Report whether the decoder uses its latent space, which good reconstructions do not prove."""
    decoder = _decoder_gates(gates)
    if not decoder and not collapsed:
        return None
    phrases = {
        _MEAN_Z: "when z is replaced by the mean training latent",
        _SHUFFLED: "when z is shuffled between patients",
    }
    ratios = _ratios(decoder)
    measured = " and ".join(f"{significant(ratio)} times as large {phrases[name]}" for name, ratio in ratios.items())
    evidence = f"The reconstruction error is {measured}." if measured else ""
    if collapsed:
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


def is_collapsed(state: object, gates: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a run has collapsed: the watch has stopped it, or its decoder ignores its latent space.

    Args:
        state: state of the run, such as ``finished``.
        gates: entries of ``gates.json``.
    """
    ratios = _ratios(_decoder_gates(gates))
    return state == "collapsed" or bool(ratios and max(ratios.values()) < IGNORED_RATIO)


def _decoder_gates(gates: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    # older gates.json name no metric; the gates were then called as their metrics
    found = {str(gate.get("metric") or f"diag/{gate.get('name')}"): gate for gate in gates}
    return {name: found[name] for name in (_MEAN_Z, _SHUFFLED) if name in found}


def _ratios(decoder: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return {
        name: float(gate["value"])
        for name, gate in decoder.items()
        if isinstance(gate.get("value"), int | float) and math.isfinite(gate["value"])
    }


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


def write_report(run_dir: Path, judged: Path | None = None) -> Path:
    """Write ``report.html`` from the files in a run directory.

    Args:
        run_dir: contains any of ``gates.json``, ``evaluation.json``, ``metrics.jsonl``, ``config.yaml``,
            ``environment.json``, ``splits.csv``, ``targets.json``, ``summary.json`` and ``pictures/``.

        judged: folder of a later evaluation, whose ``gates.json``, ``evaluation.json`` and ``pictures/`` are shown, and
            which the page is written to; None: the run directory.

    Returns:
        The path of the page.

    Raises:
        ValueError: ``run_dir`` is not a directory.
    """
    if not run_dir.is_dir():
        raise ValueError(f"run_dir is {str(run_dir)!r}, which is not a directory")
    page = render(Path(__file__).with_name("templates") / "report.html", _page(run_dir, judged or run_dir))
    return write_text((judged or run_dir) / "report.html", page)


def _page(run_dir: Path, judged: Path) -> dict[str, Any]:
    """Collect the content of the template."""
    config, summary = read_mapping(run_dir / "config.yaml"), read_mapping(run_dir / "summary.json")
    metrics, evaluation = read_metrics(run_dir / "metrics.jsonl"), read_mapping(judged / "evaluation.json")
    experiment = value_at(config, "experiment.name") or config.get("experiment") or config.get("name")
    subtitle = f"Experiment {experiment}" if isinstance(experiment, str) else "Report of a training run"
    return {
        "title": run_dir.resolve().name,
        "subtitle": subtitle,
        **_passed(read_mapping(judged / "gates.json"), _judged_splits(evaluation), summary, metrics),
        "trained": trained_facts(config, split_sizes(run_dir / "splits.csv")) if config else [],
        "summary": summary_facts({key: value for key, value in summary.items() if key != "lacks"}),
        "targets": _clipped(_pretty(read_mapping(run_dir / "targets.json"))),
        **_metrics(metrics, evaluation),
        **_references(config, evaluation),
        **_pictures(judged / "pictures", config, summary),
        "interventions_note": _no_interventions(evaluation),
        "columns": _column_errors(config, metrics),
        **_reproduction(read_mapping(run_dir / "environment.json")),
        "config": _clipped(read_text(run_dir / "config.yaml")),
    }


def _judged_splits(evaluation: Mapping[str, Any]) -> Sequence[str]:
    """Return the judged splits, that of the top of ``gates.json`` first; runs of earlier versions judge validation."""
    splits = evaluation.get("splits")
    return [str(name) for name in splits] if isinstance(splits, Mapping) and splits else ("val", "test")


def _passed(
    loaded: Mapping[str, Any],
    judged: Sequence[str],
    summary: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    splits = judged_gates(loaded, judged)
    gates = splits.get(judged[0], [])
    # A run that is not evaluated has no gates, but its last epoch says whether it has collapsed.
    watched = not gates and bool(metrics) and metrics[-1].get("diag/collapsed") == 1
    collapsed = summary.get("collapsed") is True or watched or is_collapsed(summary.get("state"), gates)
    decoder = _decoder_banner(gates, collapsed)
    others = {name: {row.name: row for row in map(gate_row, splits[name])} for name in judged[1:] if name in splits}
    parts = (loaded, *(loaded[name] for name in others))
    return {
        "gates": [(row, [of.get(row.name) for of in others.values()]) for row in map(gate_row, gates)],
        "first_split": "" if [*splits] == ["val"] else split_words(judged[0]),
        "other_splits": [split_words(name) for name in others],
        "gates_note": "; ".join(dict.fromkeys(str(part["note"]) for part in parts if part.get("note"))),
        "banners": [*([_overall_banner(splits)] if gates else []), *([decoder] if decoder else [])],
    }


def _metrics(rows: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of the judged checkpoint; of the last epoch, for runs without ``evaluation.json``."""
    last: Mapping[str, Any] = rows[-1] if rows else {}
    count = f"{len(rows)} epoch{'s' * (len(rows) != 1)} recorded." if rows else ""
    splits = evaluation.get("splits")
    judged = {
        str(name): split["metrics"]
        for name, split in (splits.items() if isinstance(splits, Mapping) else ())
        if isinstance(split, Mapping) and isinstance(split.get("metrics"), Mapping)
    }
    if not judged:
        logged = {name: significant(value) for name, value in sorted(last.items()) if name != "epoch"}
        judged, epoch = {"": logged}, last.get("epoch", "unknown")
        shown = [(name, [value]) for name, value in logged.items()]
    else:
        epoch = evaluation.get("epoch", "unknown")
        keys = sorted({key for metrics in judged.values() for key in metrics})
        shown = [(key, [_estimate_text(metrics.get(key)) for metrics in judged.values()]) for key in keys]
    columns = [split_words(name).capitalize() if name else "Value" for name in judged]
    return {"training_note": count, "metrics_epoch": epoch, "metrics": shown, "metric_columns": columns}


def _references(config: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the R2 of partitions and targets beside their references, formatted."""
    supervision = value_at(config, "model.supervision")
    found = reference_rows(evaluation, list(supervision) if isinstance(supervision, Mapping) else [])
    rows = [
        (name, _SPLITS.get(split, split), [_estimate_text(value) for value in values])
        for name, split, values in found.rows
    ]
    return {"references": rows, "reference_columns": found.columns}


def _estimate_text(found: Any) -> str:
    """Format an entry of ``evaluation.json``: value and interval, or why there is no value."""
    if not isinstance(found, Mapping) or not found:
        return ""
    if found.get("value") is None:
        return str(found.get("reason") or "")
    ends = [found.get("low"), found.get("high")]
    interval = f" ({significant(ends[0])} to {significant(ends[1])})" if None not in ends else ""
    return f"{significant(found['value'])}{interval}"


def _no_interventions(evaluation: Mapping[str, Any]) -> str:
    """Return why no split has interventions; empty if one has, or none can have."""
    splits = evaluation.get("splits")
    found = [split.get("interventions") for split in splits.values()] if isinstance(splits, Mapping) else []
    reasons = [each.get("reason") for each in found if isinstance(each, Mapping)]
    return f"No interventions: {reasons[0]}." if reasons and all(reasons) else ""


def _lacks(config: Mapping[str, Any], summary: Mapping[str, Any]) -> set[str]:
    """Return the fields of `PictureContext` that a run does not have; those of an older run by its configuration."""
    known = summary.get("lacks")
    if isinstance(known, list):
        return set(map(str, known))
    model = config.get("model")
    supervision = model.get("supervision") if isinstance(model, Mapping) else True
    of_volumes = {"volumes", "traversals", "walks", "swaps", "targets", "correlation"}
    return (
        {"interventions"}
        | (set() if supervision else {"leaks", "targets"})
        | (of_volumes if value_at(config, "data.columns") else set())
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
