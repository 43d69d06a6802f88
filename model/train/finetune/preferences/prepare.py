"""Pairs of a DPO job as token ids on disk, and what became of every candidate.

    candidates.jsonl ──encoding.py──▶ ids or a reason ──selection.py──▶ trained on │ held out │ no

    pairs.npz        ids of those that are trained on or held out     (scratch)
    mixture.jsonl    the same as texts        prepared.json   counts
    left_out.jsonl   the others that cannot be trained on, and why

One rank does the work while the others wait; they, and a run that is resumed, find it done.
"""

import functools
import hashlib
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from common.errors import DataError
from common.files import complete_file, json_line, read_json_lines, write_json
from model.data.permutation import Ints
from model.tokenizer.conversation import protect_chat_template
from model.tokenizer.folder import load_folder_tokenizer
from model.train.finetune.config import DpoJob
from model.train.finetune.held_out import held_out
from model.train.finetune.preferences.encoding import ID_COLUMNS, encode_pair
from model.train.finetune.preferences.objective import length_accuracy
from model.train.finetune.preferences.selection import (
    HELD_OUT,
    NOT_DRAWN,
    TRAINED,
    PairNames,
    draw_pairs,
    without_repeats,
)
from model.train.finetune.prepared import prepared_arrays, reasons_by_set
from model.train.run.folder import LEFT_OUT_FILE, MIXTURE_FILE, PREPARED_FILE

log = logging.getLogger("steel.finetune")

PAIRS_FILE = "pairs.npz"
PER_TASK = 500
"""Pairs that a process encodes at a time."""
MANY_PAIRS = 5_000
"""Pairs that are worth starting processes to encode them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PreferencePairs:
    """Pairs that are trained on, then those that are held out. N = pairs, T = tokens."""

    ids: npt.NDArray[np.int32]
    """Prompt, chosen answer, rejected answer of each pair, one behind the other, [T]."""
    starts: Ints
    """First token of each of these in `ids`, and the end of the last, [3 N + 1]."""
    names: Sequence[str]
    """Names of sets."""
    name: Ints
    """Place in `names` of the name of each pair's set, [N]."""
    digests: npt.NDArray[np.uint64]
    """Digest of each prompt, [N]: pairs that share a prompt are held out together."""
    num_train: int
    """Pairs [0, this) are trained on; the others are held out for validation."""

    def __len__(self) -> int:
        return len(self.name)

    def __getitem__(self, pair: int) -> tuple[npt.NDArray[np.int32], ...]:
        """Ids of the prompt, the chosen answer and the rejected answer."""
        bounds = self.starts[3 * pair : 3 * pair + 4].tolist()
        return tuple(self.ids[a:b] for a, b in pairwise(bounds))

    @cached_property
    def parts(self) -> Ints:
        """Tokens of each prompt, chosen and rejected answer, [N, 3]."""
        return np.diff(self.starts).reshape(-1, 3)

    @cached_property
    def lengths(self) -> Ints:
        """Tokens that each pair sends through the network, [N]: its prompt twice."""
        tokens: Ints = self.parts @ np.array([2, 1, 1])
        return tokens

    @cached_property
    def targets(self) -> Ints:
        """Ones, [N]: a step's loss is a mean over pairs."""
        return np.ones(len(self), np.int64)

    @cached_property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """True for pairs that are held out, [N]."""
        return np.arange(len(self)) >= self.num_train

    def digest(self) -> str:
        """32 hexadecimal digits that change with any token of any pair."""
        digest = hashlib.blake2b(self.starts.tobytes(), digest_size=16)
        digest.update(self.ids.tobytes())
        return digest.hexdigest()


def prepare_pairs(job: DpoJob, tokenizer: PreTrainedTokenizerBase) -> PreferencePairs:
    """The pairs of a job: encoded, without those that say nothing, at the ratio.

    Writes mixture.jsonl, prepared.json and left_out.jsonl into the job's output. Raises DataError
    when a language has too few pairs.
    """
    path = Path(job.scratch) / PAIRS_FILE
    found = prepared_arrays(
        path,
        Path(job.output) / PREPARED_FILE,
        lambda: _prepare(job, tokenizer, path),
        names=("ids", "starts", "name", "names", "digests", "num_train"),
    )
    return PreferencePairs(
        ids=found["ids"],
        starts=found["starts"],
        name=found["name"],
        names=found["names"].tolist(),
        digests=found["digests"],
        num_train=int(found["num_train"]),
    )


