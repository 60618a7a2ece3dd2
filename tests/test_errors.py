import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from menvae.apps.outcome import carry_out
from menvae.errors import ExitCode, UserError, nearest


def test_exit_codes_that_scripts_rely_on() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0,
        "WRONG_INPUT": 2,
        "GATES_NOT_MET": 3,
        "COLLAPSED": 4,
        "INTERRUPTED": 75,
    }


def test_user_error_is_a_value_error() -> None:
    assert issubclass(UserError, ValueError)


def test_nearest_offers_what_is_near_and_lists_what_is_known() -> None:
    assert nearest("vool", ["vol", "loc"]) == "did you mean 'vol'? known: loc, vol"
    assert nearest("qqq", ["vol", "loc"]) == "known: loc, vol"
    assert nearest("x", []) == "known: none"


@given(st.text(max_size=8), st.lists(st.text("abc", min_size=1, max_size=4), unique=True))
def test_nearest_is_one_line_that_lists_everything(word: str, known: list[str]) -> None:
    hint = nearest(word, known)
    assert "\n" not in hint
    assert all(name in hint for name in known)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC])
def test_faults_of_a_disk_end_in_a_sentence(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> int:
        raise OSError(code, os.strerror(code), "/data/a")

    assert carry_out("train", read) == ExitCode.WRONG_INPUT
    assert capsys.readouterr().err == f"menvae-train: '/data/a': {os.strerror(code)}\n"
