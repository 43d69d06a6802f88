"""Rows of a job as token ids on disk, and what was left out of them.

    mixture.jsonl ──chat template──▶ ids, cut at max_length ──with a target──▶ (packing) ──▶ trainer
                                          └── without one: prepared.json counts them by set and
                                              reason, left_out.jsonl names each

TRL gets rows that are ready: it encodes, cuts and drops none, so that the numbers reported are
those of the rows trained on. One rank does the work while the others wait; they, and a run that is
resumed, find it done.
"""

import fcntl
import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase
from trl import pack_dataset
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from common.errors import DataError
from common.files import complete_file, json_line, write_json
from model.train.finetune.config import FinetuneJob, SftJob
from model.train.finetune.encoding import encode_conversation, encode_pair
from model.train.finetune.order import SampleOrder
from model.train.run.folder import LEFT_OUT_FILE, PREPARED_FILE

log = logging.getLogger("steel.finetune")

MANY_ROWS = 50_000
"""Rows that are worth starting processes to encode them."""


@dataclass(frozen=True, kw_only=True)
class PreparedRows:
    """Rows that are trained on, and their order."""

    rows: Dataset
    """Columns of ids as TRL's collator takes them; a packed row holds several conversations."""
    order: SampleOrder
    """Order in which the rows are trained on."""


def prepare_rows(job: FinetuneJob, tokenizer: PreTrainedTokenizerBase) -> PreparedRows:
    """Encode a job's rows, leave out those without a target, and pack if the job says so.

    Raises DataError when none remains.
    """
    scratch = Path(job.scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(scratch / "prepare.lock"):
        encoded = _encode(job, tokenizer)
        reasons = np.asarray(encoded["left_out"], dtype=object)
        kept = np.flatnonzero(reasons == "")
        if not len(kept):
            raise DataError(_nothing_left(job, encoded))
        rows, counts = encoded.select(kept), np.ones(len(kept), dtype=np.int64)
        lengths = np.asarray(rows["length"], dtype=np.int64)
        if isinstance(job, SftJob) and job.settings.packing:
            rows = pack_dataset(
                rows.select_columns(["input_ids", "labels"]), job.settings.max_length, "bfd"
            )
            packed = rows["seq_lengths"]
            counts = np.asarray([len(row) for row in packed], dtype=np.int64)
            tokens = np.asarray([sum(row) for row in packed], dtype=np.int64)
            if counts.sum() != len(kept) or tokens.sum() != lengths.sum():
                raise DataError(
                    f"packing {len(kept)} conversations of {lengths.sum()} tokens gave "
                    f"{counts.sum()} of {tokens.sum()}; train without packing"
                )
            lengths = tokens
        settings = job.settings
        order = SampleOrder(
            lengths=lengths,
            counts=counts,
            global_batch_size=settings.global_batch_size,
            micro_batch_size=settings.micro_batch_size,
            seed=settings.seed,
            group_by_length=settings.group_by_length,
        )
        _report(job, encoded, order)
    columns = [*job.encoded_columns, *(["seq_lengths"] if "seq_lengths" in rows.features else [])]
    return PreparedRows(rows=rows.select_columns(columns), order=order)


def _encode(job: FinetuneJob, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """All rows of a job as ids, or with the reason why they are left out; cached in scratch."""
    messages = [{"role": Value("string"), "content": Value("string")}]
    types = dict.fromkeys(job.columns, messages) | dict.fromkeys(job.notes, Value("string"))
    rows: Dataset = Dataset.from_json(
        job.data, features=Features(types), cache_dir=str(Path(job.scratch) / "datasets")
    )
    encoders: dict[str, Callable[..., dict[str, Any]]] = {"sft": encode_conversation}
    marked = job.method == "dpo" or has_generation_markers(tokenizer.chat_template)
    template = None if marked else get_training_chat_template(tokenizer)
    ids = dict.fromkeys(job.encoded_columns, List(Value("int32")))
    notes = dict.fromkeys(job.notes, Value("string"))
    result = {"length": Value("int64"), "cut": Value("bool"), "left_out": Value("string")}
    encode = functools.partial(
        encoders.get(job.method, encode_pair),
        tokenizer=tokenizer,
        chat_template=template,
        max_length=job.settings.max_length,
    )
    encoded: Dataset = rows.map(
        encode,
        remove_columns=list(job.columns),
        features=Features({**notes, **ids, **result}),
        num_proc=os.cpu_count() if len(rows) >= MANY_ROWS else None,
    )
    return encoded


def _by_set(encoded: Dataset) -> dict[str, dict[str, Any]]:
    """Counts of each set: rows of the mixture, trained on, cut, left out by reason."""
    counts: dict[str, dict[str, Any]] = {}
    columns = zip(*(encoded[name] for name in ("set", "language", "left_out", "cut")), strict=True)
    for name, language, reason, cut in columns:
        of_set = counts.setdefault(
            str(name or "unnamed"),
            {"drawn": 0, "trained_on": 0, "cut": 0, "languages": Counter(), "left_out": Counter()},
        )
        of_set["drawn"] += 1
        if reason:
            of_set["left_out"][reason] += 1
        else:
            of_set["trained_on"] += 1
            of_set["languages"][str(language or "unknown")] += 1
            of_set["cut"] += bool(cut)
    return counts


def _report(job: FinetuneJob, encoded: Dataset, order: SampleOrder) -> None:
    """Write prepared.json and left_out.jsonl, and log what was left out."""
    sets, output = _by_set(encoded), Path(job.output)
    kept = sum(of_set["trained_on"] for of_set in sets.values())
    left_out = len(encoded) - kept
    with complete_file(output / LEFT_OUT_FILE) as file:
        for line, (name, reason) in enumerate(
            zip(encoded["set"], encoded["left_out"], strict=True)
        ):
            if reason:
                file.write(json_line({"line": line + 1, "set": name, "reason": reason}))
    write_json(
        output / PREPARED_FILE,
        {
            "drawn": len(encoded),
            "trained_on": kept,
            "left_out": left_out,
            "cut": sum(of_set["cut"] for of_set in sets.values()),
            "rows": order.num_samples,
            "tokens": int(order.lengths.sum()),
            "steps": job.settings.num_steps(order.num_samples, 1),
            "sets": sets,
        },
    )
    if left_out and int(os.environ.get("RANK", "0")) == 0:
        log.warning(
            "%d of %d %ss have no target within max_length = %d tokens and are left out: %s",
            left_out,
            len(encoded),
            job.sample,
            job.settings.max_length,
            _reasons(sets),
        )


def _reasons(sets: dict[str, dict[str, Any]]) -> str:
    return "; ".join(
        f"{name}: {count} of {of_set['drawn']} ({reason})"
        for name, of_set in sets.items()
        for reason, count in of_set["left_out"].items()
    )


def _nothing_left(job: FinetuneJob, encoded: Dataset) -> str:
    return (
        f"no {job.sample} of {job.data} has an answer within max_length = "
        f"{job.settings.max_length} tokens ({_reasons(_by_set(encoded))}): raise max_length, or "
        "choose other sets"
    )


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock that the other ranks wait for; the kernel releases it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
