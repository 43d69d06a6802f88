"""All that a short loan of a GPU should measure, in order of worth, whatever time there is.

    python -m benchmarks.gpu_session [--minutes 9] [--out benchmarks/results/gpu] [--only A,B]

    facts      versions, driver, attention backends and torch's priority among them
    tests      the GPU tests
    best       the best configuration of the training step: the first MFU
    profile    its 30 longest kernels, as text
    merged     products that share an operand merged, and the loss of 8 logits a lane, beside `best`
    larger     `best` and `merged` at micro-batch 16
    attention  attention, with and without packed documents
    peers      plain, Liger, Liger compiled, interpreted, documents, heads of 64
    parts      each of the merged products alone
    kernels    every kernel against its peers, without torch.compile

Each step is a process of its own with a limit; one that no longer fits is left out, and said to be.
A step writes its JSON while it measures, so that whatever ends this program, Ctrl-C or SIGKILL,
finished rows stay; summary.md is written anew after each step. Needs what a bare GPU machine has.
Without a GPU all sizes are tiny: that shows that it runs.
"""

import argparse
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.child import Child
from common.files import write_json, write_text

SECONDS_LEFT_OUT = 5.0
"""Time that is kept for the summary."""
GRACE_SECONDS = 3.0
"""Seconds that a step has to end when its time is over."""
PEERS = "plain,liger,liger compiled,interpreted,documents,heads of 64"
MERGED = "best,merged,loss of 8"
PARTS = "best,merged qkv,merged ffn_in,merged ffn_out"
ONCE = ("--repeats", "1", "--steps", "3")
WORKERS = 12
"""Processes that share the GPU tests, where pytest-xdist is installed."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the session."""

    name: str
    limit: float
    """Seconds after which it is ended."""
    least: float
    """Seconds that must be left for it to be begun."""
    command: Callable[[Path], list[str]]
    """Its command, given the output folder."""


def _module(name: str, file: str, *arguments: str) -> Callable[[Path], list[str]]:
    return lambda out: [
        sys.executable, "-m", f"benchmarks.{name}", *arguments, "--json", str(out / file),
    ]  # fmt: skip


def _tests(out: Path) -> list[str]:
    shared = ["-n", str(WORKERS)] if importlib.util.find_spec("xdist") else []
    return [sys.executable, "-m", "pytest", "-m", "gpu", "tests/model", "-q", *shared]


def _profile(out: Path) -> list[str]:
    make = _module(
        "bench_train", "profile.json", "--only", "best", "--larger", "none", *ONCE,
        "--profile", str(out / "profile"),
    )  # fmt: skip
    return make(out)


