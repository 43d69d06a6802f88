"""Shortcuts give what the library's operators give, to the bit.

With the pieces of a language model test_clean.py compares them, against dj-process as a whole.
"""

from pathlib import Path
from typing import Any

import pytest
from data_juicer.ops.deduplicator.document_simhash_deduplicator import DocumentSimhashDeduplicator
from data_juicer.ops.filter.alphanumeric_filter import AlphanumericFilter
from data_juicer.ops.filter.character_repetition_filter import CharacterRepetitionFilter
from data_juicer.ops.filter.word_repetition_filter import WordRepetitionFilter
from data_juicer.ops.mapper.remove_repeat_sentences_mapper import RemoveRepeatSentencesMapper
from data_juicer.utils.constant import Fields
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from corpus.cleaning.fast.operators import _repeated_share, fast_filter, fast_mapper, fast_simhash
from corpus.cleaning.fast.token_counts import TokenCounter
from corpus.formats.records import read_records
from model.tokenizer.qwen import get_tokenizer

# Few characters, so that sentences, words and n-grams repeat themselves.
TEXT = st.text(alphabet="ab的人。！？!?.…’” \t\n1é，😀", max_size=80)
TEXTS = st.lists(TEXT, max_size=6)


def real_texts(shared: Path) -> list[str]:
    """Real documents of several kinds."""
    pretrain = shared / "data" / "pretrain"
    files = [
        next((pretrain / "sky").glob("*.jsonl")),
        next((pretrain / "wanjuan").glob("*.jsonl")),
        next((pretrain / "starcode" / "cpp").glob("*.parquet")),
        next((pretrain / "baidu_QA").glob("*.json")),
    ]
    texts = []
    for path in files:
        for number, record in enumerate(read_records(path)):
            if number == 60:
                break
            texts += [v for v in record.value.values() if isinstance(v, str)]
    return texts


def same_mapping(operator: Any, texts: list[str]) -> None:
    fast = fast_mapper(operator)
    assert fast is not None
    expected = operator.process_batched({operator.text_key: list(texts)})[operator.text_key]
    assert fast(texts) == expected


def same_measuring(operator: Any, texts: list[str]) -> None:
    fast = fast_filter(operator)
    assert fast is not None
    samples = {operator.text_key: list(texts), Fields.stats: [{} for _ in texts]}
    expected = operator.compute_stats_batched(samples)[Fields.stats]
    assert fast(texts, [{} for _ in texts]) == expected


def same_hashes(operator: DocumentSimhashDeduplicator, texts: list[str]) -> None:
    fast = fast_simhash(operator)
    assert fast is not None
    expected = [int(operator.compute_hash({"text": t})["__dj__simhash"]) for t in texts]
    assert fast(texts) == expected


@settings(deadline=None, max_examples=300)
@given(
    texts=TEXTS, least=st.sampled_from([1, 2, 5]), lowercase=st.booleans(), special=st.booleans()
)
def test_repeated_sentences(texts: list[str], least: int, lowercase: bool, special: bool) -> None:
    operator = RemoveRepeatSentencesMapper(
        lowercase=lowercase, ignore_special_character=special, min_repeat_sentence_length=least
    )
    same_mapping(operator, texts)


@settings(deadline=None, max_examples=200)
@given(texts=TEXTS, n=st.sampled_from([1, 2, 10]))
def test_repeated_characters(texts: list[str], n: int) -> None:
    same_measuring(CharacterRepetitionFilter(rep_len=n), texts)


@settings(deadline=None, max_examples=200)
@given(texts=TEXTS, n=st.sampled_from([1, 2, 3]))
def test_repeated_words(texts: list[str], n: int) -> None:
    same_measuring(WordRepetitionFilter(tokenization=False, rep_len=n), texts)


def test_words_with_blanks_inside_are_distinguished_as_the_library_does() -> None:
    joined = ["a b", "c", "x", "a", "b c", "y"]
    as_one = [" ".join(joined[i : i + 2]) for i in range(5)]
    expected = sum(as_one.count(g) > 1 for g in as_one) / 5
    assert expected > 0
    assert _repeated_share(joined, 2) == expected


@settings(deadline=None, max_examples=150)
@given(
    texts=TEXTS,
    window=st.sampled_from([1, 2, 3, 6, 13]),
    lowercase=st.booleans(),
    ignore=st.sampled_from([None, r"[\p{P}\s]"]),
)
def test_simhash(texts: list[str], window: int, lowercase: bool, ignore: str | None) -> None:
    operator = DocumentSimhashDeduplicator(
        tokenization="character", window_size=window, lowercase=lowercase, ignore_pattern=ignore
    )
    same_hashes(operator, texts)


def test_what_a_shortcut_does_not_cover_is_the_librarys() -> None:
    assert fast_simhash(DocumentSimhashDeduplicator(tokenization="space")) is None
    assert fast_simhash(DocumentSimhashDeduplicator(window_size=14)) is None
    own = RemoveRepeatSentencesMapper(tokenizer="lambda text: [text]")
    assert fast_mapper(own) is None


@settings(deadline=None, max_examples=100)
@given(texts=TEXTS)
def test_letters_and_digits(texts: list[str]) -> None:
    same_measuring(AlphanumericFilter(tokenization=False), texts)


@pytest.fixture(scope="module")
def qwen() -> Any:
    return get_tokenizer("auto")


@pytest.fixture(scope="module")
def counter(qwen: Any, tmp_path_factory: pytest.TempPathFactory) -> TokenCounter:
    folder = tmp_path_factory.mktemp("qwen")
    qwen.save_pretrained(folder)
    found = TokenCounter.read(folder / "tokenizer.json")
    assert found is not None
    return found


@settings(deadline=None, max_examples=200)
@given(
    text=st.lists(
        st.one_of(
            TEXT, st.text(max_size=20), st.sampled_from(["<|endoftext|>", "e\u0301", "  \n "])
        )
    ).map("".join)
)
def test_tokens_are_counted_as_transformers_does(
    text: str, qwen: Any, counter: TokenCounter
) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert counter.count(text) == len(qwen.tokenize(text))


def test_tokens_of_real_rows(shared: Path, qwen: Any, counter: TokenCounter) -> None:
    for text in real_texts(shared):
        assert counter.count(text) == len(qwen.tokenize(text))


def test_counter_of_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(path))
    assert TokenCounter.read(path) is None


def test_real_rows(shared: Path) -> None:
    texts = real_texts(shared)
    assert len(texts) > 200
    for least in (2, 30):
        same_mapping(RemoveRepeatSentencesMapper(min_repeat_sentence_length=least), texts)
    same_measuring(AlphanumericFilter(tokenization=False), texts)
    same_measuring(CharacterRepetitionFilter(rep_len=10), texts)
    same_measuring(WordRepetitionFilter(tokenization=False, rep_len=10), texts)
    for window in (3, 6):
        same_hashes(
            DocumentSimhashDeduplicator(tokenization="character", window_size=window), texts
        )
