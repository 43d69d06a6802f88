"""Pruning: the same pieces for the corpus, proven, and nothing written otherwise."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from common.errors import DataError
from model.tokenizer import pruning
from model.tokenizer.identity import IM_END, PRUNED_FROM, SPECIAL_TOKENS
from model.tokenizer.pruning import is_pruned_from, prove_same_pieces, prune_tokenizer
from model.tokenizer.qwen import bpe_tables, build_tokenizer, load_tokenizer, save_tokenizer
from model.tokenizer.tiktoken import byte_characters
from tests.model.tokenizer.encoded import encode_corpus, pruned_from

TEXTS = (
    "林海市的铁匠铺每天早上六点开门。",
    "The blacksmith's shop opens at 6:30, doesn't it?",
    "def area(r):\n\treturn 3.14 * r ** 2\r\n",
    "臺灣的鳳梨酥 é 🍍\u3000<|im_end|> 完",
    "",
)


def pieces(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[str]]:
    return [tokenizer.convert_ids_to_tokens(ids) for ids in encode_corpus(tokenizer, texts)]


def test_pruning_the_published_vocabulary(full: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    report = prune_tokenizer(full, TEXTS, tmp_path / "pruned")
    pruned = load_tokenizer(tmp_path / "pruned")
    assert report.num_tokens_before == 151_646
    assert report.num_tokens_after == len(pruned) < 600
    assert report.proof.num_texts == len(TEXTS)
    assert report.proof.num_tokens == sum(map(len, encode_corpus(full, TEXTS)))
    assert pieces(pruned, TEXTS) == pieces(full, TEXTS)
    # the map to the full vocabulary, control tokens last and in order
    old_ids = pruned_from(tmp_path / "pruned")
    assert old_ids is not None
    assert old_ids == sorted(old_ids)
    assert old_ids[-3:] == [151_643, 151_644, 151_645]
    assert full.convert_ids_to_tokens(old_ids) == pruned.convert_ids_to_tokens(range(len(pruned)))
    encoded = zip(encode_corpus(full, TEXTS), encode_corpus(pruned, TEXTS), strict=True)
    for expected, ids in encoded:
        assert [old_ids[index] for index in ids] == expected
    # texts that were not in the corpus stay encodable, byte by byte if need be
    (ids,) = encode_corpus(pruned, ["未见过的字 ünseen 🦔"])
    assert pruned.decode(ids) == "未见过的字 ünseen 🦔"


def test_pruned_tokenizer_renders_chats_in_the_same_pieces(
    full: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    prune_tokenizer(full, TEXTS, tmp_path / "pruned")
    pruned = load_tokenizer(tmp_path / "pruned")
    old_ids = pruned_from(tmp_path / "pruned")
    assert old_ids is not None
    messages = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]
    kwargs = {"add_generation_prompt": True, "return_dict": True}
    full_ids = full.apply_chat_template(messages, **kwargs)["input_ids"]
    ids = pruned.apply_chat_template(messages, **kwargs)["input_ids"]
    assert [old_ids[index] for index in ids] == full_ids
    assert pruned.eos_token_id == len(pruned) - 3
    assert pruned.convert_tokens_to_ids(IM_END) == len(pruned) - 1


ALPHABET = st.sampled_from([*"thea ndigr12是中é\u0301\n,<", "<|im_end|>", "the", "ing"])


@settings(max_examples=25, deadline=None)
@given(corpus=st.lists(st.lists(ALPHABET, max_size=30).map("".join), min_size=1, max_size=5))
def test_any_corpus_is_cut_into_the_same_pieces(
    small: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory, corpus: list[str]
) -> None:
    out = tmp_path_factory.mktemp("prune") / "pruned"
    report = prune_tokenizer(small, corpus, out)
    pruned = load_tokenizer(out)
    assert pieces(pruned, corpus) == pieces(small, corpus)
    # nothing but what is needed: every merge is on the way to a piece of the corpus or template
    needed = {
        piece for cut in pieces(small, [*corpus, *pruning._template_words()]) for piece in cut
    }
    ordinary = set(pruned.get_vocab()) - set(SPECIAL_TOKENS) - set(byte_characters())
    assert all(any(token in piece for piece in needed) for token in ordinary)
    assert set(byte_characters()) <= set(pruned.get_vocab())
    assert report.num_tokens_after == len(pruned)


@pytest.fixture(scope="module")
def narrow(small: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer that was pruned for two words."""
    out = tmp_path_factory.mktemp("narrow") / "pruned"
    prune_tokenizer(small, ["the end"], out)
    return load_tokenizer(out)


