"""Conversations that a training is made of: ids and labels by number, cut to whole answers.

    mixture.jsonl ─▶ (set, row) of each drawn conversation; sets lie encoded (encoded.py)
        ──max_length──▶ whole │ cut behind the last answer that fits │ left out, with the reason
        ──▶ TrainingSamples: samples[i] = input_ids [L], labels [L]

A conversation longer than `max_length` loses its last turns, never a part of an answer: each that
is trained on ends with the token that ends the assistant's turn. One whose first answer does not
fit is left out. One rank finds this out while the others wait; they, and a run that is resumed,
read it from scratch.

N = samples that are trained on, L = tokens of one of them.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from common.errors import DataError
from common.files import complete_file, json_line, read_json_lines, write_json
from model.data.dataset import IGNORED
from model.train.finetune.config import SftJob
from model.train.finetune.encoded import EncodedSet, EncodedWriter, Ints, write_encoded
from model.train.finetune.encoding import (
    ANSWER_TOO_LONG,
    NO_ROOM,
    NO_TARGET,
    digest_of_texts,
    encode_conversations,
)
from model.train.finetune.held_out import validation_samples
from model.train.finetune.prepared import prepared_arrays, reasons_by_set
from model.train.finetune.templates import training_template
from model.train.run.folder import LEFT_OUT_FILE, PREPARED_FILE

log = logging.getLogger("steel.finetune")

SAMPLES_FILE = "samples.npz"
ARRAYS = ("folders", "names", "set", "row", "name", "lengths", "targets", "digests")
"""Arrays in it: names, then the fields of `TrainingSamples`."""
BATCH = 1000
"""Conversations that are encoded together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSamples:
    """Conversations to train on."""

    sets: Sequence[EncodedSet]
    """The encoded sets that they are taken from."""
    names: Sequence[str]
    """Names of sets behind the numbers in `name`."""
    set: Ints
    """Place in `sets` of the set that each is from, [N]."""
    row: Ints
    """Row of that set, [N]."""
    lengths: Ints
    """Tokens of each, at most `max_length`, [N]."""
    targets: Ints
    """Of these, tokens that are predicted, [N]: labels behind the first place."""
    name: Ints
    """Place in `names` of the name of its set, [N]."""
    digests: npt.NDArray[np.uint64]
    """Digest of its text, [N]: the same in every set and mixture, so a split by it holds for
    all."""

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, sample: int) -> dict[str, npt.NDArray[np.int64]]:
        """input_ids [L] and labels [L]; IGNORED where nothing is predicted."""
        columns = self.sets[int(self.set[sample])].columns
        length, row = int(self.lengths[sample]), int(self.row[sample])
        ids = np.asarray(columns["ids"][row][:length], np.int64)
        spoken = np.asarray(columns["spoken"][row][:length])
        return {"input_ids": ids, "labels": np.where(spoken != 0, ids, IGNORED)}


def training_samples(job: SftJob, tokenizer: PreTrainedTokenizerBase) -> TrainingSamples:
    """The conversations of a job, cut and without those that nothing can be learned from.

    Writes prepared.json and left_out.jsonl into the job's output. Raises DataError when no
    conversation is left, or a set is not complete.
    """
    path = Path(job.scratch) / SAMPLES_FILE
    arrays = prepared_arrays(
        path, Path(job.output) / PREPARED_FILE, lambda: _prepare(job, tokenizer, path), names=ARRAYS
    )
    folders, names = arrays.pop("folders"), arrays.pop("names")
    return TrainingSamples(
        sets=[EncodedSet.open(Path(folder)) for folder in folders.tolist()],
        names=names.tolist(),
        **arrays,
    )


