"""Memory of a packing worker: it does not grow with the file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from common.files import write_json
from corpus.packing import workers
from corpus.partitions import cut


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(
    full: PreTrainedTokenizerBase, tmp_path: Path, root: Path
) -> None:
    """A worker's own peak, for words that never come twice: the worst there is for a cache."""
    backend = tmp_path / "backend.json"
    backend.write_text(full.backend_tokenizer.to_str())
    peaks = {}
    for megabytes in (64, 256):
        path = tmp_path / "en" / f"{megabytes}.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("w") as file:
            for number in range(megabytes * 100):
                words = " ".join(os.urandom(6).hex() for _ in range(760))
                file.write(json.dumps({"text": f"{number} {words}"}) + "\n")
        peaks[megabytes] = peak_of_worker(root, backend, path, tmp_path / f"out-{megabytes}")
    assert peaks[256] < 1.25 * peaks[64] + 100 * 1024**2, peaks


def peak_of_worker(root: Path, backend: Path, path: Path, folder: Path) -> int:
    """Most bytes resident of a worker that packs one file."""
    (part,) = cut([("en", path)], 1 << 40)
    job = workers.PackJob(
        tokenizer=str(backend),
        fast=True,
        end_of_text=151_643,
        dtype="uint32",
        shard_tokens=5_000_000,
        validation_fraction=0.01,
        folder=str(folder),
    )
    job_file = folder.with_suffix(".json")
    write_json(job_file, vars(job))
    child = subprocess.Popen(
        [sys.executable, "-m", "corpus.packing", str(job_file)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin and child.stdout
    child.stdin.write(json.dumps(vars(part)) + "\n")
    child.stdin.flush()
    for line in child.stdout:
        if "shards" in line:
            break
    (peak,) = (
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    child.stdin.close()
    assert child.wait() == 0
    child.stdout.close()
    return peak
