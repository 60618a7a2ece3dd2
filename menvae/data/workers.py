"""Worker processes for the preparation of many subjects, and the way to show how far it is."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from threadpoolctl import threadpool_limits

from menvae.cores import num_cores
from menvae.errors import UserError
from menvae.interruption import leave_stopping_to_parent

Task = TypeVar("Task")
Result = TypeVar("Result")


class ShowProgress(Protocol):
    """Wraps an iterator to show how far it is."""

    def __call__(self, items: Iterator[Result], description: str, total: int) -> Iterator[Result]:
        """Yield the items unchanged."""


def unseen(items: Iterator[Result], description: str, total: int) -> Iterator[Result]:
    """Show nothing."""
    return items


def run_tasks(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, num_workers: int | None = None
) -> Iterator[Result]:
    """Yield ``function(task)`` for all tasks from worker processes, in the order in which they are finished.

    The workers fork from a small server that has imported the preparation once, hold one thread each, and end when the
    parent ends, however it ends. The first error cancels what has not begun, and is raised.

    Args:
        function: importable from a module.
        tasks: picklable arguments.
        num_workers: processes; None is one a core that this process may use.

    Raises:
        UserError: memory ran out, or a worker was ended from outside.
    """
    tasks = list(tasks)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["menvae.data.cache.prepare", "menvae.data.phantom.head"])
    workers = max(1, min(num_workers or num_cores(), len(tasks)))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise UserError(
                f"data: one of {workers} processes that worked on subjects was ended from outside, most often because "
                "memory ran out; give the job more, or prepare with fewer processes (menvae-prepare num_workers=1)"
            ) from None
        except MemoryError as error:
            raise UserError(
                f"data: memory ran out ({error}); make data.roi_size smaller or data.spacing_mm larger"
            ) from None
        finally:
            for future in futures:
                future.cancel()


def _start_worker() -> None:
    leave_stopping_to_parent()
    threadpool_limits(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
