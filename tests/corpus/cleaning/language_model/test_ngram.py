"""The n-gram model: KenLM reads what we write, and a slow, plain computation agrees with it."""

import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import kenlm
import pytest

from corpus.cleaning.language_model.ngram import NgramModel

Sentences = list[list[str]]


def corpus(seed: int, num_sentences: int, words: str = "甲乙丙丁戊己") -> Sentences:
    """Sentences with some order in them: a word likes to be followed by its neighbour."""
    rng = random.Random(seed)
    sentences = []
    for _ in range(num_sentences):
        position, sentence = rng.randrange(len(words)), []
        for _ in range(rng.randrange(1, 9)):
            sentence.append(words[position])
            step = rng.choice([1, 1, 1, 2, rng.randrange(len(words))])
            position = (position + step) % len(words)
        sentences.append(sentence)
    return sentences


def arpa(path: Path, sentences: Sentences, order: int) -> kenlm.Model:
    model = NgramModel(order)
    for sentence in sentences:
        model.add(sentence)
    with path.open("wb") as file:
        model.write_arpa(file, model.estimate())
    return kenlm.Model(str(path))


class PlainKneserNey:
    """Chen and Goodman's formulas with dictionaries, one n-gram at a time."""

    def __init__(self, sentences: Sentences, order: int) -> None:
        self.order = order
        padded = [["<s>", *s, "</s>"] for s in sentences]
        self.vocabulary = {w for s in padded for w in s} - {"<s>"} | {"<unk>"}
        grams = {
            n: Counter(tuple(s[i : i + n]) for s in padded for i in range(len(s) - n + 1))
            for n in range(1, order + 1)
        }
        self.count: dict[int, dict[tuple[str, ...], int]] = {order: dict(grams[order])}
        for n in range(1, order):
            left = defaultdict(set)
            for gram in grams[n + 1]:
                left[gram[1:]].add(gram[0])
            self.count[n] = {
                g: raw if g[0] == "<s>" else len(left[g]) for g, raw in grams[n].items()
            }
        self.count[1].pop(("<s>",), None)

    def discount(self, n: int, count: int) -> float:
        of = Counter(self.count[n].values())
        if not all(of[k] for k in (1, 2, 3, 4)):
            return (0.5, 1.0, 1.5)[min(count, 3) - 1]
        y = of[1] / (of[1] + 2 * of[2])
        k = min(count, 3)
        return min(max(k - (k + 1) * y * of[k + 1] / of[k], 0.05), k - 0.05)

    def probability(self, context: tuple[str, ...], word: str) -> float:
        n = len(context) + 1
        followers = {g[-1]: c for g, c in self.count[n].items() if g[:-1] == context}
        lower = 1 / len(self.vocabulary) if n == 1 else self.probability(context[1:], word)
        if not followers:
            return lower
        total = sum(followers.values())
        kept = {w: max(c - self.discount(n, c), 0) / total for w, c in followers.items()}
        return kept.get(word, 0.0) + (1 - sum(kept.values())) * lower


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("num_sentences", [3, 40, 150])
def test_kenlm_scores_equal_the_plain_computation(
    tmp_path: Path, order: int, num_sentences: int
) -> None:
    sentences = corpus(num_sentences, num_sentences)
    model, plain = arpa(tmp_path / "x.arpa", sentences, order), PlainKneserNey(sentences, order)
    for sentence in [*sentences[:3], *corpus(99, 5, "甲乙丙丁戊己庚")]:
        known = ["<s>", *(w if w in plain.vocabulary else "<unk>" for w in sentence), "</s>"]
        expected = [
            plain.probability(tuple(known[max(0, i - order + 1) : i]), known[i])
            for i in range(1, len(known))
        ]
        scores = [score for score, _, _ in model.full_scores(" ".join(sentence))]
        assert scores == pytest.approx([math.log10(p) for p in expected], abs=1e-4)


def test_probabilities_add_up_to_one_after_every_context(tmp_path: Path) -> None:
    sentences = corpus(5, 200)
    model = arpa(tmp_path / "x.arpa", sentences, 3)
    words = [*"甲乙丙丁戊己", "</s>", "unknown"]
    for context in ([], ["甲"], ["甲", "乙"], ["己", "甲"], ["unknown", "乙"]):
        state, after = kenlm.State(), kenlm.State()
        model.BeginSentenceWrite(state)
        for word in context:
            model.BaseScore(state, word, after)
            state, after = after, state
        total = sum(10 ** model.BaseScore(state, word, after) for word in words)
        assert total == pytest.approx(1.0, abs=1e-5)


def test_likely_order_is_less_perplexing_than_a_shuffle(tmp_path: Path) -> None:
    model = arpa(tmp_path / "x.arpa", corpus(1, 300), 3)
    assert model.perplexity("甲 乙 丙 丁 戊 己") < model.perplexity("己 丙 甲 戊 乙 丁") / 2


def test_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="no text"):
        NgramModel(3).estimate()
