"""Configurations with random overrides, checked in this process."""

from __future__ import annotations

import functools
import io
import random
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from tally import Tally

from menvae.apps.command_line import composing
from menvae.apps.outcome import carry_out
from menvae.composition.experiment import CheckedModels, Experiment
from menvae.console import logs
from menvae.data.phantom.head import phantom_subject, write_subject
from menvae.errors import ExitCode
from menvae.registry import configuration_folder
from menvae.training.place import Place

TABLE = ("experiment=lithology_vae", "data=table", "data.path=table.csv", "data.columns=[a,b]")
"""Overrides for the table of `write_data`."""

COHORT = ("data=brats", "data.root=cohort", "data.roi_size=[16,16,16]", "data.spacing_mm=[10,10,10]")
"""Overrides for the cohort of `write_data`."""

_BASES = (
    (),
    TABLE,
    COHORT,
    ("experiment=lithology_semisup",),
    ("experiment=semivae_experts",),
    ("experiment=exp3_physics",),
)
_VALUES = (
    *("null", "true", "-1", "0", "1", "3", "0.5", "-0.0", "1e-9", "1e308", "nan", "inf", "-inf"),
    *("12345678901234567890", "-99999999999999999999", "9223372036854775807", "4294967296"),
    *("''", "text", "'two words'", "ü", "'a/b'", "'../x'", "'~nosuchuser'", "'~nosuchuser/x'", "/dev/null", "'\\x00'"),
    *("[]", "[1]", "[1,2,3]", "[null]", "[a,b]", "[[1]]", "{}", "{a: 1}", "{name: text}", "{name: null}", "{1: 2}"),
    *("${seed}", "${nosuch}", "${model}", "${.}", "???", "'${oc.env:NOSUCH}'"),
)
_NUMBERS_OF_PROCESSES = ("null", "true", "-1", "0", "1", "2", "0.5", "nan", "text", "''", "[]", "{a: 1}", "${nosuch}")
"""Values of keys that may start so many processes."""

_SECONDS = 60


class Overrides:
    """Draws overrides at random.

    Args:
        draw: source of randomness.
    """

    def __init__(self, draw: random.Random) -> None:
        self.random = draw
        folder = configuration_folder("menvae")
        assert folder is not None
        self._folder = str(folder)
        files = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml")]
        self._options = sorted(str(path) for path in files if len(path.parts) > 1)
        self.groups = sorted({option.rpartition("/")[0] for option in self._options})
        self._defaults = functools.cache(self._composed)

    def some(self, command: str, base: Sequence[str]) -> list[str]:
        """Return one to three overrides of a command that has others already."""
        num = self.random.choice((1, 1, 2, 3))
        defaults = self._defaults(command, tuple(base))
        draws = self.random.choices((self._likely, self._wild), k=num)
        return [one(defaults) for one in draws]

    def swept(self, command: str, base: Sequence[str]) -> str:
        """Return an override with several values."""
        override = self._likely(self._defaults(command, tuple(base)))
        return f"{override},{self.random.choice((1, 2, 'false', *_VALUES))}"

    def _composed(self, command: str, base: Sequence[str]) -> dict[str, object]:
        """Return {dotted key: value} of a command without further overrides."""
        with initialize_config_dir(self._folder, version_base="1.3"):
            return _values(OmegaConf.to_container(compose(command, list(base)), resolve=False))

    def _likely(self, defaults: dict[str, object]) -> str:
        """Return an override that is often valid: an option of a group, or a value of the type of the default."""
        draw = self.random
        numbers = [(key, value) for key, value in defaults.items() if isinstance(value, int | float)]
        if draw.random() < 0.2 or not numbers:
            group, _, option = draw.choice(self._options).rpartition("/")
            return f"{group}={option}"
        key, default = draw.choice(numbers)
        if isinstance(default, bool):
            return f"{key}={draw.choice(('true', 'false'))}"
        return f"{key}={draw.choice((1, 2, default + 1, 2 * default))}"

    def _wild(self, defaults: dict[str, object]) -> str:
        """Return an override that is seldom valid."""
        draw = self.random
        group, _, option = draw.choice(self._options).rpartition("/")
        sections = [key for key in defaults if "." not in key]
        key, section, value = draw.choice(list(defaults)), draw.choice(sections), draw.choice(_VALUES)
        if key.endswith(("devices", "num_workers")):
            value = draw.choice(_NUMBERS_OF_PROCESSES)
        return draw.choice(
            (
                f"{key}={value}",
                f"{key}={value}",
                f"{key}={value}",
                f"{draw.choice(('+', '++', ''))}{key}.extra={value}",
                f"~{key}",
                f"~{section}",
                f"{section}={value}",
                f"{section}={value}",
                f"{group}={option}",
                f"{draw.choice(self.groups)}={value}",
                f"{group}@{key}={option}",
                f"+{group}@{key}={option}",
                f"hydra.{draw.choice(('launcher', 'sweeper', 'job', 'run'))}={value}",
            )
        )


def _values(node: object, prefix: str = "") -> dict[str, object]:
    """Return {dotted key: value} of everything in a nested mapping."""
    found: dict[str, object] = {}
    for name, value in node.items() if isinstance(node, dict) else ():
        found |= {f"{prefix}{name}": value, **_values(value, f"{prefix}{name}.")}
    return found


def write_data(folder: Path, num_subjects: int = 6) -> None:
    """Write a table and a cohort, both tiny."""
    rows = [f"{value},{2 * value}" for value in range(60)]
    (folder / "table.csv").write_text("\n".join(["a,b", *rows]) + "\n")
    for index in range(num_subjects):
        write_subject(phantom_subject(0, index, (10.0, 10.0, 10.0)), folder / "cohort")


def configurations(tally: Tally, draw: random.Random, folder: Path) -> None:
    """Compose and check configurations."""
    overrides = Overrides(draw)
    write_data(folder)
    bases = draw.choices(_BASES, k=tally.num)
    lines = [[*base, *overrides.some("train", base)] for base in bases]
    known: CheckedModels = {}
    logs.configure(None)
    with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"), chdir(folder):
        for line in lines:
            if len(known) > 50:
                known.clear()
            _check(tally, line, overrides.groups, known)
    logs.release()


def _check(tally: Tally, texts: list[str], groups: Sequence[str], known: CheckedModels) -> None:
    def task() -> int:
        with composing(texts, lambda: groups):
            config: DictConfig = compose("train", texts)
        Experiment.from_config(config, known).find_data(Place(torch.device("cpu"), 0, 1))
        return ExitCode.DONE

    said, line = io.StringIO(), " ".join(texts)
    try:
        with redirect_stderr(said), logs.only_errors(True), _time_limit(_SECONDS):
            code = carry_out("train", task)
    except Exception:  # noqa: BLE001 - what is looked for
        tally.failed("traceback", f"{line}\n{''.join(traceback.format_exc().splitlines(keepends=True)[-4:])}")
        return
    if code != ExitCode.DONE and len(said.getvalue().strip().splitlines()) != 1:
        tally.failed("more than one sentence", f"{line}\n{said.getvalue()}")
        return
    tally.passed("accepted" if code == ExitCode.DONE else "refused in one sentence")


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` in this thread after so many seconds."""

    def end(*_: object) -> None:
        raise TimeoutError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
