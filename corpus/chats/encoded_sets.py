"""A set of conversations read, screened and encoded once, for all mixtures and trainings.

    native files ──rows──▶ parts of 1,000 rows ──workers──▶ part-000000.npz …
        each: format ─▶ identity, language ─▶ benchmark questions in it ─▶ token ids, targets
    ──joined──▶ <cache>/<set>-<hash>/  ids.npy, spoken.npy, notes.npy, encoded.json
                                       rows.jsonl          the conversations, a line each
                                       contamination.jsonl benchmark questions in them
                                       quarantine.jsonl    rows that are not used, with the reason
                                       set.json            counts

The hash covers the native files' content, the recipe, this code, the tokenizer with its chat
template, the identity where the set has one, and the benchmark questions where they are looked
for: so a set is found again, or is another one, and never stale. It does not cover the model, what
a mixture takes, `max_length`, and the action on what is found: those are decided when a mixture is
drawn (mixing.py). An interrupted run keeps its parts, and ends with the same bytes for any number
of workers.
"""

import fcntl
import functools
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from common.files import (
    complete_file,
    crc32_of_file,
    hash_of,
    json_line,
    make_folder,
    publish_folder,
    read_json_lines,
    sha256_of_file,
    write_json,
)
from corpus.bad_rows import MOST_NAMED
from corpus.chats.contamination import MATCHES_FILE, ContaminationFilter
from corpus.chats.identity import Identity
from corpus.chats.messages import Chat
from corpus.chats.reading import Sample, samples_of_rows
from corpus.chats.recipes import ChatSetRecipe, load_set
from corpus.chats.rows import LocatedRow, SkippedRow, matching_files, read_rows
from corpus.cleaning.engine.workers import map_in_workers
from corpus.content_cache import code_digest
from model.tokenizer.digest import digest_tokenizer
from model.train.finetune.encoded import EncodedSet, EncodedWriter, write_encoded
from model.train.finetune.encoding import digest_of_texts, encode_conversations

RAW_ROWS = 1000
"""Rows of a part."""
RAW_SIZE = 8 << 20
"""Characters of a part after which no row is added to it."""
WORTH_WORKERS = 2 << 20
"""Bytes of native files for which worker processes are worth their start."""

ROWS_FILE = "rows.jsonl"
QUARANTINE_FILE = "quarantine.jsonl"
SET_FILE = "set.json"
_LINES = (ROWS_FILE, QUARANTINE_FILE, MATCHES_FILE)
_CODE = ("corpus/chats", "corpus/formats", "corpus/decontaminate", "model/tokenizer")
_LIBRARIES = ("tokenizers", "transformers", "jinja2", "pyarrow")

Report: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class SetWork:
    """All that decides about an encoded set."""

    name: str
    """Recipe in data_recipes/sft."""
    folder: Path
    """Its native files."""
    tokenizer: PreTrainedTokenizerBase
    """Tokenizer of the model that is to be trained."""
    chat_template: str | None
    """Template that marks what the assistant says; None: the tokenizer's own does."""
    identity: Identity = field(default_factory=Identity)
    """Name and author of the model, for sets in which it says who it is."""
    contamination: ContaminationFilter | None = None
    """Finds benchmark questions; None does not look for any."""

    @functools.cached_property
    def recipe(self) -> ChatSetRecipe:
        """The set's recipe. Raises ConfigError."""
        return load_set("sft", self.name)

    @functools.cached_property
    def files(self) -> list[Path]:
        """Its native files. Raises ConfigError for a test split, DataError when there are none."""
        where = f"data_recipes/sft/{self.name}.yaml"
        return matching_files(self.folder, self.recipe.files, where=where)

    def material(self) -> dict[str, Any]:
        """All of it as JSON, with hashes for files."""
        digest = digest_tokenizer(self.tokenizer)
        template = self.tokenizer.get_chat_template(self.chat_template)
        return {
            "recipe": self.recipe.reading(),
            "files": [
                [str(path.relative_to(self.folder)), sha256_of_file(path)] for path in self.files
            ],
            "code": [code_digest(folder) for folder in _CODE],
            "encoding": sha256_of_file(
                Path(__file__).parents[2] / "model/train/finetune/encoding.py"
            ),
            "libraries": {name: metadata.version(name) for name in _LIBRARIES},
            "tokenizer": [digest.digest, hashlib.sha256(template.encode()).hexdigest()],
            "identity": asdict(self.identity) if self.recipe.identity is not None else None,
            "questions": self.contamination.key if self.contamination is not None else None,
        }


