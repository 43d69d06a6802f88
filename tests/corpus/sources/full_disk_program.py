"""Acquire onto a tiny disk, mounted in a user namespace of its own; once full, once freed.

Prints a JSON line: the error, and what stood finished after it and after the second run.
"""

import json
import subprocess
import sys
from pathlib import Path

from common import disk as _disk
from common.errors import DataError
from tasks.acquire import AcquireConfig, acquire
from tests.tasks.running import run_stage


def finished(folder: Path) -> dict[str, int]:
    """Sizes of the files that are seen."""
    if not folder.exists():
        return {}
    return {
        str(p.relative_to(folder)): p.stat().st_size
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.suffix != ".partial"
    }


if __name__ == "__main__":
    disk, location, fraction = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(disk)], check=True)
    _disk.RESERVE = -(2**40)  # nobody looked: the disk fills up while it is written
    config = AcquireConfig(kind="corpora", datasets={"skypile": location}, fraction=fraction)
    (disk / "ballast").write_bytes(bytes(6 * 1024**2))
    error = ""
    try:
        run_stage(acquire, disk / "out", config)
    except DataError as caught:
        error = str(caught)
    full = finished(disk / "out" / "skypile")
    (disk / "ballast").unlink()
    run_stage(acquire, disk / "out", config)
    print(json.dumps({"error": error, "full": full, "freed": finished(disk / "out" / "skypile")}))
