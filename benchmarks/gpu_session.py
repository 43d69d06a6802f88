"""All that a short loan of a GPU should measure, in order of worth, whatever time there is.

    python -m benchmarks.gpu_session [--minutes 9] [--out benchmarks/results/gpu] [--only A,B]

    facts      versions, driver, attention backends and torch's priority among them
    tests      the GPU tests
    best       the best configuration of the training step: the first MFU
    profile    its 30 longest kernels, as text
    merged     products that share an operand merged, and the loss of 8 logits a lane, beside `best`
    larger     `best` and `merged` at micro-batch 16
    attention  attention of whole rows: torch's backends, FlashAttention 2, 3 and 4
    documents  attention of packed documents: varlen, flex, FlashAttention 2, 3 and 4
    peers      plain, Liger, Liger compiled, interpreted, documents, heads of 64
    fp8        `best` with products in 8 bits
    parts      each of the merged products alone
    kernels    every kernel against its peers, without torch.compile

Each step is a process of its own with a limit; one that no longer fits is left out, and said to be.
A step writes its JSON while it measures, so that whatever ends this program, Ctrl-C or SIGKILL,
finished rows stay; summary.md is written anew after each step. Needs what a bare GPU machine has.
Without a GPU all sizes are tiny, and limits longer: that shows that it runs.
"""

import argparse
import importlib.util
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._targets import beside_best, targets
from common.child import Child
from common.files import write_json, write_text
from model.train.distributed.gpus import num_gpus

SECONDS_LEFT_OUT = 5.0
"""Time that is kept for the summary."""
GRACE_SECONDS = 3.0
"""Seconds that a step has to end when its time is over."""
PEERS = "plain,liger,liger compiled,interpreted,documents,heads of 64"
MERGED = "best,merged,loss of 8"
PARTS = "best,merged qkv,merged ffn_in,merged ffn_out"
ONCE = ("--repeats", "1", "--steps", "3")
"""A measurement of a step is short: the median of three, once."""
MEASUREMENT_SECONDS = 120.0
"""Limit of one measurement of a step, of which a step of the session may have several."""
PATIENCE_ON_CPU = 6.0
"""Factor of all limits without a GPU: compiling for a CPU is slow, and others may share it."""
LEFT_OUT = "left out: no time"
"""Outcome of a step that was not begun."""
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
    command: Callable[[Path, float], list[str]]
    """Its command, given the output folder and a factor of its own limits."""


def module_step(name: str, module: str, *arguments: str, limit: float, least: float) -> Step:
    """`python -m benchmarks.<module>`, which writes <name>.json while it measures."""

    def command(out: Path, _: float) -> list[str]:
        start = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        return [*start, "--json", str(out / f"{name}.json")]

    return Step(name=name, limit=limit, least=least, command=command)


def training_step(
    name: str,
    rows: str,
    *,
    larger: str = "none",
    limit: float = 150,
    least: float = 60,
    profile: bool = False,
) -> Step:
    """Rows of bench_train (its CANDIDATES, with commas), once each.

    larger: micro-batches at which `best` is tried besides, with commas.
    """

    def command(out: Path, patience: float) -> list[str]:
        start = [sys.executable, "-m", "benchmarks.bench_train", "--only", rows, *ONCE]
        start += ["--larger", larger, "--limit", f"{patience * MEASUREMENT_SECONDS:g}"]
        start += ["--profile", str(out / name)] if profile else []
        return [*start, "--json", str(out / f"{name}.json")]

    return Step(name=name, limit=limit, least=least, command=command)


def kernel_step(name: str, module: str, *, limit: float = 60) -> Step:
    """A comparison of kernels, without torch.compile, which takes longer than all others."""
    return module_step(name, module, "--no-compile", limit=limit, least=20)


def _tests(out: Path, patience: float) -> list[str]:
    shared = ["-n", str(WORKERS)] if importlib.util.find_spec("xdist") else []
    return [sys.executable, "-m", "pytest", "-m", "gpu", "tests/model", "-q", *shared]


