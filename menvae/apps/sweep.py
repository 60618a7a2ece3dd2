"""``menvae-sweep VERB``: show what a sweep would run and how it goes, stop it, run, keep or send its points."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from menvae.apps.sweep_arguments import RetryArguments, parted, typed
from menvae.errors import ExitCode, UserError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from menvae.sweeps.status import PointStatus
    from menvae.sweeps.sweep import Sweep

_USAGE = {
    "plan": """\
menvae-sweep plan [group=option ...] [key=value,value ...]
    Show what menvae-train -m would do with the same arguments: every job with its run, duplicates, and swept keys
    without effect. Nothing is trained or prepared; sweep.cost=true prepares data that the cache lacks, and estimates
    the cost from measured steps. Axes: key=1,2; key=1..5; 'key=zip(1,2)', for keys that advance together;
    sweep.points=FILE.csv, whose columns are keys; data.fold=0..4; 'sweep.where=CONDITION', for the points to keep;
    'sweep.until=interval(METRIC)<WIDTH', which adds seeds up to sweep.max_seeds; intervals that are not reached by
    then are named, and the exit code is still 0.
""",
    "status": """\
menvae-sweep status [sweep.name=NAME] [output_dir=./outputs]
    Show the state of every point of a sweep (default: the latest): finished, running, pending, failed, timed out, ...
    The exit code is 1 if a point has failed, has collapsed (except in a search) or cannot run, else 0. Of a search, the
    best trial or the Pareto front so far follows.
""",
    "watch": """\
menvae-sweep watch [--html FILE] [--every SECONDS] [--once] [sweep.name=NAME] [output_dir=./outputs]
    Show a sweep while it runs: points by state, epochs, time left of each and of all, GPU or CPU hours, failures by
    cause, the best points. --html writes a page that a browser loads again by itself, --once ends after one look. Ends
    with the sweep, with the exit code of status; Ctrl-C leaves it (exit code 0).
""",
    "stop": """\
menvae-sweep stop POINT ... | --all [sweep.name=NAME] [output_dir=./outputs]
    Let points (numbers, or names of runs) write their checkpoints and end: local ones by a signal, SLURM's by scancel.
    --all also ends the process that launches the sweep. The same command as before, or retry, resumes them.
""",
    "retry": """\
menvae-sweep retry [sweep.name=NAME] [output_dir=./outputs] [hydra.launcher.KEY=VALUE ...]
                   [--cause CAUSE [KEY=VALUE ...]]
    Run the failed points of a sweep again with the same configuration. The launcher is the same too, unless overridden
    (hydra/launcher=NAME or site=NAME replaces it). --cause: only points that failed so (out_of_memory, timed_out,
    failed, stopped, ..., or the name of an exception), with other values of keys if you give some: a point whose result
    that changes is a new point, which stands for the one that failed.
""",
    "promote": """\
menvae-sweep promote POINT --config-dir FOLDER [--name NAME] [sweep.name=NAME] [output_dir=./outputs] [overwrite=true]
    Write FOLDER/experiment/NAME.yaml with the whole configuration of a point (its number, or the name of its run, which
    is also the default NAME): menvae-train --config-dir FOLDER experiment=NAME has the same run, and trains nothing if
    it is finished. Without --config-dir, the folder that the sweep was launched with.
""",
    "sync": """\
menvae-sweep sync [sweep.name=NAME] [output_dir=./outputs] [tracking.uri=URI] [tracking.experiment=NAME]
    Send every run and sweep of the output directory (or one sweep) to trackers that lack it: trained with
    tracking.offline=true, or while the tracking server was away. Each value arrives once, however often this runs. Runs
    in progress are left alone. The exit code is 1 if something could not be sent, else 0.
