"""Questions about the facts in the files of C-Eval, CMMLU and MMLU.

    ceval   dev/<subject>_dev.csv  val/<subject>_val.csv    test.zip (no answers)  header, CRLF
    cmmlu   dev/<subject>.csv      test/<subject>.csv                              header
    mmlu    dev/<subject>_dev.csv  test/<subject>_test.csv  val.zip                no header

Subjects (phrases/benchmarks.yaml) carry names that lm-eval knows, so that its own prompts are used;
the questions of a subject are of one family.
"""

import json
from pathlib import Path
from random import Random

from corpus.sample_data.facts import KnowledgeBase, Language
from corpus.sample_data.files import csv_bytes, write_csv, write_zip
from corpus.sample_data.phrases import phrases
from corpus.sample_data.questions import Family, Question, questions

SUBJECTS: dict[str, dict[str, tuple[Family, str, str]]] = phrases("benchmarks")
"""benchmark -> subject -> (family of questions, name, category)."""

NUM_SCORED = 36
"""Questions per subject in the scored split at scale 1."""
NUM_DEV = 5
NUM_OTHER = 8
"""Questions per subject in the split that is not scored: C-Eval's test, MMLU's val."""


def write_benchmark(
    rng: Random, base: KnowledgeBase, name: str, folder: Path, scale: float
) -> None:
    """Write one benchmark. No question is in two splits."""
    language: Language = "en" if name == "mmlu" else "zh"
    scored = max(8, round(NUM_SCORED * scale))
    packed: dict[str, bytes] = {}
    mapping = {}
    for subject, (family, title, category) in SUBJECTS[name].items():
        drawn = questions(rng, base, family, language, "test", NUM_DEV + scored + NUM_OTHER)
        dev, main, other = drawn[:NUM_DEV], drawn[NUM_DEV:-NUM_OTHER], drawn[-NUM_OTHER:]
        mapping[subject] = {"name": title, "category": category}
        if name == "ceval":
            head = ["id", "question", *"ABCD", "answer", "explanation"]
            rows = [[i, *_cells(q), q.answer, q.explanation] for i, q in enumerate(dev)]
            write_csv(folder / f"dev/{subject}_dev.csv", [head, *rows], line_end="\r\n")
            rows = [[i, *_cells(q), q.answer] for i, q in enumerate(main)]
            write_csv(folder / f"val/{subject}_val.csv", [head[:-1], *rows], line_end="\r\n")
            rows = [[i, *_cells(q)] for i, q in enumerate(other)]
            packed[f"test/{subject}_test.csv"] = csv_bytes([head[:-2], *rows], line_end="\r\n")
        elif name == "cmmlu":
            head = ["", "Question", *"ABCD", "Answer"]
            for split, part in (("dev", dev), ("test", main)):
                rows = [[i, *_cells(q), q.answer] for i, q in enumerate(part)]
                write_csv(folder / f"{split}/{subject}.csv", [head, *rows])
        else:
            for split, part in (("dev", dev), ("test", main)):
                rows = [[*_cells(q), q.answer] for q in part]
                write_csv(folder / f"{split}/{subject}_{split}.csv", rows)
            packed[f"val/{subject}_val.csv"] = csv_bytes([*_cells(q), q.answer] for q in other)
    if packed:
        write_zip(folder / ("test.zip" if name == "ceval" else "val.zip"), packed)
    text = json.dumps(mapping, ensure_ascii=False, indent=1) + "\n"
    (folder / "subject_mapping.json").write_text(text, encoding="utf-8")


def _cells(question: Question) -> list[str]:
    return [question.stem, *question.options]
