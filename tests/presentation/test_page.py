"""Pages: escaped, and with no script but their own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from menvae.presentation.page import render

TEMPLATE = (
    '{% extends "frame.html" %}{% from "macros.html" import facts %}{% block main %}{{ facts(rows) }}{% endblock %}'
)
CONTENT = {"title": "a <title>", "subtitle": "", "rows": [("key", "<b>value</b>")]}


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(TEMPLATE)
    return path


def test_content_is_escaped_and_no_script_is_allowed(template: Path) -> None:
    page = render(template, CONTENT)
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>a &lt;title&gt;</title>" in page
    assert "<dd>&lt;b&gt;value&lt;/b&gt;</dd>" in page
    assert "script" not in page


def test_the_script_of_a_page_is_in_its_policy_by_hash(template: Path) -> None:
    script = "const less = 1 < 2 && '\N{UP DOWN ARROW}';"
    page = render(template, CONTENT, script=script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"<script>{script}</script>" in page
    assert f"script-src 'sha256-{digest}'" in page