""",
}
"""Help of each verb."""

_SHORTEST_S, _LONGEST_S = 0.5, 3600.0
"""Between two looks at a sweep."""


def main() -> None:
    """Entry point: runs the command named by the first argument."""
    verb, arguments = "".join(sys.argv[1:2]), sys.argv[2:]
    verbs = {
        "plan": plan,
        "status": status,
        "watch": watch,
        "stop": stop,
        "retry": retry,
        "promote": promote,
        "sync": sync,
    }
    if verb in ("", "-h", "--help"):
        sys.stdout.write("\n".join(_USAGE.values()))
        sys.exit(ExitCode.DONE if verb else ExitCode.WRONG_INPUT)
    if verb not in verbs:
        sys.stderr.write(f"menvae-sweep: unknown command '{verb}'; {nearest(verb, verbs)}\n")
        sys.exit(ExitCode.WRONG_INPUT)
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(_USAGE[verb])
        sys.exit(ExitCode.DONE)
    verbs[verb](arguments)


def plan(arguments: list[str]) -> None:
    """Compose a sweep of ``menvae-train``, and show its plan."""
    _sweep_of_train([*arguments, "sweep.action=plan"], imports_most=True)


def status(arguments: list[str]) -> None:
    """Show the points of a sweep."""
    from menvae.apps import hydra_application

    _carry_out(lambda: _check_words("status", arguments))
    sys.argv = ["menvae-sweep status", *arguments]
    hydra_application.run("sweep", _show_status)


def _show_status(config: DictConfig) -> int:
    from menvae.configuration import check_present, path_of, plain_values, section_of
    from menvae.console import logs
    from menvae.sweeps.status import refused_status, sweep_status
    from menvae.sweeps.sweep import find_sweep
    from menvae.sweeps.trials import show, study_of
    from menvae.sweeps.words import fate_counts, status_table, stopped_words

    keys = plain_values(config, ("output_dir", "sweep"))
    check_present(keys, ("output_dir",))
    name = section_of(keys, "sweep").get("name")
    sweep = find_sweep(path_of(keys["output_dir"], "output_dir").resolve(), name)
    statuses = [*sweep_status(sweep), *refused_status(sweep)]
    logs.show(f"sweep {sweep.path}")
    logs.show(status_table(statuses))
    logs.show("\n".join([fate_counts(statuses), *stopped_words(statuses)]))
    if (study := study_of(sweep)) is not None:
        show(study)
    return _exit_code(sweep, statuses)


def _exit_code(sweep: Sweep, statuses: Sequence[PointStatus]) -> int:
    """Return 1 if a point has failed, or has collapsed where that is no valid result."""
    from menvae.sweeps.runners import Fate
    from menvae.sweeps.trials import has_study

    searches = has_study(sweep)  # where a collapsed run is a valid result
    return int(any(one.has_failed or (one.fate == Fate.COLLAPSED and not searches) for one in statuses))


def watch(arguments: list[str]) -> None:
    """Show a sweep while it runs."""
    _carry_out(lambda: _watch(arguments))


def _watch(arguments: Sequence[str]) -> int:
    from menvae.configuration import path_of
    from menvae.sweeps.watch.loop import watch as watch_sweep
    from menvae.sweeps.watch.snapshot import Watcher

    words, given = typed("watch", arguments, ["--html", "--every"], ["--once"])
    _check_words("watch", words)
    every_s = _seconds(given.get("--every", "2"))
    html = path_of(given["--html"], "--html") if "--html" in given else None
    sweep = _sweep_of(given)
    last, is_left = watch_sweep(Watcher(sweep), html, every_s, once="--once" in given)
    return ExitCode.DONE if is_left else _exit_code(sweep, last.statuses)


def _check_words(verb: str, arguments: Sequence[str]) -> int:
    """Return 0; raise `UserError` for an argument that is neither a key with its value nor a flag."""
    for argument in parted(arguments)[1]:
        if "=" not in argument and not argument.startswith("~"):
            raise UserError(f"{verb}: '{argument}' is no key; a sweep is chosen with sweep.name=NAME")
    return ExitCode.DONE


def _seconds(text: str) -> float:
    """Return the seconds between two looks; raises `UserError`."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise UserError(
            f"watch: --every: '{text}' is not allowed; it should be {_SHORTEST_S:g} to {_LONGEST_S:g} seconds"
        )
    return seconds


def stop(arguments: list[str]) -> None:
    """Let points of a sweep write their checkpoints and end."""
    _carry_out(lambda: _stop(arguments))


def _stop(arguments: Sequence[str]) -> int:
    from rich.text import Text

    from menvae.console import logs
    from menvae.sweeps.stopping import stop_all, stop_points
    from menvae.sweeps.sweep import point_called

    words, given = typed("stop", arguments, (), ["--all"])
    if bool(words) == ("--all" in given):
        raise UserError("stop: give points, by their numbers or the names of their runs, or --all")
    sweep = _sweep_of(given)
    logs.configure(None)
    try:
        asked = stop_points(sweep, [point_called(sweep, word) for word in words]) if words else stop_all(sweep)
    finally:
        logs.release()
    for one in asked:
        logs.show(Text(f"point {one.point.number} ({one.fate}): asked to stop; {one.point.label}"))
    logs.show(
        "each writes its checkpoint first; menvae-sweep status shows when it has ended, menvae-sweep retry resumes it"
        if asked
        else Text(f"nothing of sweep '{sweep.name}' runs or waits")
    )
    return ExitCode.DONE


def _sweep_of(given: Mapping[str, str]) -> Sweep:
    """Return the sweep that a command line without Hydra means; raises `UserError`."""
    from menvae.configuration import path_of
    from menvae.sweeps.sweep import find_sweep

    return find_sweep(path_of(given["output_dir"], "output_dir").resolve(), given.get("sweep.name"))


def _carry_out(task: Callable[[], int]) -> None:
    """Run a task, and end this process with its exit code unless that is 0."""
    from menvae.apps.outcome import carry_out

    if code := carry_out("sweep", task):
        sys.exit(code)


def sync(arguments: list[str]) -> None:
    """Send runs to trackers that lack them."""
    from menvae.apps import hydra_application

    _carry_out(lambda: _check_words("sync", arguments))
    sys.argv = ["menvae-sweep sync", *arguments]
    hydra_application.run("sync", _sync, "sweep")


