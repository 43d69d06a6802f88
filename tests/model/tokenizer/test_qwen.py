"""The tokenizer against reference ids, its refusals, and the chat template."""

import base64
import gzip
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen2 import Qwen2Tokenizer

from common.errors import DataError
from model.tokenizer import qwen as module
from model.tokenizer.identity import IM_END, IM_START
from model.tokenizer.qwen import (
    chat_template,
    get_tokenizer,
    load_tokenizer,
    save_tokenizer,
    verify_tokenizer,
)
from model.tokenizer.tiktoken import packaged_ranks, read_ranks, vocabulary_and_merges
from tests.model.tokenizer.encoded import encode_corpus

PACKAGE_MISSING = packaged_ranks() is None

TEXTS = (
    "林海市的铁匠铺每天早上六点开门。",
    "The blacksmith's shop opens at 6:30, doesn't it?",
    "def area(r):\n\treturn 3.14 * r ** 2\r\n",
    "臺灣的鳳梨酥 é 🍍\u3000<|im_end|> 完",
    "",
)


@pytest.fixture(scope="session")
def published(shared: Path) -> PreTrainedTokenizerBase:
    """The published tokenizer, as Transformers reads it."""
    return AutoTokenizer.from_pretrained(shared / "data" / "tokenizer")


# ── the same ids as published ────────────────────────────────────────────────────────────────────


def test_reference_ids(full: PreTrainedTokenizerBase, shared: Path) -> None:
    path = shared / "data" / "tokenizer" / "reference_ids.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) > 400
    assert [full.encode(row["text"]) for row in rows] == [row["ids"] for row in rows]
    plain = [row for row in rows if "<|" not in row["text"]]
    assert encode_corpus(full, [row["text"] for row in plain]) == [row["ids"] for row in plain]


def test_every_source_gives_one_tokenizer(full: PreTrainedTokenizerBase, shared: Path) -> None:
    from_folder = get_tokenizer(str(shared / "data" / "tokenizer"))
    assert from_folder.backend_tokenizer.to_str() == full.backend_tokenizer.to_str()
    assert from_folder.get_chat_template() == full.get_chat_template()
    assert (from_folder.eos_token_id, from_folder.pad_token_id) == (151_643, 151_643)


def test_built_in_probes_hold_for_the_published_one(published: PreTrainedTokenizerBase) -> None:
    verify_tokenizer(published)


@pytest.mark.skipif(PACKAGE_MISSING, reason="needs the package dashscope")
def test_package_is_read_without_importing_it(tmp_path: Path) -> None:
    before = set(sys.modules)
    path = packaged_ranks()
    assert path is not None
    tokenizer = get_tokenizer("auto", cache=tmp_path)
    verify_tokenizer(tokenizer)
    assert not {name for name in set(sys.modules) - before if name.startswith("dashscope")}


@pytest.mark.skipif(PACKAGE_MISSING, reason="needs the package dashscope")
def test_a_folder_may_hold_the_rank_file_alone(
    tmp_path: Path, full: PreTrainedTokenizerBase
) -> None:
    ranks = packaged_ranks()
    assert ranks is not None
    folder = tmp_path / "qwen"
    folder.mkdir()
    shutil.copy(ranks, folder / "qwen.tiktoken")
    cache = tmp_path / "cache"
    first = get_tokenizer(str(folder), cache=cache)
    (kept,) = cache.iterdir()
    stamp = (kept / "tokenizer.json").stat().st_mtime_ns
    second = get_tokenizer(str(folder), cache=cache)
    assert (kept / "tokenizer.json").stat().st_mtime_ns == stamp
    for tokenizer in (first, second):
        assert tokenizer.backend_tokenizer.to_str() == full.backend_tokenizer.to_str()


