"""Random overrides: each configuration is accepted, or refused in one sentence; a traceback is a bug.

``python tests/soak/overrides.py --checks 2000 --commands 200 --seed 0`` checks so many configurations in this process
and runs so many real command lines, prints the counts, and fails if one ended in a traceback.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from menvae.apps.command_line import composing
from menvae.apps.outcome import carry_out
from menvae.composition.experiment import CheckedModels, Experiment
from menvae.console import logs
from menvae.errors import ExitCode
from menvae.registry import configuration_folder
from menvae.training.place import Place

_MOST_BYTES = 12 << 30
_SECONDS = 300

_VALUES = (
    *("null", "true", "-1", "0", "1", "3", "0.5", "-0.0", "1e-9", "1e308", "nan", "inf", "-inf"),
    *("12345678901234567890", "-99999999999999999999", "9223372036854775807", "4294967296"),
    *("''", "text", "'two words'", "ü", "'a/b'", "'../x'", "'~nosuchuser'", "'~nosuchuser/x'", "/dev/null", "'\\x00'"),
    *("[]", "[1]", "[1,2,3]", "[null]", "[a,b]", "[[1]]", "{}", "{a: 1}", "{name: text}", "{name: null}", "{1: 2}"),
    *("${seed}", "${nosuch}", "${model}", "${.}", "???", "'${oc.env:NOSUCH}'"),
)
_BASES = (
    (),
    ("experiment=lithology_vae",),
    ("experiment=lithology_semisup",),
    ("experiment=semivae_experts",),
    ("experiment=exp3_physics",),
    ("data=brats", "data.root=."),
    ("experiment=lithology_vae", "data=table", "data.path=table.csv", "data.columns=[a,b]"),
)
_TINY = (
    *("experiment=lithology_vae", "data=table", "data.path=table.csv", "data.columns=[a,b]"),
    *("trainer.max_epochs=1", "tracking.enabled=false"),
)
_FLAGS = ("-m", "--run", "--multirun", "--resolve", "--cfg=job", "--cfg=all", "--package=model", "--info=defaults")
_OTHER_COMMANDS = (
    ("sweep", ("plan", *_TINY)),
    ("sweep", ("status",)),
    ("sweep", ("retry",)),
    ("prepare", ("data=table", "data.path=table.csv", "data.columns=[a,b]")),
    ("compare", ()),
    ("parts", ()),
)


class Overrides:
    """Draws overrides of ``menvae-train`` at random.

    Args:
        seed: seed of the draws.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        folder = configuration_folder("menvae")
        assert folder is not None
        files = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml")]
        self._options = sorted(str(path) for path in files if len(path.parts) > 1)
        self.groups = sorted({option.rpartition("/")[0] for option in self._options})
        keys: set[str] = set()
        for base in _BASES:
            keys |= set(_keys(OmegaConf.to_container(compose("train", list(base)), resolve=False)))
        self._keys = sorted(keys)

    def draw(self) -> list[str]:
        """Return one to three overrides."""
        return [self._one() for _ in range(self.random.choice((1, 1, 2, 3)))]

    def _one(self) -> str:
        draw = self.random
        group, _, option = draw.choice(self._options).rpartition("/")
        key, value = draw.choice(self._keys), draw.choice(_VALUES)
        sections = sorted({key.partition(".")[0] for key in self._keys})
        return draw.choice(
            (
                f"{key}={value}",
                f"{key}={value}",
                f"{key}={value}",
                f"{draw.choice(('+', '++', ''))}{key}.extra={value}",
                f"~{key}",
                f"~{draw.choice(sections)}",
                f"{draw.choice(sections)}={value}",
                f"{draw.choice(sections)}={value}",
                f"{group}={option}",
                f"{draw.choice(self.groups)}={value}",
                f"{group}@{key}={option}",
                f"+{group}@{key}={option}",
                f"hydra.{draw.choice(('launcher', 'sweeper', 'job', 'run'))}={value}",
            )
        )


