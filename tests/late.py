"""Packages that take seconds to import: each process of the tests collects all modules, and needs them in a few."""

from __future__ import annotations

import importlib
from typing import Any


class Late:
    """A module that is imported when something of it is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
