"""The fast encoder gives Transformers' ids: on real rows, on every character, on nonsense."""

import csv
import gzip
import io
import json
import sys
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastokens
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase

from corpus.packing import fast_encoder as fast
from corpus.packing.fast_encoder import FastEncoder, TokenMismatchError, UnsupportedTokenizerError
from corpus.texts import Texts, strings
from model.tokenizer.encoder import Encoded, ReferenceEncoder
from model.tokenizer.tiktoken import byte_characters

PIECES = st.sampled_from(fast._PIECES)
CHARACTERS = st.characters(exclude_categories=("Cs",))
NONSENSE = st.lists(st.one_of(PIECES, CHARACTERS), max_size=40).map("".join)


@pytest.fixture(scope="session")
def encoder(full: PreTrainedTokenizerBase) -> FastEncoder:
    return FastEncoder(full.backend_tokenizer)


@pytest.fixture(scope="session")
def reference(full: PreTrainedTokenizerBase) -> ReferenceEncoder:
    return ReferenceEncoder(full.backend_tokenizer)


def same(found: Encoded, expected: Encoded, texts: list[str]) -> bool:
    place = expected.first_difference(found)
    assert place is None, (texts[place], found[place].tolist(), expected[place].tolist())
    return True


# ── real rows ────────────────────────────────────────────────────────────────────────────────────


def every_text(data: Path) -> Iterator[str]:
    """Every string of every row of the shared data; files that have no rows as a whole."""
    yield from Texts([], [data / name for name in ("pretrain", "sft", "preference", "eval")])
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield from _cells(archive.read(name), Path(name).suffix)
        elif path.suffix == ".gz":
            yield from _cells(gzip.decompress(path.read_bytes()), path.with_suffix("").suffix)
        elif path.suffix not in (".json", ".jsonl", ".parquet"):
            yield from _cells(path.read_bytes(), path.suffix)


def _cells(data: bytes, suffix: str) -> Iterator[str]:
    text = data.decode("utf-8", "replace")
    if suffix == ".csv":
        yield from (cell for row in csv.reader(io.StringIO(text)) for cell in row)
    elif suffix == ".json":
        yield from strings(json.loads(text))
    elif suffix == ".jsonl":
        yield from (text for line in text.splitlines() for text in strings(json.loads(line)))
    else:
        yield text


def compare(texts: list[str], encoder: FastEncoder, reference: ReferenceEncoder) -> None:
    for begin in range(0, len(texts), 5_000):
        batch = texts[begin : begin + 5_000]
        assert same(encoder.encode(batch), reference.encode(batch), batch)


def test_some_real_rows(encoder: FastEncoder, reference: ReferenceEncoder, shared: Path) -> None:
    texts = list(every_text(shared / "data"))
    assert len(texts) > 200_000
    compare([text for text in texts[::101] if len(text) < 50_000], encoder, reference)


@pytest.mark.slow
def test_every_real_row(encoder: FastEncoder, reference: ReferenceEncoder, shared: Path) -> None:
    compare(list(every_text(shared / "data")), encoder, reference)


def test_reference_ids(encoder: FastEncoder, shared: Path) -> None:
    with gzip.open(shared / "data" / "tokenizer" / "reference_ids.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    rows = [row for row in rows if "<|" not in row["text"]]  # those obey control tokens
    assert len(rows) > 400
    found = encoder.encode([row["text"] for row in rows])
    assert [found[i].tolist() for i in range(len(rows))] == [row["ids"] for row in rows]


# ── every character ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def classes() -> Tokenizer:
    """Qwen's pattern over a vocabulary in which a character's class shows in the ids.

    Tokens join the letter x, or an exclamation mark, with any first or last byte of a character:
    a letter joins both x's around it, a mark only the one behind it, a digit none; only what is no
    space, letter or digit joins an exclamation mark.
    """
    letters = byte_characters()
    first, last = [*range(0x21, 0x7F), *range(0xC2, 0xF5)], [*range(0x21, 0x7F), *range(0x80, 0xC0)]
    pairs = [("x", letters[byte]) for byte in first] + [(letters[byte], "x") for byte in last]
    pairs += [(letters[byte], "!") for byte in last] + [("'", "l"), ("'l", "l")]
    pairs = list(dict.fromkeys(pairs))
    vocabulary = list(dict.fromkeys([*letters, *(left + right for left, right in pairs)]))
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": {"type": "NFC"},
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [
                        {
                            "type": "Split",
                            "pattern": {"Regex": pattern},
                            "behavior": "Isolated",
                            "invert": False,
                        },
                        {
                            "type": "ByteLevel",
                            "add_prefix_space": False,
                            "trim_offsets": False,
                            "use_regex": False,
                        },
                    ],
                },
                "model": {
                    "type": "BPE",
                    "vocab": {token: index for index, token in enumerate(vocabulary)},
                    "merges": [list(pair) for pair in pairs],
                },
            }
        )
    )


def test_every_character_is_of_the_same_class(classes: Tokenizer) -> None:
    # Private use is one class; some of its 137,468 characters stand for all.
    codes = [
        code
        for code in range(0x110000)
        if unicodedata.category(chr(code)) not in ("Cn", "Cs")
        and (unicodedata.category(chr(code)) != "Co" or code % 97 == 0)
    ]
    assert len(codes) > 140_000
    texts = [
        " ".join(f"x{c}x {c}'ll {c}!  {c}x\n{c}\n{c}" for c in map(chr, codes[begin : begin + 40]))
        for begin in range(0, len(codes), 40)
    ]
    compare(texts, FastEncoder(classes), ReferenceEncoder(classes))
    # The vocabulary shows what it is meant to show: a letter, a digit, a mark, a space.
    for c, pieces in {
        "é": "xÃ ©x Ġ Ã © !",
        "٣": "x Ù £ x Ġ Ù £ !",
        "€": "x â Ĥ ¬x Ġ â Ĥ ¬!",
        "\u3000": "x ã Ģ Ģx Ġ ã Ģ Ģ !",
    }.items():
        ids = ReferenceEncoder(classes).encode([f"x{c}x {c}!"]).ids
        assert [classes.id_to_token(i) for i in ids] == pieces.split()


