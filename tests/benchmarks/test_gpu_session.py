"""A GPU session keeps what it has measured, whatever ends it; what no longer fits is left out."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_session
from benchmarks._figures import save
from benchmarks.gpu_session import STEPS, Session, Step, training_step
from tests.processes import PATIENCE_SECONDS, wait_until

MEASURES = """
import json, sys, time
from benchmarks._figures import end_with_parent, save
end_with_parent()
for number in range(3):
    rows = [{"case": f"case {k}", "candidate": "triton", "what": "forward", "milliseconds": 1.0,
             "share_of_copy": None, "note": ""} for k in range(number + 1)]
    save({"rows": rows, "device": "none"}, "pretended", [], __import__("pathlib").Path(sys.argv[1]))
    time.sleep(float(sys.argv[2]))
"""


def step(
    name: str, *, pause: float = 0.0, limit: float = PATIENCE_SECONDS, least: float = 0
) -> Step:
    return Step(
        name=name,
        limit=limit,
        least=least,
        command=lambda out, _: [
            sys.executable,
            "-c",
            MEASURES,
            str(out / f"{name}.json"),
            str(pause),
        ],
    )


def rows(folder: Path, name: str) -> int:
    return len(json.loads((folder / f"{name}.json").read_text())["rows"])


def test_a_step_that_takes_too_long_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = subprocess.Popen.wait

    def patient(process: "subprocess.Popen[bytes]", timeout: float | None = None) -> int:
        if timeout == 20:  # its time is over once it has measured something, on any machine
            wait_until((tmp_path / "slow.json").exists, "a first row", process=process)
            timeout = 0.1
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", patient)
    session = Session(tmp_path, 600)
    session.run(step("slow", pause=600, limit=20))
    session.run(step("quick"))
    assert [o["outcome"] for o in session.outcomes] == ["ended after 20 s", "done"]
    assert (rows(tmp_path, "slow"), rows(tmp_path, "quick")) == (1, 3)
    text = (tmp_path / "summary.md").read_text()
    assert "case 0, triton, forward: 1.000 ms" in text
    assert text.count("case 2") == 1


def test_a_step_is_told_with_a_command_that_can_be_repeated(tmp_path: Path) -> None:
    """Rows have names with spaces, and so may folders."""
    out = tmp_path / "结果 of today"
    Session(out, 0).run(training_step("peers", "plain,liger compiled"))
    (told,) = json.loads((out / "session.json").read_text())
    words = shlex.split(told["command"])
    assert words[words.index("--only") + 1] == "plain,liger compiled"
    assert words[-1] == str(out / "peers.json")
    saved = save({}, "bench_train", ["--only", "liger compiled", "--json", "x"], Path(out / "x"))
    assert "'liger compiled'" in saved["command"]


def test_texts_of_a_step_are_named_and_those_of_an_earlier_session_are_not(tmp_path: Path) -> None:
    writes = "; ".join(
        [
            "import sys; from pathlib import Path; to = Path(sys.argv[1])",
            "to.mkdir(); (to / sys.argv[2]).write_text('kernels')",
            "(to.parent / 'profile.json').write_text('{}')",
        ]
    )

    for name in ("before.txt", "best-[1].txt"):
        command = [sys.executable, "-c", writes, str(tmp_path / "profile"), name]
        one = Step(
            name="profile", limit=PATIENCE_SECONDS, least=0, command=lambda *_, given=command: given
        )
        Session(tmp_path, 600).run(one)
    text = (tmp_path / "summary.md").read_text()
    assert "- text: profile/best-[1].txt" in text and "before" not in text


def test_what_no_longer_fits_is_left_out_by_name(tmp_path: Path) -> None:
    session = Session(tmp_path, 200)
    session.run(step("large", least=201))
    session.run(step("small", least=1))
    assert [o["outcome"] for o in session.outcomes] == ["left out: no time", "done"]
    assert "| large | left out: no time |" in (tmp_path / "summary.md").read_text()


def test_a_step_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    session = Session(tmp_path, 600)
    broken = Step(
        name="broken", limit=60, least=0, command=lambda *_: [sys.executable, "-c", "1/0"]
    )
    session.run(broken)
    session.run(step("next"))
    assert [o["outcome"] for o in session.outcomes] == ["failed", "done"]
    assert "ZeroDivisionError" in (tmp_path / "broken.log").read_text()


def training(name: str, speed: float, micro_batch: int = 8) -> dict[str, Any]:
    return {
        "name": name,
        "micro_batch_size": micro_batch,
        "status": "done",
        "tokens_per_second_per_device": speed,
        "memory_gb": 50.0,
        "mfu_datasheet": 0.5,
    }


def test_training_steps_of_all_files_are_judged_together(tmp_path: Path) -> None:
    """`best` stands in one file and its peers in others; other micro-batches are no peers."""
    absent = training("liger", 0) | {"status": "not possible here", "reason": "no package " * 40}
    files = {
        "best": [training("best", 1000)],
        "profile": [training("best", 10)],
        "larger": [training("best", 1000), training("best, micro-batch 16", 1100, 16)],
        "peers": [training("plain", 500), absent],
        "fp8": [training("fp8", 1100)],
    }
    for name, found in files.items():
        report = {"rows": found, "targets": [], "micro_batch_size": 8, "tiny": False}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    outcomes = [{"step": n, "outcome": "done", "seconds": 1.0, "command": ""} for n in files]
    text = gpu_session.summary(tmp_path, outcomes)
    together = text.split("## training steps together")[1].split("\n")
    assert [line for line in together if "of best" in line] == [
        "- plain: 0.500 of the tokens/s of best, 1.000 of its memory",
        "- fp8: 1.100 of the tokens/s of best, 1.000 of its memory",
    ]
    assert "- target: throughput, best / plain: 2.000, wanted >= 1.6: met" in together
    assert text.count("- target: ") == 4, "once, not in each file"
    assert "- best, micro-batch 16: 1,100 tokens/s" in text
    assert "not possible here: no package no package" in text


def test_a_row_that_broke_is_taken_from_the_step_where_it_did_not(tmp_path: Path) -> None:
    broken = {"name": "best", "micro_batch_size": 8, "status": "failed", "reason": "no time"}
    files = {"best": [broken], "merged": [training("best", 1000), training("merged", 1200)]}
    for name, found in files.items():
        report = {"rows": found, "targets": [], "micro_batch_size": 8, "tiny": False}
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    outcomes = [{"step": n, "outcome": "done", "seconds": 1.0, "command": ""} for n in files]
    text = gpu_session.summary(tmp_path, outcomes)
    assert "- merged: 1.200 of the tokens/s of best, 1.000 of its memory" in text


def test_figures_of_an_earlier_session_are_not_this_ones(tmp_path: Path) -> None:
    """Neither those of a step that is left out, nor of one that ends before it has measured."""
    Session(tmp_path, 600).run(step("large"))
    Session(tmp_path, 600).run(step("broken"))
    assert "- case 2" in (tmp_path / "summary.md").read_text()
    session = Session(tmp_path, 600)
    session.run(step("large", least=601))
    session.run(
        Step(name="broken", limit=60, least=0, command=lambda *_: [sys.executable, "-c", "1/0"])
    )
    assert [o["outcome"] for o in session.outcomes] == ["left out: no time", "failed"]
    assert "- case" not in (tmp_path / "summary.md").read_text()
    assert rows(tmp_path, "large") == 3, "it stays a file"


@pytest.mark.slow
@pytest.mark.timeout(900)  # torch is imported for each module, on a machine that others may share
def test_every_step_names_a_command_that_is_there(tmp_path: Path) -> None:
    helps: dict[str, str] = {}
    for one in STEPS:
        command = one.command(tmp_path, 1.0)
        module = command[2]
        if module not in helps:
            asked = subprocess.run(
                [*command[:3], "--help"], capture_output=True, text=True, timeout=300
            )
            assert asked.returncode == 0, asked.stderr
            helps[module] = asked.stdout
        for word in command[3:]:
            if word.startswith("--") and module != "pytest":
                name = word.removeprefix("--no-").removeprefix("--")
                assert name in helps[module], (one, word)
    with pytest.raises(SystemExit):
        gpu_session.main(["--only", "everything"])


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_in_the_middle_it_loses_no_finished_row(
    root: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The real session at tiny sizes, on this CPU."""
    command = [sys.executable, "-m", "benchmarks.gpu_session", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--only", "facts,best,peers", "--minutes", "20"], cwd=root, text=True
    )
    deadline = time.monotonic() + 1200
    peers = tmp_path / "peers.json"
    while not peers.is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    os.kill(process.pid, number)
    process.wait(60)
    for name in ("facts", "best", "peers"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["software"]
    best = json.loads((tmp_path / "best.json").read_text())["rows"]
    assert [row["status"] for row in best] == ["done"]
    text = (tmp_path / "summary.md").read_text()
    assert "- best, micro-batch 2: " in text and "| peers | running |" in text
