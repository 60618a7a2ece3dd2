"""The finished run that ``trainer.extend`` names, and the configuration of a run that trains it on.

Nothing heavy is imported here: a run that has ended is answered from its configuration alone (`menvae.runs.answer`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from menvae.configuration import path_of
from menvae.errors import UserError
from menvae.files import DamagedFileError
from menvae.masking import MASK
from menvae.runs.directory import read_status
from menvae.runs.finding import find_run
from menvae.runs.identity import OUTSIDE, as_typed, is_outside
from menvae.runs.reading import flat, read_mapping, value_at

EXTEND = "trainer.extend"
_OF_THIS_COMMAND = ("output_dir", "sweep", "trainer.resume")
"""Keys that an extension does not take over: where it goes, and whether it is repeated."""
_ONLY_LAUNCHES = ("site",)
"""Groups that choose a launcher, not a run."""
MAY_CHANGE = (
    *("name", "trainer.max_epochs", "trainer.init_from"),
    *("trainer.precision", "trainer.compile", "trainer.channels_last"),
)
"""Keys in which an extension may differ from its parent, besides those outside the identity of a run."""


@dataclass(frozen=True)
class Parent:
    """A run that another one trains on.

    Attributes:
        path: its directory.
        config: its configuration, plain values.
    """

    path: Path
    config: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Parent:
        """Read the configuration of a run; raises `UserError` if its directory does not exist or has none."""
        if not path.is_dir():
            raise UserError(
                f"{EXTEND}: '{path}' does not exist; put the run directory back, or launch its extension anew"
            )
        config = read_mapping(path / "config.yaml")
        if not all(isinstance(config.get(section), Mapping) for section in ("trainer", "data", "model")):
            raise UserError(f"{EXTEND}: '{path / 'config.yaml'}' is not the configuration of a run")
        return cls(path, config)

    @property
    def name(self) -> str:
        """Name of its directory."""
        return self.path.name

    @property
    def epochs(self) -> int:
        """Number of epochs that it was trained.

        Raises:
            UserError: it is not finished.
        """
        try:
            status = read_status(self.path)
        except DamagedFileError as error:
            raise UserError(f"{EXTEND}: {error}") from None
        if not status:  # MLflow does not have it
            raise UserError(
                f"{EXTEND}: '{self.path}' has no status.json; only a directory in which a run has finished can be "
                "trained on, not a download from a tracking store"
            )
        state, epochs = status["state"], status.get("epochs")
        if state == "finished" and isinstance(epochs, int):
            return epochs
        if state in ("collapsed", "pruned"):
            raise UserError(
                f"{EXTEND}: run '{self.name}' was ended early ({status.get('reason', state)}), not by "
                f"trainer.max_epochs; trainer.init_from={self.path} starts anew from its weights"
            )
        raise UserError(f"{EXTEND}: run '{self.name}' is {state}, not finished; repeat its command to finish it first")


def extended(composed: Mapping[str, Any], overrides: Sequence[str]) -> Mapping[str, Any]:
    """Return the configuration of a run that trains another one on: that of its parent, with overrides on top.

    An option that sets keys of any section, such as ``experiment=...``, is taken to repeat the command of the parent;
    `menvae.runs.extension.check_extension` compares the whole configuration.

    Args:
        composed: resolved configuration of ``conf/train.yaml``, plain values.
        overrides: the overrides that it was composed with, without those of Hydra's own section.

    Returns:
        ``composed`` itself without ``trainer.extend``.

    Raises:
        UserError: the parent does not exist, kept no password that the run needs, or has another value of a key that
            an extension must not change.
    """
    wish = value_at(composed, EXTEND)
    if wish is None:
        return composed
    try:
        output_dir = path_of(composed.get("output_dir"), "output_dir").resolve()
        path = find_run(path_of(wish, EXTEND), output_dir, value_at(composed, "tracking.uri"))
    except UserError as error:
        raise UserError(f"{EXTEND}: {str(error).removeprefix('run: ').removeprefix(f'{EXTEND}: ')}") from None
    parent, given = Parent.read(path), OmegaConf.create(dict(composed))
    parsed = [one for one in OverridesParser.create().parse_overrides(list(overrides)) if not _only_launches(one)]
    repeats = any(OmegaConf.select(given, _key(one)) is None and not one.is_delete() for one in parsed if _chooses(one))
    config = OmegaConf.create(dict(composed if repeats else parent.config))
    if not repeats:
        OmegaConf.update(config, "trainer.init_from", None, force_add=True)  # the parent has started from it
        for key in _OF_THIS_COMMAND:
            OmegaConf.update(config, key, OmegaConf.select(given, key), merge=False, force_add=True)
        for override in parsed:
            _apply(override, given, config, parent)
    OmegaConf.update(config, EXTEND, str(path), force_add=True)
    plain: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
    for key, value in flat(plain):
        if isinstance(value, str) and MASK in value:
            raise UserError(f"{EXTEND}: run '{parent.name}' keeps no passwords; give {key}=... again")
    return plain


def _only_launches(override: Override) -> bool:
    return override.key_or_group in _ONLY_LAUNCHES


def _key(override: Override) -> str:
    """Return the key that an override sets; that of an option is its package."""
    return override.package or override.key_or_group


def _chooses(override: Override) -> bool:
    """Return whether an override may choose the option of a group rather than set a key of a section."""
    return "." not in override.key_or_group and isinstance(override.value(), str | list)


def _apply(override: Override, given: Any, config: Any, parent: Parent) -> None:
    """Set in ``config`` what an override has set in ``given``; raises `UserError` for what must not change."""
    key = _key(override)
    known, value = _plain(config, key), None if override.is_delete() else _plain(given, key)
    if isinstance(known, Mapping) and known.get("name") == override.value():
        return  # the option that the parent has, with the parent's keys
    if not is_outside(key, (*OUTSIDE, *MAY_CHANGE, "data")):  # the source knows which keys of data are outside
        refuse_difference(parent, {key: known}, {key: value})
    if override.is_delete():
        section, _, last = key.rpartition(".")
        node = OmegaConf.select(config, section) if section else config
        if OmegaConf.is_dict(node):
            node.pop(last, None)
        return
    OmegaConf.update(config, key, value, merge=False, force_add=True)


def _plain(config: Any, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def refuse_difference(parent: Parent, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Compare two nested mappings of configuration keys.

    Args:
        parent: the parent.
        theirs: keys of its configuration.
        mine: keys of that of its extension.

    Raises:
        UserError: the first difference.
    """
    known, wanted = (dict(flat(as_typed(config))) for config in (theirs, mine))
    for key in dict.fromkeys([*wanted, *known]):
        if key not in known or key not in wanted or known[key] != wanted[key]:
            before, now = (repr(values[key]) if key in values else "absent" for values in (known, wanted))
            raise UserError(
                f"{EXTEND}: {key} is {before} in run '{parent.name}' and cannot become {now}; an extension changes "
                "only trainer.max_epochs, how results are computed, and where they go"
            )
