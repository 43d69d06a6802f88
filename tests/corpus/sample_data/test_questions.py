"""Questions of the sample data: true answers, balanced letters, nothing of a test in training."""

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from corpus.sample_data import DATASETS, SampleDataConfig
from corpus.sample_data.benchmarks import NUM_DEV, SUBJECTS
from corpus.sample_data.facts import (
    CITIZEN_ATTRIBUTES,
    CITIZENS,
    KINDS,
    Language,
    character_facts,
    draw_facts,
)
from corpus.sample_data.questions import LETTERS, WEIGHTS, Family, questions, split_of
from tests.corpus.sample_data.records import all_rows, benchmark_rows

CONFIG = SampleDataConfig()
LANGUAGES: tuple[Language, ...] = ("zh", "en")


@pytest.mark.parametrize("name", DATASETS["evals"])
def test_benchmarks_are_complete_and_letters_balanced(name: str, sample_files: Path) -> None:
    stems: Counter[str] = Counter()
    scored = {"ceval": "val", "cmmlu": "test", "mmlu": "test"}[name]
    letters: Counter[str] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    for subject, split, row in benchmark_rows(sample_files / "evals", name):
        stems[row[0]] += 1
        sizes[subject, split] += 1
        assert len(set(row[1:5])) == 4
        if split == scored:
            letters[row[5]] += 1
        if (name, split) == ("ceval", "test"):
            assert len(row) == 5, "C-Eval withholds these answers"
    assert max(stems.values()) == 1, "a question stands in two splits"
    assert {sizes[subject, "dev"] for subject in SUBJECTS[name]} == {NUM_DEV}
    assert 150 <= letters.total() <= 250
    assert set(letters) == set(LETTERS)
    assert max(letters.values()) - min(letters.values()) <= len(SUBJECTS[name])


def test_no_test_question_stands_in_any_training_text(sample_files: Path) -> None:
    stems = {
        row[0] for name in SUBJECTS for _, _, row in benchmark_rows(sample_files / "evals", name)
    }
    assert len(stems) > 500
    seen = []
    for kind in ("corpora", "sft", "preferences"):
        for row in all_rows(sample_files / kind):
            text = json.dumps(row, ensure_ascii=False)
            # Stems hold no character that JSON escapes except quotation marks.
            seen += [stem for stem in stems if stem.replace('"', '\\"') in text]
    assert seen == []


def test_training_never_asks_a_test_key(sample_files: Path) -> None:
    base = draw_facts(CONFIG.seed)
    for family in WEIGHTS:
        for language in LANGUAGES:
            asked = {
                split: questions(Random(1), base, family, language, split, 40)
                for split in ("train", "test")
            }
            keys = {split: {question.key for question in found} for split, found in asked.items()}
            assert not keys["train"] & keys["test"]
            assert {split_of(question.stem) for question in asked["test"]} == {"test"}


def test_training_letters_are_balanced(sample_files: Path) -> None:
    letters = Counter(row["std_ans"] for row in all_rows(sample_files / "sft/wanjuan_mcq"))
    assert letters.total() >= 4000
    assert max(letters.values()) - min(letters.values()) < 0.02 * letters.total()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("family", WEIGHTS)
def test_the_marked_answer_is_the_true_one(family: Family, language: Language) -> None:
    base = draw_facts(3)
    for question in questions(Random(5), base, family, language, "train", 40):
        right = question.options[LETTERS.index(question.answer)]
        wrong = [option for option in question.options if option != right]
        assert len(wrong) == 3
        if family == "recall":
            _, thing, attribute = question.key.split("/")
            (fact,) = (
                fact for fact in base.facts if (fact.thing.zh, fact.attribute) == (thing, attribute)
            )
            assert right == KINDS[attribute].answer(fact.value, language)
        elif family == "sums":
            first, sign, second = question.key.split("/")[2]
            result = int(first) + (int(second) if sign == "+" else -int(second))
            assert question.answer == LETTERS[result - 1]
        elif family == "category":
            kind = KINDS[question.key.split("/")[1]]
            members = {word.name(language) for word in kind.words}
            assert right.removeprefix("一个") in members
            assert not {option.removeprefix("一个") for option in wrong} & members
        else:
            assert right in question.stem
            if family in ("ordered", "reading"):
                assert not [option for option in wrong if f"{option}。" in question.stem]
        if family in ("ordered", "sums"):
            kinds = [k for k in KINDS.values() if k.ordered]
            lists = [tuple(k.answer(w, language) for w in k.words) for k in kinds]
            assert question.options in lists


def test_every_citizen_has_every_attribute_and_values_are_even() -> None:
    base = draw_facts(7)
    for citizen in CITIZENS:
        facts = base.about(citizen)
        assert sorted(fact.attribute for fact in facts) == sorted(CITIZEN_ATTRIBUTES)
    jobs = Counter(fact.value.zh for fact in base.facts if fact.attribute == "job")
    assert max(jobs.values()) - min(jobs.values()) <= 1


def test_characters_differ_in_every_attribute() -> None:
    facts = character_facts(Random(0), 3, ("pet", "season"))
    for attribute in ("pet", "season"):
        values = [fact.value for fact in facts if fact.attribute == attribute]
        assert len(set(values)) == 3


def test_values_are_cut_alike_in_text_and_in_options(shared: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(shared / "data/tokenizer/tokenizer.json"))
    for kind in KINDS.values():
        for word in kind.words:
            chinese = kind.answer(word, "zh")
            inside = tokenizer.encode(f"，{chinese}。").ids[1:-1]
            option = tokenizer.encode(f"A. {chinese}").ids
            assert option[-len(inside) :] == inside, chinese
            assert len(tokenizer.encode(f" {word.en}").ids) == 1, word.en
