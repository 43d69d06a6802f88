"""A whole run in a store on a tiny disk, which is filled up at named places, and emptied again.

    unshare --mount python -m tests.flows.full_disk_run JOB.json

Prints a JSON line an attempt: exit code, what was printed, what stands finished in the store; the
last attempt is the one whose disk has room.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.faults.places import Fault, struck
from tests.flows.whole_run import SteelRun, result, unfinished

SIZE = "700m"
"""Bytes of the disk: the run asks for 320 MB before it begins, and writes about 60."""


def finished(store: Path) -> dict[str, object]:
    """Files under their final names, in folders under theirs."""
    return {
        name: digest
        for name, digest in result(store).items()
        if ".partial/" not in name and (store / name).exists()
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    config, home, store, prepared = (
        Path(job[name]) for name in ("config", "home", "store", "prepared")
    )
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(store)], check=True)
    shutil.copytree(prepared, store, dirs_exist_ok=True)
    for fault in job["faults"]:
        run = SteelRun(config, store, home, Fault(**fault))
        attempt = {"code": run.wait(), "text": run.text, "struck": struck(store)}
        print(json.dumps({**attempt, "result": finished(store)}), flush=True)
        (store / "ballast").unlink(missing_ok=True)
    run = SteelRun(config, store, home)
    last = {"code": run.wait(), "text": run.text}
    print(json.dumps({**last, "result": result(store), "unfinished": unfinished(store)}))


if __name__ == "__main__":
    main()
