"""A sweep whose jobs go to the queue of ``tests/plugin_example``: waiting, failing, repeated, and seen without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from plugins import install_example, trouble, write_trouble
from runs import environment, menvae_sweep, train

from menvae.sweeps.sweep import find_sweep

LAUNCHER = ("hydra/launcher=folder_queue", "hydra.launcher.wait=false")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the example and the term ``trouble``."""
    return write_trouble(install_example(tmp_path / "site"))


def work(site: Path, output_dir: Path) -> None:
    """Be a worker until nothing waits."""
    worker = [sys.executable, "-m", "menvae_example.folder_queue", str(output_dir / "queue")]
    subprocess.run(worker, env=environment(site=site), check=True, timeout=300)


def num_submissions(output_dir: Path) -> dict[str, int]:
    return {point.label: len(point.submissions) for point in find_sweep(output_dir, None).points()}


def test_jobs_of_a_queue_of_somebody_else(site: Path, prepared_cache: Path, tmp_path: Path) -> None:
    output_dir, flag = tmp_path / "outputs", tmp_path / "1"
    output_dir.mkdir()
    (output_dir / "cache").symlink_to(prepared_cache)
    flag.write_text("raise")
    sweep = ("-m", "trainer.max_epochs=1", *trouble(f"{tmp_path}/${{loss.lambda_dcor}}"), "loss.lambda_dcor=1,2")

    assert "2 not started; 2 to run" in train(output_dir, *sweep, *LAUNCHER, site=site).stderr
    assert "2 pending" in menvae_sweep(output_dir, "status", site=site)
    assert "2 pending; 0 to run" in train(output_dir, *sweep, *LAUNCHER, site=site).stderr
    assert len(list((output_dir / "queue").glob("*.json"))) == 2

    elsewhere = menvae_sweep(output_dir, "status")  # where the plugin is not installed
    assert "2 unknown" in elsewhere
    assert "'folder_queue' is not registered" in elsewhere
    refused = train(output_dir, *sweep, site=write_trouble(tmp_path / "elsewhere"), code=1).stderr
    assert "2 that cannot run" in refused
    assert "runner 'folder_queue', which may still run it, is not installed" in refused
    assert len(list((output_dir / "queue").glob("*.json"))) == 2

    work(site, output_dir)
    assert "1 failed, 1 finished" in menvae_sweep(output_dir, "status", code=1, site=site)
    flag.unlink()
    assert "1 point: 1 failed; 1 to run" in menvae_sweep(output_dir, "retry", site=site)
    work(site, output_dir)
    assert "2 finished" in menvae_sweep(output_dir, "status", site=site)
    assert num_submissions(output_dir) == {"loss.lambda_dcor=1": 2, "loss.lambda_dcor=2": 1}
    assert "2 finished" in menvae_sweep(output_dir, "status")
