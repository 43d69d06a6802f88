"""Answers of one subject in a file that is whole or absent, found again by what decides about them.

    model, task, questions, settings ──hash──▶ <cache>/answers/<hash>.jsonl
                                                 {"about": {…}, "lines": 11, "sha256": "…"}
                                                 {"index": 0, …}          one line a question

The name is a hash of everything that the answers depend on. So an evaluation that was killed goes
on with the subjects that are missing, and another configuration with the same model and questions
answers none of them again. A damaged file counts as absent.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import hash_of, json_line, write_shared
from common.paths import display
from model.evaluate.job import SubjectJob


def answers_file(cache: Path, about: Mapping[str, Any]) -> Path:
    """Place of the answers that `about`, JSON values, decides about."""
    return cache / "answers" / f"{hash_of(about)}.jsonl"


def write_answers(
    path: Path, answers: Iterable[Mapping[str, Any]], about: Mapping[str, Any]
) -> None:
    """Publish the answers of a subject. Two processes may write the same at once."""
    lines = [json_line(answer) for answer in answers]
    body = b"".join(lines)
    head = {"about": about, "lines": len(lines), "sha256": hashlib.sha256(body).hexdigest()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shared(path, json_line(head) + body)


def read_answers(path: Path) -> list[dict[str, Any]] | None:
    """The answers in a file; None where there is none, or a damaged one."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if json.loads(head)["sha256"] != hashlib.sha256(body).hexdigest():
            return None
        return [json.loads(line) for line in body.splitlines()]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def needed_answers(job: SubjectJob) -> list[dict[str, Any]]:
    """The answers to a subject. Raises DataError where they are gone or damaged."""
    answers = read_answers(Path(job.answers))
    if answers is None:
        raise DataError(
            f"{display(Path(job.answers))}, the answers to {job.benchmark} {job.subject}, is gone "
            "or damaged: run again, which makes it anew"
        )
    return answers
