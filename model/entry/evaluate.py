"""Score multiple-choice benchmarks with lm-eval: the program that the stage `evaluate` starts.

    config.json ──▶ model, tokenizer ──▶ lm-eval (tasks from generated YAML, prompts its own)
                                             │ asks for log P(letter | prompt)
                                             ▼
                    answers/<benchmark>.jsonl   one line a question, written whole or not at all

A benchmark whose answers stand there is skipped, so a second start continues. Of n ranks each takes
every n-th question; rank 0 gathers and writes.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from lm_eval import evaluate as lm_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

import model.modeling_steel as _registers_auto_classes  # noqa: F401
from common.child import run_job
from common.errors import DataError
from common.files import write_text
from model.train.run.metrics import JsonlSink

log = logging.getLogger("steel.evaluate")

PROGRESS_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class BenchmarkJob:
    """One benchmark, ready for lm-eval."""

    name: str
    """Name of the recipe; the answers' file is called so."""
    folder: str
    """Folder of the generated task files."""
    tasks: dict[str, str]
    """lm-eval's task name -> subject."""
    num_questions: int
    """How many will be asked, over all subjects."""


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """What the stage hands over."""

    model: str
    """Folder in Transformers' format, with tokenizer."""
    benchmarks: list[BenchmarkJob]
    """In the order of evaluation."""
    answers: str
    """Folder for the answers."""
    metrics: str
    """metrics.jsonl of the stage."""
    chat: bool
    """Whether prompts go through the chat template."""
    limit: int | None
    """At most so many questions a subject."""
    batch_size: int
    """Prompts a forward pass, per process."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """Of weights and activations; auto is bfloat16 on a GPU and float32 on the CPU."""


class ChoiceLM(HFLM):
    """lm-eval's Hugging Face model that computes logits only where a letter is scored.

    A prompt of 1,000 tokens and a vocabulary of 151,936 would give 600 MB of logits, of which four
    numbers are wanted. Equal to HFLM in what it returns (a test compares them).
    """

    def __init__(
        self, pretrained: Any, tokenizer: Any, *, batch_size: int, rank: int, world_size: int
    ) -> None:
        super().__init__(
            pretrained=pretrained, tokenizer=tokenizer, backend="causal", batch_size=batch_size
        )
        self._rank, self._world_size = rank, world_size
        self.truncated: set[str] = set()
        """Prompts that were longer than the model's context and lost their beginning."""
        self.on_batch: Callable[[int], None] = lambda prompts: None
        """Called with the number of prompts that a batch held."""
        self._plain_head = self._has_plain_head()

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[...] of every rank -> [world_size]; lm-eval gathers only single numbers this way."""
        if self.world_size == 1:
            return tensor
        gathered = [torch.zeros_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """As lm-eval's, without a progress bar in the log."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """log P(continuation | context) and whether it is the greedy choice, for each request.

        Requests that differ only in their last token (the letters of one question) share one row.
        """
        rows: dict[tuple[int, ...], list[int]] = {}
        for index, ((prompt, _), context, continuation) in enumerate(requests):
            tokens = context + continuation
            if len(tokens) > self.max_length + 1:
                self.truncated.add(prompt)
            row = tuple(tokens[-(self.max_length + 1) :][:-1])
            rows.setdefault(row, []).append(index)
        # Longest first: a batch pads little, and memory runs out at once or never.
        order = sorted(rows, key=lambda row: (-len(row), row))
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            tails = [max(len(requests[i][2]) for i in rows[row]) for row in batch]
            for row, scores in zip(batch, self._log_softmax(batch, tails), strict=True):
                for index in rows[row]:
                    target = torch.tensor(requests[index][2], device=scores.device)
                    picked = scores[-len(target) :]
                    logp = picked.gather(1, target[:, None]).sum().item()
                    if not math.isfinite(logp):
                        raise DataError("the model's output is not finite: its training diverged")
                    results[index] = (logp, bool((picked.argmax(-1) == target).all()))
            self.on_batch(len(batch))
        return results

    def _log_softmax(
        self, batch: list[tuple[int, ...]], tails: list[int]
    ) -> Sequence[torch.Tensor]:
        """log P of the next token after each of the last `tails[i]` tokens of row i: [tail, V]."""
        width = len(batch[0])
        # Padding stands to the right, where causal attention never looks.
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch], device=self.device)
        places = [
            (i, position)
            for i, (row, tail) in enumerate(zip(batch, tails, strict=True))
            for position in range(len(row) - tail, len(row))
        ]
        i, position = torch.tensor(places, device=self.device).unbind(1)
        if self._plain_head:
            hidden = self.model.base_model(ids, use_cache=False).last_hidden_state  # [B, T, D]
            logits = self.model.get_output_embeddings()(hidden[i, position])
        else:
            logits = self.model(ids, use_cache=False).logits[i, position]
        return torch.split(torch.log_softmax(logits.float(), dim=-1), tails)

    @torch.inference_mode()
    def _has_plain_head(self) -> bool:
        """Whether logits are the output matrix times the last hidden state, nothing more.

        Some architectures scale or cap their logits; for those the whole model has to run.
        """
        head = self.model.get_output_embeddings()
        if head is None or self.model.base_model is self.model:
            return False
        ids = torch.arange(8, device=self.device)[None]
        whole = self.model(ids, use_cache=False).logits
        return torch.allclose(
            head(self.model.base_model(ids, use_cache=False).last_hidden_state), whole, atol=1e-4
        )


def evaluate(job: EvaluateJob) -> None:
    """Evaluate a model in this rank."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if world_size > 1:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2)
        )
    try:
        run(job, load(job, device, rank, world_size))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def load(job: EvaluateJob, device: torch.device, rank: int = 0, world_size: int = 1) -> ChoiceLM:
    """The model and its tokenizer, ready to be asked."""
    dtype = job.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    network = AutoModelForCausalLM.from_pretrained(
        job.model, dtype=getattr(torch, dtype), trust_remote_code=False, local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(
        job.model, trust_remote_code=False, local_files_only=True
    )
    assert not job.chat or tokenizer.chat_template is not None, "the stage checks this"
    batch_size = job.batch_size
    if getattr(network.config, "leaks", False):
        # These let every token see the whole sequence, padding included.
        log.warning("routing %s looks ahead: prompts are scored singly", network.config.routing)
        batch_size = 1
    return ChoiceLM(
        network.to(device).eval(),
        tokenizer,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
    )


def run(job: EvaluateJob, lm: ChoiceLM) -> None:
    """Ask every question of every benchmark whose answers are not there yet."""
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
        answers = ask(job, benchmark, lm)
        done += benchmark.num_questions
        if lm.rank == 0:
            write_text(
                folder / f"{benchmark.name}.jsonl",
                "".join(json.dumps(a, ensure_ascii=False) + "\n" for a in answers),
            )
            share = sum(a["right"] for a in answers) / len(answers)
            sink.log(done, {f"eval/{benchmark.name}": share})
            log.info("%s: %.2f %% of %d", benchmark.name, 100 * share, len(answers))
        lm.barrier()  # nobody looks for the next benchmark before this one is written


def ask(job: EvaluateJob, benchmark: BenchmarkJob, lm: ChoiceLM) -> list[dict[str, Any]]:
    """All answers of one benchmark, by subject and number; on ranks other than 0 an empty list."""
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
    """Writes how many questions are answered, every few seconds; assumes ranks of equal speed."""

    def __init__(self, sink: JsonlSink, done: int, num_questions: int, world_size: int) -> None:
        self.sink, self.done, self.world_size = sink, done, world_size
        self.last = done + num_questions - 1  # the last step is written with the accuracy
        self.started = self.written = time.monotonic()
        self.asked = 0

    def __call__(self, prompts: int) -> None:
        self.asked += prompts * self.world_size
        now = time.monotonic()
        if now - self.written >= PROGRESS_SECONDS:
            self.written = now
            rate = self.asked / (now - self.started)
            step = min(self.done + self.asked, self.last)
            self.sink.log(step, {"perf/questions_per_second": rate})


if __name__ == "__main__":
    for noisy in ("lm_eval", "datasets", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    sys.exit(run_job(EvaluateJob, evaluate, sys.argv[1:]))
