"""A line between neighbouring ranks: it breaks when one dies, whatever the other one waits in.

    rank 0 ═══ rank 1 ═══ rank 2 ═══ … ═══ rank 0      a thread for each end waits for one message:
      goodbye      that neighbour leaves in an orderly way
      a rank       that one is gone; passed on to the other neighbour
      none, and the connection breaks: the neighbour itself is gone, which is passed on likewise

gloo's collectives fail when a rank dies; NCCL's do not: within a machine their kernels wait for
ever, and the thread that waits for the device answers no signal (docs/adr/0014). So every rank
learns of a death here, in milliseconds and on all machines, and ends by itself with the reason. A
machine that loses its power closes no connection: then the watchdog's time limit counts.
"""

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from model.train.distributed.context import DistributedContext
from model.train.distributed.signals import Stopped

GOODBYE = -1
"""Message of a rank that leaves in an orderly way; others are the number of one that is gone."""

FOR_EVER = datetime.timedelta(days=3650)
"""Time that the line may be silent."""

CLOSING_SECONDS = 5.0
"""Seconds for a message to a neighbour, and for the neighbours' own when this rank leaves."""

FAILING_SECONDS = 0.5
"""The same for a rank that ends because of an error."""


class Lifeline:
    """This rank's ends of the line.

    Args:
        ranks: this rank among all, of which there are at least two; all ranks build it at once.
        on_lost: called once, by a thread of the line, with the number of a rank that is gone and
            `left`; not after `leave`.
    """

    def __init__(
        self, ranks: DistributedContext, on_lost: Callable[[int, threading.Event], None]
    ) -> None:
        self._on_lost = on_lost
        self._group = dist.new_group(backend="gloo")
        self._neighbours = sorted({(ranks.rank + step) % ranks.world_size for step in (-1, 1)})
        self._lock = threading.Lock()
        self._told: set[int] = set()
        self._lost = False
        self.left = threading.Event()
        """Set when this rank's training thread needs to be told no more: it waits for nothing that
        hangs, or ends because of an error."""
        self._threads = [
            threading.Thread(target=self._listen, args=(n,), daemon=True, name=f"lifeline {n}")
            for n in self._neighbours
        ]
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """Whoever is lost from here on is noticed by the training thread itself."""
        self.left.set()

    def close(self, *, orderly: bool) -> None:
        """Leave; orderly: the others are told that this is no death."""
        self.leave()
        if orderly:
            for neighbour in self._neighbours:
                self._tell(neighbour, GOODBYE)
        # Those that were told wait for the same of us; where this rank fails because another one is
        # gone, the line needs a moment to pass that on: its own end would be taken for the cause.
        until = time.monotonic() + (CLOSING_SECONDS if orderly else FAILING_SECONDS)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _listen(self, neighbour: int) -> None:
        message = torch.empty(1, dtype=torch.int64)
        try:
            work = dist.irecv(message, src=neighbour, group=self._group)
            assert work is not None, "this rank is in the group"
            work.wait(FOR_EVER)
            lost = int(message)
        except RuntimeError:  # as gloo reports a broken connection
            lost = neighbour
        if lost == GOODBYE:
            return
        with self._lock:
            first, self._lost = not self._lost, True
        if not first:
            return
        for other in self._neighbours:
            if other != neighbour:
                self._tell(other, lost)
        if not self.left.is_set():
            self._on_lost(lost, self.left)

    def _tell(self, neighbour: int, message: int) -> None:
        """Send a neighbour its one message, if it is still there."""
        with self._lock:
            if neighbour in self._told:
                return
            self._told.add(neighbour)
        with contextlib.suppress(RuntimeError):
            work = dist.isend(torch.tensor([message]), dst=neighbour, group=self._group)
            if work is not None:
                work.wait(datetime.timedelta(seconds=CLOSING_SECONDS))


@contextlib.contextmanager
def lifeline(
    ranks: DistributedContext, on_lost: Callable[[int, threading.Event], None]
) -> Iterator[Callable[[], None]]:
    """Hold the line while the block runs; gives a function to call before the block's last part,
    which waits for nothing that hangs.

    on_lost: called by another thread with the number of a rank that is gone, and the event that
    this rank's training thread has noticed by itself.
    """
    if ranks.world_size == 1:
        yield lambda: None
        return
    line = Lifeline(ranks, on_lost)
    orderly = False
    try:
        yield line.leave
        orderly = True
    except Stopped:
        orderly = True
        raise
    finally:
        line.close(orderly=orderly)
