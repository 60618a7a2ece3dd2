"""Sweeps in processes of this machine, for tests of how their points end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from plugins import trouble, write_trouble
from runs import Started, start

from menvae.sweeps.status import PointStatus, sweep_status
from menvae.sweeps.sweep import find_sweep

SHORT = ("data.num_subjects=13", "trainer.batch_size=2", "trainer.max_epochs=2")
TWO_AT_A_TIME = "hydra.launcher.num_parallel=2"
TWO_TO_A_GPU = "hydra.launcher.points_per_gpu=2"


class Machine:
    """Sweeps over ``loss.lambda_dcor``, each point with a flag file that makes its first step a trouble."""

    def __init__(self, output_dir: Path, flags: Path, site: Path, together: str) -> None:
        self.output_dir, self.flags, self.site, self.together = output_dir, flags, site, together
        self.trouble = (*SHORT, *trouble(f"{flags}/${{loss.lambda_dcor}}"))
        self.started: list[Started] = []

    @classmethod
    @contextmanager
    def among(cls, folder: Path, cache: Path, together: str) -> Iterator[Machine]:
        """Yield one in a new folder; what it has started ends with the block."""
        for name in ("outputs", "flags"):
            (folder / name).mkdir()
        (folder / "outputs" / "cache").symlink_to(cache)
        machine = cls(folder / "outputs", folder / "flags", write_trouble(folder / "site"), together)
        try:
            yield machine
        finally:
            for process in machine.started:
                process.kill()
                process.wait()

    def start(self, *overrides: str) -> Started:
        sweep = ("-m", *self.trouble, self.together, *overrides)
        process = start(self.output_dir, *sweep, site=self.site, both=True, group=True)
        self.started.append(process)
        return process

    def launch(self, *overrides: str, code: int = 0) -> str:
        return self.start(*overrides).ended(code)

    def statuses(self) -> dict[str, PointStatus]:
        if not list(self.output_dir.glob("sweeps/*/sweep.json")):
            return {}
        statuses = sweep_status(find_sweep(self.output_dir, None))
        return {status.point.label.removeprefix("loss.lambda_dcor="): status for status in statuses}

    def fates(self) -> dict[str, str]:
        return {label: str(status.fate) for label, status in self.statuses().items()}

    def num_submissions(self) -> dict[str, int]:
        return {label: len(status.point.submissions) for label, status in self.statuses().items()}

    def run_dir(self, label: str) -> Path:
        run_dir = self.statuses()[label].run_dir
        assert run_dir is not None
        return run_dir

    def outcome(self, label: str) -> int:
        folder = find_sweep(self.output_dir, None).folder(self.statuses()[label].point)
        code: int = json.loads((folder / "outcome.json").read_text())["exit_code"]
        return code

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.statuses()
            time.sleep(0.1)

    def hold(self, label: str) -> None:
        """Have a point wait in the first step of its process."""
        (self.flags / label).write_text("wait")
        (self.flags / f"{label}.waiting").unlink(missing_ok=True)

    def wait_until_held(self, label: str) -> None:
        self.wait_for((self.flags / f"{label}.waiting").exists)

    def wait_until_submitted(self, *labels: str) -> None:
        """A point runs a moment before the launching process writes down which process it is."""
        self.wait_for(lambda: all(self.num_submissions()[label] for label in labels))

    def let_go(self, label: str) -> None:
        (self.flags / label).unlink()
