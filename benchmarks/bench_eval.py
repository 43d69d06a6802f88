"""Tokens and seconds of an evaluation, beside lm-eval's own Hugging Face model.

python -m benchmarks.bench_eval MODEL BENCHMARKS [--benchmark ceval] [--num-fewshot 5]
    [--subjects 6] [--limit 40] [--batch-size 16] [--json out.json]

MODEL is a Transformers folder that lm-eval loads, too; BENCHMARKS holds `ceval/`, `cmmlu/`, `mmlu/`
in their native layouts. Both answer the same questions in the same run, prompted by lm-eval, in
float32. Tokens are those of all forward passes, padding included; seconds are of answering, without
the building of prompts.

Needs lm-eval and what model/ needs.
"""

import argparse
import functools
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval import evaluate as lm_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from benchmarks._figures import add_options, publish
from common.recipes import load_recipe
from corpus.benchmarks.lm_eval_tasks import write_tasks
from corpus.benchmarks.questions import BenchmarkRecipe, read_benchmark
from model.entry.evaluate import load, load_model
from model.evaluate.job import EvaluateJob
from model.train.distributed.device import device_name

TARGET = 1 / 3
"""Of the peer's tokens, at most, ours may be at five worked examples."""


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit code: 1 when a choice differs or the target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("benchmarks", type=Path)
    parser.add_argument("--benchmark", default="ceval", help="recipe in data_recipes/evals")
    parser.add_argument("--num-fewshot", type=int, default=5)
    parser.add_argument("--subjects", type=int, default=6, help="the first so many")
    parser.add_argument("--limit", type=int, default=40, help="questions a subject")
    parser.add_argument("--batch-size", type=int, default=16)
    add_options(parser)
    arguments = parser.parse_args(argv)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    report = measure(arguments)
    both = report["steel"], report["lm-eval"]
    rows = [
        f"{name:8} {one['tokens']:>12,} tokens {one['seconds']:>9.1f} s {one['accuracy']:>8.2%}"
        for name, one in zip(("Steel", "lm-eval"), both, strict=True)
    ]
    share = both[0]["tokens"] / both[1]["tokens"]
    verdict = (
        f"{share:.1%} of the tokens, {both[0]['seconds'] / both[1]['seconds']:.1%} of the seconds; "
        f"{report['different_choices']} of {report['questions']} questions chosen differently"
    )
    report |= {"share_of_tokens": share}
    publish(report, "bench_eval", argv, arguments.json, table="\n".join([*rows, verdict]))
    return int(report["different_choices"] > 0 or share > TARGET)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Answer the same questions by both, subject after subject."""
    recipe = load_recipe(BenchmarkRecipe, "evals", arguments.benchmark)
    folder = arguments.benchmarks / arguments.benchmark
    questions = read_benchmark(arguments.benchmark, recipe, folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    job = EvaluateJob(
        model=str(arguments.model),
        subjects=[],
        metrics="",
        chat=False,
        limit=arguments.limit,
        batch_size=arguments.batch_size,
        dtype="float32",
    )
    ours = load(job, device)
    network, tokenizer = load_model(arguments.model, "float32", device)
    peer = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=arguments.batch_size)
    forwarded = 0

    def count(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal forwarded
        forwarded += (inputs[0] if inputs else named["input_ids"]).numel()

    network.register_forward_pre_hook(count, with_kwargs=True)
    seconds = {"steel": _timed(ours), "lm-eval": _timed(peer)}
    choices: dict[str, list[int]] = {"steel": [], "lm-eval": []}
    right: dict[str, int] = {"steel": 0, "lm-eval": 0}
    with tempfile.TemporaryDirectory() as place:
        tasks = write_tasks(questions, Path(place), num_fewshot=arguments.num_fewshot)
        manager = TaskManager(include_path=place, include_defaults=False)
        for task in list(tasks)[: arguments.subjects]:
            for name, lm in (("steel", ours), ("lm-eval", peer)):
                result = lm_evaluate(
                    lm, manager.load([task]), limit=arguments.limit, bootstrap_iters=0
                )
                samples = sorted(result["samples"][task], key=lambda s: s["doc_id"])
                for sample in samples:
                    scores = [logp for logp, _ in sample["filtered_resps"]]
                    choices[name].append(scores.index(max(scores)))
                    right[name] += sample["acc"] == 1.0
    tokens = {
        "steel": ours.forward.num_tokens + sum(f.num_tokens for f in ours.loaded()),
        "lm-eval": forwarded,
    }
    total = len(choices["steel"])
    pairs = zip(choices["steel"], choices["lm-eval"], strict=True)
    return {
        "questions": total,
        "different_choices": sum(one != other for one, other in pairs),
        "settled_in_float64": ours.num_settled,
        "device": device_name(device),
        **{
            name: {
                "tokens": tokens[name],
                "seconds": seconds[name]["total"],
                "accuracy": right[name] / total,
            }
            for name in tokens
        },
    }


def _timed(lm: Any) -> dict[str, float]:
    """Time spent answering, from now on."""
    spent = {"total": 0.0}
    answer: Callable[..., Any] = lm._loglikelihood_tokens

    @functools.wraps(answer)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = answer(*args, **kwargs)
        spent["total"] += time.perf_counter() - started
        return found

    lm._loglikelihood_tokens = timed
    return spent


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
