"""How configuration files are read: YAML as Hydra reads it, but digits that are no decimal number stay text.

Text for launchers, such as an account called ``1_000``, also stays as typed where YAML 1.1 would read another number.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

_INTEGER = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_NO_NUMBER = re.compile(r"[-+]?0[0-9_]*[0-9][0-9_]*|[-+]?[0-9][0-9_]*(?::[0-9]+)+(?:\.[0-9_]*)?")
"""Numbers of YAML 1.1 that nobody means: 0123, which is 83 in base 8, and 12:30:00, which is 45000 in base 60."""
_REWRITTEN = re.compile(r"\+.*|-?0[xb].*|.*_.*")
"""Numbers of YAML 1.1 whose text is lost: +5, 0x1F, 0b11, 1_000."""
_NO_DECIMAL = re.compile(f"{_NO_NUMBER.pattern}|{_REWRITTEN.pattern}")
_TEXT = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "comment", "gres", "name")
_ABOUT_LAUNCHING = {
    "hydra.launcher": (*_TEXT, "environment", "additional_parameters"),
    "hydra.job": ("env_set",),
}
"""Section -> its keys that are text, or mappings to text."""


def read_digits_as_typed() -> None:
    """Make Hydra read files with `DecimalFiles`; call before a Hydra application starts."""
    Plugins.instance()  # registers Hydra's own class first
    SourcesRegistry.instance().types["file"] = DecimalFiles


def yaml_content(text: str) -> Any:
    """Return the content of a YAML text as `DecimalFiles` reads it; raises a `yaml.YAMLError`."""
    return yaml.load(text, Loader=_loader(_NO_NUMBER))


class DecimalFiles(FileConfigSource):
    """Hydra's source of files, without octal and sexagesimal numbers: clock times and account numbers stay text."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one file; raises as Hydra does."""
        path = Path(self.path) / self._normalize_file_name(config_path)
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml_content(text)
        except (OSError, UnicodeError, yaml.YAMLError):
            content = None
        if not isinstance(content, dict):
            return super().load_config(config_path)  # which knows what is wrong, or what else a file may hold
        header = ConfigSource._get_header_dict(text[:512])
        result = ConfigResult(self.provider, f"{self.scheme()}://{self.path}", OmegaConf.create(content), header)
        self._keep_text_of_launchers(config_path, text, result)
        return result

    def is_group(self, config_path: str) -> bool:
        """Return whether a folder exists."""
        return Path(self.path, config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        """Return whether a file exists."""
        return Path(self.path, self._normalize_file_name(config_path)).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the names of the files and folders in a folder; Hydra resolves each path several times."""
        found: set[str] = set()
        for entry in Path(self.path, config_path).iterdir():
            if results_filter != ObjectType.CONFIG and entry.name != "__pycache__" and entry.is_dir():
                found.add(entry.name)
            if results_filter != ObjectType.GROUP and entry.suffix == ".yaml" and entry.is_file():
                found.add(entry.stem)
        return sorted(found)

    @staticmethod
    def _normalize_file_name(filename: str) -> str:
        return filename if filename.endswith(".yaml") else f"{filename}.yaml"

    def _keep_text_of_launchers(self, config_path: str, text: str, result: ConfigResult) -> None:
        """Replace the values of `_TEXT` in the part of a file that is about launching by what was typed."""
        if config_path.startswith("hydra/launcher/"):
            package = "hydra.launcher"
        else:
            package = (result.header or {}).get("package") or ""
        if "launcher" not in package and not re.search(r"launcher|env_set", text):
            return
        typed = yaml.load(text, Loader=_loader(_NO_DECIMAL))
        for section, keys in _ABOUT_LAUNCHING.items():
            inside = "" if section == package else section
            for key in (f"{inside}.{key}".strip(".") for key in keys):
                value = _entry(typed, key)
                if isinstance(value, str | dict):
                    OmegaConf.update(result.config, key, value, merge=False)


DecimalFiles.__name__ = FileConfigSource.__name__  # else Hydra refuses its own class in a job that registers it again


def _entry(node: Any, key: str) -> Any:
    """Return the entry of a nested mapping at a dotted key, with interpolations as they are; None without one."""
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


class _DistinctKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A loader that refuses a key given twice, as OmegaConf's does; in C where PyYAML has its C library."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; raises a `yaml.YAMLError` for a key given twice."""
        keys = [key.value for key, _ in node.value if key.tag == yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG]
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(problem="found duplicate key", problem_mark=node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


@cache
def _loader(text: re.Pattern[str]) -> Any:
    """Return a loader that reads as OmegaConf's, but takes what matches ``text`` for text, not for numbers."""
    known = get_yaml_loader()
    resolvers = {
        first: [(tag, _decimal(tag, expression, text)) for tag, expression in found]
        for first, found in known.yaml_implicit_resolvers.items()
    }
    of_it = {"yaml_constructors": known.yaml_constructors, "yaml_implicit_resolvers": resolvers}
    return type("_DecimalLoader", (_DistinctKeys,), of_it)


def _decimal(tag: str, expression: re.Pattern[str], text: re.Pattern[str]) -> re.Pattern[str]:
    """Return the expression of a YAML type; for numbers, without what matches ``text``."""
    if tag not in (_INTEGER, _FLOAT):
        return expression
    return re.compile(rf"(?!(?:{text.pattern})$)(?:{expression.pattern})", expression.flags)
