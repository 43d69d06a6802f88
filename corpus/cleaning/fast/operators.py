"""Faster implementations of some of the library's operators, with the very same results.

    remove_repeat_sentences_mapper   most texts repeat nothing, which is found out cheaply
    alphanumeric_filter              tokens counted by tiktoken (token_counts.py)
    character_repetition_filter      n-grams counted in C
    word_repetition_filter           pieces refined once each; n-grams compared as numbers
    document_simhash_deduplicator    simhash.py

The objects and their parameters are the library's own; only the loop over texts is replaced. Every
fast operator is tested against the library's, on random and on real texts; parameters that it does
not cover are left to the library's operator.
"""

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from data_juicer.ops.base_op import Deduplicator, Filter, Mapper
from data_juicer.ops.common.helper_func import get_words_from_document, strip
from data_juicer.ops.common.special_characters import SPECIAL_CHARACTERS
from data_juicer.ops.deduplicator.document_simhash_deduplicator import DocumentSimhashDeduplicator
from data_juicer.ops.filter.alphanumeric_filter import AlphanumericFilter
from data_juicer.ops.filter.character_repetition_filter import CharacterRepetitionFilter
from data_juicer.ops.filter.word_repetition_filter import WordRepetitionFilter
from data_juicer.ops.mapper.remove_repeat_sentences_mapper import (
    RemoveRepeatSentencesMapper,
    split_sentence,
)
from data_juicer.utils.constant import InterVars, StatsKeys
from data_juicer.utils.model_utils import get_model

from corpus.cleaning.fast.simhash import MAX_WINDOW, simhashes
from corpus.cleaning.fast.token_counts import TokenCounter
from corpus.cleaning.offline import PROXY_TOKENIZER

Context = dict[str, Any]
FastMapper = Callable[[Sequence[str]], list[str]]
FastFilter = Callable[[Sequence[str], Sequence[Context]], list[dict[str, Any]]]


def fast_mapper(operator: Mapper) -> FastMapper | None:
    """A faster function with the operator's results; None where only the operator itself can."""
    if type(operator) is RemoveRepeatSentencesMapper and operator._tokenize is split_sentence:
        return functools.partial(_without_repeats, operator)
    return None


def fast_filter(operator: Filter) -> FastFilter | None:
    """A faster function with the operator's statistics; None where only the operator itself can."""
    if type(operator) is AlphanumericFilter:
        if operator.tokenization and _counter(_tokenizer_file()) is None:
            return None
        return functools.partial(_alphanumeric, operator)
    if type(operator) is CharacterRepetitionFilter:
        return functools.partial(_character_repetition, operator.n)
    if type(operator) is WordRepetitionFilter:
        return functools.partial(_word_repetition, operator)
    return None


def fast_simhash(operator: Deduplicator) -> Callable[[Sequence[str]], list[int]] | None:
    """A faster function with the operator's hashes; None where only the operator itself can."""
    if (
        type(operator) is DocumentSimhashDeduplicator
        and operator.tokenization == "character"
        and operator.window_size <= MAX_WINDOW
    ):
        return functools.partial(_simhashes, operator)
    return None


def _simhashes(operator: DocumentSimhashDeduplicator, texts: Sequence[str]) -> list[int]:
    if operator.lowercase:
        texts = [text.lower() for text in texts]
    if operator.ignore_pattern:
        texts = [operator.ignore_pattern.sub("", text) for text in texts]
    hashes: list[int] = simhashes(texts, operator.window_size).tolist()
    return hashes


def _without_repeats(operator: RemoveRepeatSentencesMapper, texts: Sequence[str]) -> list[str]:
    result = list(texts)
    # Without a sentence that occurs twice, the operator puts a text together again as it was.
    repeating = [i for i, text in enumerate(texts) if _may_repeat(operator, text)]
    if repeating:
        changed = operator.process_batched({operator.text_key: [texts[i] for i in repeating]})
        for i, text in zip(repeating, changed[operator.text_key], strict=True):
            result[i] = text
    return result


_ENDS = re.compile(r"[.。！!？\?…]")


