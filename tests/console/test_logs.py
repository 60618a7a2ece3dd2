"""TODO."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from menvae.console import logs

logger = logging.getLogger("menvae.somewhere")


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    yield
    logs.release()


def test_plain_console_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(tmp_path / "run")
    logger.info("dice [bold]0.8[/bold] %s", "x" * 200)
    logger.warning("careful")
    logger.debug("not shown")
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first[9:] == f"dice [bold]0.8[/bold] {'x' * 200}"
    assert second[9:] == "warning: careful"
    lines = (tmp_path / "run" / "train.log").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("20")
    assert lines[1].endswith(" WARNING careful")


def test_next_run_of_the_process_has_its_own_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second", "first"):
        logs.configure(tmp_path / name)
        logger.info("run %s", name)
    logs.release()
    logger.info("after")
    assert len((tmp_path / "first" / "train.log").read_text().splitlines()) == 2
    assert len((tmp_path / "second" / "train.log").read_text().splitlines()) == 1
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_traceback_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(None)
    try:
        raise RuntimeError("deep")
    except RuntimeError:
        logger.exception("it broke")
    err = capsys.readouterr().err
    assert "error: it broke" in err
    assert "RuntimeError: deep" in err


def test_terminal_has_colours_and_the_file_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "console", Console(stderr=True, force_terminal=True, color_system="standard"))
    logs.configure(tmp_path)
    logger.error("red")
    assert "\x1b[31m" in capsys.readouterr().err
    assert "\x1b" not in (tmp_path / "train.log").read_text()


def test_no_message_reaches_the_root_logger(caplog: pytest.LogCaptureFixture) -> None:
    logs.configure(None)
    logger.info("once")
    assert caplog.records == []
    logs.release()
    logger.warning("again")
    assert caplog.messages == ["again"]
