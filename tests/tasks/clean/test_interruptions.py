"""Killed runs and full disks: cleaning again gives the bytes of an uninterrupted run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from common.files import write_json
from corpus.cleaning.job import CleanJob, FamilyJob
from tasks.clean import clean
from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun
from tests.tasks.clean.planted import CONFIG, ROOT, content
from tests.tasks.running import run_stage

KILLED = """
import sys
from pathlib import Path
from tasks.clean import CleanConfig, clean
from tests.tasks.running import result_of, run_stage, stage_run
normalized = result_of(stage_run(Path(sys.argv[1])))
config = CleanConfig(workers=3, partition_bytes=1 << 20, recipes="repaired")
run_stage(clean, Path(sys.argv[2]), config, normalized=normalized)
"""


MOMENTS = {
    "while the language model is trained": "training the language model",
    "at the first documents": "bytes read",
    "between documents": ".scratch/work/filtered/*[0-9]",
    "before duplicates are found": "looking for duplicates",
    "while files are written": "wik*/*.jsonl",
    "when all is written": ".scratch/ledger.json",
}
"""Moment of the kill -> the sign of it: words of the progress, or a file."""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_and_run_again_equals_an_uninterrupted_run(
    world: StageResult, whole: StageRun, tmp_path: Path, moment: str
) -> None:
    killed = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(world.folder), str(killed)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    workers: list[psutil.Process] = []

    def reached() -> bool:
        if "*" in MOMENTS[moment]:
            return any(killed.glob(MOMENTS[moment]))
        try:
            progress = (killed / ".scratch" / "job.progress").read_text()
        except FileNotFoundError:
            return False
        # Behind the moment is as good: some last for an instant.
        later = list(MOMENTS.values())[list(MOMENTS).index(moment) :]
        return any(words in progress for words in (*later, "writing"))

    try:
        while not reached():
            assert child.poll() is None, f"finished before the moment {moment!r} came"
            time.sleep(0.005)
        workers = psutil.Process(child.pid).children(recursive=True)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, "the cleaning processes die with the one that started them"
    left = content(killed)
    run_stage(clean, killed, CONFIG, normalized=world)
    expected = content(whole.folder)
    assert content(killed) == expected
    assert not any(name.endswith(".partial") for name in content(killed))
    for name, data in left.items():
        if not name.endswith(".partial"):
            assert data == expected[name], f"{name} was visible before it was complete"


FULL_DISK = """
set -e
mount -t tmpfs -o size=$SIZE tmpfs "$DISK"
mkdir -p "$DISK/out" "$DISK/work"
"$PYTHON" -m corpus.cleaning "$JOB" && exit 9
cat "${JOB%.json}.error"
find "$DISK/work/filtered" -mindepth 1 -maxdepth 1 -not -name '*.partial' > "$DONE"
mount -o remount,size=200m "$DISK"
"$PYTHON" -m corpus.cleaning "$JOB"
cp -r "$DISK/out" "$RESULT"
"""


@pytest.mark.slow
def test_full_disk_is_one_clear_error_and_loses_nothing(
    world: StageResult, whole: StageRun, tmp_path: Path
) -> None:
    """A disk of a megabyte, mounted for this test alone, is full in the middle of the work."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk of a fixed size can be mounted here")
    models, disk = tmp_path / "models", tmp_path / "disk"
    shutil.copytree(whole.folder / "language_model", models)
    disk.mkdir()
    families = {s: row["family"] for s, row in whole.notes["sources"].items()}
    sources = [s for s, row in whole.notes["sources"].items() if row["family"] != "code"]
    job = CleanJob(
        families={
            family: FamilyJob(
                recipe=CONFIG.recipe_of(family),
                inputs={
                    s: str(world.folder / f"{s}.jsonl") for s in sources if families[s] == family
                },
            )
            for family in sorted({families[s] for s in sources})
        },
        output=str(disk / "out"),
        scratch=str(disk / "work"),
        models=str(models),
        ledger=str(tmp_path / "ledger.json"),
        language_model={"folder": "given"},
        tokenizer="auto",
        examples=3,
        partition_bytes=1 << 20,
        workers=2,
        contamination="",
        contamination_action="drop",
        executor="local",
        ray={},
    )
    write_json(tmp_path / "job.json", asdict(job))
    done = subprocess.run(
        [*unshare, "sh", "-c", FULL_DISK],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ
        | {
            "SIZE": "500k",
            "DISK": str(disk),
            "PYTHON": sys.executable,
            "JOB": str(tmp_path / "job.json"),
            "DONE": str(tmp_path / "done"),
            "RESULT": str(tmp_path / "result"),
            "HF_HUB_OFFLINE": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The disk is full" in done.stdout and "run again" in done.stdout
    finished = (tmp_path / "done").read_text().split()
    assert 0 < len(finished) < len(sources)
    expected = content(whole.folder)
    for name, data in content(tmp_path / "result").items():
        assert data == expected[name]
    assert {n.partition("/")[0] for n in content(tmp_path / "result")} == {*sources, "documents"}
