"""How configuration files are read: YAML as Hydra reads it, but digits that are no decimal number stay text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

_INTEGER = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_NO_NUMBER = re.compile(r"[-+]?0[0-9_]*[0-9][0-9_]*|[-+]?[0-9][0-9_]*(?::[0-9]+)+(?:\.[0-9_]*)?")
"""Numbers of YAML 1.1 that nobody means: 0123, which is 83 in base 8, and 12:30:00, which is 45000 in base 60."""
_MAY_HOLD_ONE = re.compile(rf"(?<![\w.])(?:{_NO_NUMBER.pattern})(?![\w.])")


def read_digits_as_typed() -> None:
    """Make Hydra read files with `DecimalFiles`; call before a Hydra application starts."""
    Plugins.instance()  # registers Hydra's own class first
    SourcesRegistry.instance().types["file"] = DecimalFiles


class DecimalFiles(FileConfigSource):
    """Hydra's source of files, without octal and sexagesimal numbers: clock times and account numbers stay text."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read one file; raises as Hydra does."""
        result = super().load_config(config_path)
        path = Path(self.path) / self._normalize_file_name(config_path)
        text = path.read_text(encoding="utf-8")
        if _MAY_HOLD_ONE.search(text):
            content = yaml.load(text, Loader=_loader())
            result.config = OmegaConf.create(content)
        return result


def _loader() -> Any:
    """Return OmegaConf's loader, which does not take `_NO_NUMBER` for numbers."""
    loader = get_yaml_loader()
    loader.yaml_implicit_resolvers = {
        first: [(tag, _decimal(tag, expression)) for tag, expression in resolvers]
        for first, resolvers in loader.yaml_implicit_resolvers.items()
    }
    return loader


def _decimal(tag: str, expression: re.Pattern[str]) -> re.Pattern[str]:
    """Return the expression of a YAML type; for numbers, without `_NO_NUMBER`."""
    if tag not in (_INTEGER, _FLOAT):
        return expression
    return re.compile(rf"(?!(?:{_NO_NUMBER.pattern})$)(?:{expression.pattern})", expression.flags)
