"""Reading the files of the sample data back."""

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Every record of a file that can be read."""
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    data = path.read_bytes()
    if path.suffix == ".txt":
        return list(logiqa_questions(data.decode()))
    if data.lstrip().startswith(b"["):
        return list(json.loads(data))
    found = []
    for line in data.split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def logiqa_questions(text: str) -> Iterator[dict[str, Any]]:
    """Questions of LogiQA's file, eight lines each: none, letter, context, question, options."""
    lines = text.removesuffix("\n").split("\n")
    for at in range(0, len(lines), 8):
        blank, letter, context, question, *options = lines[at : at + 8]
        assert not blank
        yield {"answer": letter, "stem": f"{context} {question}", "options": options}


def all_rows(folder: Path) -> list[dict[str, Any]]:
    """Every record of every file below a folder."""
    return [row for path in sorted(folder.rglob("*")) if path.is_file() for row in rows_of(path)]


def benchmark_rows(folder: Path, name: str) -> Iterator[tuple[str, str, list[str]]]:
    """(subject, split, [question, A, B, C, D, answer or nothing]) of a benchmark's CSV files."""
    texts = {
        path.relative_to(folder / name).as_posix(): path.read_bytes()
        for path in sorted((folder / name).rglob("*.csv"))
    }
    for archive in (folder / name).glob("*.zip"):
        with zipfile.ZipFile(archive) as packed:
            texts |= {member: packed.read(member) for member in packed.namelist()}
    for place, data in texts.items():
        split, file = place.split("/")
        subject = re.sub(rf"(_{split})?\.csv$", "", file)
        rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
        if name != "mmlu":
            rows = [row[1:] for row in rows[1:]]
        for row in rows:
            yield subject, split, row[:6]
