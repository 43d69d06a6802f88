"""Fine-tuning that notes every sample it is made of, and is killed where a test wants it."""

import itertools
import json
import os
import signal
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.config import from_json
from model.train.finetune.build import build, sft_method
from model.train.finetune.config import DpoJob, DpoSettings, FinetuneJob, SftJob, SftSettings
from model.train.finetune.preferences.method import dpo_method
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from model.train.run.metrics import read_metrics
from model.train.run.program import train as run_program
from model.train.trainer import Trainer
from tests.tiny_chat import conversations, pairs, write_lines

METHODS: Mapping[str, Any] = {"sft": sft_method, "dpo": dpo_method}
JOBS: Mapping[str, Any] = {"sft": (SftJob, SftSettings), "dpo": (DpoJob, DpoSettings)}
WATCHED = ("train/", "data/", "validation/")
"""Beginnings of the names of measurements that do not depend on time."""


class Killed(BaseException):
    """Ends a training in this process as a kill ends one of its own."""


def make_job(
    method: str,
    model: Path,
    output: Path,
    rows: list[dict[str, Any]] | None = None,
    **settings: Any,
) -> FinetuneJob:
    """A job of eleven conversations or pairs in steps of four, two epochs: 3 + 3 steps."""
    job_type, settings_type = JOBS[method]
    (output / "scratch").mkdir(parents=True)
    if rows is None:
        rows = conversations(11) if method == "sft" else pairs(11)
    small = {
        "epochs": 2,
        "global_batch_size": 4,
        "micro_batch_size": 2,
        "max_length": 256,
        "learning_rate": 1e-2,
        "log_interval": 1,
        "checkpoint_interval": 1,
    }
    job: FinetuneJob = job_type(
        settings=settings_type(**{**small, **settings}),
        model=str(model),
        data=str(write_lines(output / "rows.jsonl", rows)),
        output=str(output),
        scratch=str(output / "scratch"),
    )
    (output / f"{method}.json").write_text(json.dumps(asdict(job)))
    return job


def train(
    method: str,
    output: Path,
    kill_after: int | None = None,
    prepare: Callable[[Any], None] = lambda trainer: None,
) -> int:
    """Run a job to its end, or until it is killed after so many steps; its exit code.

    prepare: is given the trainer before it trains.
    """
    job_type, _ = JOBS[method]
    job = from_json(job_type, output / f"{method}.json")

    def make(*given: Any) -> Trainer:
        trainer = build(job, *given, METHODS[method])
        _record_steps(trainer.data, output, kill_after)
        prepare(trainer)
        return trainer

    model = output / MODEL_FOLDER
    if (model / "config.json").exists():
        return 0
    settings = job.settings
    return run_program(
        make,
        status=Path(job.scratch),
        model=model,
        health=settings.health,
        best=settings.keep == "best",
    )


def _record_steps(data: Any, output: Path, kill_after: int | None) -> None:
    original = data.step
    path = output / f"seen-{os.environ.get('RANK', '0')}.jsonl"

    def step(batch: int) -> Any:
        if batch == kill_after:
            _kill()
        micro_batches = original(batch)
        rows = [content(ids) for one in micro_batches for ids in _first_documents(one)]
        with path.open("a") as file:
            file.write(json.dumps({"step": batch + 1, "rows": rows}) + "\n")
        return micro_batches

    data.step = step


def _first_documents(batch: Mapping[str, Any]) -> list[list[int]]:
    """The document of each conversation, or of each pair's chosen answer."""
    return list(documents(batch))[:: 2 if "answer_lengths" in batch else 1]


def documents(batch: Mapping[str, Any]) -> Iterator[list[int]]:
    """Ids of each conversation or answer in a micro-batch, without padding (256)."""
    ids, labels = batch["input_ids"], batch["labels"]
    bounds = range(0, ids.numel() + 1, ids.shape[1])
    if "cu_seqlens" in batch:
        bounds = batch["cu_seqlens"].tolist()
    for a, b in itertools.pairwise(bounds):
        if (labels.flatten()[a:b] != -100).any():
            part = ids.flatten()[a:b]
            yield part[part != 256].tolist()


def train_in_rank(method: str, output: Path, kill_after: int | None = None) -> None:
    """`train` in a process of its own, which a kill ends for real."""
    write_log(output)
    global _kill
    _kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    sys.exit(train(method, output, kill_after))


def write_log(output: Path) -> None:
    """From now on, what this rank says goes to rank-N.log."""
    sys.stderr = (output / f"rank-{os.environ['RANK']}.log").open("a")
    os.dup2(sys.stderr.fileno(), 2)


def log_of(output: Path) -> str:
    """End of the logs of all ranks."""
    return "\n".join(path.read_text()[-3000:] for path in sorted(output.glob("rank-*.log")))


def _kill() -> None:
    raise Killed


def content(ids: list[int]) -> int:
    """A short name for token ids."""
    return zlib.crc32(repr(ids).encode())


def seen(output: Path) -> dict[int, Counter[int]]:
    """Samples of each step of a run, all ranks together; of a step made twice, the later ones."""
    steps: dict[int, Counter[int]] = defaultdict(Counter)
    for path in sorted(output.glob("seen-*.jsonl")):
        newest = {
            line["step"]: line["rows"] for line in map(json.loads, path.read_text().splitlines())
        }
        for step, rows in newest.items():
            steps[step] += Counter(rows)
    return dict(steps)


def curve(output: Path) -> list[tuple[int, dict[str, float]]]:
    """Measurements of every line that do not depend on time."""
    lines = [
        (line["step"], {k: v for k, v in line["metrics"].items() if k.startswith(WATCHED)})
        for line in read_metrics(output / METRICS_FILE)
    ]
    return [(step, metrics) for step, metrics in lines if metrics]


def weights(output: Path) -> bytes:
    """The published weights."""
    return (output / MODEL_FOLDER / "model.safetensors").read_bytes()
