"""``menvae-sweep plan|status|retry|promote|sync``: what a sweep runs and its state; rerun, keep and send its points."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from menvae.errors import ExitCode, UserError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

_USAGE = """\
menvae-sweep plan [group=option ...] [key=value,value ...]
    Show what menvae-train -m would do with the same arguments: every job with its run, duplicates, and swept keys
    without effect. Nothing is trained or prepared; sweep.cost=true prepares data that the cache lacks, and estimates
    the cost from measured steps. Axes: key=1,2; key=1..5; 'key=zip(1,2)', for keys that advance together;
    sweep.points=FILE.csv, whose columns are keys; data.fold=0..4; 'sweep.where=CONDITION', for the points to keep;
    'sweep.until=interval(METRIC)<WIDTH', which adds seeds.

menvae-sweep status [sweep.name=NAME] [output_dir=./outputs]
    Show the state of every point of a sweep (default: the latest): finished, running, pending, failed, timed out, ...
    The exit code is 1 if a point has failed, has collapsed (except in a search) or cannot run, else 0.

menvae-sweep retry [sweep.name=NAME] [output_dir=./outputs] [hydra.launcher.KEY=VALUE ...]
    Run the failed points of a sweep again with the same configuration. The launcher is the same too, unless overridden
    (hydra/launcher=NAME or site=NAME replaces it).

menvae-sweep promote POINT --config-dir FOLDER [--name NAME] [sweep.name=NAME] [output_dir=./outputs] [overwrite=true]
    Write FOLDER/experiment/NAME.yaml with the whole configuration of a point (its number, or the name of its run, which
    is also the default NAME): menvae-train --config-dir FOLDER experiment=NAME has the same run, and trains nothing if
    it is finished. Without --config-dir, the folder that the sweep was launched with.

menvae-sweep sync [sweep.name=NAME] [output_dir=./outputs] [tracking.uri=URI] [tracking.experiment=NAME]
    Send every run and sweep of the output directory (or one sweep) to trackers that lack it: trained with
    tracking.offline=true, or while the tracking server was away. Each value arrives once, however often this runs. Runs
    in progress are left alone. The exit code is 1 if something could not be sent, else 0.
