"""Servers that answer with half an answer, or in another protocol: an error that callers expect."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from common.errors import first_line
from flows.doctor import network
from flows.environment import answers, fetch, request
from flows.runs.own_state import OwnState
from flows.runs.server_watch import ServerWatch

HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
"""Beginning of an answer whose server is killed while it writes."""
OTHER = b"SSH-2.0-OpenSSH_9.6\r\n"


@contextlib.contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """A program on loopback that says the same to everybody and hangs up; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listening.accept()
                    with peer:
                        peer.recv(65536)
                        peer.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("answer", [HALF, OTHER])
def test_what_is_no_whole_answer_is_an_error_as_others(answer: bytes) -> None:
    with saying(answer) as url:
        with pytest.raises(OSError, match="no whole answer"):
            fetch(url)
        with pytest.raises(OSError, match="no whole answer"):
            request(f"{url}/flow_runs/r")
        assert not answers(url, 5)


def test_a_run_is_watched_on_after_half_an_answer() -> None:
    """An exception would end the thread, and no cancellation would ever be seen."""
    with saying(HALF) as url:
        own = OwnState("r", url, lambda state, message: None)
        watch = ServerWatch(url)
        looked = threading.Event()

        def look(there: bool) -> None:
            own.look()
            looked.set()

        watch.look = look
        watch.start()
        try:
            assert looked.wait(60)
            assert watch.watching
        finally:
            watch.stop()


def test_a_hub_that_speaks_another_protocol_is_no_traceback() -> None:
    with saying(OTHER) as url:
        reached, why, date = network.ask(url)
    assert not reached and why and date is None


@pytest.mark.parametrize(
    ("error", "line"),
    [(OSError("first\nsecond"), "first"), (OSError("\n second"), "second"), (OSError(), "OSError")],
)
def test_the_first_line_of_an_error_is_never_nothing(error: OSError, line: str) -> None:
    assert first_line(error) == line