@dataclass(frozen=True, kw_only=True)
class ReadSet:
    """An encoded set, and what was not used of its files."""

    name: str
    """Name of the set."""
    encoded: EncodedSet
    """Its conversations as ids."""
    skipped: Mapping[str, int]
    """{reason: rows} that are not used."""
    malformed: Sequence[str]
    """Rows that are damaged or not of the set's format, the first ones, with their places."""
    num_malformed: int
    """Number of all of these."""

    @property
    def folder(self) -> Path:
        """Folder of the set."""
        return self.encoded.folder


def encoded_set(work: SetWork, cache: Path, report: Report = lambda what: None) -> ReadSet:
    """The encoded set, from the cache or made now by all cores; other processes wait for it.

    Raises ConfigError for a test split, DataError for files that cannot be read.
    """
    digest = hash_of(work.material())[:24]
    folder = cache / f"{work.name}-{digest}"
    make_folder(cache)
    with _locked(folder.with_suffix(".lock"), lambda: report(f"waiting for {work.name}")):
        if not _is_intact(folder):
            shutil.rmtree(folder, ignore_errors=True)
            _make(work, folder, report)
    about = json.loads((folder / SET_FILE).read_text(encoding="utf-8"))
    return ReadSet(
        name=work.name,
        encoded=EncodedSet.open(folder),
        skipped=about["skipped"],
        malformed=about["malformed_named"],
        num_malformed=about["malformed"],
    )


def _make(work: SetWork, folder: Path, report: Report) -> None:
    partial = folder.with_suffix(".partial")
    parts = partial / "parts"
    make_folder(parts)
    for left in partial.glob("parts/*.partial"):
        left.unlink()
    worth = sum(path.stat().st_size for path in work.files) >= WORTH_WORKERS
    workers = len(os.sched_getaffinity(0)) if worth else 1
    done = [0]

    def encode(part: tuple[int, list[LocatedRow | SkippedRow]]) -> tuple[Path, int]:
        number, rows = part
        path = parts / f"part-{number:06d}.npz"
        if not _is_whole(path):
            _encode_part(work, rows, path)
        return path, len(rows)

    paths = []
    rows = read_rows(work.folder, work.files)
    for path, count in map_in_workers(
        encode,
        enumerate(_in_parts(rows)),
        workers,
        lambda: report(f"{work.name}: {done[0]:,} rows read and encoded"),
        "fewer cores (taskset -c 0-3 steel …)",
    ):
        paths.append(path)
        done[0] += count
    report(f"joining {work.name}")
    _join(paths, partial)
    shutil.rmtree(parts)
    files = sorted(path for path in partial.iterdir() if path.name != SET_FILE)
    about = json.loads((partial / SET_FILE).read_text(encoding="utf-8"))
    about["files"] = {path.name: [path.stat().st_size, crc32_of_file(path)] for path in files}
    write_json(partial / SET_FILE, about)
    publish_folder(partial, folder)


