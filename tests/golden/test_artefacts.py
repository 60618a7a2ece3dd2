"""This version reads what earlier ones left: their cache, their finished runs, their checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from golden.artefacts import FOLDER, overrides, run_again, unpack
from golden.hashes import LIBRARIES
from golden.internals import Experiment, Place, checkpoint_identity, load_run
from runs import only_run
from shrunk import composed, trainer_of

VERSIONS = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
CPU = Place(torch.device("cpu"), 0, 1)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def copy_of(version: str, name: str, folder: Path) -> Path:
    """Return a copy of an output folder, with its checkpoints as they were."""
    output_dir = folder / name
    shutil.copytree(FOLDER / version / name, output_dir)
    packages = json.loads((only_run(output_dir) / "environment.json").read_text())["packages"]
    if name == "cohort" and any(packages[library] != number for library, number in LIBRARIES.items()):
        pytest.skip(f"cache keys hold other versions of {', '.join(LIBRARIES)}: such a cohort is prepared anew")
    for packed in output_dir.glob("runs/*/checkpoints/*.xz"):
        unpack(packed)
    return output_dir


def content_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return time and content of every file, without digests of files, locks, and answers of finished runs."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and not {"digests", ".answers"} & set(path.parts)
    }


@pytest.mark.parametrize(("name", "num_subjects"), [("cohort", 6), ("growth", 6)])
def test_a_cache_is_read_and_nothing_in_it_written(version: str, name: str, num_subjects: int, tmp_path: Path) -> None:
    output_dir = copy_of(version, "cohort", tmp_path)
    before = content_of(output_dir)
    chosen = overrides(version, name, output_dir)
    data = Experiment.from_config(composed(*chosen, f"output_dir={output_dir}")).load_data(CPU)
    assert data.volumes is not None
    assert len(data.volumes.cohort.subjects) == num_subjects
    for subject in data.volumes.cohort.subjects:
        assert subject.load().image.shape == (4, 16, 16, 16)
    assert content_of(output_dir) == before


@pytest.mark.parametrize("name", ["cohort", "table"])
def test_a_finished_run_is_reported_and_not_trained(version: str, name: str, tmp_path: Path) -> None:
    output_dir = copy_of(version, name, tmp_path)
    before = content_of(output_dir)
    said = run_again(output_dir, overrides(version, name, output_dir))
    assert f"run {only_run(output_dir)} is already finished: nothing to train" in said
    assert content_of(output_dir) == before


@pytest.mark.parametrize(("name", "num_subjects"), [("cohort", 6), ("table", 42)])
def test_a_finished_run_is_loaded(version: str, name: str, num_subjects: int, tmp_path: Path) -> None:
    output_dir = copy_of(version, name, tmp_path)
    before = content_of(output_dir)
    moved = [f"data.path={output_dir / 'table.csv'}"] if name == "table" else []
    run = load_run(only_run(output_dir), checkpoint="last", overrides=moved)
    content = torch.load(run.checkpoint, weights_only=True)
    assert all(torch.equal(value, content["model"][key]) for key, value in run.model.state_dict().items())
    assert len(run.data.splits) == num_subjects
    assert content_of(output_dir) == before


def test_a_checkpoint_goes_on(version: str, tmp_path: Path) -> None:
    output_dir = copy_of(version, "table", tmp_path)
    checkpoint = only_run(output_dir) / "checkpoints" / "last.ckpt"
    chosen = [
        override
        for override in overrides(version, "table", output_dir)
        if not override.startswith("trainer.max_epochs")
    ]
    said = run_again(output_dir, [*chosen, "trainer.max_epochs=3", "name=longer", f"trainer.resume={checkpoint}"])
    assert "resuming after epoch 2" in said
    (longer,) = output_dir.glob("runs/longer_*")
    rows = [json.loads(line) for line in (longer / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [3]
    assert json.loads((longer / "status.json").read_text())["state"] == "finished"


def test_a_checkpoint_of_volumes_fits_tensor_by_tensor(version: str, tmp_path: Path) -> None:
    """Each of its tensors has a value of its own, so none can take the place of another."""
    output_dir = copy_of(version, "cohort", tmp_path)
    checkpoint = only_run(output_dir) / "checkpoints" / "last.ckpt"
    experiment = Experiment.from_config(composed(*overrides(version, "cohort", output_dir), f"output_dir={output_dir}"))
    trainer = trainer_of(experiment, tmp_path)
    trainer.identity = checkpoint_identity(experiment, experiment.load_data(CPU), CPU)
    trainer.restore(checkpoint)
    content = torch.load(checkpoint, weights_only=True)
    for kind, restored in (("model", trainer.model.state_dict()), ("objective", trainer.objective.state_dict())):
        assert list(restored) == list(content[kind])
        assert all(torch.equal(value, content[kind][key]) for key, value in restored.items()), kind
    moments = trainer.optimizer.state_dict()["state"]
    assert moments.keys() == content["optimizer"]["state"].keys()
    assert all(
        torch.equal(value, content["optimizer"]["state"][number][key])
        for number, state in moments.items()
        for key, value in state.items()
    )
    assert content["identity"] == trainer.identity
    assert trainer.state.epoch == 1
