"""Promotion of a point: an experiment file of the user's own that reproduces its run by name.

The file holds the whole configuration, so that later changes of the experiment or the defaults that the point was
composed with do not change it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from menvae.composition.experiment import Experiment
from menvae.errors import UserError
from menvae.files import write_text
from menvae.masking import masked
from menvae.runs.reading import flat, read_mapping
from menvae.runs.start import run_name
from menvae.sweeps.sweep import Point, Sweep

_SLOTS: Mapping[str, str] = {
    "model": "model",
    "encoder": "encoder",
    "decoder": "decoder",
    "auxiliary_decoder": "decoder@auxiliary_decoder",
    "data": "data",
    "optimizer": "optimizer",
    "learning_rate": "schedule@learning_rate",
    "update": "update",
}
"""Section of a part -> how a defaults list chooses it."""
_NOT_KEPT = ("output_dir", "tracking", "sweep")
_NOT_KEPT_OF_TRAINER = ("resume", "time_limit_min")
"""Keys of one command, not of the point."""
_WIDTH = 118


def configuration_of(sweep: Sweep, point: Point) -> dict[str, Any]:
    """Return the configuration that composes to the run of a point, wherever and with any launcher.

    Raises:
        UserError: neither the point nor its run has a configuration, or it holds a password.
    """
    run = sweep.runs / point.run
    stored = sweep.job_file(point).is_file()
    config = sweep.config(point) if stored else read_mapping(run / "config.yaml")
    if not isinstance(config.get("trainer"), Mapping):
        raise UserError(f"point {point.number} has neither a job file nor a run with a configuration in '{run}'")
    num_ranks = read_mapping(run / "environment.json").get("num_ranks", 1)
    trainer = {key: value for key, value in config["trainer"].items() if key not in _NOT_KEPT_OF_TRAINER}
    kept = {key: value for key, value in config.items() if key not in _NOT_KEPT} | {"trainer": trainer}
    if isinstance(num_ranks, int) and num_ranks > 1:
        trainer["devices"] = num_ranks  # a launcher may have started them
    if masked(kept) != kept:
        raise UserError(f"point {point.number} holds a password, which a file to be shared must not")
    return kept


def chosen_parts(config: Mapping[str, Any]) -> list[str]:
    """Return the overrides that choose the parts of a configuration, for `experiment_file`."""
    return [f"{group}={config[section]['name']}" for section, group in _SLOTS.items()]


def experiment_file(config: Mapping[str, Any], base: Mapping[str, Any], about: Sequence[str]) -> str:
    """Return the text of an experiment file that composes to a configuration.

    An option whose own keys the configuration lacks cannot be part of it, because YAML adds keys but removes none; the
    file then brings the whole section.

    Args:
        config: the configuration.
        base: what ``conf/train.yaml`` composes to with `chosen_parts`.
        about: lines of its first comment.
    """
    content = {key: value for key, value in config.items() if value != {} or base.get(key)}
    defaults: list[dict[str, str | None]] = []
    for section, group in _SLOTS.items():
        fits = dict(flat(base[section])).keys() <= dict(flat(config[section])).keys()
        defaults.append({f"override /{group}": config[section]["name"] if fits else None})
        if fits:
            content[section] = {key: value for key, value in config[section].items() if key != "name"}
    defaults.append({"override /loss": None})
    comment = "".join(f"# {line}\n" for line in about)
    text: str = yaml.safe_dump({"defaults": defaults, **content}, sort_keys=False, width=_WIDTH, allow_unicode=True)
    return f"# @package _global_\n{comment}{text}"


def check_name(name: str) -> None:
    """Check that a name can be typed as an option; raises `UserError`."""
    if not re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII):
        raise UserError(f"--name: '{name}' is not allowed; it should be letters, digits, _ and -, after a letter")


def check_same_run(point: Point, config: Mapping[str, Any], composed: Experiment) -> None:
    """Check that an experiment file composes to the run of a point, whatever the data.

    Args:
        point: the point.
        config: the point's own experiment.
        composed: what the file composes to.

    Raises:
        UserError: it does not, for example because a key was removed with ``~key``.
    """
    num_ranks = composed.settings["trainer"].devices or 1
    known = Experiment.from_config(_with_places_of(config, composed))
    if run_name(known, "", "", num_ranks) == run_name(composed, "", "", num_ranks):
        return
    theirs, mine = dict(flat(known.config)), dict(flat(composed.config))
    differs = [key for key in {**theirs, **mine} if key not in theirs or key not in mine or theirs[key] != mine[key]]
    raise UserError(
        f"point {point.number} cannot be written as an experiment: a file cannot reproduce its {', '.join(differs[:3])}"
    )


def _with_places_of(config: Mapping[str, Any], composed: Experiment) -> Any:
    """Return the configuration of a point with the keys that its file leaves out, from another one."""
    from omegaconf import OmegaConf

    trainer = {**composed.config["trainer"], **config["trainer"]}
    places = {key: composed.config[key] for key in _NOT_KEPT}
    return OmegaConf.create({**config, **places, "trainer": trainer})


def write_experiment(folder: Path, name: str, text: str, *, overwrite: bool) -> Path:
    """Write ``FOLDER/experiment/NAME.yaml``; raises `UserError` if it exists or cannot be written."""
    path = folder / "experiment" / f"{name}.yaml"
    if path.exists() and not overwrite:
        raise UserError(f"'{path}' exists; set overwrite=true to replace it, or another --name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_text(path, text)
    except OSError as error:
        raise UserError(f"--config-dir: cannot write to '{path.parent}': {error.strerror}") from error
