"""Worker processes for the preparation of many subjects, with progress display."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Protocol, TypeVar

from threadpoolctl import threadpool_limits

from menvae.cores import num_cores
from menvae.errors import UserError
from menvae.interruption import leave_stopping_to_parent

Task = TypeVar("Task")
Result = TypeVar("Result")

_IMPORTED_ONCE = ["menvae.data.cache.prepare", "menvae.data.phantom.growth", "scipy.ndimage", "scipy.spatial"]
"""What the server imports, and workers find imported: the modules of their tasks, and what these import late."""
_TASKS_AHEAD = 4  # results that wait, besides those that workers compute


class ShowProgress(Protocol):
    """Wraps an iterator to display progress."""

    def __call__(self, items: Iterator[Result], description: str, total: int) -> Iterator[Result]:
        """Yield the items unchanged."""


def unseen(items: Iterator[Result], description: str, total: int) -> Iterator[Result]:
    """Show nothing."""
    return items


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    num_workers: int | None = None,
    modules: Iterable[str] = (),
) -> Iterator[Result]:
    """Yield ``function(task)`` for all tasks from worker processes, in order of completion.

    Workers fork from a small server that has imported the preparation once, use one thread each, and exit when the
    parent exits for any reason. The first error cancels pending tasks and is raised.

    Args:
        function: importable function.
        tasks: picklable arguments.
        num_workers: worker processes; None uses one per available core.
        modules: what the server imports too, if it starts now: modules of plugins, which may import torch.

    Raises:
        UserError: if memory runs out, or workers are killed or cannot start.
    """
    tasks = list(tasks)
    with _pool(num_workers, len(tasks), modules) as pool:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def run_in_order(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    num_workers: int | None = None,
    modules: Iterable[str] = (),
) -> Iterator[Result]:
    """Yield ``function(task)`` for all tasks like `run_tasks`, but in the order of the tasks.

    Workers are only a few tasks ahead of the caller, so that results that are not used yet do not fill the memory.

    Args:
        function: importable function.
        tasks: picklable arguments.
        num_workers: worker processes; None uses one per available core.
        modules: as for `run_tasks`.

    Raises:
        UserError: as for `run_tasks`.
    """
    tasks = list(tasks)
    with _pool(num_workers, len(tasks), modules) as pool:
        ahead = _TASKS_AHEAD + (num_workers or num_cores())
        futures = deque(pool.submit(function, task) for task in tasks[:ahead])
        try:
            for number in range(len(tasks)):
                found = futures.popleft().result()
                if number + ahead < len(tasks):
                    futures.append(pool.submit(function, tasks[number + ahead]))
                yield found
        finally:
            for future in futures:
                future.cancel()


@contextmanager
def _pool(num_workers: int | None, num_tasks: int, modules: Iterable[str]) -> Iterator[ProcessPoolExecutor]:
    """Provide worker processes, and say in one sentence what ended them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED_ONCE, *modules])
    workers = max(1, min(num_workers or num_cores(), num_tasks))
    has_started = context.Event()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(has_started,)) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            if not has_started.is_set():
                raise UserError(
                    "data: worker processes cannot start; their messages are above (a script that calls menvae needs "
                    "if __name__ == '__main__':)"
                ) from None
            raise UserError(
                f"data: one of {workers} worker processes was killed, most likely because memory ran out; give the job "
                "more memory, or prepare with fewer processes (menvae-prepare num_workers=1)"
            ) from None
        except MemoryError as error:
            raise UserError(
                f"data: out of memory ({error}); reduce data.roi_size or increase data.spacing_mm"
            ) from None


def _start_worker(has_started: Event) -> None:
    leave_stopping_to_parent()
    threadpool_limits(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    has_started.set()