def _is_intact(folder: Path) -> bool:
    """True for a complete folder in which every file has the bytes that were written."""
    try:
        about = json.loads((folder / SET_FILE).read_text(encoding="utf-8"))
        return all(
            (folder / name).stat().st_size == size and crc32_of_file(folder / name) == checksum
            for name, (size, checksum) in about["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_whole(part: Path) -> bool:
    """True for a part whose arrays all have the bytes that were written (a CRC-32 each)."""
    try:
        with zipfile.ZipFile(part) as stored:
            return stored.testzip() is None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def _in_parts(rows: Iterator[LocatedRow | SkippedRow]) -> Iterator[list[LocatedRow | SkippedRow]]:
    """Divide rows by their number and size, alone: the same parts in every run."""
    part: list[LocatedRow | SkippedRow] = []
    size = 0
    for row in rows:
        part.append(row)
        size += _size(row.row) if isinstance(row, LocatedRow) else 100
        if len(part) == RAW_ROWS or size > RAW_SIZE:
            yield part
            part, size = [], 0
    if part:
        yield part


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(each) for each in value.values())
    return sum(map(_size, value)) if isinstance(value, list) else 1


def _encode_part(work: SetWork, rows: Sequence[LocatedRow | SkippedRow], path: Path) -> None:
    """Write the samples of some rows, and all that is known of the other rows."""
    os.environ["TOKENIZERS_PARALLELISM"] = os.environ.get("TOKENIZERS_PARALLELISM", "false")
    lines = {name: io.BytesIO() for name in _LINES}
    skipped, malformed = Counter[str](), list[str]()
    samples: list[Sample] = []
    for item in samples_of_rows("sft", work.recipe, rows, work.identity):
        if isinstance(item, Sample):
            samples.append(item)
            continue
        skipped[item.reason] += 1
        if item.malformed:
            malformed.append(str(item))
        lines[QUARANTINE_FILE].write(json_line(vars(item)))
    chats = [sample.content for sample in samples]
    messages = [chat.messages for chat in chats if isinstance(chat, Chat)]
    encoded = encode_conversations(messages, work.tokenizer, work.chat_template)
    writer = EncodedWriter()
    for sample, chat, (ids, spoken, left_out) in zip(samples, chats, encoded, strict=True):
        assert isinstance(chat, Chat), "data_recipes/sft has conversations"
        matches = []
        if work.contamination is not None:
            place = f"{work.name}/{sample.place}"
            matches = work.contamination.matches(chat.texts, place)
        for match in matches:
            lines[MATCHES_FILE].write(json_line({"row": len(writer), **match}))
        writer.add(
            {"ids": ids, "spoken": spoken},
            digest=digest_of_texts(chat.texts),
            language=sample.language,
            style=chat.style,
            left_out=left_out,
            contaminated=bool(matches),
            at=lines[ROWS_FILE].tell(),
        )
        row = {"place": sample.place, "language": sample.language, **chat.columns()}
        lines[ROWS_FILE].write(json_line(row))
    about = {
        "names": writer.names(),
        "skipped": skipped,
        "malformed": len(malformed),
        "malformed_named": malformed[:MOST_NAMED],
    }
    arrays = writer.arrays() | {
        f"lines/{name}": np.frombuffer(content.getvalue(), np.uint8)
        for name, content in lines.items()
    }
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with complete_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type] # names are texts


def _join(paths: Sequence[Path], folder: Path) -> None:
    """Join the parts of a set, in order, one of them in memory at a time."""
    skipped, named, malformed = Counter[str](), list[str](), 0

    def parts(files: Mapping[str, Any]) -> Iterator[tuple[Any, Any, int]]:
        nonlocal malformed
        row, at = 0, 0
        for path in paths:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            about = json.loads(arrays.pop("about").tobytes())
            lines = {name: arrays.pop(f"lines/{name}").tobytes() for name in _LINES}
            for line in lines[MATCHES_FILE].splitlines():
                match = json.loads(line)
                files[MATCHES_FILE].write(json_line({**match, "row": match["row"] + row}))
            for name in (ROWS_FILE, QUARANTINE_FILE):
                files[name].write(lines[name])
            skipped.update(about["skipped"])
            named.extend(about["malformed_named"])
            malformed += about["malformed"]
            yield arrays, about["names"], at
            row += len(arrays["notes"])
            at += len(lines[ROWS_FILE])

    with (
        complete_file(folder / ROWS_FILE) as rows,
        complete_file(folder / QUARANTINE_FILE) as quarantine,
        complete_file(folder / MATCHES_FILE) as matches,
    ):
        files = dict(zip(_LINES, (rows, quarantine, matches), strict=True))
        write_encoded(folder, parts(files))
    about = {
        "skipped": dict(sorted(skipped.items())),
        "malformed": malformed,
        "malformed_named": named[:MOST_NAMED],
    }
    write_json(folder / SET_FILE, about)


@contextmanager
def _locked(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock for which other processes wait; the kernel releases it when its holder dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lines_of(file: Path, wanted: npt.NDArray[np.bool_]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines of a set's contamination.jsonl whose rows are wanted [rows], each with its row."""
    for match in read_json_lines(file):
        if wanted[row := match.pop("row")]:
            yield row, match
