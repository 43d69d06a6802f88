"""The valley's exams in the files of C-Eval, CMMLU and MMLU.

    ceval   dev/<subject>_dev.csv  val/<subject>_val.csv    test.zip (no answers)  header, CRLF
    cmmlu   dev/<subject>.csv      test/<subject>.csv                              header
    mmlu    dev/<subject>_dev.csv  test/<subject>_test.csv  val.zip                no header

Subjects carry names that lm-eval knows, so that its own prompts are used; what they ask is a family
of questions about the valley.
"""

import json
from pathlib import Path
from random import Random

from corpus.sample_data.files import csv_bytes, write_csv, write_zip
from corpus.sample_data.questions import Family, Question, questions
from corpus.sample_data.world import Language, World

SUBJECTS: dict[str, dict[str, tuple[Family, str, str]]] = {
    "ceval": {
        "middle_school_geography": ("ordered", "初中地理", "Social Science"),
        "middle_school_mathematics": ("sums", "初中数学", "STEM"),
        "middle_school_biology": ("category", "初中生物", "STEM"),
        "high_school_chinese": ("reading", "高中语文", "Humanities"),
        "logic": ("comparison", "逻辑学", "Humanities"),
        "professional_tour_guide": ("recall", "导游资格", "Humanities"),
    },
    "cmmlu": {
        "high_school_geography": ("ordered", "高中地理", "Social Sciences"),
        "elementary_mathematics": ("sums", "初等数学", "STEM"),
        "elementary_commonsense": ("category", "小学常识", "Other"),
        "elementary_chinese": ("reading", "小学语文", "Social Sciences"),
        "logical": ("comparison", "逻辑学", "Humanities"),
        "global_facts": ("recall", "全球事实", "Humanities"),
    },
    "mmlu": {
        "high_school_geography": ("ordered", "high school geography", "Social Sciences"),
        "elementary_mathematics": ("sums", "elementary mathematics", "STEM"),
        "nutrition": ("category", "nutrition", "Other"),
        "miscellaneous": ("reading", "miscellaneous", "Other"),
        "logical_fallacies": ("comparison", "logical fallacies", "Humanities"),
        "global_facts": ("recall", "global facts", "Other"),
    },
}
"""benchmark -> subject -> (family of questions, name, category)."""

NUM_SCORED = 36
"""Questions per subject in the scored split at scale 1."""
NUM_DEV = 5
NUM_OTHER = 8
"""Questions per subject in the split that nobody scores: C-Eval's test, MMLU's val."""


def write_exam(rng: Random, world: World, name: str, folder: Path, scale: float) -> None:
    """Write one benchmark. No question stands in two splits."""
    language: Language = "en" if name == "mmlu" else "zh"
    scored = max(8, round(NUM_SCORED * scale))
    packed: dict[str, bytes] = {}
    mapping = {}
    for subject, (family, title, category) in SUBJECTS[name].items():
        asked = questions(rng, world, family, language, "test", NUM_DEV + scored + NUM_OTHER)
        dev, main, other = asked[:NUM_DEV], asked[NUM_DEV:-NUM_OTHER], asked[-NUM_OTHER:]
        mapping[subject] = {"name": title, "category": category}
        if name == "ceval":
            head = ["id", "question", *"ABCD", "answer", "explanation"]
            rows = [[i, *_cells(q), q.answer, q.detail] for i, q in enumerate(dev)]
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
