"""What this version leaves on disk, tiny: a cohort with its cache, two finished runs and their checkpoints.

``artefacts/<version>/`` is written once a version, and read by the tests of every later one.
"""

from __future__ import annotations

import json
import lzma
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from golden.internals import __version__
from runs import TINY, only_run, train

FOLDER = Path(__file__).parent / "artefacts"
CURRENT = FOLDER / __version__

_TINY = (
    *("data.num_subjects=6", "data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]", "data.cache_format=compressed"),
    *("data.val_fraction=0.34", "data.test_fraction=0.0"),
)
COHORT = (
    *("data=phantom", *_TINY, "encoder.base_filters=8", "decoder.base_filters=16", "auxiliary_decoder.base_filters=16"),
    *("model.z_dim=16", "model.partitions={vol:4,loc:3,shape:4}", "trainer.max_epochs=1", "trainer.batch_size=2"),
    *("trainer.keep_optimizer=true", "tracking.enabled=false", "pictures.num_subjects=1"),
)
"""Of the run in ``cohort/``."""
GROWTH = (
    *("data=phantom_growth", "data.num_patients=3", "data.visits=[2,2]"),
    *("data.shares={grow:1.0,stand_still:0.0,shrink:0.0}", "data.two_visits=0.0", *_TINY[1:]),
    *("trainer.max_epochs=1", "trainer.batch_size=2", "tracking.enabled=false"),
)
"""Of the second cohort in the same cache."""
TABLE = (
    *("experiment=lithology_semisup", "data=table", "data.columns=[density,gamma]", "data.label=rock"),
    *("data.group=hole", "data.gaps=drop", "data.val_fraction=0.25", "data.test_fraction=0.0"),
    *(
        "curriculum.scale=false",
        "trainer.max_epochs=2",
        "trainer.batch_size=8",
        "trainer.keep_optimizer=true",
        "tracking.enabled=false",
    ),
)
"""Of the run in ``table/``."""

_OF_THE_MACHINE = ("working_directory", "platform", "num_cpus", "git", "command")
_LEFT_OUT = ("pictures", "report.html", "train.log", ".lock")
"""Large, or about the machine; nothing reads them when a run is reported."""


def overrides(version: str, name: str, output_dir: Path) -> list[str]:
    """Return the overrides that something in the artefacts of a version was written with.

    Args:
        version: of menvae.
        name: ``cohort``, ``growth`` or ``table``.
        output_dir: copy of the artefacts; a table lies in it.
    """
    written: dict[str, list[str]] = json.loads((FOLDER / version / "overrides.json").read_text())
    return [*written[name], *([f"data.path={output_dir / 'table.csv'}"] if name == "table" else [])]


def write(table: Path) -> None:
    """Write ``artefacts/<this version>/`` anew."""
    with tempfile.TemporaryDirectory() as folder:
        cohort, of_table = Path(folder) / "cohort", Path(folder) / "table"
        for path in (cohort, of_table):
            path.mkdir()
        shutil.copy(table, of_table / "table.csv")
        run_again(cohort, COHORT)
        run_again(of_table, (*TABLE, f"data.path={of_table / 'table.csv'}"))
        with_growth = Path(folder) / "growth"
        with_growth.mkdir()
        (with_growth / "cache").symlink_to(cohort / "cache")
        run_again(with_growth, GROWTH)
        shutil.rmtree(cohort / "cache" / "digests")  # of paths and inodes
        of_cohort = only_run(cohort) / "checkpoints"
        (of_cohort / "best.ckpt").unlink()
        pack(of_cohort / "last.ckpt")
        for output_dir in (cohort, of_table):
            _clean(only_run(output_dir), Path(folder))
        shutil.rmtree(CURRENT, ignore_errors=True)
        for output_dir in (cohort, of_table):
            shutil.copytree(output_dir, CURRENT / output_dir.name)
        written = {"cohort": COHORT, "growth": GROWTH, "table": TABLE}
        (CURRENT / "overrides.json").write_text(json.dumps(written, indent=2) + "\n")


def run_again(output_dir: Path, chosen: Sequence[str]) -> str:
    """Repeat a command with nothing but its own overrides; return what it reports."""
    own = {override.partition("=")[0] for override in chosen}
    keys = (override.partition("=")[0] for override in TINY)
    result = train(output_dir, *(f"~{key}" for key in keys if key not in own), *chosen)
    return result.stdout + result.stderr


def constant_of(position: int) -> float:
    """Return the value that all elements of a packed checkpoint's tensor at a position have."""
    return (position + 1) / 1024


def pack(path: Path) -> None:
    """Replace a checkpoint by one of the same structure that compresses well: a constant for each tensor of floats."""
    content = torch.load(path, weights_only=True)
    for position, value in enumerate(tensors_of(content)):
        if value.is_floating_point():
            value.fill_(constant_of(position))
    torch.save(content, path)
    path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
    path.unlink()


def unpack(path: Path) -> Path:
    """Write a packed checkpoint beside it as it was; return it."""
    whole = path.with_suffix("")
    whole.write_bytes(lzma.decompress(path.read_bytes()))
    return whole


def tensors_of(content: object) -> Iterator[torch.Tensor]:
    """Yield the tensors of a checkpoint in their order."""
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from tensors_of(value)


def _clean(run: Path, folder: Path) -> None:
    """Take what is about this machine out of a run directory."""
    for name in _LEFT_OUT:
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).unlink(missing_ok=True)
    environment = json.loads((run / "environment.json").read_text())
    kept = {key: value for key, value in environment.items() if key not in _OF_THE_MACHINE}
    (run / "environment.json").write_text(json.dumps(kept, indent=2) + "\n")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(folder), "."))