def _prepare(job: DpoJob, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    candidates = _Candidates.encode(job, tokenizer)
    splits = candidates.split(job)
    if TRAINED not in splits:
        raise DataError(candidates.nothing_left(job))
    chosen = [
        *(n for n, split in enumerate(splits) if split == TRAINED),
        *(n for n, split in enumerate(splits) if split == HELD_OUT),
    ]
    ids = [candidates.ids[n] for n in chosen]
    names = list(dict.fromkeys(candidates.sets))
    pairs = PreferencePairs(
        ids=np.concatenate([np.zeros(0, np.int32), *(part for pair in ids for part in pair)]),
        starts=np.cumsum([0, *(len(part) for pair in ids for part in pair)], dtype=np.int64),
        name=np.array([names.index(candidates.sets[n]) for n in chosen], np.int64),
        names=names,
        digests=np.array([candidates.names[n].digest for n in chosen], np.uint64),
        num_train=splits.count(TRAINED),
    )
    _write_lines(job, candidates, splits)
    write_json(Path(job.output) / PREPARED_FILE, _counts(job, candidates, splits, pairs))
    with complete_file(path) as file:
        np.savez(
            file,
            allow_pickle=False,
            ids=pairs.ids,
            starts=pairs.starts,
            name=pairs.name,
            names=np.array(names),
            digests=pairs.digests,
            num_train=np.int64(pairs.num_train),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidates:
    """Every pair of a job's data, in order."""

    sets: list[str]
    names: list[PairNames]
    ids: list[tuple[npt.NDArray[np.int32], ...]]
    reasons: list[str]
    shortened: list[bool]

    @classmethod
    def encode(cls, job: DpoJob, tokenizer: PreTrainedTokenizerBase) -> "_Candidates":
        found = cls(sets=[], names=[], ids=[], reasons=[], shortened=[])
        for row in _encoded(job, tokenizer):
            found.sets.append(row["set"])
            found.names.append(
                PairNames(
                    pair=row["pair"],
                    swapped=row["swapped"],
                    digest=int(row["prompt_digest"], 16),
                    language=row["language"],
                )
            )
            found.ids.append(tuple(np.asarray(row[name], np.int32) for name in ID_COLUMNS))
            found.reasons.append(row["left_out"])
            found.shortened.append(row["shortened"] > 0)
        found.reasons[:] = without_repeats(found.names, found.reasons)
        return found

    def nothing_left(self, job: DpoJob) -> str:
        """Say that nothing can be trained on, and why."""
        counts = Counter(zip(self.sets, self.reasons, strict=True))
        why = "; ".join(
            f"{name}: {count} of {self.sets.count(name)} ({reason})"
            for (name, reason), count in counts.items()
            if reason
        )
        return (
            f"no pair of {job.data} can be trained on within max_length = "
            f"{job.settings.max_length} tokens ({why}): raise max_length, or choose other sets"
        )

    def split(self, job: DpoJob) -> list[str]:
        """TRAINED, HELD_OUT or NOT_DRAWN for each; empty where a reason leaves it out."""
        splits = ["" if reason else NOT_DRAWN for reason in self.reasons]
        usable = [n for n, split in enumerate(splits) if split]
        digests = np.array([self.names[n].digest for n in usable], np.uint64)
        places = {name: place for place, name in enumerate(dict.fromkeys(self.sets))}
        sets = np.array([places[self.sets[n]] for n in usable], np.int64)
        aside = held_out(digests, sets, job.settings.validation_fraction).tolist()
        to_train = [n for n, out in zip(usable, aside, strict=True) if not out]
        drawn = draw_pairs(
            [self.names[n].language for n in to_train],
            chinese_per_english=job.chinese_per_english,
            limit=job.limit,
            seed=job.settings.seed,
        )
        for place in drawn:
            splits[to_train[place]] = TRAINED
        for n, out in zip(usable, aside, strict=True):
            if out:
                splits[n] = HELD_OUT
        return splits


def _encoded(job: DpoJob, tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    """Each candidate as `encode_pair` gives it, with set and language, in order."""
    rows = iter(read_json_lines(Path(job.data)))
    length = job.settings.max_length
    first = list(islice(rows, MANY_PAIRS))
    processes = min(len(os.sched_getaffinity(0)), 16)
    if len(first) < MANY_PAIRS or processes < 2:
        for row in (*first, *rows):
            yield _encode_row(row, tokenizer, length)
        return
    with ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=_load,
        initargs=(job.model, length),
    ) as pool:
        for part in _in_order(pool, iter([*first]), rows, 4 * processes):
            yield from part


def _in_order(
    pool: ProcessPoolExecutor, first: Iterator[Any], rows: Iterator[Any], ahead: int
) -> Iterator[list[dict[str, Any]]]:
    """Results of all parts in order, a bounded number of them under way."""
    waiting: list[Any] = []
    for source in (first, rows):
        while part := list(islice(source, PER_TASK)):
            waiting.append(pool.submit(_encode_part, part))
            if len(waiting) >= ahead:
                yield waiting.pop(0).result()
    yield from (one.result() for one in waiting)


_in_process: dict[str, Any] = {}


def _load(folder: str, max_length: int) -> None:
    tokenizer = protect_chat_template(load_folder_tokenizer(Path(folder)))
    _in_process["encode"] = functools.partial(
        _encode_row, tokenizer=tokenizer, max_length=max_length
    )


def _encode_part(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_in_process["encode"](row) for row in rows]


def _encode_row(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Any]:
    encoded = encode_pair(row, tokenizer=tokenizer, max_length=max_length)
    return encoded | {
        "set": str(row.get("set") or "unnamed"),
        "language": str(row.get("language") or "unknown"),
    }


def _write_lines(job: DpoJob, candidates: _Candidates, splits: Sequence[str]) -> None:
    """Write mixture.jsonl and left_out.jsonl."""
    output = Path(job.output)
    with (
        complete_file(output / MIXTURE_FILE) as mixture,
        complete_file(output / LEFT_OUT_FILE) as left_out,
    ):
        for number, row in enumerate(read_json_lines(Path(job.data))):
            if splits[number] in (TRAINED, HELD_OUT):
                mixture.write(json_line({**row, "split": splits[number]}))
            elif reason := candidates.reasons[number]:
                where = {"set": candidates.sets[number], "place": row.get("place", "")}
                left_out.write(json_line({"line": number + 1, **where, "reason": reason}))


def _counts(
    job: DpoJob, candidates: _Candidates, splits: Sequence[str], pairs: PreferencePairs
) -> dict[str, Any]:
    """Content of prepared.json."""
    sets: dict[str, dict[str, Any]] = {
        name: {
            "drawn": 0,
            "trained_on": 0,
            "held_out": 0,
            "not_drawn": 0,
            "cut": 0,
            "languages": Counter[str](),
            "left_out": Counter[str](),
        }
        for name in pairs.names
    }
    for number, name in enumerate(candidates.sets):
        of_set, split = sets[name], splits[number]
        of_set["drawn"] += 1
        if reason := candidates.reasons[number]:
            of_set["left_out"][reason] += 1
        elif split == TRAINED:
            of_set["trained_on"] += 1
            of_set["languages"][candidates.names[number].language] += 1
            of_set["cut"] += candidates.shortened[number]
        else:
            of_set["held_out" if split == HELD_OUT else "not_drawn"] += 1
    totals = {
        name: sum(of_set[name] for of_set in sets.values())
        for name in ("drawn", "trained_on", "held_out", "not_drawn", "cut")
    }
    left_out = sum(of_set["left_out"].total() for of_set in sets.values())
    if left_out:
        log.warning(
            "%d of %d pairs are left out: %s", left_out, totals["drawn"], reasons_by_set(sets)
        )
    return {
        **totals,
        "left_out": left_out,
        "rows": pairs.num_train,
        "tokens": int(pairs.lengths[: pairs.num_train].sum()),
        "sets": sets,
        "lengths": {
            TRAINED: lengths_of(pairs.parts[: pairs.num_train]),
            HELD_OUT: lengths_of(pairs.parts[pairs.num_train :]),
        },
    }


def lengths_of(parts: Ints) -> dict[str, float]:
    """Mean tokens of both answers, and the accuracy of preferring the longer one; {} of none.

    parts: tokens of prompt, chosen and rejected answer, [N, 3].
    """
    if not len(parts):
        return {}
    return {
        "prompt_tokens": float(parts[:, 0].mean()),
        "chosen_tokens": float(parts[:, 1].mean()),
        "rejected_tokens": float(parts[:, 2].mean()),
        "length_accuracy": length_accuracy(parts[:, 1], parts[:, 2]),
    }
