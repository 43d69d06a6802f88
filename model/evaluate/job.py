"""Job of an evaluation, as it travels from the stage to the ranks."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class BenchmarkJob:
    """One benchmark, ready for lm-eval."""

    name: str
    """Name of the recipe and of the answers' file."""
    folder: str
    """Folder of the generated task files."""
    tasks: dict[str, str]
    """lm-eval's task name -> subject."""
    num_questions: int
    """Number of questions, over all subjects."""


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """Benchmarks, model and folders of an evaluation."""

    model: str
    """Folder in Transformers' format, with tokenizer."""
    benchmarks: list[BenchmarkJob]
    """In the order of evaluation."""
    answers: str
    """Folder for the answers."""
    metrics: str
    """metrics.jsonl of the stage."""
    chat: bool
    """If true, prompts go through the chat template."""
    limit: int | None
    """At most so many questions a subject."""
    batch_size: int
    """Prompts a forward pass, per process."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """Weights and activations; auto is bfloat16 on a GPU and float32 on the CPU."""


@dataclass(frozen=True, kw_only=True)
class BitsPerByteJob:
    """Texts, model and folders of a measurement in bits per byte."""

    model: str
    """Folder in Transformers' format, with tokenizer."""
    texts: dict[str, str]
    """Kind of text -> a file of {"text": …} lines."""
    window: int
    """Tokens that a prediction sees at the most, as in training."""
    results: str
    """Folder for `<kind>.json`."""
    metrics: str
    """metrics.jsonl of the stage."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """Weights and activations; auto is bfloat16 on a GPU and float32 on the CPU."""
