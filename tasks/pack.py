"""Cleaned texts -> token ids in shards, with the tokenizer that made them.

    cleaned/<source>/00000.jsonl ──(prune?)──▶ tokenizer/
                │                                 │
                └─────────────encode──────────────┴──▶ shards/<source>-00000-00000.bin, .idx, …,
                     <source>-00000-validation-00000.bin, .idx, …, manifest.json

corpus/packing does the work: the fast encoder and its proofs, files in parts, worker processes.
Every document ends with <|endoftext|>. Control tokens that a text spells out are encoded as plain
text. `validation_fraction` of all documents, by a hash of their text, go to shards of their own and
are never trained on (model/data/held_out.py). What comes out depends on the texts and the config
alone, never on the number of workers: an interrupted run keeps the shards it has finished and ends
with the same bytes. model/data says what a shard and a manifest are.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from common.config import NOT_IN_KEY, Config, StageConfig, errors_of
from common.disk import require_free_space, total_bytes
from common.errors import DataError, StageError, SteelError
from common.files import md5_of_file
from common.names import Distinct, Name
from common.paths import display, resolve
from common.ranges import Ge, Le, Limit, PositiveInt, Processes
from corpus.packing.fast_encoder import FastEncoder, TokenMismatchError, UnsupportedTokenizerError
from corpus.packing.pack_partition import PackJob
from corpus.packing.workers import num_workers, pack_partitions
from corpus.partitions import cut
from corpus.texts import Texts
from corpus.tokenizer import check_prunable, check_tokenizer, configured_tokenizer
from model.data import PackedManifest, dtype_for
from model.data.held_out import MAX_FRACTION
from model.data.manifest import FILE_NAME
from model.data.shards import remove_leftovers
from model.tokenizer.encoder import Encoder, ReferenceEncoder
from model.tokenizer.identity import END_OF_TEXT, PRUNED_FROM, TOKENIZER_FILES
from tasks.core.stage import StageResult, StageRun, stage

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

EXPANSION = 2
"""Bytes of shards per byte of cleaned text, at most: an id of 4 bytes covers 2 bytes or more."""

PRUNE_PASSES = 2
"""Passes over all texts while pruning: tokens in use, and the proof."""


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig(Config):
    """Data sets beside the corpora whose tokens a pruned vocabulary keeps. Texts of others are
    encoded all the same, in more tokens: those of single bytes are always there."""

    sft_sets: Annotated[tuple[Name, ...], Distinct] = ()
    """Names in `sft_sets`."""
    preference_sets: Annotated[tuple[Name, ...], Distinct] = ()
    """Names in `preference_sets`."""


@dataclass(frozen=True, kw_only=True)
class PackConfig(StageConfig):
    """Tokenizer and shards (paper section 5: Qwen1.5's tokenizer, merged and cut)."""

    tokenizer: str = "auto"
    """Source of Qwen1.5's tokenizer: "auto" (hub cache, installed package, hub), "package",
    a folder, or a hub id; its ids are verified. Or the folder of a model, for data that this model
    is trained on: its own tokenizer then, as it is."""
    prune: bool = False
    """Keep only the tokens that the cleaned texts and the data sets in `vocabulary` use. A small
    model then spends its parameters on words it has seen; every text is proven to be cut alike."""
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig, metadata=NOT_IN_KEY)
    """With `prune`: data sets of later stages that the vocabulary covers. Only these reach the key
    of the packed data and of the pretraining (as inputs)."""
    validation_fraction: Annotated[float, Ge(0), Le(MAX_FRACTION)] = 0.0
    """Fraction of all documents that is held out whole and never trained on, by a hash of each
    text: the same documents wherever they are packed, appends included; [0, 0.5]."""
    shard_tokens: Annotated[int, Ge(1), Limit(10**12)] = 100_000_000
    """A shard is closed once it holds this many ids (4 bytes each; 2 up to 65,536 tokens); >= 1."""
    part_bytes: PositiveInt = 1 << 30
    """A longer cleaned file is packed in parts of this many bytes, several at a time; the last
    shard of a part may be small. 1 or more."""
    workers: Processes | Literal["auto"] = field(default="auto", metadata=NOT_IN_KEY)
    """Worker processes, about 0.4 GB of memory each; "auto": one for each core, fewer for little
    text. What comes out is the same."""
    encoder: Literal["auto", "transformers"] = field(default="auto", metadata=NOT_IN_KEY)
    """Encoder of texts. "auto": fastokens, compared with Transformers when it is opened and
    on a text of every batch; Transformers where it cannot be used. "transformers": never anything
    else, some forty times as slow. What comes out is the same."""

    def check(self) -> Iterator[SteelError]:
        yield from errors_of(check_tokenizer, self.tokenizer)
        if self.prune:
            yield from errors_of(check_prunable, self.tokenizer)

    def fingerprint(self) -> dict[str, str] | None:
        """Content of a tokenizer's folder, where one is named: its path says nothing of it."""
        folder = resolve(self.tokenizer)
        if not folder.is_dir():
            return None
        paths = (folder / name for name in (*TOKENIZER_FILES, "tokenizer_config.json"))
        return {path.name: md5_of_file(path) for path in paths if path.is_file()}