"""

_FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-path", "-cp")


def main() -> None:
    """Entry point: runs the command named by the first argument."""
    verb, arguments = "".join(sys.argv[1:2]), sys.argv[2:]
    verbs = {"plan": plan, "status": status, "retry": retry, "promote": promote, "sync": sync}
    if verb in ("", "-h", "--help") or {"-h", "--help"} & set(arguments):
        sys.stdout.write(_USAGE)
        sys.exit(ExitCode.DONE if verb else ExitCode.WRONG_INPUT)
    if verb not in verbs:
        sys.stderr.write(f"menvae-sweep: unknown command '{verb}'; {nearest(verb, verbs)}\n")
        sys.exit(ExitCode.WRONG_INPUT)
    verbs[verb](arguments)


def plan(arguments: list[str]) -> None:
    """Compose a sweep of ``menvae-train``, and show its plan."""
    _sweep_of_train([*arguments, "sweep.action=plan"], imports_most=True)


def status(arguments: list[str]) -> None:
    """Show the points of a sweep."""
    from menvae.apps import hydra_application

    sys.argv = ["menvae-sweep status", *arguments]
    hydra_application.run("sweep", _show_status)


def _show_status(config: DictConfig) -> int:
    from menvae.configuration import check_present, path_of, plain_values, section_of
    from menvae.console import logs
    from menvae.sweeps.campaign import fate_counts, status_table
    from menvae.sweeps.runners import Fate
    from menvae.sweeps.status import refused_status, sweep_status
    from menvae.sweeps.sweep import find_sweep
    from menvae.sweeps.trials import has_study

    keys = plain_values(config, ("output_dir", "sweep"))
    check_present(keys, ("output_dir",))
    name = section_of(keys, "sweep").get("name")
    sweep = find_sweep(path_of(keys["output_dir"], "output_dir").resolve(), name)
    statuses = [*sweep_status(sweep), *refused_status(sweep)]
    logs.show(f"sweep {sweep.path}")
    logs.show(status_table(statuses))
    logs.show(fate_counts(statuses))
    searches = has_study(sweep)  # where a collapsed run is a valid result
    bad = [one for one in statuses if one.fate.has_failed or (one.fate == Fate.COLLAPSED and not searches)]
    return int(bool(bad))


def sync(arguments: list[str]) -> None:
    """Send runs to trackers that lack them."""
    from menvae.apps import hydra_application

    sys.argv = ["menvae-sweep sync", *arguments]
    hydra_application.run("sync", _sync, "sweep")


def _sync(config: DictConfig) -> int:
    from menvae.configuration import check_present, path_of, plain_values, section_of
    from menvae.console import logs
    from menvae.registry import validated
    from menvae.sweeps.campaign import counted
    from menvae.sweeps.sweep import find_sweep
    from menvae.sweeps.sync import Destination, Outcome
    from menvae.sweeps.sync import sync as send

    keys = plain_values(config, ("output_dir", "sweep", "tracking"))
    check_present(keys, ("output_dir",))
    destination = validated(Destination, section_of(keys, "tracking"), "tracking")
    output_dir, name = path_of(keys["output_dir"], "output_dir").resolve(), section_of(keys, "sweep").get("name")
    logs.configure(None)
    try:
        counts = send(output_dir, destination, None if name is None else find_sweep(output_dir, name))
    finally:
        logs.release()
    logs.show(counted(counts) or "nothing to send")
    return int(any(counts[outcome] for outcome in (Outcome.UNANSWERED, Outcome.IMPOSSIBLE)))


def retry(arguments: list[str]) -> None:
    """Launch the failed points of a sweep again, with the same configurations."""
    from menvae.apps.command_line import hydra_text
    from menvae.apps.guard import launcher_overrides
    from menvae.apps.outcome import carry_out

    own = {"sweep.name": None, "output_dir": "./outputs"}
    rest = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if separator and key in own:
            own[key] = value.strip("\"'")  # quotes are for Hydra's grammar
        else:
            rest.append(argument)

    def arguments_of_launch() -> int:
        from menvae.configuration import path_of
        from menvae.sweeps.sweep import find_sweep

        sweep = find_sweep(path_of(own["output_dir"], "output_dir").resolve(), own["sweep.name"])
        flags, overrides = _parted(rest)
        for override in overrides:
            if not override.lstrip("+~").startswith(("hydra", "site=")):
                raise UserError(
                    f"'{override}': retry repeats points with the same configuration; only the launcher can be changed"
                )
        file = sweep.path / "sweep.json"
        launcher = sweep.description()["launcher"]
        typed = [*overrides, *(flag for flag in flags if flag.startswith("-"))]
        stored = launcher_overrides(launcher, typed, str(file), is_own=file.stat().st_uid == os.geteuid())
        stored_flags, stored_overrides = _parted(stored)
        rest[:] = [  # Hydra accepts overrides only in one piece
            *stored_flags,
            *flags,
            *stored_overrides,
            *overrides,
            f"output_dir={hydra_text(str(sweep.output_dir))}",
            f"sweep.name={hydra_text(sweep.name)}",
            "sweep.action=retry",
        ]
        return ExitCode.DONE

    code = carry_out("sweep", arguments_of_launch)
    if code:
        sys.exit(code)
    _sweep_of_train(rest)


def promote(arguments: list[str]) -> None:
    """Write an experiment file that reproduces a point by name."""
    from menvae.apps.outcome import carry_out

    code = carry_out("sweep", lambda: _promote(arguments))
    if code:
        sys.exit(code)


def _promote(arguments: Sequence[str]) -> int:
    from tempfile import TemporaryDirectory

    from omegaconf import OmegaConf

    from menvae.apps.hydra_application import composed
    from menvae.composition.experiment import Experiment
    from menvae.configuration import path_of
    from menvae.console import logs
    from menvae.sweeps.promotion import (
        check_name,
        check_same_run,
        chosen_parts,
        configuration_of,
        experiment_file,
        point_called,
        write_experiment,
    )
    from menvae.sweeps.sweep import find_sweep

    called, typed = _promotion(arguments)
    sweep = find_sweep(path_of(typed["output_dir"], "output_dir").resolve(), typed.get("sweep.name"))
    point = point_called(sweep, called)
    name, config = typed.get("--name", point.run), configuration_of(sweep, point)
    check_name(name)
    _check_new(name)
    folder = typed.get("--config-dir") or _folder_of(sweep.description()["launcher"])
    base = OmegaConf.to_container(composed("train", chosen_parts(config)), resolve=True)
    about = [f"Point {point.number} of sweep {sweep.name}, run {point.run}:", " ".join(point.label.split())]
    text = experiment_file(config, cast("dict[str, Any]", base), about)
    with TemporaryDirectory(prefix="menvae-") as scratch:
        write_experiment(Path(scratch), name, text, overwrite=True)
        again = composed("train", [f"experiment={name}"], Path(scratch))
    check_same_run(point, config, Experiment.from_config(again))
    path = write_experiment(path_of(folder, "--config-dir"), name, text, overwrite=typed.get("overwrite") == "true")
    logs.show(f"wrote {path}: menvae-train --config-dir {shlex.quote(str(folder))} experiment={name}")
    return ExitCode.DONE


def _check_new(name: str) -> None:
    """Raise `UserError` if menvae or a plugin has an experiment of this name, which Hydra would find first."""
    from hydra.errors import MissingConfigException

    from menvae.apps.hydra_application import composed

    try:
        composed("train", [f"experiment={name}"])
    except MissingConfigException:
        return
    raise UserError(f"--name: '{name}' is the name of an experiment of menvae or of a plugin; choose another")


def _promotion(arguments: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the point that ``promote`` is to write, and {flag or key: its value}; raises `UserError`.

    >>> _promotion(["3", "--name", "best", "output_dir=there"])
    ('3', {'output_dir': 'there', '--name': 'best'})
    """
    known = ("--name", "--config-dir", "sweep.name", "output_dir", "overwrite")
    given: dict[str, str] = {"output_dir": "./outputs"}
    points, rest = [], list(arguments)
    while rest:
        key, separator, value = rest.pop(0).partition("=")
        if not separator and not key.startswith("-"):
            points.append(key)
            continue
        if key not in known:
            raise UserError(f"promote: {key}: no such key; {nearest(key, known)}")
        if not separator and not rest:
            raise UserError(f"promote: {key}: a value is required")
        given[key] = (value if separator else rest.pop(0)).strip("\"'")
    if len(points) != 1:
        raise UserError(f"promote: {len(points)} points given; give one, by its number or the name of its run")
    return points[0], given


