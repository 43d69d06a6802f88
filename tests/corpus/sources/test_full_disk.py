"""A disk that is really full, while files are copied, downloaded, unpacked or sampled."""

import gzip
import io
import json
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus.sources.fake_web import Web, serving
from tests.processes import PATIENCE_SECONDS

SMALL = random.Random(1).randbytes(1024**2)
BIG = random.Random(2).randbytes(7 * 1024**2)


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """The command that gives a process mounts of its own."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        probe = subprocess.run(
            [*command, "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("needs the command unshare to mount a small disk")
    if probe.returncode:
        pytest.skip("this system does not let users mount a small disk in a namespace of their own")
    return command


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web()) as server:
        yield server


def tar_gz(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    "case",
    [
        "download",
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in ("copy", "gunzip", "untar", "sample")
        ),
    ],
)
def test_full_disk_is_one_clear_error_and_the_run_continues(
    namespace: list[str], tmp_path: Path, root: Path, web: Web, case: str
) -> None:
    disk, raw = tmp_path / "disk", tmp_path / "raw"
    disk.mkdir()
    raw.mkdir()
    files = {"a.jsonl": SMALL, "b.jsonl": BIG}
    expected = {"a.jsonl": len(SMALL), "b.jsonl": len(BIG)}
    match case:
        case "gunzip":
            files = {"a.jsonl": SMALL, "b.jsonl.gz": gzip.compress(BIG, 1)}
        case "untar":
            files = {"a.jsonl": SMALL, "b.tgz": tar_gz({"x": SMALL, "y": BIG[: -len(SMALL)]})}
            expected = {"a.jsonl": len(SMALL), "b/x": len(SMALL), "b/y": len(BIG) - len(SMALL)}
    for name, data in files.items():
        (raw / name).write_bytes(data)
    location = str(raw)
    if case == "download":
        web.files = {f"d/{name}": data for name, data in files.items()}
        location = f"{web.url}/d/"
    program = root / "tests" / "corpus" / "sources" / "full_disk_program.py"
    fraction = "0.98" if case == "sample" else "1.0"
    done = subprocess.run(
        [*namespace, sys.executable, str(program), str(disk), location, fraction],
        env={**os.environ, "PYTHONPATH": str(root), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert "is full" in result["error"]
    assert "skypile" in result["error"]
    assert "--store" in result["error"]
    if case == "sample":
        assert set(result["full"]) == {"a.jsonl"}
        assert set(result["freed"]) == set(expected)
    else:
        assert result["full"] == {"a.jsonl": len(SMALL)}, "finished files stay, no other is seen"
        assert result["freed"] == expected