@stage(version=4, keeps="finished shards")
def pack(
    run: StageRun,
    config: PackConfig,
    *,
    cleaned: StageResult,
    extra_text: Mapping[str, StageResult],
) -> None:
    """Write `tokenizer/` and `shards/`.

    Args:
        cleaned: `<source>/<number>.jsonl` for every source.
        extra_text: folders of raw data, or of other cleaned texts, whose words a pruned vocabulary
            should know as well.

    Raises:
        DataError: nothing to pack, a damaged text, a wrong tokenizer, or too little disk.
    """
    files = cleaned_files(cleaned.folder)
    extra = [result for _, result in sorted(extra_text.items())] if config.prune else []
    raw = [
        folder
        for result in extra
        if result.stage != "clean"
        for folder in sorted(result.folder.iterdir())
        if folder.is_dir()
    ]
    words = [*files, *(f for r in extra if r.stage == "clean" for f in cleaned_files(r.folder))]
    require_free_space(run.folder, EXPANSION * total_bytes(files), "pack")
    tokenizer = _tokenizer(run, config, words, raw)
    manifest = _pack_all(run, config, tokenizer, files)
    remove_leftovers(run.folder / "shards", manifest.shards)
    _account(run, manifest, len(tokenizer))


def cleaned_files(folder: Path) -> list[Path]:
    """The files of cleaned texts, by source and number. Raises DataError for none."""
    files = sorted(folder.glob("*/[0-9]*.jsonl"))
    if not files:
        raise DataError(
            f"nothing to pack: {display(folder)} holds no cleaned <source>/<number>.jsonl"
        )
    return files


def _tokenizer(
    run: StageRun, config: PackConfig, files: list[Path], raw: list[Path]
) -> "PreTrainedTokenizerBase":
    """The tokenizer of this run, saved in run.folder; from there if an earlier attempt made it."""
    from model.tokenizer.pruning import prune_tokenizer
    from model.tokenizer.qwen import load_tokenizer, save_tokenizer

    folder = run.folder / "tokenizer"
    for left in run.folder.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(left)
    if not folder.is_dir():
        full = configured_tokenizer(config.tokenizer)
        if config.prune:
            texts = Texts(files, raw)
            texts.progress = _PruningProgress(run, total_bytes(texts.files))
            prune_tokenizer(
                full, texts, folder, make_encoder=lambda backend: _encoder(run, config, backend)
            )
        else:
            save_tokenizer(full, folder)
    if config.prune:
        _note_pruning(run, folder)
    return load_tokenizer(folder)


class _PruningProgress:
    """Counts bytes over all passes; packing itself begins at nought again."""

    def __init__(self, run: StageRun, num_bytes: int) -> None:
        self.run, self.total, self.done = run, PRUNE_PASSES * num_bytes, 0

    def __call__(self, num_bytes: int) -> None:
        self.done += num_bytes
        # Never 100 %: packing follows and reports on its own.
        self.run.progress(min(self.done, self.total - 1), self.total, "of pruning the vocabulary")


def _note_pruning(run: StageRun, folder: Path) -> None:
    report: dict[str, Any] = json.loads((folder / PRUNED_FROM).read_text(encoding="utf-8"))
    report.pop("old_ids")
    run.note(pruning=report)
    proof = report["proof"]
    run.log.info(
        "vocabulary pruned from %s to %s tokens: %s texts are cut into the same %s pieces",
        *(f"{report[name]:,}" for name in ("num_tokens_before", "num_tokens_after")),
        *(f"{proof[name]:,}" for name in ("num_texts", "num_tokens")),
    )


