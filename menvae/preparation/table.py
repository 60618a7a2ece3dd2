"""The quality of a cohort as tables: for the terminal, and as CSV files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from menvae.data.batches.cohort_splits import SPLIT_COLUMNS, split_rows
from menvae.data.cache.cohort import PreparedSubject
from menvae.files import write_table
from menvae.preparation.quality import SubjectQuality, millilitres
from menvae.preparation.summary import Findings, correlation_words, region_words, split_words, verdict_words
from menvae.presentation.text import counted, significant

MOST_ROWS: Final = 20
_STYLES: Final = {"left out": "bold red", "look": "yellow", "ok": "green"}


def answers(found: Findings) -> Iterator[RenderableType]:
    """Yield the table and the sentences that the command prints."""
    yield quality_table(found)
    for sentence in (verdict_words(found), split_words(found), region_words(found), *correlation_words(found)):
        if sentence:
            yield Text(sentence)


def quality_table(found: Findings) -> Table:
    """Return a table of the subjects to look at first."""
    table = Table(
        box=box.SIMPLE_HEAD, title="Quality, worst first", title_justify="left", caption_justify="left", pad_edge=False
    )
    table.add_column("subject", overflow="fold")
    if found.has_visits:
        table.add_column("patient", overflow="fold")
        table.add_column("day", justify="right")
    table.add_column("split", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for head in ("native\nmL", "box\nmL", "tumour\nkept", "brain\nkept"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    first_with: dict[str, str] = {}  # reasons without the name of the subject -> the first subject
    for row in found.rows[:MOST_ROWS]:
        subject, why = row.prepared, row.words
        if subject is None and why:
            first = first_with.setdefault(why.replace(row.subject_id, ""), row.subject_id)
            why = why if first == row.subject_id else f"as {first}"
        # Text, not str: rich would interpret square brackets in a name as markup
        visit = [Text(_patient(subject)), Text(shown_day(subject))] if found.has_visits else []
        verdict = Text(row.verdict, style=_STYLES[row.verdict])
        numbers = [Text(number) for number in shown_box(subject)]
        table.add_row(Text(row.subject_id), *visit, Text(row.split or ""), verdict, *numbers, Text(why))
    rest = len(found.rows) - MOST_ROWS
    if rest > 0:
        table.caption = Text(f"and {counted(rest, 'more subject')} in quality.html")
    return table


def _patient(subject: PreparedSubject | None) -> str:
    return subject.patient_id if subject else ""


def shown_day(subject: PreparedSubject | None) -> str:
    """Write the day of a visit; empty if it is not known."""
    return "" if subject is None or subject.days is None else f"{subject.days:g}"


def shown_box(subject: PreparedSubject | None) -> tuple[str, str, str, str]:
    """Write volumes at native resolution and in the box in mL, and what is kept of tumour and brain."""
    if subject is None:
        return "", "", "", ""
    held = subject.box
    volumes = (significant(millilitres(volume)) for volume in (held.native_volume_mm3, held.volume_mm3))
    native, inside = volumes
    return native, inside, shown_share(held.tumour_kept), shown_share(held.brain_kept)


def shown_share(share: float) -> str:
    """Format a share in percent; a share below 1 is never shown as 100 %.

    >>> shown_share(1.0), shown_share(0.9998), shown_share(0.414)
    ('100 %', '99.9 %', '41.4 %')
    """
    return "100 %" if share >= 1 else f"{min(99.9, 100 * share):.1f} %"


def write_tables(found: Findings, folder: Path) -> list[Path]:
    """Write ``quality.csv``, ``targets.csv``, ``splits.csv`` and ``target_correlation.csv``, in full precision.

    If the cohort cannot be split, the last two are removed, because they would come from other keys.

    Returns:
        The written files.
    """
    written = [_write_quality(found, folder / "quality.csv"), _write_targets(found, folder / "targets.csv")]
    splits, correlation = folder / "splits.csv", folder / "target_correlation.csv"
    if found.splits is None or found.correlation is None:
        splits.unlink(missing_ok=True)
        correlation.unlink(missing_ok=True)
        return written
    return [
        *written,
        write_table(splits, SPLIT_COLUMNS, split_rows(found.cohort, found.splits)),
        _correlations(found, correlation),
    ]


def _write_quality(found: Findings, path: Path) -> Path:
    columns = ["subject_id", "patient_id", "days", "split", "verdict", "severity", "largest_robust_z", "reasons"]
    columns += ["native_volume_ml", "resampled_volume_ml", "box_volume_ml", "tumour_kept", "brain_kept", *found.targets]
    columns += [f"{name}_{fact}" for name in found.modalities for fact in ("coverage", "plateau")]
    rows = [_quality_row(row, found.modalities, found.targets) for row in found.rows]
    return write_table(path, columns, [[*row, *[None] * (len(columns) - len(row))] for row in rows])


def _quality_row(row: SubjectQuality, modalities: Sequence[str], targets: Sequence[str]) -> list[object]:
    """Return the cells of a row; a subject that was left out has only the first ones."""
    subject = row.prepared
    facts: list[object] = [row.split, row.verdict, row.severity, row.farthest, row.words]
    if subject is None:
        return [row.subject_id, None, None, *facts]
    held = subject.box
    volumes = [millilitres(one) for one in (held.native_volume_mm3, held.resampled_volume_mm3, held.volume_mm3)]
    of_each = [row.channels.get(name) for name in modalities]
    channels = [fact for one in of_each for fact in ((one.coverage, one.plateau) if one else (None, None))]
    features = [subject.features[name] for name in targets]
    visit: list[object] = [row.subject_id, subject.patient_id, subject.days]
    return [*visit, *facts, *volumes, held.tumour_kept, held.brain_kept, *features, *channels]


def _write_targets(found: Findings, path: Path) -> Path:
    measured = [name for name in found.targets if name in found.cohort.subjects[0].native_features]
    columns = ["subject_id", "patient_id", "days", "split", *found.targets, *(f"native_{name}" for name in measured)]
    rows = [
        [
            *(subject.subject_id, subject.patient_id, subject.days),
            found.splits[subject.subject_id] if found.splits else None,
            *(subject.features[name] for name in found.targets),
            *(subject.native_features[name] for name in measured),
        ]
        for subject in found.cohort.subjects
    ]
    return write_table(path, columns, rows)


def _correlations(found: Findings, path: Path) -> Path:
    """Write one row per pair of targets, including pairs within a partition."""
    correlation = found.correlation
    assert correlation is not None
    targets = [(name, partition) for partition, names in correlation.partitions.items() for name in names]
    columns = ["target", "partition", "other_target", "other_partition", "num_subjects", "r", "r_residualised"]
    rows = []
    for a, b in combinations(range(len(targets)), 2):
        values = [float(matrix[a, b]) for matrix in (correlation.before, correlation.after)]
        known = [None if value != value else value for value in values]
        rows.append([*targets[a], *targets[b], int(correlation.counts[a, b]), *known])
    return write_table(path, columns, rows)
