"""Checkpoints on a full disk, after a kill, and with damaged content."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training.test_trainer import make

from menvae.errors import RunInterruptedError, UserError
from menvae.files import DamagedFileError
from menvae.training import checkpoint

CPU = torch.device("cpu")

SAVE_FOR_EVER = """
import sys, torch
from pathlib import Path
from menvae.training import checkpoint
content = {"model": {"a": torch.rand(4_000_000)}}
while True:
    checkpoint.save(Path(sys.argv[1]), content)
    print("saved", flush=True)
"""


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """A checkpoint from the middle of an epoch, which has all parts."""
    trainer, _ = make(tmp_path / "first", stop_after=6)
    with pytest.raises(RunInterruptedError):
        trainer.fit(None)
    return tmp_path / "first" / "last.ckpt"


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may have more than 100 kB, which fails as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_the_file(last: Path, small_files: None) -> None:
    before = last.read_bytes()
    with pytest.raises(OSError, match="File too large") as caught:
        checkpoint.save(last, {"model": {"a": torch.rand(1_000_000)}})
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(last)
    assert not list(last.parent.glob(".*"))
    assert last.read_bytes() == before


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=340k", "tmpfs", str(disk)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(OSError, match="No space left on device"):
            checkpoint.save(disk / "checkpoints" / "last.ckpt", {"model": {"a": torch.rand(1_000_000)}})
        assert list((disk / "checkpoints").iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_a_killed_process_left_is_gone_after_the_next_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 20
        while not list(tmp_path.glob(".*")) and time.monotonic() < deadline:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        if list(tmp_path.glob(".*")):
            break
    else:
        pytest.fail("no kill met a write")
    checkpoint.save(path, {"model": {}})
    assert list(tmp_path.iterdir()) == [path]


def test_no_flipped_bit_becomes_another_weight(last: Path) -> None:
    whole, content = checkpoint.load(last, CPU), last.read_bytes()
    random, reported = np.random.default_rng(0), 0
    for place in random.choice(len(content), 150, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.integers(8)
        last.write_bytes(damaged)
        try:
            found = checkpoint.load(last, CPU)
        except UserError:
            reported += 1
        else:
            assert repr(found) == repr(whole)
            assert all(torch.equal(value, whole["model"][name]) for name, value in found["model"].items())
    assert reported > 50


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_part_of_a_checkpoint_is_refused(last: Path, share: float) -> None:
    content = last.read_bytes()
    last.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="is not a menvae checkpoint: it is no zip archive, or only a part of one"):
        checkpoint.load(last, CPU)


Change = Callable[[dict[str, Any]], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "no identity": (lambda content: content.pop("identity"), "it lacks 'identity'"),
    "no model": (lambda content: content.pop("model"), "it lacks 'model'"),
    "a list of weights": (lambda content: content.update(model=[]), "'list' object has no attribute 'values'"),
    "a number among weights": (lambda content: content["objective"].update(a=1), "something else than tensors"),
    "no epoch": (lambda content: content["state"].pop("epoch"), "it lacks 'state'"),
    "a text as epoch": (lambda content: content["state"].update(epoch="2"), "its 'state.epoch' is '2'"),
    "a negative step": (lambda content: content["state"].update(step=-1), "its 'state' is negative"),
    "no parameter groups": (lambda content: content["optimizer"].pop("param_groups"), "it lacks 'param_groups'"),
    "other parameters": (
        lambda content: content["optimizer"]["param_groups"][0]["params"].pop(),
        "its optimiser has other parameters",
    ),
    "no learning rate": (lambda content: content["optimizer"]["param_groups"][0].pop("lr"), "it lacks 'lr'"),
    "one beta": (lambda content: content["optimizer"]["param_groups"][0].update(betas=0.9), "0.9' as 'betas'"),
    "moments of another shape": (
        lambda content: content["optimizer"]["state"][0].update(exp_avg=torch.zeros(2)),
        "a 'exp_avg' of another shape than the parameter",
    ),
    "a text as moment": (
        lambda content: content["optimizer"]["state"][1].update(exp_avg_sq="x"),
        "'x' as 'exp_avg_sq'",
    ),
    "no ranks": (lambda content: content["begun_epoch"].update(by_rank=[]), "list index out of range"),
    "no means": (lambda content: content["begun_epoch"]["by_rank"][0].pop("means"), "it lacks 'means'"),
    "a text as time": (lambda content: content["begun_epoch"]["by_rank"][0].update(seconds="x"), "than numbers"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_other_keys_and_types_are_one_sentence(kind: str, last: Path, tmp_path: Path) -> None:
    change, wanted = CHANGES[kind]
    content = torch.load(last, weights_only=True)
    change(content)
    torch.save(content, last)
    trainer, _ = make(tmp_path / "second")
    with pytest.raises(DamagedFileError) as caught:
        trainer.restore(last)
    assert str(caught.value).startswith(f"checkpoint '{last}' is damaged: ")
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)
