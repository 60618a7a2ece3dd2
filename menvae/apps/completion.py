"""Completion and help without Hydra, from what an earlier command has composed.

Importing Hydra and composing take longer than a user waits for a key. The first completion of a command keeps the
options of all groups, and the keys of what it has composed, in the user's cache (`menvae.apps.completed`); the first
``--help`` keeps its text. While no file that decides them changes, later ones answer from there, word for word as Hydra
would; what they do not find there, Hydra answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from menvae.fingerprints import distributions, state_of, user_cache

QUERY = "query=bash"
"""What shells ask; Hydra's completion of zsh asks it too."""
_COMMAND = re.compile(r"menvae-[\w-]+\s+(.*)", re.DOTALL)
_WORD = re.compile(r"[\w/.-]*=?[\w/.-]*")
_ASSIGNMENT = re.compile(r"([\w.]+)=[\w.-]+")
_FLAGS = ("-m", "--multirun")
_KEPT = {"state": str, "code": list, "configurations": list, "options": dict, "groups": dict, "compositions": dict}
"""Keys that a file must have, and the types of their values."""
_WIDTH = 120
"""Of help, in characters."""
_OF_OTHER_COMMANDS = ("growth: ", "source: ")
"""Groups of ``menvae-grow``, whose help lists none."""


class Line(NamedTuple):
    """A command line to complete.

    Attributes:
        before: its arguments before the word, of which a composition depends.
        word: the word to complete, which may be empty.
    """

    before: str
    word: str

    @classmethod
    def read(cls, text: str) -> Line | None:
        """Return a line without its command; None if only Hydra can tell what it means."""
        found = _COMMAND.fullmatch(text)
        if found is None:
            return None
        words = found[1].split()
        word = words.pop() if words and not text[-1].isspace() else ""
        is_plain = _WORD.fullmatch(word) and not word.startswith("-") and not re.search(r"=[./]", word)
        if not is_plain or any(each.startswith("-") and each not in _FLAGS for each in words) or "searchpath" in text:
            return None
        return cls(" ".join(words), word)


def is_answered(config_name: str) -> bool:
    """Answer a shell that asks for completions, or a user for help, if the answer is known; return whether it was.

    Args:
        config_name: name of the command's file in ``conf/``.
    """
    if asks_for_help():
        text = (read(config_name) or {}).get("help")
        if isinstance(text, str):
            sys.stdout.write(wrapped(text))
        return isinstance(text, str)
    if len(sys.argv) != 3 or sys.argv[1] not in ("-sc", "--shell_completion") or sys.argv[2] != QUERY:
        return False
    line = Line.read(os.environ.get("COMP_LINE", ""))
    known = None if line is None else read(config_name)
    found = None if line is None or known is None else _answer(known, line)
    if found is None:
        return False
    sys.stdout.write(f"{' '.join(found)}\n")
    return True


def asks_for_help() -> bool:
    """Return whether this command was called for its help alone."""
    return sys.argv[1:] in (["--help"], ["-h"])


def wrapped(text: str) -> str:
    """Wrap long lines of help: Hydra writes all options of a group on one line, of groups of other commands too."""
    lines = (
        textwrap.fill(line, _WIDTH, subsequent_indent="  ") if len(line) > _WIDTH else line
        for line in text.splitlines()
        if not line.startswith(_OF_OTHER_COMMANDS)
    )
    return "".join(f"{line}\n" for line in lines)


def read(config_name: str) -> dict[str, Any] | None:
    """Return what is known of a command; None if that is nothing, is damaged, or a file has changed since."""
    known = kept(config_name)
    with suppress(OSError):  # a folder that cannot be read
        if known is not None and known["state"] == state(known["code"], known["configurations"]):
            return known
    return None


def kept(config_name: str) -> dict[str, Any] | None:
    """Return what was kept of a command, in whatever state files are now; None if that is nothing or is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, RuntimeError):  # a user may have no home
        known: dict[str, Any] = json.loads(file_of(config_name).read_bytes())
        if all(isinstance(known[key], kind) for key, kind in _KEPT.items()):
            return known
    return None


def file_of(config_name: str) -> Path:
    """Return the file that keeps what is known of a command of this installation; raises `RuntimeError` sans home."""
    place = hashlib.blake2b(os.fsencode(f"{sys.prefix}\0{Path(__file__).parent}"), digest_size=8).hexdigest()
    return user_cache() / f"completion_{config_name}_{place}.json"


def state(code: Sequence[str], configurations: Sequence[str]) -> str:
    """Return a text that changes with any file that a composition of given places depends on.

    These are the modules and YAML files in those places, what is installed, and the plugins of Hydra, also new ones.

    Args:
        code: folders and files of menvae and of its plugins.
        configurations: folders of configuration files, perhaps yet to be made.

    Raises:
        OSError: a folder cannot be read.
    """
    folders = [Path(folder).absolute() for folder in sys.path]
    installed = distributions(folders)
    parts = [
        sys.version,
        *map(str, folders),
        *installed,
        state_of(f"{path}/entry_points.txt" for path in installed),
        state_of([*code, *(f"{folder}/hydra_plugins" for folder in folders)], ".py"),
        state_of(configurations, ".yaml"),
    ]
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _answer(known: Mapping[str, Any], line: Line) -> list[str] | None:
    """Return the completions of a line, or None if they are not known."""
    key, is_assignment, value = line.word.partition("=")
    if is_assignment and known["options"].get(key):
        return [f"{key}={option}" for option in known["options"][key] if option.startswith(value)]
    keys, assigned = _composed(known, line)
    if keys is None:
        return None
    if is_assignment:
        is_known = not value and key in keys["values"] and key not in assigned
        return [f"{line.word}{text}" for text in keys["values"][key]] if is_known else None
    parent, _, last = key.rpartition(".")
    if parent not in keys["children"] or key.startswith("."):
        return None
    start = f"{parent}." if parent else ""
    found = {f"{start}{child}" for child in keys["children"][parent] if child.startswith(last)}
    group, slash, _ = key.rpartition("/")
    for name, ending in known["groups"].get(group, ()):
        if f"{group}{slash}{name}".startswith(key):
            found.add(f"{group}{slash}{name}{ending}")
    return sorted(found)


def _composed(known: Mapping[str, Any], line: Line) -> tuple[Mapping[str, Any] | None, set[str]]:
    """Return the keys of the composition for a line, and keys whose value there is not that of the line.

    Another value of a plain key changes no other key: the composition without those that the line assigns will do.
    """
    compositions = known["compositions"]
    if line.before in compositions:
        return compositions[line.before], set()
    words = [(word, _ASSIGNMENT.fullmatch(word)) for word in line.before.split(" ")]
    assigned = {found[1] for _, found in words if found and found[1] not in known["options"]}
    rest = " ".join(word for word, found in words if not (found and found[1] in assigned))
    keys = compositions.get(rest)
    return (keys, assigned) if keys is not None and assigned <= keys["values"].keys() else (None, set())
