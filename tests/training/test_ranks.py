"""Ranks that are started and waited for, with commands that end as they are told."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from menvae.errors import ExitCode, RunInterruptedError, UserError
from menvae.training import ranks as launch
from menvae.training.ranks import run_ranks


def _by_rank(*scripts: str) -> list[str]:
    """Return the command whose rank r runs script r in a shell."""
    cases = " ".join(f"{rank}) {script} ;;" for rank, script in enumerate(scripts))
    return ["sh", "-c", f"case $RANK in {cases} esac"]


@pytest.mark.parametrize(
    ("scripts", "code"),
    [
        (("exit 0", "exit 0"), 0),
        (("exit 0", "exit 7"), 7),
        (("exit 7", "exit 0"), 7),
        (("exit 75", "exit 75", "exit 75"), 75),
        (("exit 4", "exit 4"), 4),
        (("sleep 1; exit 7", "exit 5"), 5),
        (("exit 5", "sleep 1; exit 7"), 5),
        (("exit 1", "sleep 0.5; exit 2"), 2),
        (("exit 2", "sleep 0.5; exit 1"), 2),
        (("sleep 1; exit 75", "exit 1"), 1),
        (("exit 0", "kill -KILL $$"), 1),
        (("kill -TERM $$", "sleep 1; exit 7"), 1),
    ],
)
def test_the_code_of_all(scripts: tuple[str, ...], code: int) -> None:
    assert run_ranks(_by_rank(*scripts), len(scripts)) == code


def test_ranks_know_who_they_are(tmp_path: Path) -> None:
    told = f'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MENVAE_RENDEZVOUS" > {tmp_path}/$RANK'
    assert run_ranks(["sh", "-c", told], 3) == 0
    lines = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [line[:3] for line in lines] == [["0", "0", "3"], ["1", "1", "3"], ["2", "2", "3"]]
    assert len({line[3] for line in lines}) == 1
    assert lines[0][3].startswith("file:///")


def test_ranks_share_the_cores_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "num_cores", lambda: 6)
    told = ["sh", "-c", f'echo "$OMP_NUM_THREADS" > {tmp_path}/$RANK']
    monkeypatch.delenv("OMP_NUM_THREADS")
    run_ranks(told, 2)
    assert (tmp_path / "1").read_text() == "3\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run_ranks(told, 2)
    assert (tmp_path / "1").read_text() == "5\n"


def test_a_rank_that_waits_for_one_that_failed_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 0.5)
    asked = f"trap 'echo asked > {tmp_path}/asked; exit 75' TERM; while true; do sleep 0.1; done"
    started = time.monotonic()
    assert run_ranks(_by_rank("exit 5", asked, "exit 0"), 3) == 5
    assert 0.5 < time.monotonic() - started < 20
    assert (tmp_path / "asked").exists()


def test_a_rank_that_does_not_obey_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_GRACE_SECONDS", -4.0)  # and a second is left between SIGTERM and SIGKILL
    started = time.monotonic()
    assert run_ranks(_by_rank("trap '' TERM; exec sleep 60", "exit 5"), 2) == 5
    assert 1 < time.monotonic() - started < 30


def test_ranks_that_have_ended_well_end_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 0.0)
    assert run_ranks(_by_rank("exit 0", "sleep 1; exit 0"), 2) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_stop_signals_are_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    program = f"""
import signal, sys, time
from pathlib import Path
import os
signal.signal({int(number)}, lambda *_: sys.exit(75))
(Path({str(tmp_path)!r}) / os.environ["RANK"]).touch()
time.sleep(60)
"""

    def send() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    sender = threading.Thread(target=send)
    sender.start()
    assert run_ranks([sys.executable, "-c", program], 2) == ExitCode.INTERRUPTED
    sender.join()
    assert signal.getsignal(number) == before


def test_a_rank_that_is_stopped_before_it_listens_has_nothing_to_save(tmp_path: Path) -> None:
    def send() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(RunInterruptedError, match="SIGTERM"):
        run_ranks(["sh", "-c", f"sleep 0.5; touch {tmp_path}/$RANK; exec sleep 60"], 2)
    sender.join()


def test_no_rank_outlives_an_error_of_the_waiting_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(launch, "_wait", fail)
    with pytest.raises(ZeroDivisionError):
        run_ranks(["sh", "-c", f"echo $$ > {tmp_path}/pid_$RANK; sleep 1; touch {tmp_path}/late_$RANK"], 2)
    time.sleep(1.5)
    assert not list(tmp_path.glob("late_*"))


def test_more_ranks_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        UserError, match=r"^trainer\.devices=3: this machine has 2 GPUs; at most one process per GPU is allowed$"
    ):
        run_ranks(["touch", str(tmp_path / "started")], 3)
    assert not (tmp_path / "started").exists()


def test_a_thousand_ranks_on_a_cpu_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"^trainer\.devices=1000: this machine has no GPU and \d+ cores; at most \d+ "):
        run_ranks(["touch", str(tmp_path / "started")], 1000)
    assert not (tmp_path / "started").exists()
