"""Files that menvae wrote, damaged: each damage is repaired, reported in one sentence, or has no effect.

- cache entries: bits flipped, files cut, emptied, removed or swapped between entries, in both formats
- checkpoints: bits flipped and files cut; keys removed and values of other types
- state files of a run and a sweep: ``status.json``, ``point.json``, ``outcome.json``, ``job.json``, ``sweep.json``

State files have no checksum: a damage that leaves a valid file may go unnoticed.
"""

from __future__ import annotations

import functools
import random
import shutil
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tally import Tally
from training.test_trainer import make

from menvae.data.cache import storage
from menvae.data.cache.prepare import prepare
from menvae.data.phantom.head import phantom_subject, write_subject
from menvae.data.sources.brats import BratsSource
from menvae.errors import RunInterruptedError, TrainingDivergedError, UserError
from menvae.runs.directory import RunDirectory
from menvae.runs.job import Job
from menvae.sweeps.status import PointStatus, sweep_status
from menvae.sweeps.sweep import Point, Submission, Sweep

SPACING = (10.0, 10.0, 10.0)
NUM_SUBJECTS = 3
NUM_POINTS = 4
FAILURES = ("traceback", "other data", "more than one sentence")
Random = np.random.Generator


def damage_bytes(path: Path, others: list[Path], random: Random) -> str:
    """Damage a file in one of several ways, and return which."""
    content = bytearray(path.read_bytes())
    kind = str(random.choice(["flip", "flip", "flip", "cut", "empty", "zeros", "remove", "swap", "garbage"]))
    start = int(random.integers(len(content)))
    if kind == "flip":
        content[start] ^= 1 << int(random.integers(8))
    elif kind == "zeros":
        content[start : start + 64] = bytes(len(content[start : start + 64]))
    elif kind == "garbage":
        content = bytearray(random.bytes(len(content)))
    if kind == "swap":
        other = others[int(random.integers(len(others)))]
        theirs = other.read_bytes()
        other.write_bytes(content)
        path.write_bytes(theirs)
    elif kind == "remove":
        path.unlink()
    else:
        path.write_bytes({"cut": content[:start], "empty": b""}.get(kind, content))
    return kind


def judge(tally: Tally, damage: str, task: Callable[[], str]) -> str:
    """Count and return the outcome of a task: its own, or how it failed."""
    details = damage
    try:
        outcome = task()
    except (UserError, TrainingDivergedError) as error:
        outcome = "reported in one sentence" if "\n" not in str(error) else "more than one sentence"
        details += f"\n{error}"
    except Exception:  # noqa: BLE001 - what is looked for
        outcome = "traceback"
        details += f"\n{traceback.format_exc()[-1500:]}"
    if outcome in FAILURES:
        tally.failed(outcome, details)
    else:
        tally.passed(outcome)
    return outcome