STEPS = (
    Step(name="facts", limit=45, least=15, command=_module("gpu_facts", "facts.json")),
    Step(name="tests", limit=120, least=30, command=_tests),
    Step(
        name="best",
        limit=150,
        least=60,
        command=_module("bench_train", "best.json", "--only", "best", "--larger", "none", *ONCE),
    ),
    Step(name="profile", limit=90, least=45, command=_profile),
    Step(
        name="merged",
        limit=210,
        least=75,
        command=_module("bench_train", "merged.json", "--only", MERGED, "--larger", "none", *ONCE),
    ),
    Step(
        name="larger",
        limit=240,
        least=75,
        command=_module(
            "bench_train", "larger.json", "--only", "best,merged", "--larger", "16", *ONCE
        ),
    ),
    Step(
        name="attention",
        limit=60,
        least=20,
        command=_module("kernels.bench_attention", "attention.json", "--no-compile"),
    ),
    Step(
        name="documents",
        limit=60,
        least=20,
        command=_module("kernels.bench_documents", "documents.json", "--no-compile"),
    ),
    Step(
        name="peers",
        limit=300,
        least=60,
        command=_module("bench_train", "peers.json", "--only", PEERS, *ONCE),
    ),
    Step(
        name="parts",
        limit=240,
        least=75,
        command=_module("bench_train", "parts.json", "--only", PARTS, "--larger", "none", *ONCE),
    ),
    Step(
        name="kernels",
        limit=600,
        least=20,
        command=_module("kernels", "kernels.json", "--no-compile"),
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the session; 1 when a step failed, 0 also when some no longer fitted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu"))
    parser.add_argument("--only", metavar="A,B", help=", ".join(step.name for step in STEPS))
    arguments = parser.parse_args(argv)
    names = arguments.only.split(",") if arguments.only else [step.name for step in STEPS]
    if unknown := sorted(set(names) - {step.name for step in STEPS}):
        parser.error(f"--only: there is no step {unknown[0]!r}")
    # A signal ends the step that runs, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    session = Session(arguments.out, 60 * arguments.minutes)
    for step in STEPS:
        if step.name in names:
            session.run(step)
    print((arguments.out / SUMMARY).read_text(encoding="utf-8"))
    return int(any(outcome["outcome"] == "failed" for outcome in session.outcomes))


SUMMARY = "summary.md"


class Session:
    """Runs steps until the time is over, and keeps a summary.

    Args:
        out: folder of the results.
        seconds: time that there is.
    """

    def __init__(self, out: Path, seconds: float) -> None:
        self.out, self.end = out, time.monotonic() + seconds
        self.outcomes: list[dict[str, Any]] = []
        out.mkdir(parents=True, exist_ok=True)

    def run(self, step: Step) -> None:
        """Run a step, or leave it out; write what came of it."""
        left = self.end - time.monotonic() - SECONDS_LEFT_OUT
        command = step.command(self.out)
        found: dict[str, Any] = {
            "step": step.name,
            "command": " ".join(["python", *command[1:]]),
            "outcome": "left out: no time",
            "seconds": 0.0,
        }
        self.outcomes.append(found)
        if left >= step.least:
            found["outcome"] = "running"
            self._write()
            start = time.monotonic()
            found["outcome"] = self._outcome(step, command, min(step.limit, left))
            found["seconds"] = round(time.monotonic() - start, 1)
        self._write()
        print(f"{step.name}: {found['outcome']} ({found['seconds']} s)", flush=True)

    def _outcome(self, step: Step, command: list[str], limit: float) -> str:
        with (self.out / f"{step.name}.log").open("w", encoding="utf-8") as log:
            options = {"stdout": log, "stderr": subprocess.STDOUT, "grace": GRACE_SECONDS}
            with Child(command, None, **options) as child:
                try:
                    return "done" if child.process.wait(limit) == 0 else "failed"
                except subprocess.TimeoutExpired:
                    return f"ended after {limit:.0f} s"

    def _write(self) -> None:
        write_json(self.out / "session.json", self.outcomes)
        write_text(self.out / SUMMARY, summary(self.out, self.outcomes))


def summary(out: Path, outcomes: Sequence[dict[str, Any]]) -> str:
    """The session for people: what ran, and the figures that there are."""
    lines = ["# GPU session", "", "| step | outcome | seconds | command |", "|---|---|---|---|"]
    lines += [
        f"| {o['step']} | {o['outcome']} | {o['seconds']:.0f} | `{o['command']}` |"
        for o in outcomes
    ]
    for name in [o["step"] for o in outcomes]:
        report = _read(out / f"{name}.json")
        if report is not None:
            lines += ["", f"## {name}", "", f"{report.get('device', '')}", "", *_figures(report)]
        log = out / f"{name}.log"
        if name == "tests" and log.is_file():
            last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
            lines += ["", "## tests", "", *last]
    return "\n".join(lines) + "\n"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report


def _figures(report: dict[str, Any]) -> list[str]:
    """Lines of a report's figures."""
    if "targets" in report and "micro_batch_size" in report:
        return [
            *map(_training_line, report["rows"]),
            *map(_target_line, report["targets"]),
            *map(_choice_line, report.get("choices", ())),
        ]
    if "rows" in report:
        return [_kernel_line(row) for row in report["rows"]]
    return ["```", json.dumps(report, indent=1, ensure_ascii=False), "```"]


def _training_line(row: dict[str, Any]) -> str:
    start = f"- {row['name']}, micro-batch {row['micro_batch_size']}: "
    if row["status"] != "done":
        return start + f"{row['status']}: {' '.join(row['reason'].split())[-200:]}"
    mfu = row["mfu_datasheet"]
    return start + ", ".join(
        [
            f"{row['tokens_per_second_per_device']:,.0f} tokens/s",
            "no datasheet's peak" if mfu is None else f"MFU {100 * mfu:.1f} %",
            f"{row['memory_gb']:.1f} GB",
        ]
    )


def _target_line(target: dict[str, Any]) -> str:
    value = "not measured" if target["value"] is None else f"{target['value']:.3f}"
    verdict = {None: "not judged", True: "met", False: "missed"}[target["met"]]
    return f"- target: {target['target']}: {value}, wanted {target['wanted']}: {verdict}"


def _choice_line(choice: dict[str, Any]) -> str:
    verdict = {None: "not judged", True: "take", False: "leave"}[choice["wins"]]
    times = f"{choice['times_best']:.3f} times the speed of best"
    return f"- choice: {choice['row']}: {times}: {verdict} `{choice['setting']}`"


def _kernel_line(row: dict[str, Any]) -> str:
    parts = [f"- {row['case']}, {row['candidate']}, {row['what']}:"]
    if row["milliseconds"] is not None:
        parts.append(f"{row['milliseconds']:.3f} ms")
    if row["share_of_copy"] is not None:
        parts.append(f"({row['share_of_copy']:.0%} of copy)")
    return " ".join([*parts, row["note"]]).rstrip()


if __name__ == "__main__":
    sys.exit(main())