def _sync(config: DictConfig) -> int:
    from menvae.configuration import check_present, path_of, plain_values, section_of
    from menvae.console import logs
    from menvae.registry import validated
    from menvae.sweeps.sweep import find_sweep
    from menvae.sweeps.sync import Destination, Outcome
    from menvae.sweeps.sync import sync as send
    from menvae.sweeps.words import counts_in_words

    keys = plain_values(config, ("output_dir", "sweep", "tracking"))
    check_present(keys, ("output_dir",))
    destination = validated(Destination, section_of(keys, "tracking"), "tracking")
    output_dir, name = path_of(keys["output_dir"], "output_dir").resolve(), section_of(keys, "sweep").get("name")
    logs.configure(None)
    try:
        counts = send(output_dir, destination, None if name is None else find_sweep(output_dir, name))
    finally:
        logs.release()
    logs.show(counts_in_words(counts) or "nothing to send")
    return int(any(counts[outcome] for outcome in (Outcome.UNANSWERED, Outcome.IMPOSSIBLE)))


def retry(arguments: list[str]) -> None:
    """Launch the failed points of a sweep again, with the same configurations or with changed keys."""
    rest: list[str] = []

    def arguments_of_launch() -> int:
        rest[:] = _arguments_of_retry(RetryArguments.read(arguments))
        return ExitCode.DONE

    _carry_out(arguments_of_launch)
    _sweep_of_train(rest)


def _arguments_of_retry(given: RetryArguments) -> list[str]:
    """Return the command line of ``menvae-train -m`` that carries out a retry; raises `UserError`."""
    from menvae.apps.command_line import hydra_text
    from menvae.apps.guard import launcher_overrides
    from menvae.configuration import path_of
    from menvae.sweeps.sweep import find_sweep

    sweep = find_sweep(path_of(given.output_dir, "output_dir").resolve(), given.name)
    file = sweep.path / "sweep.json"
    launcher = sweep.description()["launcher"]
    typed_flags = [*given.launcher, *(flag for flag in given.flags if flag.startswith("-"))]
    stored = launcher_overrides(launcher, typed_flags, str(file), is_own=file.stat().st_uid == os.geteuid())
    stored_flags, stored_overrides = parted(stored)
    of_cause = [] if given.cause is None else [f"sweep.cause={hydra_text(given.cause)}"]
    of_cause += [f"sweep.changes={hydra_text(given.changes)}"] if given.changes else []
    return [  # Hydra accepts overrides only in one piece
        *stored_flags,
        *given.flags,
        *stored_overrides,
        *given.launcher,
        f"output_dir={hydra_text(str(sweep.output_dir))}",
        f"sweep.name={hydra_text(sweep.name)}",
        "sweep.action=retry",
        *of_cause,
    ]


def promote(arguments: list[str]) -> None:
    """Write an experiment file that reproduces a point by name."""
    _carry_out(lambda: _promote(arguments))


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
        write_experiment,
    )
    from menvae.sweeps.sweep import point_called

    points, given = typed("promote", arguments, ["--name", "--config-dir", "overwrite"])
    if len(points) != 1:
        raise UserError(f"promote: {len(points)} points given; give one, by its number or the name of its run")
    sweep = _sweep_of(given)
    point = point_called(sweep, points[0])
    name, config = given.get("--name", point.run), configuration_of(sweep, point)
    check_name(name)
    _check_new(name)
    folder = given.get("--config-dir") or _folder_of(sweep.description()["launcher"])
    base = OmegaConf.to_container(composed("train", chosen_parts(config)), resolve=True)
    about = [f"Point {point.number} of sweep {sweep.name}, run {point.run}:", " ".join(point.label.split())]
    text = experiment_file(config, cast("dict[str, Any]", base), about)
    with TemporaryDirectory(prefix="menvae-") as scratch:
        write_experiment(Path(scratch), name, text, overwrite=True)
        again = composed("train", [f"experiment={name}"], Path(scratch))
    check_same_run(point, config, Experiment.from_config(again))
    path = write_experiment(path_of(folder, "--config-dir"), name, text, overwrite=given.get("overwrite") == "true")
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


def _folder_of(launcher: Sequence[str]) -> str:
    """Return the folder of configuration files that a sweep was launched with; raises `UserError` without one."""
    folders = [value for flag, value in pairwise(launcher) if flag == "--config-dir"]
    if not folders:
        raise UserError("--config-dir: a value is required; give a folder of your own for configuration files")
    return folders[0]


def _sweep_of_train(arguments: list[str], *, imports_most: bool = False) -> None:
    from menvae.apps import hydra_application
    from menvae.apps.train import task

    only_shows = bool({"--cfg", "-c"} & set(arguments))  # which Hydra does for one run
    sys.argv = ["menvae-train", *([] if only_shows else ["-m"]), *arguments]
    hydra_application.run("train", task, "sweep", imports_most=imports_most)
