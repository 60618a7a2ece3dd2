"""Damage files that menvae wrote, at random: each damage must be repaired, reported in one sentence, or change nothing.

- cache entries: bits flipped, files cut, emptied, removed or swapped between entries, in both formats
- checkpoints: bits flipped and files cut; keys removed and values of other types
- state files of a run and a sweep: ``status.json``, ``point.json``, ``outcome.json``, ``job.json``, ``sweep.json``

The exit status is 1 if any damage ends in another error, or gives other data or weights. State files have no checksum,
so a flipped bit that leaves a valid file is counted as unnoticed.

    python tests/soak/damage.py --entries 500 --checkpoints 500 --states 200 --seed 0
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # of tests

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
FAILURES = ("another error", "other data", "more than a sentence")
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


def judged(task: Callable[[], str]) -> str:
    """Return the outcome of a task: its own, or how it failed."""
    try:
        return task()
    except (UserError, TrainingDivergedError) as error:
        return "reported" if "\n" not in str(error) else "more than a sentence"
    except Exception:  # anything else is what is looked for
        logging.getLogger("soak").exception("another error")
        return "another error"


def entries(num: int, random: Random, folder: Path) -> Counter[str]:
    """Damage entries of a cache, prepare the cohort again and load it."""
    for index in range(NUM_SUBJECTS):
        write_subject(phantom_subject(0, index, SPACING), folder / "root")
    return sum((entries_of(one, num // 2, random, folder) for one in ("arrays", "compressed")), Counter())


def entries_of(cache_format: Any, num: int, random: Random, folder: Path) -> Counter[str]:
    """Damage entries of one format."""
    source = BratsSource(
        root=str(folder / "root"), roi_size=(16, 16, 16), spacing_mm=SPACING, cache_format=cache_format
    )
    cache, found = folder / cache_format, Counter[str]()
    cohort = prepare(source, cache, 1)
    whole = {path: path.read_bytes() for path in (cache / "prepared").glob("*/*")}
    wanted = [(one.image.copy(), one.mask.copy()) for one in (subject.load() for subject in cohort.subjects)]

    def is_whole() -> bool:
        return all(one.is_file() and one.read_bytes() == content for one, content in whole.items())

    def load_again(anew: bool) -> str:
        storage._checked.clear()  # as a new process
        again = prepare(source, cache, 1) if anew else cohort
        loaded = [subject.load() for subject in again.subjects]
        same = all(
            np.array_equal(one.image, image) and np.array_equal(one.mask, mask)
            for one, (image, mask) in zip(loaded, wanted, strict=True)
        )
        return "loaded" if again == cohort and same else "other data"

    for number in range(num):
        path = list(whole)[int(random.integers(len(whole)))]
        others = [one for one in whole if one.name == path.name and one != path]
        kind, same = damage_bytes(path, others, random), is_whole()
        at_start = number % 2 == 0 or path.name == "subject.json"
        outcome = judged(lambda at_start=at_start: load_again(at_start))  # type: ignore[misc]
        if outcome == "loaded":
            outcome = "changed nothing" if same or not is_whole() else "repaired"
        found[outcome] += 1
        if outcome in FAILURES:
            logging.getLogger("soak").error("%s: %s of %s", outcome, kind, path)
        if not is_whole():
            for one, content in whole.items():
                one.parent.mkdir(exist_ok=True)
                one.write_bytes(content)
    return found


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


def checkpoints(num: int, random: Random, folder: Path) -> Counter[str]:
    """Damage a checkpoint of a small model, and restore from it."""
    trainer, _ = make(folder / "first", stop_after=6)
    with suppress(RunInterruptedError):
        trainer.fit(None)
    path = folder / "first" / "last.ckpt"
    whole, loaded = path.read_bytes(), torch.load(path, weights_only=True)
    found: Counter[str] = Counter()

    def restored(damaged_object: bool) -> str:
        second, _ = make(folder / "second", max_epochs=2)
        second.restore(path)
        same = all(torch.equal(value, loaded["model"][name]) for name, value in second.model.state_dict().items())
        if not same and not damaged_object:
            return "other data"
        second.fit(None)
        return "changed nothing"

    for number in range(num):
        shutil.rmtree(folder / "second", ignore_errors=True)
        damages_object = number % 2 == 1
        if damages_object:
            kind, content = damage_object(torch.load(path, weights_only=True), random)
            torch.save(content, path)
        else:
            (folder / "other").write_bytes(whole[::-1])
            kind = damage_bytes(path, [folder / "other"], random)
        outcome = judged(lambda damages_object=damages_object: restored(damages_object))  # type: ignore[misc]
        found[outcome] += 1
        if outcome in FAILURES:
            logging.getLogger("soak").error("%s: %s", outcome, kind)
        path.write_bytes(whole)
    return found


def states(num: int, random: Random, folder: Path) -> Counter[str]:
    """Damage a file of a sweep or its runs, and ask for the status of all points, and what a retry and a run read."""
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
            return "reported"
        same = path.is_file() and path.read_bytes() == whole[path]
        return "changed nothing" if same or view() == wanted else "unnoticed"

    found: Counter[str] = Counter()
    for _ in range(num):
        path = files[int(random.integers(len(files)))]
        others = [one for one in files if one.name == path.name and one != path] or [
            one for one in files if one != path
        ]
        kind = damage_bytes(path, others, random)
        outcome = (
            judged(lambda path=path: look(path)) if kind != "swap" else judged(lambda: view() and "changed nothing")
        )  # type: ignore[misc]
        found[outcome] += 1
        if outcome in FAILURES:
            logging.getLogger("soak").error("%s: %s of %s", outcome, kind, path)
        for one, content in whole.items():
            if not one.is_file() or one.read_bytes() != content:
                one.write_bytes(content)
    return found


def main() -> int:
    """Damage, print the counts, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=500)
    parser.add_argument("--checkpoints", type=int, default=500)
    parser.add_argument("--states", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("menvae").setLevel(logging.CRITICAL)
    failed = 0
    for name, damage, num in (
        ("cache entries", entries, options.entries),
        ("checkpoints", checkpoints, options.checkpoints),
        ("state files", states, options.states),
    ):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = damage(num, np.random.default_rng(options.seed), Path(folder))
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.items()))
        print(f"{sum(found.values())} damages of {name}: {counts} ({time.monotonic() - started:.0f} s)", flush=True)
        failed += sum(found[outcome] for outcome in FAILURES)
    print("nothing failed" if not failed else json.dumps({"failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
