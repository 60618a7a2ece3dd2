"""Passwords in what a run records: one rule for files, reports and trackers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

_IN_ADDRESS = re.compile(r"(://[^/@:\s]*):(?!\d+/)(?:[^/?#\s]*@|[^@\s]*@)")
"""``://user:password@``. A password may contain ``@`` unless it also contains ``/``; ``host:5000/`` has no password."""
_IN_QUERY = re.compile(r"(?i)([?&;](?:password|passwd|pwd|sslpassword|token|access_token|odbc_connect)=)[^&;\s'\"]+")


def without_passwords(text: str) -> str:
    """Return a text in which the passwords of all addresses are masked.

    >>> without_passwords("tracking.uri=postgresql://me:secret@db/mlflow trainer.max_epochs=3")
    'tracking.uri=postgresql://me:***@db/mlflow trainer.max_epochs=3'
    >>> without_passwords("mysql://db/mlflow?user=me&password=secret"), without_passwords("http://host:5000/a@b")
    ('mysql://db/mlflow?user=me&password=***', 'http://host:5000/a@b')
    """
    return _IN_QUERY.sub(rf"\1{MASK}", _IN_ADDRESS.sub(rf"\1:{MASK}@", text))


def masked(value: Any) -> Any:
    """Return a nested container of plain values with `without_passwords` applied to every text; others are unchanged.

    >>> masked({"tracking": {"uri": "http://me:secret@host"}, "seed": 1})
    {'tracking': {'uri': 'http://me:***@host'}, 'seed': 1}
    """
    if isinstance(value, Mapping):
        return {key: masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return without_passwords(value) if isinstance(value, str) else value
