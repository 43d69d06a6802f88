"""Score multiple-choice benchmarks with lm-eval: the program that the stage `evaluate` starts.

    job.json ──▶ model, tokenizer ──▶ subject after subject, each whole by one rank
                                         │ lm-eval (tasks from generated YAML, prompts its own)
                                         │ requests log P(letter | prompt)
                                         ▼
                                      one file of answers a subject (model/evaluate/answers.py)

A subject whose answers are there is skipped, so a second start continues. A rank answers whole
subjects, so that the number of ranks changes no prefix that questions share, and no figure.
"""

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval import evaluate as lm_evaluate
from lm_eval.tasks import TaskManager

from common.child import run_job
from common.processes import die_with_parent
from model.evaluate.answers import read_answers, write_answers
from model.evaluate.choice_lm import ChoiceLM, Finer
from model.evaluate.cloze import by_cloze
from model.evaluate.forward import Forward
from model.evaluate.generative import by_generation, by_task
from model.evaluate.job import EvaluateJob, Mode, SubjectJob, resolved_dtype
from model.load import load_causal_lm, load_config
from model.tokenizer.folder import check_model_folder, load_folder_tokenizer
from model.train.distributed.context import DistributedContext, distributed_context
from model.train.distributed.tested_kernels import check_kernels
from model.train.run.metrics import JsonlSink

log = logging.getLogger("steel.evaluate")

PROGRESS_SECONDS = 2.0

NEAR = {"float32": 2e-4, "bfloat16": 0.25}
"""Nats between two letters that rounding may exchange: more than twenty times, in bfloat16 twice,
the differences that were measured between batch sizes, prefixes and float64 (docs/LOG.md)."""

MOST_PARAMETERS = 4_000_000_000
"""Of a model that is also loaded in float64, for near ties: 32 GB of the host's memory."""

LONGEST_WAIT_MINUTES = 24 * 60
"""Time that a rank without a subject waits for the others."""


def evaluate(job: EvaluateJob) -> None:
    """Evaluate a model in this rank."""
    with distributed_context(timeout_minutes=LONGEST_WAIT_MINUTES) as ranks:
        check_kernels_of(job.model, resolved_dtype(job.dtype), ranks)
        run(job, load(job, ranks.device), ranks)


def check_kernels_of(model: str, dtype: str, ranks: DistributedContext) -> None:
    """Have the reference compute what a kernel gets wrong here, so that no figure depends on it;
    called by all ranks before the model is loaded. Raises ConfigError for a folder of no model."""
    check_kernels(load_config(model), ranks, getattr(torch, dtype))


def load(job: EvaluateJob, device: torch.device) -> ChoiceLM:
    """Load the model and its tokenizer. Raises DataError where they do not fit."""
    dtype = resolved_dtype(job.dtype)
    network, tokenizer = load_model(Path(job.model), dtype, device)
    assert not job.chat or tokenizer.chat_template is not None, "the stage checks this"
    batch_size = job.batch_size
    if getattr(network.config, "leaks", False):
        # These let every token see the whole sequence, padding included.
        log.warning(
            "routing %s looks ahead: prompts are scored singly, and worked examples anew for each",
            network.config.routing,
        )
        batch_size = 1
    lm = ChoiceLM(network, tokenizer, batch_size=batch_size, finer=_finer(job, device, network))
    if not lm.forward.share and batch_size > 1:
        log.warning("this architecture goes on from no prefix: worked examples are computed anew")
    return lm


def _finer(job: EvaluateJob, device: torch.device, network: Any) -> list[Finer]:
    """Networks for questions whose answer hangs on rounding, the finest last."""

    def float32() -> Forward:
        finer, _ = load_model(Path(job.model), "float32", device)
        return Forward(finer, batch_size=1 if leaks else job.batch_size)

    def float64() -> Forward:
        # On the CPU, whatever computes the others: the same decision on any machine.
        finer, _ = load_model(Path(job.model), "float64", torch.device("cpu"))
        return Forward(finer, batch_size=1, share=False)

    leaks = getattr(network.config, "leaks", False)
    steps = []
    if resolved_dtype(job.dtype) == "bfloat16":
        steps.append(Finer(NEAR["bfloat16"], float32))
    if sum(parameter.numel() for parameter in network.parameters()) <= MOST_PARAMETERS:
        steps.append(Finer(NEAR["float32"], float64))
    return steps


