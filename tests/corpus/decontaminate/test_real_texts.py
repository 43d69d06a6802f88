"""Benchmark questions in real texts and in the sample data."""

import random
from collections import Counter
from pathlib import Path

import pytest

from common.files import read_json_lines
from corpus.chats import Sample, read_samples
from corpus.decontaminate import Index, build_index
from corpus.sample_data import DATASETS, SampleDataConfig, write_dataset
from tasks.core.manifest import StageResult
from tasks.normalize import NormalizeConfig, normalize
from tests.corpus.decontaminate.planted import CONFIG, VARIANTS, asked, found
from tests.tasks.running import run_stage

NEAR_COPIES = 0.004
"""Share of the sample texts that may be taken for a benchmark question: most ask the same with
another name. Before each question had to have what its siblings lack, it was 0.012."""


@pytest.mark.slow
def test_questions_of_the_same_templates_are_not_called_benchmark_questions(tmp_path: Path) -> None:
    """The sample's training texts ask other questions in the words of the benchmarks' ones."""
    config = SampleDataConfig(scale=0.3)
    for kind in ("corpora", "sft", "evals"):
        for name in DATASETS[kind]:
            write_dataset(kind, name, tmp_path / kind / name, config)
    index = build_index(tmp_path / "evals", (), CONFIG)
    raw = StageResult(
        stage="acquire",
        key="raw",
        folder=tmp_path / "corpora",
        manifest={"counts": {}, "notes": {}},
    )
    run = run_stage(normalize, tmp_path / "normalized", NormalizeConfig(), raw=raw)
    texts = [line["text"] for path in run.folder.glob("*.jsonl") for line in read_json_lines(path)]
    for name in DATASETS["sft"]:
        texts += [
            "\n".join(sample.content.texts)
            for sample in read_samples("sft", tmp_path / "sft" / name, name)
            if isinstance(sample, Sample)
        ]
    assert len(texts) > 2000
    taken = [text for text in texts if index.find(text)]
    assert len(taken) <= NEAR_COPIES * len(texts), taken
    for question in index.questions[::20]:
        text = texts[0] + "\n" + asked(question)
        assert question.id in found(text, index)


def real_texts(shared: Path, *patterns: str) -> list[str]:
    """The lines of JSON-lines files, as they are."""
    files = sorted(path for p in patterns for path in (shared / "data" / "pretrain").glob(p))
    return [line for path in files for line in path.read_text(errors="replace").splitlines()]


REAL = ("sky/*.jsonl", "wanjuan/*.jsonl", "baidu_baike/*.json", "english/*.jsonl")


def test_planted_real_questions_are_found_and_real_rows_hold_none(
    shared: Path, real_index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    """300 real questions in real documents; thresholds are what was measured, minus a margin."""
    documents = real_texts(shared, *REAL)
    assert sum(bool(real_index.find(document)) for document in documents) == 0
    rng = random.Random(5)
    hits: Counter[str] = Counter()
    questions = rng.sample(real_index.questions, 300)
    for question in questions:
        for name, variant in VARIANTS.items():
            document = rng.choice(documents)
            at = rng.randrange(len(document) + 1)
            text = f"{document[:at]}\n{variant(question, rng)}\n{document[at:]}"
            keys = {(match.benchmark, match.question_id) for match in real_index.find(text)}
            hits[name] += (question.benchmark, question.id) in keys
    with capsys.disabled():
        print("\nrecall on 300 planted real questions:")
        for name in VARIANTS:
            print(f"  {name:32} {hits[name] / len(questions):6.1%}")
    least = {
        "as it is": 0.99,
        "options in another order": 0.96,
        "one option missing": 0.97,
        "traditional": 0.97,
        "other punctuation, full width": 0.98,
        "5% edited": 0.25,
    }
    assert {name for name, share in least.items() if hits[name] < share * len(questions)} == set()


def test_a_real_paraphrase_is_found_in_another_benchmark(shared: Path, real_index: Index) -> None:
    """AGIEval's Gaokao asks a question of C-Eval in nearly the same words."""
    path = shared / "data" / "eval" / "agieval" / "gaokao-biology.jsonl"
    matches = {
        (match.benchmark, match.question_id): match.overlap
        for line in path.read_text().splitlines()
        for match in real_index.find(line)
    }
    assert ("ceval", "high_school_biology/test/141") in matches
    # Each question of a benchmark is found in itself.
    for question in real_index.questions[::97]:
        if question not in set(real_index.unchecked()):
            assert question.id in found(asked(question), real_index)
