"""`python -m corpus.packing JOB.json`: a worker process of packing (common/child.py).

stdin   a partition as a JSON line, {"path": …, "start": …}   …   end: stop
stdout  {"at": bytes} … {"shards": […]} for each
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

from common.child import run_job
from common.processes import die_with_parent
from corpus.packing.pack_partition import PackJob, pack_partition
from corpus.partitions import Partition


def pack_from_stdin(job: PackJob) -> None:
    """Pack the partitions that come in, until stdin ends."""
    die_with_parent(signal.SIGKILL)
    # Whatever a library prints must not get between the messages.
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message).encode() + b"\n")
        messages.flush()

    encoder = job.encoder()
    for line in sys.stdin.buffer:
        partition = Partition(**json.loads(line))
        shards = pack_partition(job, encoder, partition, lambda at: send({"at": at}))
        send({"shards": [asdict(shard) for shard in shards]})


if __name__ == "__main__":
    sys.exit(run_job(PackJob, pack_from_stdin, sys.argv[1:]))