def _keys(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")


def check(overrides: Overrides, num: int) -> Counter[str]:
    """Compose and check configurations in this process; return how many ended how."""
    ends: Counter[str] = Counter()
    known: CheckedModels = {}
    logs.configure(None)

    def task(texts: Sequence[str]) -> int:
        with composing(texts, lambda: overrides.groups):
            config: DictConfig = compose("train", list(texts))
        experiment = Experiment.from_config(config, known)
        experiment.find_data(Place(torch.device("cpu"), 0, 1))
        return ExitCode.DONE

    for number in range(num):
        texts = [*overrides.random.choice(_BASES), *overrides.draw()]
        if len(known) > 50:
            known.clear()
        said = io.StringIO()
        try:
            with redirect_stderr(said), logs.only_errors(True):
                code = carry_out("train", lambda texts=texts: task(texts))
        except Exception:  # noqa: BLE001 - what this script looks for
            end = "traceback"
            where = "".join(traceback.format_exc().splitlines(keepends=True)[-3:])
            sys.stdout.write(f"{number}: {' '.join(texts)}\n{where}")
        else:
            end = "accepted" if code == ExitCode.DONE else "refused"
            if end == "refused" and len(said.getvalue().strip().splitlines()) != 1:
                end = "refused in several lines"
                sys.stdout.write(f"{number}: {' '.join(texts)}\n{said.getvalue()}\n")
        ends[end] += 1
    return ends


def run_commands(overrides: Overrides, num: int) -> Counter[str]:
    """Run real command lines in a temporary folder; return how many ended how."""
    ends: Counter[str] = Counter()
    draw = overrides.random
    with tempfile.TemporaryDirectory() as outside:
        folder = Path(outside) / "work"  # name=../x must not leave the temporary folder
        folder.mkdir()
        rows = [f"{value},{2 * value}" for value in range(60)]
        (folder / "table.csv").write_text("\n".join(["a,b", *rows]) + "\n")
        for number in range(num):
            command, arguments = ("train", _TINY) if draw.random() < 0.6 else draw.choice(_OTHER_COMMANDS)
            flags = draw.sample(_FLAGS, draw.choice((0, 0, 0, 1, 2))) if command != "parts" else []
            drawn = overrides.draw() if command != "parts" else [draw.choice(("term", "nosuch", "--nosuch"))]
            whole = [f"menvae-{command}", *arguments, *drawn, *flags]
            end, said = _end_of(command, whole[1:], folder)
            if "traceback" in end:
                sys.stdout.write(f"{number}: {' '.join(whole)}\n{said[-600:]}\n")
            ends[end] += 1
    return ends


def _end_of(command: str, arguments: Sequence[str], folder: Path) -> tuple[str, str]:
    program = f"import sys; sys.argv[0] = 'menvae-{command}'; from menvae.apps.{command} import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "stopped by the time limit", ""
    except ValueError:  # a null byte, which no shell can pass
        return "impossible", ""
    said = done.stdout + done.stderr
    if "Traceback (most recent call last)" in said:
        return "traceback", said
    return f"exit code {done.returncode}", said


def main() -> None:
    """Print the counts; exit code 1 after a traceback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checks", type=int, default=2000, help="number of configurations to check")
    parser.add_argument("--commands", type=int, default=200, help="number of command lines to run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))  # also of the commands
    with initialize_config_dir(str(configuration_folder("menvae")), version_base="1.3"):
        overrides = Overrides(arguments.seed)
        checked = check(overrides, arguments.checks)
    logs.release()
    ended = run_commands(overrides, arguments.commands)
    for what, ends in (("configurations", checked), ("command lines", ended)):
        sys.stdout.write(f"{ends.total()} {what}: {', '.join(f'{num} {end}' for end, num in sorted(ends.items()))}\n")
    both = checked + ended
    sys.exit(1 if both["traceback"] or both["refused in several lines"] else 0)


if __name__ == "__main__":
    main()