def _may_repeat(operator: RemoveRepeatSentencesMapper, text: str) -> bool:
    """True if two sentences of a text agree, and in some cases where they only nearly do."""
    least = operator.min_repeat_sentence_length
    if len(text) < 2 * least:
        return False
    # Cut as a whole instead of line by line: the ends of lines are cuts in either case.
    marked = "\n".join(split_sentence(text)) if _ENDS.search(text) else text
    if operator.remove_regex:
        marked = operator.remove_regex.sub("", marked)
    if operator.lowercase:
        marked = marked.lower()
    sentences = [s for s in marked.split("\n") if len(s) >= least]
    # The operator strips before it takes characters out; after both, more sentences agree.
    return len({s.strip() for s in sentences}) < len(sentences)


def _tokenizer_file() -> Path:
    """Path of the tokenizer that the operator loads; absent unless it was put there."""
    folder = Path(os.environ.get("DATA_JUICER_EXTERNAL_MODELS_HOME", ""))
    return folder / PROXY_TOKENIZER / "tokenizer.json"


@functools.cache
def _counter(path: Path) -> TokenCounter | None:
    return TokenCounter.read(path) if path.is_file() else None


def _alphanumeric(
    operator: AlphanumericFilter, texts: Sequence[str], contexts: Sequence[Context]
) -> list[dict[str, Any]]:
    if not operator.tokenization:
        return [
            {StatsKeys.alnum_ratio: sum(map(str.isalnum, t)) / len(t) if t else 0.0} for t in texts
        ]
    counter = _counter(_tokenizer_file())
    assert counter is not None, "fast_filter() returns None without one"
    result = []
    for text in texts:
        tokens = counter.count(text)
        ratio = sum(map(str.isalpha, text)) / tokens if tokens else 0.0
        result.append({StatsKeys.alpha_token_ratio: ratio})
    return result


def _character_repetition(
    n: int, texts: Sequence[str], contexts: Sequence[Context]
) -> list[dict[str, Any]]:
    return [{StatsKeys.char_rep_ratio: _most_frequent_share(text, n)} for text in texts]


def _most_frequent_share(text: str, n: int) -> float:
    total = len(text) - n + 1
    if total <= 0:
        return 0.0
    counts = Counter([text[i : i + n] for i in range(total)])
    if len(counts) == total:  # nothing occurs twice
        return 0.0
    ordered = sorted(counts.values(), reverse=True)
    num = min(int(np.sqrt(len(ordered))), len(ordered) - ordered.count(1))
    return sum(ordered[:num]) / total


def _word_repetition(
    operator: WordRepetitionFilter, texts: Sequence[str], contexts: Sequence[Context]
) -> list[dict[str, Any]]:
    key = f"{InterVars.words}-{operator.model_key}-{operator.text_key}"
    result = []
    for text, context in zip(texts, contexts, strict=True):
        if key not in context:
            context[key] = _words(operator, text)
        words = [refined for word in context[key] if (refined := _refined(word))]
        result.append({StatsKeys.word_rep_ratio: _repeated_share(words, operator.n)})
    return result


def _words(operator: WordRepetitionFilter, text: str) -> list[str]:
    model = get_model(operator.model_key)
    return list(get_words_from_document(text, model.encode_as_pieces if model else None))


@functools.lru_cache(maxsize=1 << 17)
def _refined(word: str) -> str:
    """A word in lower case without special characters around it; the same few words come often."""
    refined: str = strip(word.lower(), SPECIAL_CHARACTERS)
    return refined


def _repeated_share(words: Sequence[str], n: int) -> float:
    """Share of n-grams of words that occur more than once."""
    total = len(words) - n + 1
    if total <= 0:
        return 0.0
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], np.uint32)
    if any(" " in word for word in numbers):  # then other words may be the same n-gram once joined
        grams: list[Any] = [" ".join(words[i : i + n]) for i in range(total)]
    else:
        data = ids.tobytes()
        grams = [data[i : i + 4 * n] for i in range(0, 4 * total, 4)]
    counts = Counter(grams)
    if len(counts) == total:
        return 0.0
    return sum(count for count in counts.values() if count > 1) / total