def _prepare(job: SftJob, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Decide about every drawn conversation, and write the decisions."""
    drawn = _Drawn.read(job, tokenizer)
    count = len(drawn.row)
    lengths, targets = np.zeros(count, np.int64), np.zeros(count, np.int64)
    digests = np.zeros(count, np.uint64)
    reasons = np.zeros(count, np.int64)
    listed = [""]
    for number, one in enumerate(drawn.sets):
        of_set = np.flatnonzero(drawn.set == number)
        rows = drawn.row[of_set]
        lengths[of_set], targets[of_set], why = fit_to_length(one, rows, job.settings.max_length)
        digests[of_set] = one.notes["digest"][rows]
        for reason in dict.fromkeys(why):
            if reason not in listed:
                listed.append(reason)
        reasons[of_set] = [listed.index(reason) for reason in why]
    kept = reasons == 0
    whole = drawn.lengths()
    held_out = np.zeros(count, np.bool_)
    held_out[kept] = validation_samples(
        digests[kept], drawn.name[kept], job.settings.validation_fraction
    )
    report = _Report(
        job=job,
        drawn=drawn,
        reasons=[listed[n] for n in reasons],
        held_out=held_out,
        cut=kept & (lengths < whole),
        lengths=lengths,
    )
    if not kept.any():
        raise DataError(report.nothing_left())
    report.write(int(targets[kept & ~held_out].sum()))
    with complete_file(path) as file:
        np.savez(
            file,
            allow_pickle=False,
            folders=np.array([str(one.folder) for one in drawn.sets]),
            names=np.array(drawn.names),
            set=drawn.set[kept],
            row=drawn.row[kept],
            name=drawn.name[kept],
            lengths=lengths[kept],
            targets=targets[kept],
            digests=digests[kept],
        )


def fit_to_length(one: EncodedSet, rows: Ints, max_length: int) -> tuple[Ints, Ints, list[str]]:
    """Tokens and targets that rows of a set have within `max_length`, and why one is left out.

    A row that is longer ends behind its last answer that fits whole.
    """
    ids, spoken = one.columns["ids"], one.columns["spoken"]
    lengths = np.array(ids.lengths[rows])
    targets = np.zeros(len(rows), np.int64)
    why = [one.reasons[number] for number in one.notes["left_out"][rows]]
    for place, row in enumerate(rows.tolist()):
        if why[place]:
            lengths[place] = 0
            continue
        mask = spoken[row]
        if lengths[place] > max_length:
            lengths[place], why[place] = _cut(mask, max_length)
        targets[place] = np.count_nonzero(mask[1 : lengths[place]])
        if not why[place] and not targets[place]:
            why[place] = NO_TARGET
    return lengths, targets, why


def _cut(spoken: npt.NDArray[Any], max_length: int) -> tuple[int, str]:
    """Length up to the last answer that ends within `max_length`, or 0 and the reason."""
    ends = np.flatnonzero(np.diff(spoken[: max_length + 1].astype(np.int8)) == -1) + 1
    if len(ends):
        return int(ends[-1]), ""
    begins = np.flatnonzero(spoken[:max_length])
    return 0, ANSWER_TOO_LONG if len(begins) else NO_ROOM


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
    """Conversations of a mixture as rows of encoded sets, in the mixture's order."""

    sets: Sequence[EncodedSet]
    names: Sequence[str]
    set: Ints
    row: Ints
    name: Ints
    languages: Sequence[str]

    @classmethod
    def read(cls, job: SftJob, tokenizer: PreTrainedTokenizerBase) -> "_Drawn":
        """Read the job's data; texts that stand in it are encoded first."""
        opened = {name: EncodedSet.open(Path(folder)) for name, folder in job.sets.items()}
        places = {name: place for place, name in enumerate(opened)}
        sets, names = [*opened.values()], dict[str, int]()
        columns: tuple[list[int], list[int], list[int]] = ([], [], [])
        languages: list[str] = []
        texts = _Texts(tokenizer, Path(job.scratch) / "encoded")
        for line in read_json_lines(Path(job.data)):
            name = str(line.get("set") or "unnamed")
            if "row" in line:
                if name not in places:
                    raise DataError(f"{job.data} has rows of {name}, which is none of the sets")
                columns[0].append(places[name])
                columns[1].append(line["row"])
            else:
                columns[0].append(len(opened))
                columns[1].append(texts.add(line))
            columns[2].append(names.setdefault(name, len(names)))
            languages.append(str(line.get("language") or "unknown"))
        if len(texts):
            sets.append(texts.write())
        set_, row, name_ = (np.array(column, np.int64) for column in columns)
        return cls(sets=sets, names=[*names], set=set_, row=row, name=name_, languages=languages)

    def lengths(self) -> Ints:
        """Tokens of each, as long as it is."""
        found = np.zeros(len(self.row), np.int64)
        for number, one in enumerate(self.sets):
            of_set = self.set == number
            found[of_set] = one.columns["ids"].lengths[self.row[of_set]]
        return found


class _Texts:
    """Conversations whose texts stand in the data themselves."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        self.tokenizer, self.folder = tokenizer, folder
        self.writer = EncodedWriter()
        self._waiting: list[Mapping[str, Any]] = []
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def add(self, line: Mapping[str, Any]) -> int:
        self._waiting.append(line)
        self._number += 1
        if len(self._waiting) == BATCH:
            self._encode()
        return self._number - 1

    def write(self) -> EncodedSet:
        self._encode()
        write_encoded(self.folder, [(self.writer.arrays(), self.writer.names(), 0)])
        return EncodedSet.open(self.folder)

    def _encode(self) -> None:
        messages = [line["messages"] for line in self._waiting]
        encoded = encode_conversations(messages, self.tokenizer, training_template(self.tokenizer))
        for line, (ids, spoken, left_out) in zip(self._waiting, encoded, strict=True):
            self.writer.add(
                {"ids": ids, "spoken": spoken},
                digest=digest_of_texts(m["content"] for m in line["messages"]),
                language=str(line.get("language") or "unknown"),
                style=str(line.get("style") or ""),
                left_out=left_out,
            )
        self._waiting.clear()


@dataclass(frozen=True, kw_only=True)
class _Report:
    """Counts of the drawn conversations, by set."""

    job: SftJob
    drawn: _Drawn
    reasons: Sequence[str]
    held_out: npt.NDArray[np.bool_]
    cut: npt.NDArray[np.bool_]
    lengths: Ints

    def by_set(self) -> dict[str, dict[str, Any]]:
        """Counts of each set: drawn, held out, left out by reason; of what is trained on also
        languages, tokens, and how many are cut."""
        counts: dict[str, dict[str, Any]] = {
            name: {
                "drawn": 0,
                "trained_on": 0,
                "held_out": 0,
                "cut": 0,
                "languages": Counter[str](),
                "left_out": Counter[str](),
                "tokens": 0,
            }
            for name in self.drawn.names
        }
        for number, reason in enumerate(self.reasons):
            of_set = counts[self.drawn.names[int(self.drawn.name[number])]]
            of_set["drawn"] += 1
            if reason:
                of_set["left_out"][reason] += 1
                continue
            if self.held_out[number]:
                of_set["held_out"] += 1
                continue
            of_set["trained_on"] += 1
            of_set["languages"][self.drawn.languages[number]] += 1
            of_set["cut"] += bool(self.cut[number])
            of_set["tokens"] += int(self.lengths[number])
        return counts

    def write(self, targets: int) -> None:
        """Write prepared.json and left_out.jsonl, and say what was left out.

        targets: of the conversations that are trained on.
        """
        output, sets = Path(self.job.output), self.by_set()
        totals = {
            name: sum(of_set[name] for of_set in sets.values())
            for name in ("drawn", "trained_on", "held_out", "cut", "tokens")
        }
        left_out = sum(of_set["left_out"].total() for of_set in sets.values())
        with complete_file(output / LEFT_OUT_FILE) as file:
            for line, (name, reason) in enumerate(
                zip(self.drawn.name.tolist(), self.reasons, strict=True), start=1
            ):
                if reason:
                    of = self.drawn.names[name]
                    file.write(json_line({"line": line, "set": of, "reason": reason}))
        write_json(
            output / PREPARED_FILE,
            {**totals, "left_out": left_out, "target_tokens": targets, "sets": sets},
        )
        if left_out:
            log.warning(
                "%d of %d conversations are left out: %s",
                left_out,
                len(self.reasons),
                reasons_by_set(sets),
            )

    def nothing_left(self) -> str:
        """Say that nothing can be trained on, and why."""
        return (
            f"no conversation of {self.job.data} has an answer within max_length = "
            f"{self.job.settings.max_length} tokens ({reasons_by_set(self.by_set())}): raise "
            "max_length, or choose other sets"
        )