STEPS = (
    module_step("facts", "gpu_facts", limit=45, least=15),
    Step(name="tests", limit=120, least=30, command=_tests),
    training_step("best", "best"),
    training_step("profile", "best", profile=True, limit=90, least=45),
    training_step("merged", MERGED, limit=210, least=75),
    training_step("larger", "best,merged", larger="16", limit=240, least=75),
    kernel_step("attention", "kernels.bench_attention"),
    kernel_step("documents", "kernels.bench_documents"),
    training_step("peers", PEERS, limit=300),
    training_step("fp8", "fp8", limit=150, least=45),
    training_step("parts", PARTS, limit=240, least=75),
    kernel_step("kernels", "kernels", limit=600),
)
"""In order of worth. A new configuration of the training step is a row of bench_train.CANDIDATES
and a `training_step` here."""


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
    patience = 1.0 if num_gpus() else PATIENCE_ON_CPU
    session = Session(arguments.out, 60 * arguments.minutes, patience=patience)
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
        patience: factor of the steps' limits.
    """

    def __init__(self, out: Path, seconds: float, *, patience: float = 1.0) -> None:
        self.out, self.end, self.patience = out, time.monotonic() + seconds, patience
        self.outcomes: list[dict[str, Any]] = []
        out.mkdir(parents=True, exist_ok=True)

    def run(self, step: Step) -> None:
        """Run a step, or leave it out; write what came of it."""
        left = self.end - time.monotonic() - SECONDS_LEFT_OUT
        command = step.command(self.out, self.patience)
        found: dict[str, Any] = {
            "step": step.name,
            "command": shlex.join(["python", *command[1:]]),
            "outcome": LEFT_OUT,
            "seconds": 0.0,
        }
        self.outcomes.append(found)
        if left >= step.least:
            found["outcome"] = "running"
            (self.out / f"{step.name}.json").unlink(missing_ok=True)  # of an earlier session
            shutil.rmtree(self.out / step.name, ignore_errors=True)
            self._write()
            start = time.monotonic()
            limit = min(self.patience * step.limit, left)
            found["outcome"] = self._outcome(step, command, limit)
            found["seconds"] = round(time.monotonic() - start, 1)
        self._write()
        print(f"{step.name}: {found['outcome']} ({found['seconds']} s)", flush=True)

    def _outcome(self, step: Step, command: list[str], limit: float) -> str:
        with (
            (self.out / f"{step.name}.log").open("w", encoding="utf-8") as log,
            Child(
                command, None, grace=GRACE_SECONDS, stdout=log, stderr=subprocess.STDOUT
            ) as child,
        ):
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
    trained: dict[tuple[str, int], dict[str, Any]] = {}
    tiny = True
    # What a step that was left out has there is an earlier session's: other code, another machine.
    for name in [o["step"] for o in outcomes if o["outcome"] != LEFT_OUT]:
        report = _read(out / f"{name}.json")
        if report is not None and _is_training(report):
            tiny = report["tiny"]
            for row in report["rows"]:
                # The profiler is in its memory. A row that broke once may be done in another step.
                what = (row["name"], row["micro_batch_size"])
                known = trained.get(what)
                if name != "profile" and (known is None or known["status"] != "done"):
                    trained[what] = row
        if report is not None:
            lines += ["", f"## {name}", "", f"{report.get('device', '')}", "", *_figures(report)]
            lines += [f"- text: {name}/{path.name}" for path in sorted(out.glob(f"{name}/*.txt"))]
        log = out / f"{name}.log"
        if name == "tests" and log.is_file():
            last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
            lines += ["", "## tests", "", *last]
    if trained:
        rows = list(trained.values())
        lines += ["", "## training steps together", ""]
        lines += [
            f"- {name}: {speed:.3f} of the tokens/s of best, {memory:.3f} of its memory"
            for name, speed, memory in beside_best(rows)
        ]
        lines += map(_target_line, targets(rows, judged=not tiny))
    return "\n".join(lines) + "\n"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report


def _figures(report: dict[str, Any]) -> list[str]:
    """Lines of a report's figures."""
    if _is_training(report):
        return [*map(_training_line, report["rows"]), *map(_choice_line, report.get("choices", ()))]
    if "rows" in report:
        return [_kernel_line(row) for row in report["rows"]]
    return ["```", json.dumps(report, indent=1, ensure_ascii=False), "```"]


def _is_training(report: dict[str, Any]) -> bool:
    return "targets" in report and "micro_batch_size" in report


def _training_line(row: dict[str, Any]) -> str:
    name = row["name"].split(", micro-batch")[0]
    start = f"- {name}, micro-batch {row['micro_batch_size']}: "
    if row["status"] != "done":
        reason = " ".join(row["reason"].split())
        # Why it broke stands at the end of what a process said.
        short = reason[-200:] if row["status"] == "failed" else reason[:300]
        return start + f"{row['status']}: {short}"
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
