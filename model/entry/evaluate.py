"""Score multiple-choice benchmarks with lm-eval: the program that the stage `evaluate` starts.

    config.json ──▶ model, tokenizer ──▶ lm-eval (tasks from generated YAML, prompts its own)
                                             │ requests log P(letter | prompt)
                                             ▼
                    answers/<benchmark>.jsonl   one line a question, written whole or not at all

A benchmark whose answers stand there is skipped, so a second start continues. Of n ranks each takes
every n-th question; rank 0 gathers and writes.
"""

import json
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval import evaluate as lm_evaluate
from lm_eval.tasks import TaskManager

from common.child import run_job
from common.files import write_text
from common.processes import die_with_parent
from model.evaluate.choice_lm import ChoiceLM
from model.evaluate.job import BenchmarkJob, EvaluateJob
from model.load import load_causal_lm
from model.tokenizer.folder import check_model_folder, load_folder_tokenizer
from model.train.distributed.context import distributed_context
from model.train.run.metrics import JsonlSink

log = logging.getLogger("steel.evaluate")

PROGRESS_SECONDS = 2.0


def evaluate(job: EvaluateJob) -> None:
    """Evaluate a model in this rank."""
    with distributed_context(timeout_minutes=120) as ranks:
        run(job, load(job, ranks.device, ranks.rank, ranks.world_size))


def load(job: EvaluateJob, device: torch.device, rank: int = 0, world_size: int = 1) -> ChoiceLM:
    """Load the model and its tokenizer. Raises DataError where they do not fit."""
    network, tokenizer = load_model(Path(job.model), job.dtype, device)
    assert not job.chat or tokenizer.chat_template is not None, "the stage checks this"
    batch_size = job.batch_size
    if getattr(network.config, "leaks", False):
        # These let every token see the whole sequence, padding included.
        log.warning("routing %s looks ahead: prompts are scored singly", network.config.routing)
        batch_size = 1
    return ChoiceLM(network, tokenizer, batch_size=batch_size, rank=rank, world_size=world_size)


def load_model(folder: Path, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """Load a model to be measured, and its tokenizer. Raises DataError where they do not fit.

    dtype: a torch dtype's name, or "auto": bfloat16 on a GPU and float32 on the CPU.
    """
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    tokenizer = load_folder_tokenizer(folder)
    check_model_folder(folder, tokenizer)
    network = load_causal_lm(str(folder), getattr(torch, dtype), device)
    return network.to(device).eval(), tokenizer


def run(job: EvaluateJob, lm: ChoiceLM) -> None:
    """Answer every question of every benchmark that has no answers yet."""
    sink = JsonlSink(Path(job.metrics))
    folder = Path(job.answers)
    missing = [b for b in job.benchmarks if not (folder / f"{b.name}.jsonl").exists()]
    done = sum(b.num_questions for b in job.benchmarks if b not in missing)
    if lm.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        sink.resume(done)
    for benchmark in missing:
        if lm.rank == 0:
            lm.on_batch = _Progress(sink, done, benchmark.num_questions, lm.world_size)
        answers = answer(job, benchmark, lm)
        done += benchmark.num_questions
        if lm.rank == 0:
            write_text(
                folder / f"{benchmark.name}.jsonl",
                "".join(json.dumps(a, ensure_ascii=False) + "\n" for a in answers),
            )
            share = sum(a["right"] for a in answers) / len(answers)
            sink.log(done, {f"eval/{benchmark.name}": share})
            log.info("%s: %.2f %% of %d", benchmark.name, 100 * share, len(answers))
        lm.barrier()  # all ranks go on when this benchmark is written


def answer(job: EvaluateJob, benchmark: BenchmarkJob, lm: ChoiceLM) -> list[dict[str, Any]]:
    """Answer one benchmark; by subject and number, and an empty list on ranks other than 0."""
    lm.truncated.clear()
    manager = TaskManager(include_path=benchmark.folder, include_defaults=False)
    result = lm_evaluate(
        lm,
        manager.load(list(benchmark.tasks)),
        limit=job.limit,
        log_samples=True,
        bootstrap_iters=0,
        apply_chat_template=job.chat,
        fewshot_as_multiturn=True,
    )
    truncated: set[str] = set().union(*(lm.gather_object(lm.truncated) or []))
    if result is None:
        return []
    answers = []
    for task, subject in benchmark.tasks.items():
        for sample in sorted(result["samples"][task], key=lambda s: s["doc_id"]):
            prompt = sample["arguments"][0][0]
            answers.append(
                {
                    "subject": subject,
                    "index": sample["doc_id"],
                    "target": sample["target"],
                    "right": sample["acc"] == 1.0,
                    "log_likelihoods": [logp for logp, _ in sample["filtered_resps"]],
                    "truncated": prompt in truncated,
                    "prompt": prompt,
                }
            )
    return answers


class _Progress:
    """Writes the number of answered questions every few seconds; takes ranks as equally fast."""

    def __init__(self, sink: JsonlSink, done: int, num_questions: int, world_size: int) -> None:
        self.sink, self.done, self.world_size = sink, done, world_size
        self.last = done + num_questions - 1  # the last step is written with the accuracy
        self.started = self.written = time.monotonic()
        self.answered = 0

    def __call__(self, prompts: int) -> None:
        self.answered += prompts * self.world_size
        now = time.monotonic()
        if now - self.written >= PROGRESS_SECONDS:
            self.written = now
            rate = self.answered / (now - self.started)
            step = min(self.done + self.answered, self.last)
            self.sink.log(step, {"perf/questions_per_second": rate})


if __name__ == "__main__":
    # Nothing to save: a rank that outlives its launcher, were it only stopped, would write answers
    # beside those of the run that goes on.
    die_with_parent(signal.SIGKILL)
    for noisy in ("lm_eval", "datasets", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    sys.exit(run_job(EvaluateJob, evaluate, sys.argv[1:]))
