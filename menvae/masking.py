"""Passwords in what a run records: one rule for files, reports and trackers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MASK = "***"

_TOKEN = re.compile(r"(https?://)[^/@:\s]+(?::(?:x-oauth-basic)?)?@")
"""``https://token@``: web services take a token as the user, without a password. Databases name a user there."""
_IN_ADDRESS = re.compile(r"(://[^/@:\s]*):(?:[^/?#\s]*@|[^@\s]*@)")
"""``://user:password@``. A password may contain ``@`` unless it also contains ``/``. In ``host:5000/a@b``, ``5000/a``
may be one, and is masked to be safe."""
_IN_QUERY = re.compile(
    r"(?i)([?&;](?:password|passwd|pwd|sslpassword|token|access_token|api_key|secret|sig|odbc_connect)=)[^&;\s'\"]+"
)

_SECRET = r"[A-Z][A-Z0-9_]*(?:PASSWORD|PASSWD|TOKEN|SECRET|KEY)"
_IN_VARIABLE = re.compile(rf"(\b{_SECRET}(?:=|: ?))(?:'[^']*'|\"[^\"]*\"|[^\s,}}]+)")
"""Environment variables, such as ``MLFLOW_TRACKING_PASSWORD=...`` or, in a mapping, with a colon."""


_MAY_BE_SECRET = re.compile(r"://|[?&;][A-Za-z_]+=|PASSWORD|PASSWD|TOKEN|SECRET|KEY")
"""What every text and every name of a variable contains in which something is masked."""


@lru_cache(maxsize=4096)
def without_passwords(text: str) -> str:
    """Return a text in which the passwords of all addresses and of environment variables are masked.

    >>> without_passwords("tracking.uri=postgresql://me:secret@db/mlflow trainer.max_epochs=3")
    'tracking.uri=postgresql://me:***@db/mlflow trainer.max_epochs=3'
    >>> without_passwords("mysql://db/mlflow?user=me&password=secret"), without_passwords("https://token@host:5000/a")
    ('mysql://db/mlflow?user=me&password=***', 'https://***@host:5000/a')
    """
    text = _TOKEN.sub(rf"\1{MASK}@", text)
    text = _IN_QUERY.sub(rf"\1{MASK}", _IN_ADDRESS.sub(rf"\1:{MASK}@", text))
    return _IN_VARIABLE.sub(rf"\1{MASK}", text)


def masked(value: Any) -> Any:
    """Return a nested container of plain values without passwords; other values are unchanged.

    `without_passwords` is applied to every text, and values of environment variables that hold a secret are masked.

    >>> masked({"tracking": {"uri": "http://me:secret@host"}, "seed": 1})
    {'tracking': {'uri': 'http://me:***@host'}, 'seed': 1}
    """
    if isinstance(value, Mapping):
        return {key: MASK if _is_secret(key, item) else masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return without_passwords(value) if isinstance(value, str) else value


def holds_password(value: Mapping[str, Any], text: str) -> bool:
    """Return whether `masked` changes a nested container.

    Args:
        value: the container.
        text: the same as JSON; in most there is nothing to look for, which this says many times faster.
    """
    return _MAY_BE_SECRET.search(text) is not None and masked(value) != value


def _is_secret(key: object, value: object) -> bool:
    return isinstance(value, str) and _names_secret(str(key))


@lru_cache(maxsize=4096)
def _names_secret(key: str) -> bool:
    return re.fullmatch(_SECRET, key) is not None
