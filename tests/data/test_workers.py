"""Worker processes: how many, and what is said when one of them cannot go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import menvae
from menvae.cores import num_cores
from menvae.data.workers import run_in_order, run_tasks
from menvae.errors import UserError


def end_like_the_kernel(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def ask_for_too_much(number: int) -> int:
    raise MemoryError(f"no room for {number} boxes")


def test_a_worker_that_is_killed_is_told_in_words() -> None:
    with pytest.raises(UserError, match=r"was killed, most likely because memory ran out; .*num_workers=1"):
        list(run_tasks(end_like_the_kernel, range(3), num_workers=1))


def test_workers_that_cannot_start_are_told_in_words(tmp_path: Path) -> None:
    """A script without the usual guard starts itself again in every worker."""
    script = tmp_path / "mine.py"
    script.write_text("from menvae.data.workers import run_tasks\nprint(list(run_tasks(abs, [1], num_workers=1)))\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert "UserError: data: worker processes cannot start" in done.stderr
    assert "memory" not in done.stderr.splitlines()[-1]


def test_memory_that_runs_out_is_told_in_words() -> None:
    with pytest.raises(UserError, match=r"^data: out of memory \(no room for 7 boxes\); reduce data.roi_size"):
        list(run_tasks(ask_for_too_much, [7], num_workers=1))


def sleep_less_and_less(number: int) -> int:
    time.sleep(0.05 * (5 - number))
    return -number


def test_results_come_in_the_order_of_the_tasks() -> None:
    assert list(run_in_order(sleep_less_and_less, range(5), num_workers=2)) == [0, -1, -2, -3, -4]
    with pytest.raises(UserError, match=r"^data: out of memory"):
        list(run_in_order(ask_for_too_much, [7], num_workers=1))


def test_workers_wait_for_a_caller_who_is_slow(tmp_path: Path) -> None:
    """A caller who takes one of a hundred results finds only a few more computed."""
    results: Iterator[None] = run_in_order(Path.touch, [tmp_path / str(number) for number in range(100)], num_workers=2)
    next(results)
    time.sleep(0.5)
    assert 1 <= len(list(tmp_path.iterdir())) < 10
    assert sum(1 for _ in results) == 99
    assert len(list(tmp_path.iterdir())) == 100


@pytest.mark.skipif(sys.platform != "linux", reason="only there can a process be kept to some cores")
def test_cores_that_a_job_was_not_given_are_not_counted() -> None:
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert num_cores() == 1
    finally:
        os.sched_setaffinity(0, mine)
    assert num_cores() == len(mine)


def test_tasks_of_a_preparation_need_no_torch() -> None:
    """Every worker would import it again."""
    tasks = (
        "from menvae.data.cache.prepare import _prepare_entry",
        "from menvae.data.phantom.growth import make_visit",
        "from menvae.data.phantom.head import make_subject",
    )
    program = "\n".join([*tasks, "import sys", "print('torch' in sys.modules)"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_module_of_a_plugin_is_imported_once_for_all_workers(tmp_path: Path) -> None:
    imports = tmp_path / "imports"
    (tmp_path / "mine.py").write_text(f"open({str(imports)!r}, 'a').write('x')\n\ndef negative(n):\n    return -n\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import mine\nfrom menvae.data.workers import run_tasks\n\nif __name__ == '__main__':\n"
        "    for _ in range(2):\n"
        "        print(sorted(run_tasks(mine.negative, range(4), num_workers=2, modules=['mine'])))\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(menvae.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == 2 * "[-3, -2, -1, 0]\n"
    assert imports.read_text() == "xx", "here and in the server"