def entries(tally: Tally, draw: random.Random, folder: Path) -> None:
    """Damage entries of a cache, prepare the cohort again and load it."""
    generator = np.random.default_rng(draw.getrandbits(64))
    for index in range(NUM_SUBJECTS):
        write_subject(phantom_subject(0, index, SPACING), folder / "root")
    for cache_format, num in (("arrays", tally.num - tally.num // 2), ("compressed", tally.num // 2)):
        entries_of(cache_format, num, tally, generator, folder)


def entries_of(cache_format: Any, num: int, tally: Tally, random: Random, folder: Path) -> None:
    """Damage entries of one format."""
    source = BratsSource(
        root=str(folder / "root"), roi_size=(16, 16, 16), spacing_mm=SPACING, cache_format=cache_format
    )
    cache = folder / cache_format
    cohort = prepare(source, cache, 1)
    whole = {path: path.read_bytes() for path in (cache / "prepared").glob("*/*")}
    wanted = [(one.image.copy(), one.mask.copy()) for one in (subject.load() for subject in cohort.subjects)]

    def is_whole() -> bool:
        return all(one.is_file() and one.read_bytes() == content for one, content in whole.items())

    def load_again(anew: bool, damaged: bool) -> str:
        storage._checked.clear()  # as a new process
        again = prepare(source, cache, 1) if anew else cohort
        loaded = [subject.load() for subject in again.subjects]
        same = all(
            np.array_equal(one.image, image) and np.array_equal(one.mask, mask)
            for one, (image, mask) in zip(loaded, wanted, strict=True)
        )
        if again != cohort or not same:
            return "other data"
        return "repaired" if damaged and is_whole() else "without effect"

    for number in range(num):
        path = list(whole)[int(random.integers(len(whole)))]
        others = [one for one in whole if one.name == path.name and one != path]
        kind, damaged = damage_bytes(path, others, random), not is_whole()
        at_start = number % 2 == 0 or path.name == "subject.json"
        judge(tally, f"{kind} of {path}", functools.partial(load_again, at_start, damaged))
        if not is_whole():
            for one, content in whole.items():
                one.parent.mkdir(exist_ok=True)
                one.write_bytes(content)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of keys to everything in nested mappings and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


def damage_object(content: dict[str, Any], random: Random) -> tuple[str, Any]:
    """Remove a key of a checkpoint, or replace its value by one of another type; return where, and the content."""
    everywhere = places(content)
    place = everywhere[int(random.integers(len(everywhere)))]
    values: list[Any] = [None, "text", -1, [], {}, 0.5, True, torch.zeros(2), [1, 2]]
    value = values[int(random.integers(len(values)))]
    if not place:
        return "all of it", value
    parent: Any = content
    for key in place[:-1]:
        parent = parent[key]
    if isinstance(parent, dict) and random.random() < 0.4:
        del parent[place[-1]]
        return f"without {place}", content
    parent[place[-1]] = value
    return f"{value!r} at {place}", content


def checkpoints(tally: Tally, draw: random.Random, folder: Path) -> None:
    """Damage a checkpoint of a small model, and restore from it."""
    generator = np.random.default_rng(draw.getrandbits(64))
    trainer, _ = make(folder / "first", stop_after=6)
    with suppress(RunInterruptedError):
        trainer.fit(None)
    path = folder / "first" / "last.ckpt"
    whole, loaded = path.read_bytes(), torch.load(path, weights_only=True)

    def restored(damaged_object: bool) -> str:
        second, _ = make(folder / "second", max_epochs=2)
        second.restore(path)
        same = all(torch.equal(value, loaded["model"][name]) for name, value in second.model.state_dict().items())
        if not same and not damaged_object:
            return "other data"
        second.fit(None)
        return "without effect"

    for number in range(tally.num):
        shutil.rmtree(folder / "second", ignore_errors=True)
        damages_object = number % 2 == 1
        if damages_object:
            kind, content = damage_object(torch.load(path, weights_only=True), generator)
            torch.save(content, path)
        else:
            (folder / "other").write_bytes(whole[::-1])
            kind = damage_bytes(path, [folder / "other"], generator)
        judge(tally, kind, functools.partial(restored, damages_object))
        path.write_bytes(whole)


def states(tally: Tally, draw: random.Random, folder: Path) -> None:
    """Damage a file of a sweep or its runs, and ask for the status of all points, and what a retry and a run read."""
    generator = np.random.default_rng(draw.getrandbits(64))
    sweep = Sweep(folder / "outputs" / "sweeps" / "lambdas")
    sweep.describe(["loss.lambda_dcor=1,2,3,4"], ["hydra/launcher=local"])
    for number in range(NUM_POINTS):
        submission = Submission("local", str(999_000_000 + number), str(folder / "log"))
        point = Point(number, f"run_{number}", (f"loss.lambda_dcor={number}",), (submission,))
        sweep.prepare(point, {"trainer": {"resume": "auto", "max_epochs": 3}, "output_dir": str(folder / "outputs")})
        Job.read(sweep.job_file(point)).leave_outcome(0)
        directory = RunDirectory(sweep.runs / point.run)
        details: dict[str, Any] = {"epochs": 3, "best_epoch": 2, "gates_passed": True, "trackers": ["mlflow"]}
        directory.set_status("finished", reason="", **details)
        directory.release()
    files = list((folder / "outputs").rglob("*.json"))
    whole = {path: path.read_bytes() for path in files}

    def view() -> list[tuple[str, str, int | None]]:
        return [(one.point.run, str(one.fate), one.max_epochs) for one in sweep_status(sweep)]

    def reasons(statuses: list[PointStatus]) -> str:
        return " ".join(status.reason for status in statuses)

    wanted = view()

    def look(path: Path) -> str:
        run = next((part for part in path.parts if part.startswith("run_")), "")
        statuses = sweep_status(sweep)
        others = [(one.point.run, str(one.fate), one.max_epochs) for one in statuses if one.point.run != run]
        if others != [one for one in wanted if one[0] != run]:
            return "other data"
        for status in statuses:  # what a retry reads
            sweep.config(status.point)
        sweep.description()
        if run:
            directory = RunDirectory(sweep.runs / run)
            directory.status()
            directory.release()
        if "is damaged" in reasons(statuses):
            return "reported in one sentence"
        same = path.is_file() and path.read_bytes() == whole[path]
        return "without effect" if same or view() == wanted else "unnoticed, a valid file"

    for _ in range(tally.num):
        path = files[int(generator.integers(len(files)))]
        others = [one for one in files if one.name == path.name and one != path] or [
            one for one in files if one != path
        ]
        kind = damage_bytes(path, others, generator)
        swapped = kind == "swap"  # two valid files, of two points
        task = (lambda: view() and "unnoticed, a valid file") if swapped else functools.partial(look, path)
        judge(tally, f"{kind} of {path}", task)
        for one, content in whole.items():
            if not one.is_file() or one.read_bytes() != content:
                one.write_bytes(content)
