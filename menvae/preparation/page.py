"""The quality of a cohort as one self-contained HTML page: pictures of the worst subjects, and a table of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from menvae.console.progress import progress_bar
from menvae.files import write_text
from menvae.preparation.quality import SubjectQuality, meanings, millilitres
from menvae.preparation.summary import (
    Findings,
    correlation_words,
    region_words,
    split_words,
    verdict_words,
)
from menvae.preparation.table import shown_box, shown_day
from menvae.preparation.thumbnails import REGION_COLOURS, Thumbnail, draw_thumbnails
from menvae.presentation.page import Album, render
from menvae.presentation.sortable import Cell, Column, Table, number_cell, sorting_script
from menvae.presentation.text import broken, counted

REGION_NAMES: Final = {"ncr": "necrotic core", "ed": "oedema", "et": "enhancing tumour"}
_KINDS: Final = {"left out": "bad", "look": "odd", "ok": "good"}
_BOX_COLUMNS: Final = (
    ("native mL", "volume of all labels at native resolution"),
    ("box mL", "the same in the training box, which the targets describe"),
    ("tumour kept", "share of the resampled tumour inside the box"),
    ("brain kept", "share of the resampled voxels with signal inside the box"),
)


@dataclass(frozen=True)
class _Card:
    """A subject with its problems and, if available, its slices."""

    subject_id: str
    verdict: str
    kind: str
    reasons: list[str]
    facts: str
    picture: Thumbnail | None


def write_page(found: Findings, folder: Path, most: int, num_workers: int | None = None) -> Path:
    """Write ``quality.html``.

    Args:
        found: content of the page.
        folder: folder with ``cohort.png`` and, if there are splits, ``target_correlation.png``.
        most: maximum number of subjects with pictures.
        num_workers: drawing processes; None uses one per core.

    Returns:
        The path of the page.
    """
    template = Path(__file__).with_name("templates") / "quality.html"
    worst = [row.prepared for row in found.rows[:most] if row.prepared is not None]
    content = _content(found, folder, most, draw_thumbnails(worst, num_workers, progress_bar))
    return write_text(folder / "quality.html", render(template, content, script=sorting_script()))


def _content(found: Findings, folder: Path, most: int, thumbnails: Mapping[str, Thumbnail]) -> dict[str, Any]:
    album = Album()
    volumes = album.embed(
        folder / "cohort.png",
        "Histograms of the volumes, and of the shares that the box keeps",
        "If the box or the voxel size changes a tumour, the model learns a different tumour.",
        always=True,
    )
    trajectories = (folder / "trajectories.png").is_file() and album.embed(
        folder / "trajectories.png",
        "Tumour volume over time, one line per patient",
        "Growth is learnt from these lines: if one falls or jumps, check that patient's masks.",
        always=True,
    )
    known = found.correlation is not None and any(pair.before is not None for pair in found.correlation.pairs)
    correlation = known and album.embed(
        folder / "target_correlation.png",
        "Correlation of the targets",
        "Frames mark pairs within a partition. "
        "Pairs that stay strong outside the frames and below the diagonal cannot be separated.",
        always=True,
    )
    cards, note = _cards(found, thumbnails, album.left_bytes, most)
    return {
        "title": f"Quality of a cohort: {found.name}",
        "subtitle": f"Data {found.cohort.data_hash[:10]}, as prepared for training",
        "banner": ("odd" if found.verdicts.keys() - {"ok"} else "good", verdict_words(found)),
        "sentences": [sentence for sentence in (split_words(found), region_words(found)) if sentence],
        "summary": _summary(found),
        "cards": cards,
        "cards_note": note,
        "regions": [(REGION_COLOURS[region], f"{region}, {REGION_NAMES[region]}") for region in REGION_COLOURS],
        "modality": found.modalities[0],
        "volumes": volumes,
        "trajectories": trajectories,
        "correlation": correlation,
        "correlation_words": correlation_words(found) or [split_words(found)],
        "subjects": _subjects(found),
        "severities": [(int(kind), *words) for kind, words in meanings(found.limits).items()],
    }


def _summary(found: Findings) -> list[tuple[str, str]]:
    cross = " \N{MULTIPLICATION SIGN} "
    subjects = found.cohort.subjects
    whole = sum(subject.box.tumour_kept >= 1 for subject in subjects)
    spacings = {subject.spacing_mm for subject in subjects}
    voxel, extent = "varies by subject", "varies by subject"
    if len(spacings) == 1:
        (spacing,) = spacings
        voxel = f"{cross.join(f'{step:.4g}' for step in spacing)} mm"
        sides = (side * step for side, step in zip(found.roi_size, spacing, strict=True))
        extent = f"{cross.join(f'{side:.0f}' for side in sides)} mm"
    return [
        ("Subjects prepared", f"{len(subjects):,}"),
        ("Modalities", ", ".join(found.modalities)),
        ("Box, voxels along R, A, S", cross.join(map(str, found.roi_size))),
        ("Voxel", voxel),
        ("Extent of the box", extent),
        ("Tumours entirely inside the box", f"{whole:,} of {len(subjects):,}"),
        ("Target hash", found.normalizer.hash if found.normalizer else "none (no splits)"),
    ]


def _cards(found: Findings, thumbnails: Mapping[str, Thumbnail], room_bytes: int, most: int) -> tuple[list[_Card], str]:
    """Return a card for each of the worst subjects, with pictures until the page is full, and a note on the rest."""
    cards, shown = [], 0
    for row in found.rows[:most]:
        picture = thumbnails.get(row.subject_id)
        if picture is not None and len(picture.source) > room_bytes:
            picture = None
        if picture is not None:
            room_bytes -= len(picture.source)
            shown += 1
        reasons = [reason.words for reason in row.reasons] or ["no remarks"]
        cards.append(_Card(row.subject_id, row.verdict, _KINDS[row.verdict], reasons, _facts(row), picture))
    left_out = len(thumbnails) - shown
    rest = len(found.rows) - len(cards)
    notes = [f"{counted(rest, 'more subject')} in the table below; thumbnails={len(found.rows)} shows all."] * (
        rest > 0
    )
    if left_out:
        notes.append(f"{counted(left_out, 'picture')} omitted to keep this page small.")
    return cards, " ".join(notes)


def _facts(row: SubjectQuality) -> str:
    subject = row.prepared
    if subject is None:
        return ""
    native, inside, tumour, brain = shown_box(subject)
    visit = f"day {shown_day(subject)} of {subject.patient_id}, " if subject.days is not None else ""
    split = f"{row.split}, " if row.split else ""
    return f"{visit}{split}{native} mL native, {inside} mL in the box; tumour kept {tumour}, brain {brain}"


def _subjects(found: Findings) -> Table:
    columns = [_column("subject")]
    if found.has_visits:
        columns += [_column("patient"), Column("day")]
    columns += [_column("split"), Column("verdict", is_number=False, first="descending", title="sorts by severity")]
    columns += [Column(broken(name, 7), title=title) for name, title in _BOX_COLUMNS]
    columns += [_column("why"), *(Column(broken(name)) for name in found.targets)]
    caption = (
        "Volumes are ln(mm\N{SUPERSCRIPT THREE} + 1), areas ln(mm\N{SUPERSCRIPT TWO} + 1), locations shares of the "
        "box. Click a column header to sort."
    )
    return Table("subjects-table", columns, [_subject(row, found) for row in found.rows], caption)


def _column(name: str) -> Column:
    return Column(name, is_number=False)


def _subject(row: SubjectQuality, found: Findings) -> list[Cell]:
    subject = row.prepared
    cells, why = [Cell(row.subject_id, row.subject_id, "name-cell")], Cell(row.words, row.words, "why-cell")
    if found.has_visits:
        patient = subject.patient_id if subject else ""
        cells += [Cell(patient, patient, ""), number_cell(subject.days if subject else None, shown_day(subject))]
    split = row.split or ""
    cells.append(Cell(split, split, ""))
    cells += [Cell(row.verdict, repr(row.severity), f"verdict-{_KINDS[row.verdict]}")]
    if subject is None:
        cells += [*(Cell("") for _ in _BOX_COLUMNS), why, *(Cell("") for _ in found.targets)]
    else:
        held = subject.box
        values = (
            *map(millilitres, (held.native_volume_mm3, held.volume_mm3)),
            *(held.tumour_kept, held.brain_kept),
        )
        cells += [number_cell(value, text) for value, text in zip(values, shown_box(subject), strict=True)]
        cells += [why, *(number_cell(subject.features[name]) for name in found.targets)]
    return cells
