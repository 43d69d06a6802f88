"""Job of an evaluation, as it travels from the stage to the ranks."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Mode: TypeAlias = Literal[
    "likelihood", "cloze", "answer_first", "chain_of_thought", "generate_until"
]
"""Form of an answer. likelihood: the most likely of the four letters after the prompt.
cloze: likelihoods of the options' texts after the question alone (model/evaluate/cloze.py).
answer_first, chain_of_thought: in words, as a chat model (model/evaluate/generative.py).
generate_until: in words, as a task of lm-eval asks for it."""

AnswerForm: TypeAlias = Literal["likelihood", "answer_first", "chain_of_thought"]
"""Modes of multiple choice, which a configuration chooses from."""

Precision: TypeAlias = Literal["auto", "float32", "bfloat16"]
"""Number format of weights and activations."""


def resolved_dtype(dtype: Precision) -> Literal["float32", "bfloat16"]:
    """The number format that answers are computed in.

    float32 on a GPU, too: in bfloat16 letters of many questions are equal or exchanged.
    """
    return "float32" if dtype == "auto" else dtype


@dataclass(frozen=True, kw_only=True)
class SubjectJob:
    """One subject of one benchmark, answered in one mode by one rank."""

    benchmark: str
    """Name of the recipe."""
    subject: str
    """Name of the subject."""
    task: str
    """lm-eval's name for it."""
    folder: str
    """Folder of the generated task files."""
    mode: Mode
    """Form of the answers."""
    num_questions: int
    """Number of questions."""
    num_characters: int
    """Characters of all prompts, by which the subjects are dealt out to ranks."""
    answers: str
    """File for the answers, written whole or not at all (model/evaluate/answers.py)."""
    about: str
    """JSON of everything that decides about the answers, for their file."""
    first: int = 0
    """generate_until: number of the first question, of a task that is answered in parts."""
    prompts: str = ""
    """answer_first, chain_of_thought: file of conversations, a line a question. cloze: file of
    {"prompt", "options", "target"} lines."""
    max_new_tokens: int = 0
    """answer_first, chain_of_thought: tokens of an answer at the most."""


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """Subjects, model and settings of an evaluation."""

    model: str
    """Folder in Transformers' format, with tokenizer."""
    subjects: list[SubjectJob]
    """In the order of results; those that have answers are skipped."""
    metrics: str
    """metrics.jsonl of the stage."""
    chat: bool
    """If true, prompts go through the chat template."""
    limit: int | None
    """At most so many questions a subject."""
    batch_size: int
    """Questions a forward pass, per process."""
    dtype: Precision
    """Weights and activations; auto is float32."""


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
    dtype: Precision
    """Weights and activations; auto is bfloat16 on a GPU and float32 on the CPU."""


@dataclass(frozen=True, kw_only=True)
class CheckpointJob:
    """Measurements of one checkpoint during a training, by a process that stands back for it."""

    evaluate: EvaluateJob
    """Subjects, and the model that the checkpoint was exported to."""
    texts: dict[str, str]
    """Source -> a file of {"text": …} lines, for bits per byte."""
    window: int
    """Tokens that a prediction of a text sees at the most, as in training."""
    results: str
    """Folder for bits per byte, `<source>.json`."""
    threads: int
    """Threads that compute, where the model is on the CPU."""
