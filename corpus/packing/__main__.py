"""A worker process of packing: reads the job and then partitions from stdin, a JSON line each.

stdin   {"backend": …, "folder": …}   {"path": …, "start": …}   …   end: stop
stdout  {"at": bytes} … {"shards": […]}   or   {"error": {"type": …, "message": …}}
"""

import json
import os
import queue
import select
import signal
import sys
import threading
from dataclasses import asdict
from typing import Any

from common.errors import SteelError
from corpus.packing.pack_partition import PackJob, pack_partition
from corpus.partitions import Partition


def main() -> None:
    """Pack the partitions that come in, until stdin ends or the parent process is gone."""
    # Ctrl-C reaches the whole terminal; the parent decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints must not get between the messages.
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines, os.getppid()), daemon=True).start()

    def say(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message).encode() + b"\n")
        messages.flush()

    job = PackJob(**json.loads(lines.get()))
    try:
        encoder = job.encoder()
        while True:
            partition = Partition(**json.loads(lines.get()))
            shards = pack_partition(job, encoder, partition, lambda at: say({"at": at}))
            say({"shards": [asdict(shard) for shard in shards]})
    except SteelError as error:
        say({"error": {"type": type(error).__name__, "message": str(error)}})
    except OSError as error:
        say({"error": {"type": "OSError", "errno": error.errno, "message": str(error)}})
    sys.exit(1)


def _listen(lines: "queue.SimpleQueue[bytes]", parent: int) -> None:
    """Hand on what comes in; end the process, whatever it is doing, when nothing more can."""
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], 1.0)
        if ready:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                os._exit(0)
            *complete, buffer = (buffer + chunk).split(b"\n")
            for line in complete:
                lines.put(line)
        elif os.getppid() != parent:
            os._exit(1)


if __name__ == "__main__":
    main()
