"""A rendezvous for ranks of one machine, whose only port listens on loopback.

torchrun's own rendezvous listens on every interface of the machine, even with `--standalone`, so
anyone in the network could write into a training's store. One machine need not search for others.
"""

import socket

from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

NAME = "loopback"
"""Name of this rendezvous for torchrun's `--rdzv-backend`."""
HOST = "127.0.0.1"


def register() -> None:
    """Register the rendezvous with torchrun in this process."""
    rendezvous_handler_registry.register(NAME, LoopbackRendezvous)


def listen_on_loopback() -> TCPStore:
    """Open a store that only ranks of this machine can reach."""
    server = socket.socket()
    server.bind((HOST, 0))
    server.listen(1024)
    port = server.getsockname()[1]
    return TCPStore(
        HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach()
    )


class LoopbackRendezvous(RendezvousHandler):
    """Rendezvous of one node, complete at once."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id
        self._store: TCPStore | None = None
        self._closed = False

    def get_backend(self) -> str:
        return NAME

    @property
    def use_agent_store(self) -> bool:
        """Ranks meet in the store that this process holds, and open none of their own."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        self._store = self._store or listen_on_loopback()
        store: Store = self._store
        where = RendezvousStoreInfo(HOST, self._store.port)
        return RendezvousInfo(store, 0, 1, where)

    def is_closed(self) -> bool:
        return self._closed

    def set_closed(self) -> None:
        self._closed = True

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return str(self._run_id)

    def shutdown(self) -> bool:
        self._closed = True
        return True