def dtype_on(device: torch.device, dtype: str) -> str:
    """A torch dtype's name; that of "auto" is bfloat16 on a GPU and float32 on the CPU."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.type == "cuda" else "float32"


def load_model(folder: Path, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """Load a model to be measured, and its tokenizer. Raises DataError where they do not fit.

    dtype: as of `dtype_on`.
    """
    dtype = dtype_on(device, dtype)
    tokenizer = load_folder_tokenizer(folder)
    check_model_folder(folder, tokenizer)
    network = load_causal_lm(str(folder), getattr(torch, dtype), device)
    return network.to(device).eval(), tokenizer


def run(job: EvaluateJob, lm: ChoiceLM, ranks: DistributedContext) -> None:
    """Answer every question of every subject that has no answers yet."""
    sink = JsonlSink(Path(job.metrics))
    missing = [s for s in job.subjects if read_answers(Path(s.answers)) is None]
    progress = _Progress(sink, job.subjects, ranks.world_size) if ranks.is_main else None
    if progress is not None:
        sink.resume(progress.finished())
        lm.on_batch = progress
    ranks.barrier()  # all have looked before the first one writes
    for subject in dealt(missing, ranks.world_size)[ranks.rank]:
        answers = ANSWER[subject.mode](job, subject, lm)
        write_answers(Path(subject.answers), answers, json.loads(subject.about))
        if progress is not None:
            progress.next_subject()
        log.info("%s %s: %s", subject.benchmark, subject.subject, _said(answers))
    ranks.barrier()  # all answers are there
    if ranks.is_main:
        sink.log(sum(s.num_questions for s in job.subjects), _accuracies(job.subjects))


def dealt(subjects: Sequence[SubjectJob], num_ranks: int) -> list[list[SubjectJob]]:
    """Subjects of each rank: the longest first, each to the rank that has least to read."""
    hands: list[list[SubjectJob]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for subject in sorted(subjects, key=lambda s: -s.num_characters):
        rank = loads.index(min(loads))
        hands[rank].append(subject)
        loads[rank] += subject.num_characters
    return hands


def by_likelihood(job: EvaluateJob, subject: SubjectJob, lm: ChoiceLM) -> list[dict[str, Any]]:
    """Answer one subject by the likelihoods of its letters, in the order of its questions."""
    lm.truncated.clear()
    lm.tied.clear()
    manager = TaskManager(include_path=subject.folder, include_defaults=False)
    result = lm_evaluate(
        lm,
        manager.load([subject.task]),
        limit=job.limit,
        log_samples=True,
        bootstrap_iters=0,
        apply_chat_template=job.chat,
        fewshot_as_multiturn=True,
    )
    answers = []
    for sample in sorted(result["samples"][subject.task], key=lambda s: s["doc_id"]):
        prompt = sample["arguments"][0][0]
        answers.append(
            {
                "index": sample["doc_id"],
                "target": sample["target"],
                "right": sample["acc"] == 1.0,
                "log_likelihoods": [logp for logp, _ in sample["filtered_resps"]],
                "truncated": prompt in lm.truncated,
                "tied": prompt in lm.tied,
                "prompt": prompt,
            }
        )
    return answers


Answer = Callable[[EvaluateJob, SubjectJob, ChoiceLM], list[dict[str, Any]]]

ANSWER: Mapping[Mode, Answer] = {
    "likelihood": by_likelihood,
    "cloze": by_cloze,
    "answer_first": by_generation,
    "chain_of_thought": by_generation,
    "generate_until": by_task,
}
"""Mode -> what answers a subject in it: a line a question, with at least `index`, and `right` where
that is known here (answers in words are judged by the stage)."""


def _said(answers: Sequence[Mapping[str, Any]]) -> str:
    """Summary of a subject's answers for the log."""
    if not all("right" in answer for answer in answers):
        return f"{len(answers)} answered"
    return f"{sum(answer['right'] for answer in answers)} of {len(answers)} right"


def _accuracies(subjects: Sequence[SubjectJob]) -> dict[str, float]:
    """Share of right answers of each benchmark in each mode."""
    right: dict[str, list[bool]] = {}
    for subject in subjects:
        name = (
            subject.benchmark
            if subject.mode == "likelihood"
            else (f"{subject.benchmark} {subject.mode}")
        )
        answers = read_answers(Path(subject.answers)) or []
        right.setdefault(f"eval/{name}", []).extend(
            answer["right"] for answer in answers if "right" in answer
        )
    return {name: sum(found) / len(found) for name, found in right.items() if found}


class _Progress:
    """Writes the number of answered questions, of all ranks, every few seconds."""

    def __init__(self, sink: JsonlSink, subjects: Sequence[SubjectJob], world_size: int) -> None:
        self.sink, self.subjects, self.world_size = sink, subjects, world_size
        self.last = sum(s.num_questions for s in subjects) - 1  # the last line has accuracies
        self.begun = self.finished()
        self.started = self.written = time.monotonic()
        self.answered = self.step = 0

    def finished(self) -> int:
        """Questions of the subjects whose answers are there."""
        there = (s.num_questions for s in self.subjects if Path(s.answers).exists())
        return sum(there)

    def next_subject(self) -> None:
        self.answered = 0

    def __call__(self, questions: int) -> None:
        self.answered += questions
        now = time.monotonic()
        if now - self.written >= PROGRESS_SECONDS:
            self.written = now
            done = self.finished() + self.answered
            rate = (done - self.begun) / (now - self.started)
            self.step = max(self.step, min(done, self.last))
            self.sink.log(self.step, {"perf/questions_per_second": rate})


if __name__ == "__main__":
    # Nothing to save: a rank that outlives its launcher, were it only stopped, would write answers
    # beside those of the run that goes on.
    die_with_parent(signal.SIGKILL)
    for noisy in ("lm_eval", "datasets", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    sys.exit(run_job(EvaluateJob, evaluate, sys.argv[1:]))