def _folder_of(launcher: Sequence[str]) -> str:
    """Return the folder of configuration files that a sweep was launched with; raises `UserError` without one."""
    folders = [value for flag, value in pairwise(launcher) if flag == "--config-dir"]
    if not folders:
        raise UserError("--config-dir: a value is required; give a folder of your own for configuration files")
    return folders[0]


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return flags of a command line, with their values, and its overrides.

    >>> _parted(["--config-dir", "conf", "site=mine", "--cfg", "hydra", "hydra.launcher.num_parallel=2"])
    (['--config-dir', 'conf', '--cfg', 'hydra'], ['site=mine', 'hydra.launcher.num_parallel=2'])
    """
    flags: list[str] = []
    overrides: list[str] = []
    expects_value = False
    for argument in arguments:
        is_flag = argument.startswith("-")
        (flags if is_flag or expects_value else overrides).append(argument)
        expects_value = is_flag and argument in _FLAGS_WITH_VALUE
    return flags, overrides


def _sweep_of_train(arguments: list[str], *, imports_most: bool = False) -> None:
    from menvae.apps import hydra_application
    from menvae.apps.train import task

    only_shows = bool({"--cfg", "-c"} & set(arguments))  # which Hydra does for one run
    sys.argv = ["menvae-train", *([] if only_shows else ["-m"]), *arguments]
    hydra_application.run("train", task, "sweep", imports_most=imports_most)
