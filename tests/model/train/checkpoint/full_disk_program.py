"""Train onto a tiny disk, mounted in a user namespace of its own; once full, once freed.

    python full_disk_program.py JOB.json

Prints a JSON line: the error, the steps done when it came, the checkpoints then and in the end.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.config import from_json
from common.errors import StageError
from model.train.build import build
from model.train.checkpoint.folders import complete_checkpoints
from model.train.config import PretrainJob
from model.train.distributed.context import distributed_context
from model.train.distributed.signals import StopFlag
from model.train.run.folder import CHECKPOINTS_FOLDER
from model.train.trainer import Trainer

if __name__ == "__main__":
    job = from_json(PretrainJob, Path(sys.argv[1]))
    disk = Path(job.output)
    checkpoints = disk / CHECKPOINTS_FOLDER
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], check=True)
    ballast = disk / "ballast"
    step = Trainer._step

    def fill(trainer: Trainer) -> Any:
        if trainer.progress.step == 3:
            trainer.checkpoints.wait()
            with ballast.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(1 << 14))
                except OSError:
                    file.truncate(file.tell() - (1 << 17))  # lines of measurements still fit
        return step(trainer)

    result: dict[str, Any] = {}
    with distributed_context() as ranks:
        run = build(job, ranks, StopFlag())
        Trainer._step = fill  # type: ignore[method-assign]
        try:
            run.fit()
        except StageError as error:
            result |= {"error": str(error), "step": run.progress.step}
        result["full"] = sorted(path.name for path in checkpoints.iterdir())
        Trainer._step = step  # type: ignore[method-assign]
        ballast.unlink()
        run.close()
        again = build(job, ranks, StopFlag())
        again.fit()
        again.close()
    result["freed"] = [path.name for path in complete_checkpoints(checkpoints)]
    print(json.dumps(result))
