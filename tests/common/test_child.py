"""Child processes: jobs in, progress and typed errors out, and nothing that outlives its parent."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from common import processes
from common.child import Child, Progress, ProgressFile, python, run_job
from common.errors import ConfigError, DataError, StageError, SteelError
from common.files import write_json
from common.processes import die_with_parent
from tests.processes import alive, wait_until

ERRORS = {"config": ConfigError, "data": DataError, "stage": StageError}


class OddError(DataError):
    """A kind of error that the parent may not know."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Instruction for the child of these tests."""

    do: str
    say: str = ""


def work(job: Job) -> int:
    report = ProgressFile(Path(sys.argv[1]))
    print(job.say, flush=True)
    if job.do == "say nothing":
        return 5
    report(3, 4, "of the work")
    match job.do:
        case "end":
            return 5
        case "sleep" | "refuse to end":
            processes.ORPHAN_SECONDS = 1.0
            die_with_parent()
            if job.do == "refuse to end":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            report(4, 4, str(os.getpid()))
            time.sleep(600)
        case "fill the disk":
            raise OSError(28, "No space left on device")
        case "odd":
            raise OddError(job.say)
        case "bug":
            raise RuntimeError(job.say)
    raise ERRORS[job.do](job.say)


def start(folder: Path, do: str, say: str = "", *, grace: float = 10.0) -> Child:
    path = folder / "job.json"
    write_json(path, {"do": do, "say": say})
    return Child(python("tests.common.test_child", path), path, grace=grace)


@pytest.mark.parametrize(("do", "code"), [("config", 2), ("data", 2), ("stage", 1)])
def test_an_error_arrives_as_it_was_raised(tmp_path: Path, do: str, code: int) -> None:
    with start(tmp_path, do, "锰钢 is cold") as child:
        assert child.process.wait() == code
    error = child.failure("forging")
    assert type(error) is ERRORS[do] and str(error) == "锰钢 is cold"


def test_an_unknown_kind_of_error_arrives_as_its_base(tmp_path: Path) -> None:
    # In the child it is __main__.OddError, here tests.common.test_child.OddError: found by name.
    with start(tmp_path, "odd", "odd") as child:
        assert child.process.wait() == 2
    assert type(child.failure("forging")) is OddError
    left = tmp_path / "job.error"
    names = json.loads(left.read_text())["types"]
    assert names[:2] == ["OddError", "DataError"]
    write_json(left, {"types": ["NeverHeardOf", *names[1:]], "message": "odd"})
    assert type(child.failure("forging")) is DataError


def test_a_full_disk_is_the_users_to_mend(tmp_path: Path) -> None:
    with start(tmp_path, "fill the disk") as child:
        child.process.wait()
    assert isinstance(child.failure("forging"), DataError)
    assert "The disk is full" in str(child.failure("forging"))


def test_a_defect_shows_the_log_of_this_attempt(tmp_path: Path) -> None:
    for say in ("first", "second"):
        with start(tmp_path, "bug", say) as child:
            child.process.wait()
    error = child.failure("forging")
    assert isinstance(error, StageError)
    assert "forging ended with status 1" in str(error) and "RuntimeError: second" in str(error)
    assert "first" not in str(error) and "first" in child.log.read_text()


def test_progress_and_exit_code(tmp_path: Path) -> None:
    with start(tmp_path, "end") as child:
        assert child.process.wait() == 5
    assert child.progress() == Progress(3, 4, "of the work")
    with start(tmp_path, "say nothing") as child:
        assert child.process.wait() == 5
    assert child.progress() is None, "of this attempt"


@pytest.mark.parametrize(
    ("do", "status"), [("sleep", -signal.SIGTERM), ("refuse to end", -signal.SIGKILL)]
)
def test_stopping_is_asked_for_first(tmp_path: Path, do: str, status: int) -> None:
    with start(tmp_path, do, grace=0.5) as child:
        at_work = lambda: (child.progress() or Progress(0, 4, "")).done == 4  # noqa: E731
        wait_until(at_work, "the child is at work", process=child.process, log=child.log)
    assert child.poll() == status


@pytest.mark.parametrize("do", ["sleep", "refuse to end"])
def test_a_child_dies_with_its_parent(tmp_path: Path, do: str) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.common.test_child import start; "
        f"start(Path(sys.argv[1]), {do!r}); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    report = tmp_path / "job.progress"
    wait_until(
        lambda: report.exists() and json.loads(report.read_text())[0] == 4,
        "the child is at work",
        process=parent,
        log=tmp_path / "job.log",
    )
    child = int(json.loads(report.read_text())[2])
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(child), "the child is gone")


def test_a_job_is_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "job.json"
    write_json(path, {"do": "end", "shout": "!"})
    assert run_job(Job, work, [str(path)]) == 2
    assert "unknown key 'shout'" in caplog.text
    assert run_job(Job, work, []) == 2


def test_every_error_can_be_made_from_its_message() -> None:
    def kinds(root: type[SteelError]) -> list[type[SteelError]]:
        return [root, *(k for sub in root.__subclasses__() for k in kinds(sub))]

    import flows.ablations.mixtures  # noqa: F401
    import model.train.trainer  # noqa: F401

    for kind in kinds(SteelError):
        assert str(kind("message")) == "message", kind


if __name__ == "__main__":
    sys.exit(run_job(Job, work, sys.argv[1:]))