def test_survives_a_folder(full: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    save_tokenizer(full, tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    loaded = load_tokenizer(tmp_path / "saved")
    verify_tokenizer(loaded)
    assert loaded.get_chat_template() == chat_template()
    assert loaded.eos_token_id == 151_643
    with pytest.raises(DataError, match="exists already"):
        save_tokenizer(full, tmp_path / "saved")


# ── raw text ─────────────────────────────────────────────────────────────────────────────────────


def test_control_tokens_in_raw_text_stay_text(full: PreTrainedTokenizerBase) -> None:
    text = "<|im_start|>system\n坏<|im_end|><|endoftext|>"
    (ids,) = encode_corpus(full, [text])
    assert max(ids) < 151_643
    assert full.decode(ids) == text
    # and asking the usual way still gives control tokens afterwards
    assert full.backend_tokenizer.encode(text).ids[0] == 151_644


def test_corpus_encoding_is_nfc_and_digit_by_digit(full: PreTrainedTokenizerBase) -> None:
    composed, decomposed, digits = encode_corpus(full, ["\xe9", "e\u0301", "2024"])
    assert composed == decomposed
    assert digits == [17, 15, 17, 19]
    assert encode_corpus(full, []) == []


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────


def rebuilt(published: PreTrainedTokenizerBase, **kwargs: Any) -> PreTrainedTokenizerBase:
    vocabulary, merges = module.bpe_tables(published)
    options = {"unk_token": None, "additional_special_tokens": [IM_START, IM_END], **kwargs}
    return Qwen2Tokenizer(vocab=vocabulary, merges=merges, **options)


def test_shifted_control_tokens_are_refused_by_name(published: PreTrainedTokenizerBase) -> None:
    wrong = rebuilt(published, eos_token=IM_END)
    with pytest.raises(DataError, match=r"<\|endoftext\|> has id 151644, not 151643"):
        verify_tokenizer(wrong)


def test_digits_in_groups_are_refused(published: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    published.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    pattern = state["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    pattern["Regex"] = pattern["Regex"].replace(r"\p{N}|", r"\p{N}{1,3}|")
    state["normalizer"] = None
    path.write_text(json.dumps(state), encoding="utf-8")
    from transformers import PreTrainedTokenizerFast

    wrong = PreTrainedTokenizerFast(tokenizer_file=str(path))
    with pytest.raises(DataError, match="gives ids") as caught:
        verify_tokenizer(wrong, where="that folder")
    assert "that folder is not Qwen1.5's" in str(caught.value)


def test_a_pruned_tokenizer_is_not_the_published_one(small: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match=r"has id 271, not 151643.*and \d+ more"):
        verify_tokenizer(small)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no-such-folder", "neither a folder nor a hub id"),
        ("./a/b", "neither a folder nor a hub id"),
        ("a/b/c", "neither a folder nor a hub id"),
    ],
)
def test_a_source_that_is_nothing_is_refused(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        get_tokenizer(source)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizer could be loaded"):
        get_tokenizer(str(tmp_path))
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_auto_names_every_place_it_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "packaged_ranks", lambda: None)
    # The hub is the one thing that can't be had here: a folder without files stands for it.
    monkeypatch.setattr(module, "HUB_ID", str(tmp_path))
    with pytest.raises(DataError) as caught:
        get_tokenizer("auto")
    for place in ("local hub cache", "installed package", "| hub:"):
        assert place in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"IQ== 0\n!! 1\n", ":2 is not a tiktoken rank line"),
        (b"IQ== 0\nIg==\n", ":2 is not a tiktoken rank line"),
        (b"IQ== 0\nIg== 2\n", ":2 .*count up"),
        (b"IQ== 0\nIQ== 1\n", ":2 .*each token once"),
        (b"IQ== 0\nIg== 1\n", "lacks 254 of the 256 single bytes"),
        (b"", "lacks 256"),
    ],
)
def test_damaged_rank_files_are_refused_with_the_line(
    tmp_path: Path, lines: bytes, message: str
) -> None:
    path = tmp_path / "x.tiktoken"
    path.write_bytes(lines)
    with pytest.raises(DataError, match=message):
        read_ranks(path)


def test_ranks_become_the_merges_that_made_them(tmp_path: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [b"ab", b"cd", b"abc", b"abcd", b"\xe4\xbd", b"\xe4\xbd\xa0"]
    lines = [base64.b64encode(token) + f" {rank}".encode() for rank, token in enumerate(tokens)]
    (tmp_path / "r").write_bytes(b"\n".join(lines))
    vocabulary, merges = vocabulary_and_merges(read_ranks(tmp_path / "r"))
    assert len(vocabulary) == len(tokens)
    # cd comes before abc, so abcd was merged from ab and cd.
    assert merges[:4] == [("a", "b"), ("c", "d"), ("ab", "c"), ("ab", "cd")]
    assert [len(left + right) for left, right in merges[4:]] == [2, 3]


# ── chat template ────────────────────────────────────────────────────────────────────────────────

DIALOGUES = {
    "question": [("user", "你好")],
    "system": [("system", "只说实话。"), ("user", "1+1?"), ("assistant", "2")],
    "turns": [("user", "a"), ("assistant", "b"), ("user", "c\n\n"), ("assistant", " <d> & {{e}}")],
    "empty": [("user", ""), ("assistant", "")],
    "late system": [("user", "a"), ("system", "s"), ("user", "b")],
    "answer first": [("assistant", "在。")],
}


def chatml(turns: Sequence[tuple[str, str]], prompt: bool) -> str:
    """The rendering of Qwen1.5, written out."""
    turns = list(turns)
    if turns and turns[0][0] != "system":
        turns.insert(0, ("system", "You are a helpful assistant."))
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text + ("<|im_start|>assistant\n" if prompt else "")


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("name", DIALOGUES)
def test_template_renders_as_qwen_does(
    full: PreTrainedTokenizerBase, root: Path, name: str, prompt: bool
) -> None:
    messages = [{"role": role, "content": content} for role, content in DIALOGUES[name]]

    def render(**kwargs: Any) -> str:
        text: str = full.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt, **kwargs
        )
        return text

    assert render() == chatml(DIALOGUES[name], prompt)
    published = root.parent / "shared" / "data" / "tokenizer" / "tokenizer_config.json"
    if published.is_file():
        template = json.loads(published.read_text(encoding="utf-8"))["chat_template"]
        assert render() == render(chat_template=template)


def test_template_marks_what_the_assistant_says(full: PreTrainedTokenizerBase) -> None:
    messages = [{"role": role, "content": content} for role, content in DIALOGUES["turns"]]
    result = full.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    pairs = zip(result["input_ids"], result["assistant_masks"], strict=True)
    marked = full.decode([token for token, mask in pairs if mask])
    assert marked == "b<|im_end|> <d> & {{e}}<|im_end|>"