def test_every_character_has_the_same_normal_form(
    encoder: FastEncoder, reference: ReferenceEncoder
) -> None:
    """Marks in an order that is not normal, and every pair that is one character when composed."""
    texts = []
    for code in range(0x110000):
        c, parts = chr(code), unicodedata.decomposition(chr(code)).split()
        if unicodedata.combining(c) or parts:
            texts.append(f"a{c}\u0301 a\u0301{c} a\u0345{c}\u0334 \u0334{c}\u05b0")
        if parts and not parts[0].startswith("<"):
            texts.append("".join(chr(int(part, 16)) for part in parts))
    # Newer than the tables of `tokenizers` (Unicode 9), which leave them as they are.
    texts += ["a\u0301\u1df6", "a\u0301\u089b", "x\u036d\u089a", "\U00011935\U00011930"]
    texts += ["\U000324ae'B", "\U000113c2\U000113c2", "\u0c5c'll"]
    assert len(texts) > 8_000
    compare(texts, encoder, reference)


# ── nonsense ─────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(NONSENSE, min_size=1, max_size=12))
def test_nonsense(encoder: FastEncoder, reference: ReferenceEncoder, texts: list[str]) -> None:
    assert same(encoder.encode(texts), reference.encode(texts), texts)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(NONSENSE, min_size=1, max_size=12))
def test_nonsense_in_a_pruned_vocabulary(
    few_tokens: PreTrainedTokenizerBase, pruned: FastEncoder, texts: list[str]
) -> None:
    expected = ReferenceEncoder(few_tokens.backend_tokenizer).encode(texts)
    assert same(pruned.encode(texts), expected, texts)


@pytest.fixture(scope="session")
def pruned(few_tokens: PreTrainedTokenizerBase) -> FastEncoder:
    return FastEncoder(few_tokens.backend_tokenizer)


def test_long_runs(encoder: FastEncoder, reference: ReferenceEncoder) -> None:
    """Without a place to cut for 300,000 characters: quadratic work would take an hour."""
    texts = [
        piece * (300_000 // len(piece)) for piece in ("a", "中", "=", " ", "\n", "去你的", "ab ")
    ]
    texts.append("e\u0301" * 100_000)
    assert same(encoder.encode(texts), reference.encode(texts), [text[:9] for text in texts])


def test_control_tokens_are_text(encoder: FastEncoder, full: PreTrainedTokenizerBase) -> None:
    found = encoder.encode(["<|endoftext|><|im_start|>user"])
    assert max(found.ids) < 151_643 and full.decode(found.ids) == "<|endoftext|><|im_start|>user"


def test_nothing_and_empty_texts(encoder: FastEncoder) -> None:
    assert encoder.encode([]).offsets.tolist() == [0]
    found = encoder.encode(["", "a", "", "\U000324ae", ""])
    assert np.diff(found.offsets)[[0, 1, 2, 4]].tolist() == [0, 1, 0, 0]


# ── ids that differ ──────────────────────────────────────────────────────────────────────────────


class FewerMerges:
    """Takes the place of `fastokens.Tokenizer`: with half of the merges, another tokenizer."""

    @staticmethod
    def from_json_str(text: str) -> Any:
        backend = json.loads(text)
        backend["model"]["merges"] = backend["model"]["merges"][:70_000]
        return REAL.from_json_str(json.dumps(backend))


REAL = fastokens.Tokenizer


def test_other_ids_are_noticed_when_opened(
    full: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastokens, "Tokenizer", FewerMerges)
    with pytest.raises(
        TokenMismatchError, match=r"other ids than Transformers: '.*' gives \[.*\] instead"
    ):
        FastEncoder(full.backend_tokenizer)


def test_other_ids_are_noticed_in_any_batch(full: PreTrainedTokenizerBase) -> None:
    encoder = FastEncoder(full.backend_tokenizer)
    text = "炼钢先看火候，炼模型先看数据。"
    encoder.encode([text])
    encoder._tokenizer = FewerMerges.from_json_str(full.backend_tokenizer.to_str())
    with pytest.raises(TokenMismatchError, match=text):
        encoder.encode(["x" * (fast.SPOT_CHARACTERS + 1), text, "x"])
    with pytest.raises(TokenMismatchError, match=text):
        encoder.encode([text * 1_000])  # no short one: the beginning of a long one


def test_other_kinds_are_unsuitable(
    monkeypatch: pytest.MonkeyPatch, few_tokens: PreTrainedTokenizerBase
) -> None:
    unigram = Tokenizer(models.Unigram([("a", 0.0)], 0, False))
    with pytest.raises(UnsupportedTokenizerError, match=r"fastokens cannot be used: .*Unigram"):
        FastEncoder(unigram)
    monkeypatch.setitem(sys.modules, "fastokens", None)
    with pytest.raises(UnsupportedTokenizerError, match="fastokens cannot be used: import"):
        FastEncoder(few_tokens.backend_tokenizer)
