"""Real rows of many sets by their place, for the labels in labelled_languages.txt."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus.chats.formats import CHAT_FORMATS, PAIR_FORMATS
from corpus.chats.messages import UnusableRow

FILES = {
    "sft/alpaca_zh/zh-data-part-00_01.json.gz": "alpaca",
    "sft/ruozhiba/ruozhiba_qa.json": "alpaca",
    "sft/emollm/self_cognition_EmoLLM.json": "alpaca",
    "sft/sharegpt/sharegpt_zh_1K_format.jsonl.gz": "sharegpt",
    "sft/moss/moss_conversations.jsonl.gz": "moss",
    "sft/llamafactory/alpaca_zh_demo.json": "alpaca",
    "sft/llamafactory/alpaca_en_demo.json": "alpaca",
    "sft/llamafactory/oaast_sft_zh.json.gz": "alpaca",
    "sft/llamafactory/lima.json.gz": "alpaca",
    "sft/code/code_alpaca_2k.json": "alpaca",
    "sft/code/codegen-instruct.json.gz": "alpaca",
    "sft/openhermes_like/roleplay-simple-deduped-roleplay-instruct.json.gz": "alpaca",
    "sft/math/gsm8k_train.jsonl.gz": "question_answer",
    "sft/multiple_choice/openbookqa/train.json.gz": "llm_adapters",
    "preference/llamafactory/dpo_zh_demo.json": "sharegpt_pair",
    "preference/llamafactory/dpo_en_demo.json": "sharegpt_pair",
    "preference/medicalgpt/dpo_zh_500.jsonl": "sharegpt_pair",
    "preference/llamafactory/oaast_rm_zh.json.gz": "ranked_outputs",
}
"""File below the folder of real rows -> the format of its rows."""


def labels() -> dict[tuple[str, int], str]:
    """(file, row from 0) -> the language that a person gave it."""
    text = Path(__file__).with_name("labelled_languages.txt").read_text(encoding="utf-8")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            place, label = line.rsplit(" ", 1)
            file, row = place.rsplit("#", 1)
            found[file, int(row)] = label
    return found


def conversations(data: Path, file: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(row, turns) of the usable rows of a file; of a pair, the prompt and the better answer."""
    kind = FILES[file]
    path = data / file
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = json.loads(text) if text.lstrip()[:1] == b"[" else map(json.loads, text.splitlines())
    for number, row in enumerate(rows):
        try:
            if kind in CHAT_FORMATS:
                yield number, [dict(m) for m in CHAT_FORMATS[kind](row)[0].messages]
            else:
                pair = PAIR_FORMATS[kind](row)
                answer = {"role": "assistant", "content": pair.chosen}
                yield number, [*(dict(m) for m in pair.prompt), answer]
        except UnusableRow:
            continue
