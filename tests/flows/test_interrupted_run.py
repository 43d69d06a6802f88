"""A whole `steel run` that is killed, or whose disk fills up, ends like one that was left alone."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.child import python
from common.errors import ConfigError
from common.paths import ROOT
from model.evaluate.sandbox import check_sandbox
from tests.faults.places import Fault, struck
from tests.flows.whole_run import MARK, SteelRun, result, unfinished, write_config
from tests.processes import kill_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

BEFORE_SFT = ("acquire", "normalize", "clean", "pack", "pretrain", "contamination")
"""Folders of a store with what comes before the fine-tuning."""
STAGES = ("sft", "dpo", "evaluate")
CACHES = {"sft": "cache/sft", "dpo": "cache/reference"}
"""Folder of a store with what a stage makes once for all runs."""


class Whole:
    """A run that nothing disturbed."""

    def __init__(self, folder: Path) -> None:
        self.config, self.home, self.store = write_config(folder), folder / "home", folder / "whole"
        run = SteelRun(self.config, self.store, self.home)
        assert run.wait() == 0, run.text
        self.summary = summary_of(run.text)
        self.result = result(self.store)

    def until(self, stage: str, store: Path) -> Path:
        """A store with what this run had finished before a stage: sft, dpo or evaluate."""
        before = STAGES[: STAGES.index(stage)]
        for name in [*BEFORE_SFT, *before, *(CACHES[one] for one in before)]:
            if (self.store / name).exists():
                shutil.copytree(self.store / name, store / name)
        return store


def summary_of(text: str) -> dict[str, Any]:
    """The summary that `steel run --json` prints, below all that it logs."""
    found: dict[str, Any] = json.loads(text[text.index("\n{\n") :])
    return {name: found[name] for name in ("name", "results")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    try:
        check_sandbox()
    except ConfigError as error:
        pytest.skip(str(error))
    return Whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """An empty store. No process of its runs outlives the test."""
    yield tmp_path / "store"
    kill_all(MARK, str(tmp_path / "store"))


CHECKPOINT = r"checkpoints/step-\d+$"
KILLS = {
    "sft": [
        Fault("group", "os.rename", r"/cache/sft/[^/]+/parts/part-\d+\.npz$", 4),
        Fault("steel", "os.rename", r"/sft/[^/]+\.partial/.*" + CHECKPOINT, 2),
        Fault("group", "os.rename", r"/sft/[^/]+\.partial/.*" + CHECKPOINT, 3),
        Fault("here", "os.rename", r"/sft/[^/]+\.partial/model$"),
    ],
    "dpo": [
        Fault("group", "os.rename", r"/cache/reference/[^/]+/part-00000\.crc32$"),
        Fault("group", "os.rename", r"/dpo/[^/]+\.partial/.*" + CHECKPOINT, 3),
        Fault("steel", "os.rename", r"/dpo/[^/]+\.partial/model$"),
        Fault("group", "os.rename", r"/dpo/[0-9a-f]+$"),
    ],
    "evaluate": [
        Fault("group", "os.rename", r"/cache/answers/[0-9a-f]+\.jsonl$", 3),
        Fault("steel", "os.rename", r"/cache/answers/[0-9a-f]+\.jsonl$", 16),
        Fault("group", "subprocess.Popen", r"sandbox", 2),
        Fault("group", "os.rename", r"/report/[0-9a-f]+$"),
    ],
}
"""Stage -> kills in its course, one after the other; every time the run is started again.

A count is of all times since the run was started (again).
"""


@pytest.mark.parametrize("stage", KILLS)
def test_a_run_that_is_killed_ends_like_one_that_is_not(
    stage: str, whole: Whole, store: Path
) -> None:
    whole.until(stage, store)
    for fault in KILLS[stage]:
        run = SteelRun(whole.config, store, whole.home, fault)
        assert run.wait() != 0, f"{fault} was not reached:\n{run.text}"
        assert struck(store), f"{fault} was not reached:\n{run.text}"
        assert "Traceback" not in run.text, run.text
    run = SteelRun(whole.config, store, whole.home)
    assert run.wait() == 0, run.text
    assert_equal(result(store), whole.result)
    assert summary_of(run.text) == whole.summary
    assert not unfinished(store)


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Name what differs; a dictionary of digests would say nothing."""
    assert sorted(found.keys() ^ expected.keys()) == []
    assert not [name for name in expected if found[name] != expected[name]]


FULL = {
    "sft": [
        Fault("fill", "open", r"/cache/sft/[^/]+/parts/part-\d+\.npz\.partial$", 3),
        Fault("fill", "open", r"/sft/[^/]+\.partial/.*step-\d+/[^/]+\.distcp"),
        Fault("fill", "open", r"/sft/[^/]+\.partial/.*-model/config\.json$"),
    ],
    "dpo": [
        Fault("fill", "open", r"/cache/reference/[^/]+/part-00000\.npy"),
        Fault("fill", "open", r"/dpo/[^/]+\.partial/.*step-\d+/[^/]+\.distcp"),
        Fault("fill", "open", r"/dpo/[^/]+\.partial/manifest\.json\.partial$"),
    ],
    "evaluate": [
        Fault("fill", "open", r"/cache/answers/[^/]+\.partial$", 3),
        Fault("fill", "open", r"/samples/humaneval\.jsonl\.partial$"),
        Fault("fill", "open", r"/report\.html"),
    ],
}
"""Stage -> places at which the disk fills up, one after the other; then it is emptied again."""


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """The command that gives a process mounts of its own. Programs of a model can be run apart in
    it only where it needs no user namespace."""
    if os.geteuid() != 0:
        pytest.skip("needs to be root to mount a small disk on which programs can be run apart")
    probe = [*UNSHARE, "sh", "-c", "mount -t tmpfs none /mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, check=False).returncode:
        pytest.skip("this system does not let root mount a small disk in a namespace of its own")
    return UNSHARE


UNSHARE = ["unshare", "--mount"]


@pytest.mark.parametrize("stage", FULL)
def test_a_run_whose_disk_fills_up_ends_like_one_with_room(
    stage: str, whole: Whole, store: Path, namespace: list[str]
) -> None:
    prepared = whole.until(stage, store.with_name("prepared"))
    job = store.with_name("job.json")
    faults = [vars(fault) for fault in FULL[stage]]
    paths = {"config": whole.config, "home": whole.home, "store": store, "prepared": prepared}
    job.write_text(json.dumps({"faults": faults} | {name: str(p) for name, p in paths.items()}))
    done = subprocess.run(
        [*namespace, *python("tests.flows.full_disk_run", job)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *attempts, last = [json.loads(line) for line in done.stdout.splitlines()]
    for attempt in attempts:
        text = attempt["text"]
        assert attempt["struck"] and attempt["code"] in (1, 2), text
        error = text[text.rindex("\nerror: ") :]
        assert "The disk is full" in error or "make room there" in error, text
        assert "defect" not in text
        finished = attempt["result"]
        assert not [name for name in finished if finished[name] != whole.result.get(name)], text
    assert last["code"] == 0, last["text"]
    assert_equal(last["result"], json.loads(json.dumps(whole.result)))
    assert summary_of(last["text"]) == whole.summary
    assert not last["unfinished"]
