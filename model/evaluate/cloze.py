"""Multiple choice as a cloze: log P of each option's text after the question, without letters.

    问题：水的沸点是多少？\\n答案：  ──▶  log P("100 ℃"), log P("0 ℃"), …

The options stand in no prompt. So a model shows what it knows long before it has learned to answer
by letters (OLMES, Gu et al. 2024, arXiv 2406.08446, section 3.2).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.files import read_json_lines
from model.evaluate.choice_lm import ChoiceLM
from model.evaluate.job import EvaluateJob, SubjectJob


def by_cloze(job: EvaluateJob, subject: SubjectJob, lm: ChoiceLM) -> list[dict[str, Any]]:
    """Answer one subject by the likelihoods of its options' texts, in the order of its questions.

    The answer is the option that is most likely per character, as lm-eval's `acc_norm`; the first
    of equal ones.
    """
    questions = list(read_json_lines(Path(subject.prompts)))
    lm.truncated.clear()
    scores = iter(lm.score_apart([(q["prompt"], o) for q in questions for o in q["options"]]))
    answers = []
    for index, question in enumerate(questions):
        options = question["options"]
        found = [next(scores) for _ in options]
        logp = [value for value, _ in found]
        characters = list(map(len, options))
        answers.append(
            {
                "index": index,
                "target": question["target"],
                "right": _most_likely(logp, characters) == question["target"],
                "log_likelihoods": logp,
                "characters": characters,
                "bytes": [len(option.encode()) for option in options],
                "tokens": [tokens for _, tokens in found],
                "truncated": question["prompt"] in lm.truncated,
                "prompt": question["prompt"],
            }
        )
    return answers


def _most_likely(logp: Sequence[float], characters: Sequence[int]) -> int:
    per_character = [p / n for p, n in zip(logp, characters, strict=True)]
    return per_character.index(max(per_character))