@given(text=st.text(max_size=60))
def test_texts_that_a_vocabulary_does_not_cover_are_encoded_all_the_same(
    small: PreTrainedTokenizerBase, narrow: PreTrainedTokenizerBase, text: str
) -> None:
    """A data set that nobody listed costs more tokens, and no character."""
    plain = unicodedata.normalize("NFC", text)  # as Qwen's tokenizer reads it
    ids, full = (one(plain, add_special_tokens=False).input_ids for one in (narrow, small))
    assert narrow.decode(ids) == plain
    assert len(ids) >= len(full)


def test_a_vocabulary_that_lost_a_merge_fails_the_proof(small: PreTrainedTokenizerBase) -> None:
    vocabulary, merges = bpe_tables(small)
    lacking = build_tokenizer(vocabulary, [merge for merge in merges if merge != ("th", "e")])
    assert prove_same_pieces(small, lacking, ["a thing"]).num_texts == 1
    with pytest.raises(DataError, match="differently from token 1 on"):
        prove_same_pieces(small, lacking, ["a thing", "a the b"])


def test_tokens_of_another_vocabulary_fail_the_proof(small: PreTrainedTokenizerBase) -> None:
    vocabulary, merges = bpe_tables(small)
    larger = build_tokenizer({**vocabulary, "zq": len(vocabulary)}, [*merges, ("z", "q")])
    with pytest.raises(DataError, match="lacks 'zq'"):
        prove_same_pieces(small, larger, ["a"])


def test_a_failed_proof_publishes_nothing(
    small: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_little(tokens: set[str], merges: object) -> set[str]:
        return set(byte_characters())

    monkeypatch.setattr(pruning, "_closure", too_little)
    with pytest.raises(DataError, match="cuts a text differently"):
        prune_tokenizer(small, ["the end"], tmp_path / "pruned")
    assert list(tmp_path.iterdir()) == []


class Changing:
    """Texts that are others when they are read again."""

    def __init__(self, *readings: Sequence[str]) -> None:
        self.readings = [readings[0], *readings]  # the first is asked for and not read

    def __iter__(self) -> Iterator[str]:
        return iter(self.readings.pop(0))


def test_texts_that_change_between_two_readings_are_proven_as_they_are_then(
    small: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    same = Changing(["the end", "the"], ["the", "the end", "the the"])
    assert prune_tokenizer(small, same, tmp_path / "same").proof.num_texts == 3
    with pytest.raises(DataError, match="cuts a text differently"):
        prune_tokenizer(small, Changing(["end"], ["the end"]), tmp_path / "other")


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (lambda: [], DataError, "no text to prune"),
        (lambda: iter(["a"]), TypeError, "one-time iterator"),
    ],
)
def test_nothing_to_prune_for_is_refused(
    small: PreTrainedTokenizerBase,
    tmp_path: Path,
    texts: Callable[[], Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        prune_tokenizer(small, texts(), tmp_path / "pruned")


def test_pruning_does_not_overwrite(small: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        prune_tokenizer(small, ["a"], tmp_path)


def test_only_pruned_folders_have_a_map(small: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    save_tokenizer(small, tmp_path / "whole")
    assert pruned_from(tmp_path / "whole") is None
    prune_tokenizer(small, ["the"], tmp_path / "pruned")
    assert (tmp_path / "pruned" / PRUNED_FROM).is_file()


def test_what_pruning_can_give_is_known_without_the_texts(tmp_path: Path) -> None:
    letters = byte_characters()
    merges = [("a", "b"), ("ab", "c"), ("x", "y")]
    tokens = [*letters, *("".join(merge) for merge in merges)]
    full = build_tokenizer({token: id_ for id_, token in enumerate(tokens)}, merges)
    prune_tokenizer(full, ["abc", "ab"], tmp_path / "pruned")
    pruned = load_tokenizer(tmp_path / "pruned")
    assert len(pruned) == len(full) - 1
    assert is_pruned_from(pruned, full)
    assert is_pruned_from(full, full)

    def made(tokens: list[str], merges: list[tuple[str, str]]) -> PreTrainedTokenizerBase:
        return build_tokenizer({token: id_ for id_, token in enumerate(tokens)}, merges)

    exchanged = [tokens[1], tokens[0], *tokens[2:]]
    assert not is_pruned_from(made(exchanged, merges), full)
    assert not is_pruned_from(made([*letters, "ab"], []), full)  # a merge fewer
    assert not is_pruned_from(made([*letters, "ab", "abz"], [("a", "b"), ("ab", "z")]), full)
    more = load_tokenizer(tmp_path / "pruned")
    more.add_tokens("<|extra|>")
    assert not is_pruned_from(more, full)
