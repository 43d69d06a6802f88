"""Answers of one subject in words: conversations of a file, or a task of lm-eval.

    {"examples", "question"} ──chat template──▶ ids ──▶ Generator ──▶ {"index", "text", …}
    lm-eval's generate_until ──its own prompt──▶ ids ──▶ Generator ──▶ its filters, its metric

Control tokens in a prompt are those of the chat template alone; a question that spells one is text.
"""

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from lm_eval import evaluate as lm_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from common.errors import DataError
from common.files import read_json_lines
from model.evaluate.choice_lm import ChoiceLM
from model.evaluate.generation import Generated, Generator
from model.evaluate.job import EvaluateJob, SubjectJob


def by_generation(job: EvaluateJob, subject: SubjectJob, lm: ChoiceLM) -> list[dict[str, Any]]:
    """Answer each conversation of a subject's file, in the order of its questions.

    Where a prompt leaves less room in the model's context than the answer may take, worked examples
    go first, the first ones; then the answer has what room there is.
    """
    generator = _generator(job, lm)
    rows = list(read_json_lines(Path(subject.prompts)))
    prompts, limits, cut = [], [], []
    for row in rows:
        for left_out in count():
            ids = _encoded(generator, row["examples"][left_out:], row["question"])
            room = lm.max_length - len(ids)
            if room >= subject.max_new_tokens or left_out >= len(row["examples"]):
                break
        prompts.append(ids)
        limits.append(min(room, subject.max_new_tokens))
        cut.append(left_out > 0 or room < subject.max_new_tokens)
    answers = generator.generate(prompts, limits)
    return [
        {
            "index": index,
            **_values(answer),
            "truncated": truncated,
            **({"prompt": lm.tokenizer.decode(prompts[0])} if index == 0 else {}),
        }
        for index, (answer, truncated) in enumerate(zip(answers, cut, strict=True))
    ]


def _encoded(generator: Generator, examples: Sequence[Sequence[str]], question: str) -> list[int]:
    messages = [
        message
        for asked, answered in examples
        for message in (
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answered},
        )
    ]
    messages.append({"role": "user", "content": question})
    ids, _ = generator.encoder.encode(messages, add_generation_prompt=True)
    return ids


def by_task(job: EvaluateJob, subject: SubjectJob, lm: ChoiceLM) -> list[dict[str, Any]]:
    """Answer a part of one of lm-eval's tasks (`subject.first` on), and let lm-eval score it."""
    model = GenerativeLM(lm, _generator(job, lm))
    manager = TaskManager(include_path=subject.folder, include_defaults=False)
    indices = list(range(subject.first, subject.first + subject.num_questions))
    result = lm_evaluate(
        model,
        manager.load([subject.task]),
        samples={subject.task: indices},
        log_samples=True,
        bootstrap_iters=0,
        apply_chat_template=job.chat,
        fewshot_as_multiturn=True,
    )
    answers: dict[int, dict[str, Any]] = {}
    for sample in result["samples"][subject.task]:
        index = sample["doc_id"]
        prompt = sample["arguments"][0][0]
        answer = answers.setdefault(
            index,
            {
                "index": index,
                **_values(model.generated[prompt]),
                "truncated": prompt in model.truncated,
                "target": sample["target"],
                "filtered": {},
                "metrics": {},
                **({"prompt": prompt} if index == 0 else {}),
            },
        )
        name = sample["filter"]
        answer["filtered"][name] = sample["filtered_resps"][0]
        answer["metrics"][name] = {metric: sample[metric] for metric in sample["metrics"]}
    return [answers[index] for index in sorted(answers)]


def _values(answer: Generated) -> dict[str, Any]:
    return {"text": answer.text, "num_tokens": answer.num_tokens, "complete": answer.complete}


def _generator(job: EvaluateJob, lm: ChoiceLM) -> Generator:
    generator = Generator(lm.model, lm.tokenizer, batch_size=job.batch_size)
    generator.on_batch = lm.on_batch
    return generator


class GenerativeLM(LM):
    """A model to lm-eval that generates by a `Generator`, for tasks of type generate_until."""

    def __init__(self, lm: ChoiceLM, generator: Generator) -> None:
        super().__init__()
        self.lm, self.generator = lm, generator
        self.generated: dict[str, Generated] = {}
        """Answers by their prompt."""
        self.truncated: set[str] = set()
        """Prompts that left too little room for an answer and lost their beginning."""

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer."""
        return str(self.lm.tokenizer_name)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation as `ChoiceLM` does."""
        return str(self.lm.apply_chat_template(chat_history, add_generation_prompt))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Answer each request greedily. Raises DataError for a task that wants samples drawn."""
        by_settings: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            by_settings.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
        texts = [""] * len(requests)
        for settings, indices in by_settings.items():
            options = json.loads(settings)
            if options.get("do_sample") or options.get("temperature"):
                raise DataError("tasks that draw their answers (do_sample) are not supported")
            until = options.get("until") or []
            stops = [until] if isinstance(until, str) else until
            limit = int(options.get("max_gen_toks", self.lm.max_gen_toks))
            room = self.lm.max_length - limit
            if room < 1:
                raise DataError(
                    f"answers of {limit} tokens leave no room for a question in the model's "
                    f"context of {self.lm.max_length}"
                )
            prompts = []
            for index in indices:
                text = requests[index].args[0]
                ids = self.lm.encode_prompt(text)
                if len(ids) > room:
                    self.truncated.add(text)
                prompts.append(ids[-room:])
            answers = self.generator.generate(prompts, [limit] * len(prompts), stops)
            for index, answer in zip(indices, answers, strict=True):
                self.generated[requests[index].args[0]] = answer
                texts[index] = answer.text
        return texts

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not for such tasks."""
        raise NotImplementedError("a task of type generate_until asks for no likelihoods")

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Not for such tasks."""
        raise NotImplementedError("a task of type generate_until asks for no likelihoods")
