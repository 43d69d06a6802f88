"""Benchmarks of a few questions in their native layouts, and a tiny model to answer them."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny_chat import save_tiny_model

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_model(
    folder: Path, *, routing: str = "token", tokenizer: PreTrainedTokenizerFast | None = None
) -> Path:
    """A tiny Steel of random weights; its tokenizer is one of bytes where none is given."""
    tokenizer = tokenizer or _bytes()
    return save_tiny_model(
        folder,
        tokenizer,
        seed=3,
        vocab_size=len(tokenizer),
        hidden_size=32,
        expert_intermediate_size=16,
        max_position_embeddings=2048,
        initializer_range=0.3,
        routing=routing,
    )


def _bytes() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", "<|im_end|>", *alphabet])}
    # One merge, so that " A" is a token of its own, as it is in Qwen's vocabulary.
    merges = [("Ġ", letter) for letter in "ABCD"]
    vocabulary |= {"".join(pair): len(vocabulary) + i for i, pair in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    return fast


def row(number: int, subject: str) -> list[str]:
    """One question: text, four options of which one is a bare number, answer."""
    return [
        f'{subject} 第{number}题, "引号"',
        str(number),
        "007",
        "甲，乙",
        "1.50",
        "ABCD"[number % 4],
    ]


def write_csv(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in cells) for cells in rows]
    path.write_text("\r\n".join(quoted) + "\r\n", encoding="utf-8")


def write_ceval(folder: Path, subjects: dict[str, int], num_dev: int = 5) -> None:
    header = ["id", "question", "A", "B", "C", "D", "answer"]
    for subject, num_questions in subjects.items():
        for split, count in (("dev", num_dev), ("val", num_questions)):
            rows = [[str(i), *row(i, subject)] for i in range(count)]
            write_csv(folder / split / f"{subject}_{split}.csv", [header, *rows])


def write_mmlu(folder: Path, subjects: dict[str, int]) -> None:
    for subject, num_questions in subjects.items():
        for split, count in (("dev", 5), ("test", num_questions)):
            write_csv(
                folder / split / f"{subject}_{split}.csv", [row(i, subject) for i in range(count)]
            )


def write_benchmarks(folder: Path) -> Path:
    """C-Eval with a subject lm-eval knows and one it doesn't, and MMLU with one subject."""
    write_ceval(folder / "ceval", {"law": 7, "valley_lore": 4})
    write_mmlu(folder / "mmlu", {"anatomy": 6})
    return folder
