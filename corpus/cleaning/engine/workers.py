"""A pool of forked worker processes that returns results in the order of the work."""

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from common.errors import StageError
from common.processes import die_with_parent

In = TypeVar("In")
Out = TypeVar("Out")


def map_in_workers(
    function: Callable[[In], Out],
    work: Iterable[In],
    workers: int,
    tick: Callable[[], None],
    remedy: str = "fewer clean.workers or a smaller clean.partition_bytes",
) -> Iterator[Out]:
    """Results of `function`, in the order of `work`, from forked worker processes.

    Args:
        tick: called a few times a second.
        remedy: settings to run again with where memory ran out.

    Raises:
        StageError: a worker was killed. Whatever `function` raises.
    """
    if workers == 1:
        for element in work:
            yield function(element)
            tick()
        return
    global _function
    _function = function
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=die_with_parent, initargs=(signal.SIGKILL,)
    )
    waiting: list[Future[Out]] = []
    iterator = iter(work)
    try:
        while True:
            # A short queue: a corpus of terabytes has a hundred thousand partitions.
            for element in itertools.islice(iterator, 4 * workers - len(waiting)):
                waiting.append(pool.submit(_call, element))
            if not waiting:
                return
            while waiting and waiting[0].done():
                yield waiting.pop(0).result()
            tick()
            if waiting:
                wait([f for f in waiting if not f.done()], timeout=0.2, return_when=FIRST_COMPLETED)
    except BrokenProcessPool:
        raise StageError(
            "a worker process was killed, most likely because memory ran out. What is finished is "
            f"kept: run again with {remedy}."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_function: Any = None
"""The function that workers call: operators cannot be sent to them, only inherited."""


def _call(element: Any) -> Any:
    return _function(element)
