"""A tokenizer's digest is equal where ids mean the same, and for nothing else."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from model.tokenizer.digest import describe_difference, digest_tokenizer
from model.tokenizer.qwen import build_tokenizer
from model.tokenizer.tiktoken import byte_characters
from tests.model.tokenizer.kinds import KINDS

Change = Callable[[PreTrainedTokenizerBase], None]


def rewritten(tokenizer: PreTrainedTokenizerBase, change: Callable[[dict[str, Any]], None]) -> Any:
    """The tokenizer with its description changed."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    change(described)
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described)))
    made.chat_template = tokenizer.chat_template
    return made


def swapped_ids(described: dict[str, Any]) -> None:
    vocabulary = described["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def swapped_merges(described: dict[str, Any]) -> None:
    merges = described["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def without_flag(described: dict[str, Any]) -> None:
    described["added_tokens"][0]["special"] = False


def backend(name: str, value: Any) -> Change:
    def change(tokenizer: PreTrainedTokenizerBase) -> None:
        setattr(tokenizer.backend_tokenizer, name, value)

    return change


def more_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_tokens([AddedToken("<new>", normalized=False)])


FRAME = processors.TemplateProcessing(single="<|eot_id|> $A", special_tokens=[("<|eot_id|>", 266)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (more_tokens, r"268 tokens instead of 267; id 267 is '<new>', not no token"),
        (backend("normalizer", normalizers.NFKC()), r"another normalizer .*NFKC.*NFC"),
        (
            backend("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
            "another pre-tokenizer",
        ),
        (backend("decoder", decoders.Fuse()), "another decoder"),
        (backend("post_processor", FRAME), "put around a text"),
    ],
)
def test_a_changed_part_is_named(change: Change, message: str) -> None:
    before, after = KINDS["llama-3"](), KINDS["llama-3"]()
    before.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    after.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    assert digest_tokenizer(before) == digest_tokenizer(after)
    change(after)
    assert digest_tokenizer(before).digest != digest_tokenizer(after).digest
    assert re.search(message, describe_difference(before, after))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped_ids, "267 tokens instead of 267; id 64 is 'b', not 'a'"),
        (swapped_merges, "the same 267 tokens and ids, but other merges"),
        (without_flag, "other added tokens"),
        (lambda d: d["model"].update(byte_fallback=True), "another model"),
    ],
)
def test_a_changed_description_is_named(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    before = rewritten(KINDS["llama-3"](), lambda _: None)
    after = rewritten(KINDS["llama-3"](), change)
    assert digest_tokenizer(before).digest != digest_tokenizer(after).digest
    assert message in describe_difference(before, after)


def test_scores_of_a_unigram_model_count() -> None:
    def change(described: dict[str, Any]) -> None:
        described["model"]["vocab"][-1][1] = -3.0

    before, after = (
        rewritten(KINDS["unigram"](), lambda _: None),
        rewritten(KINDS["unigram"](), change),
    )
    assert "another model" in describe_difference(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_what_means_nothing_does_not_count(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind]()
    expected = digest_tokenizer(tokenizer)
    tokenizer.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "tokenizer.json"
    described = json.loads(path.read_text())
    described["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": tokenizer.eos_token_id,
        "pad_type_id": 0,
        "pad_token": tokenizer.eos_token,
    }
    described["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    if described["normalizer"]:
        described["normalizer"] = {"type": "Sequence", "normalizers": [described["normalizer"]]}
    merges = described["model"].get("merges", [])
    if merges:  # as older versions wrote them
        described["model"]["merges"] = [" ".join(merge) for merge in merges]
    path.write_text(json.dumps(dict(reversed(described.items())), indent=4, ensure_ascii=True))
    found = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert digest_tokenizer(found) == expected
    found.chat_template = "another"
    assert digest_tokenizer(found).digest == expected.digest
    assert digest_tokenizer(found).chat_template != expected.chat_template
    assert describe_difference(tokenizer, found) == ""


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)), st.permutations(range(12)))
def test_digests_are_equal_as_vocabularies_are(one: list[int], other: list[int]) -> None:
    def made(order: list[int]) -> PreTrainedTokenizerBase:
        letters = list(byte_characters())
        moved = [letters[i] for i in order] + letters[12:]
        return build_tokenizer({token: id_ for id_, token in enumerate(moved)}, [])

    left, right = made(one), made(other)
    assert (digest_tokenizer(left) == digest_tokenizer(right)) == (one == other)
    if one != other:
        first = next(i for i in range(12) if one[i] != other[i])
        assert f"id {first} is" in describe_difference(left, right)


def test_published_and_canonical_form_have_one_digest(
    full: PreTrainedTokenizerBase, shared: Path, tmp_path: Path
) -> None:
    """Of the tokenizer that `pack` writes and the one beside the published model."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shared / "data" / "tokenizer" / name, tmp_path)
    published = AutoTokenizer.from_pretrained(tmp_path)
    assert describe_difference(full, published) == ""
    assert digest_tokenizer(full).digest == digest_tokenizer(published).digest
