"""Embedded pictures of a comparison, and those that its runs have drawn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from menvae.comparison.results import Cohort, Comparison, Configuration
from menvae.comparison.tracked_runs import RunStore, TrackedRun, listed
from menvae.pictures import registered_pictures
from menvae.presentation.figures import save_figure
from menvae.presentation.page import Album, Picture

MOST_OF_FRONT: Final = 4
"""Members of the front, besides best and baseline, whose reconstructions are shown."""


@dataclass
class Gallery:
    """Saves figures into a folder and embeds them."""

    album: Album
    folder: Path
    count: int = 0

    def embed(self, figure: Figure, alt: str, caption: str = "") -> Picture | None:
        """Save a figure and return it as an embedded picture."""
        self.count += 1
        return self.album.embed(save_figure(figure, self.folder / f"{self.count}.png"), alt, caption, always=True)


def best_run(one: Configuration) -> TrackedRun:
    """Return the run of a configuration that passes the most gates."""
    return max(one.runs, key=lambda run: sum(gate.passed for gate in run.gates.values()))


def pictures_of_run(folder: Path, album: Album) -> list[Picture]:
    """Embed the pictures of a run: those drawn after training, and one subject of the last reconstructions."""
    kinds = [kind for kind in registered_pictures().values() if kind.when == "after_training"]
    wanted_files = [(folder / kind.file, kind.caption or kind.alt) for kind in kinds]
    epoch, sheets = _last_sheets(folder)
    wanted_files += [(path, f"One subject, epoch {epoch}.") for path in list(sheets.values())[:1]]
    shown = [album.embed(path, path.stem.replace("_", " "), caption) for path, caption in wanted_files]
    return [picture for picture in shown if picture is not None]


@dataclass(frozen=True)
class Reconstructions:
    """Reconstructions of one subject by several configurations, and sentences about them."""

    words: Sequence[str]
    pictures: Sequence[Picture]


def reconstructions(comparison: Comparison, cohort: Cohort, store: RunStore, album: Album) -> Reconstructions:
    """Embed the last reconstruction of one subject by the best configuration, the baseline and the front.

    The subject is the one that most of them have drawn. Runs of the same seed and fold are preferred, because they
    share their validation split.

    Args:
        comparison: the comparison.
        cohort: its configurations.
        store: store with the files of the runs.
        album: the pictures of the page.
    """
    chosen = _chosen(cohort)
    if len(chosen) < 2:
        return Reconstructions(["There is only one configuration to show."], [])
    first = comparison.replicates.name(best_run(chosen[0][0]))
    drawn = []
    for one, role in chosen:
        run = next((run for run in one.runs if comparison.replicates.name(run) == first), best_run(one))
        folder = store.artifact(run, "pictures")
        epoch, sheets = (0, {}) if folder is None else _last_sheets(folder)
        drawn.append((one, role, run, epoch, sheets))
    counts = Counter(subject for *_, sheets in drawn for subject in sheets)
    if not counts:
        numbers = listed([f"#{one.number}" for one, _ in chosen])
        return Reconstructions([f"No reconstructions: the runs of {numbers} have drawn none, as those of tables."], [])
    subject = min(counts, key=lambda name: (-counts[name], name))
    pictures, missing = [], []
    for one, role, run, epoch, sheets in drawn:
        caption = f"#{one.number}, {role}: {run.name}, {comparison.replicates.name(run)}, epoch {epoch}."
        alt = f"Reconstruction of {subject} by configuration {one.number}"
        picture = album.embed(sheets[subject], alt, caption) if subject in sheets else None
        if picture is None:
            missing.append(f"#{one.number} ({'the page is full' if subject in sheets else 'it has not drawn it'})")
        else:
            pictures.append(picture)
    words = [f"Subject {subject}. Each sheet has its own scale of differences."]
    left_out = len(set(cohort.front.members) - {one.number for one, _ in chosen})
    words += [f"{left_out} more configurations on the front are not shown."] * (left_out > 0)
    words += [f"Missing: {', '.join(missing)}."] * bool(missing)
    return Reconstructions(words, pictures)


def _chosen(cohort: Cohort) -> list[tuple[Configuration, str]]:
    """Return best, baseline and the first of the front, in the order of merit, with what each is."""
    best, front = cohort.configurations[0].number, cohort.front.members
    others = [number for number in front if number not in (best, cohort.baseline.number)][:MOST_OF_FRONT]
    roles = dict.fromkeys(others, "on the front")
    roles[cohort.baseline.number] = "baseline, on the front" if cohort.baseline.number in front else "baseline"
    roles[best] = "best"
    return [(one, roles[one.number]) for one in cohort.configurations if one.number in roles]


def _last_sheets(folder: Path) -> tuple[int, Mapping[str, Path]]:
    """Return the last epoch in which a run drew reconstructions, and subject -> its sheet."""
    epochs = {
        int(found.group(1)): path
        for path in folder.glob("epoch_*")
        if (found := re.fullmatch(r"epoch_(\d+)", path.name)) and path.is_dir()
    }
    if not epochs:
        return 0, {}
    last = max(epochs)
    return last, {path.stem: path for path in sorted(epochs[last].glob("*.png"))}
