"""One pretraining that is interrupted and rescaled on the way, for real, and its picture.

    python -m benchmarks.rescaled_run deployments/smoke.yaml --store store --picture curve.png

    2 processes ──SIGTERM──▶ saved    1 process ──SIGKILL──▶ nothing saved    2 processes ──▶ end

Starts `steel run … --stages pretrain` again and again on one store, each time with another number
of processes, and ends it at a step: asked to (SIGTERM to the command), or by killing every rank
(SIGKILL). Prints the sessions, the validation losses in order, and where each loss was measured.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks._figures import add_options, publish
from common.paths import ROOT
from model.train.run.folder import METRICS_FILE, SESSIONS_FILE
from model.train.run.metrics import last_value, read_metrics
from model.train.run.sessions import read_sessions
from tasks.core.manifest import StageResult
from tasks.core.store import newest
from tasks.report.data import gather
from tasks.report.figures import draw
from tasks.report.timeline_figure import TOKENS

POLL_SECONDS = 0.2
ENTRY = "model.entry.pretrain"


@dataclass(frozen=True)
class Part:
    """One session of the run."""

    num_processes: int
    """Ranks."""
    until: int | None = None
    """Step at which it is ended; None: it may finish."""
    number: signal.Signals = signal.SIGTERM
    """Way of ending the segment."""


DEFAULT = (Part(2, 150, signal.SIGTERM), Part(1, 320, signal.SIGKILL), Part(2))


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts, print what came of them, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", metavar="CONFIG.yaml")
    parser.add_argument("--store", default="store")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument(
        "--parts", metavar="2@150:TERM,1@320:KILL,2", help="processes@step:signal of each session"
    )
    parser.add_argument("--picture", type=Path, metavar="OUT.png", help="also OUT-dark.png")
    add_options(parser)
    arguments = parser.parse_args(argv)
    parts = _parse(arguments.parts) if arguments.parts else DEFAULT
    for part in parts:
        run(arguments.config, arguments.store, arguments.overrides, part)
    base = newest(Path(arguments.store), "pretrain")
    assert base is not None, "the last part finished"
    publish(describe(base), "rescaled_run", argv, arguments.json)
    if arguments.picture:
        picture(base, arguments.picture)
    return 0


def run(config: str, store: str, overrides: Sequence[str], part: Part) -> None:
    """One session. Raises RuntimeError when it ends otherwise than it was meant to."""
    command = [sys.executable, "-m", "flows.cli", "run", config, "--stages", "pretrain"]
    command += ["--store", store, "--set", f"pretrain.num_processes={part.num_processes}"]
    command += [word for override in overrides for word in ("--set", override)]
    print(f"{part.num_processes} process(es)", file=sys.stderr, flush=True)
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        code = _end(process, part, Path(store))
    finally:
        if process.poll() is None:  # whatever ended us must not leave it training
            process.terminate()
            process.wait()
    if (code == 0) != (part.until is None):
        raise RuntimeError(f"{' '.join(command)} ended with {code}")


def _end(process: "subprocess.Popen[bytes]", part: Part, store: Path) -> int:
    """Follow a session until it ends, by itself or as the part says; its exit code."""
    if part.until is not None:
        while _step(store) < part.until:
            if process.poll() is not None:
                raise RuntimeError(f"it ended ({process.returncode}) before step {part.until}")
            time.sleep(POLL_SECONDS)
        print(f"step {_step(store)}: {part.number.name}", file=sys.stderr, flush=True)
        if part.number == signal.SIGKILL:
            for rank in _ranks(process.pid):
                rank.kill()
        else:
            process.send_signal(part.number)
    return process.wait()


def describe(base: StageResult) -> dict[str, Any]:
    """Sessions, and validation loss by step, as JSON values."""
    lines = list(read_metrics(base.folder / METRICS_FILE))
    steps = [line["step"] for line in lines if "train/loss" in line["metrics"]]
    return {
        "steps": len(steps),
        "tokens": last_value(base.folder / METRICS_FILE, TOKENS),
        "each_step_once": steps == sorted(set(steps)) and len(steps) == steps[-1],
        "sessions": [
            {
                "from_step": s.step,
                "to_step": s.last_step,
                "processes": s.num_processes,
                "ended": s.how,
            }
            for s in read_sessions(base.folder / SESSIONS_FILE)
        ],
        "validation_loss": {
            line["step"]: round(line["metrics"]["validation/loss"], 4)
            for line in lines
            if "validation/loss" in line["metrics"]
        },
    }


def picture(base: StageResult, target: Path) -> None:
    """The report's picture of the pretraining, light and dark."""
    data = gather(
        normalized=None, cleaned=None, packed=None, pretrain=base, sft={}, dpo=None, evaluations={}
    )
    folder = target.parent / f".{target.stem}"
    folder.mkdir(parents=True, exist_ok=True)
    draw(data, folder)
    for theme in ("", "-dark"):
        name = target.with_name(f"{target.stem}{theme}.png")
        (folder / f"pretraining{theme}.png").replace(name)
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()


def _step(store: Path) -> int:
    """Steps that the unfinished pretraining of a store has measured."""
    found = [
        line["step"]
        for metrics in store.glob(f"pretrain/*.partial/{METRICS_FILE}")
        for line in read_metrics(metrics)
    ]
    return max(found, default=0)


def _ranks(pid: int) -> list[psutil.Process]:
    """The processes that train, below the command."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if ENTRY in " ".join(child.cmdline())]


def _parse(text: str) -> tuple[Part, ...]:
    parts = []
    for word in text.split(","):
        processes, at, rest = word.partition("@")
        step, _, name = rest.partition(":")
        parts.append(
            Part(int(processes), int(step), signal.Signals[f"SIG{name or 'TERM'}"])
            if at
            else Part(int(processes))
        )
    return tuple(parts)


if __name__ == "__main__":
    sys.exit(main())