def _encoder(run: StageRun, config: PackConfig, backend: "Tokenizer") -> Encoder:
    """Encoder of texts: fastokens where it has proven equal, else `tokenizers`, with a warning."""
    if config.encoder == "auto":
        try:
            return FastEncoder(backend)
        except (UnsupportedTokenizerError, TokenMismatchError) as error:
            run.log.warning("Encoding by Transformers, some forty times as slow: %s", error)
    return ReferenceEncoder(backend)


def _pack_all(
    run: StageRun, config: PackConfig, tokenizer: "PreTrainedTokenizerBase", files: list[Path]
) -> PackedManifest:
    """Every source's shards and, last, their manifest."""
    from model.tokenizer.conversation import plain_backend
    from model.tokenizer.digest import digest_tokenizer

    folder = run.folder / "shards"
    if (folder / FILE_NAME).is_file():
        return PackedManifest.read(folder)
    num_bytes = total_bytes(files)
    workers = num_workers(num_bytes) if config.workers == "auto" else config.workers
    plain = plain_backend(tokenizer)
    encoder = _encoder(run, config, plain)
    run.note(encoder="fastokens" if isinstance(encoder, FastEncoder) else "transformers")
    backend = run.scratch / "backend.json"
    backend.write_text(plain.to_str(), encoding="utf-8")
    job = PackJob(
        tokenizer=str(backend),
        fast=isinstance(encoder, FastEncoder),
        end_of_text=_end(tokenizer),
        dtype=dtype_for(len(tokenizer)),
        shard_tokens=config.shard_tokens,
        validation_fraction=config.validation_fraction,
        folder=str(folder),
    )
    partitions = cut([(path.parent.name, path) for path in files], config.part_bytes)
    try:
        shards = pack_partitions(
            job,
            encoder,
            [partition for partition in partitions if partition.size],
            workers,
            run.scratch,
            lambda done: run.progress(done, num_bytes, "of the texts"),
        )
    except TokenMismatchError as error:
        # Not every text before this one was compared.
        shutil.rmtree(folder)
        raise StageError(
            f"{error}. The shards packed so far have been removed: run again with "
            "pack.encoder: transformers"
        ) from error
    if not shards:
        raise DataError(
            f"nothing to pack: no text in the {len(files)} files of {display(files[0].parents[1])}"
        )
    manifest = PackedManifest(
        vocab_size=len(tokenizer),
        end_of_document=job.end_of_text,
        tokenizer_digest=digest_tokenizer(tokenizer).digest,
        validation_fraction=config.validation_fraction,
        shards=tuple(shards),
    )
    manifest.write(folder)
    return PackedManifest.read(folder)


def _end(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Id that ends a document: <|endoftext|>, or the end that another model's tokenizer has."""
    known = tokenizer.get_vocab()
    end = known.get(END_OF_TEXT, tokenizer.eos_token_id)
    if end is None:
        raise DataError(
            f"the tokenizer has neither {END_OF_TEXT} nor an eos_token, so nothing can end a "
            "document: name one in its tokenizer_config.json"
        )
    return int(end)


def _account(run: StageRun, manifest: PackedManifest, vocabulary: int) -> None:
    tokens, documents = manifest.tokens_by_source(), manifest.documents_by_source()
    held_out = manifest.documents_by_source("validation")
    held_out_tokens = manifest.tokens_by_source("validation")
    rows = [
        {
            "source": source,
            "documents": documents[source],
            "tokens": tokens[source],
            "percent": round(100 * tokens[source] / manifest.num_tokens, 2),
            "shards": sum(shard.source == source for shard in manifest.shards),
            "documents_held_out": held_out[source],
            "tokens_held_out": held_out_tokens[source],
        }
        for source in manifest.sources
    ]
    run.table("pack", rows, "Documents and tokens of each source")
    run.count(
        tokens=manifest.num_tokens,
        documents=manifest.num_documents,
        shards=len(manifest.shards),
        vocabulary=vocabulary,
        documents_held_out=sum(held_out.values()),
        tokens_held_out=sum(held_out_tokens.values()),
    )
    run.note(
        sources={row["source"]: row for row in rows},
        manifest_digest=manifest.digest,
        tokenizer_digest=manifest.tokenizer_digest,
        end_of_document=manifest.end_of_document,
    )
