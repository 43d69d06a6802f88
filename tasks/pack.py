"""Cleaned texts -> token ids in shards, with the tokenizer that made them.

    cleaned/<source>/00000.jsonl ──(prune?)──▶ tokenizer/
                │                                 │
                └─────────────encode──────────────┴──▶ shards/<source>-00000-00000.bin, .idx, …,
                                                              manifest.json

Every document ends with <|endoftext|>. Control tokens that a text spells out are encoded as plain
text. What comes out depends on the texts and the config alone: an interrupted run keeps the shards
it has finished and ends with the same bytes. model/data says what a shard and a manifest are.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from model.data import PackedManifest, ShardInfo, ShardWriter, dtype_for
from model.data._files import md5_of_file
from model.data.shards import remove_leftovers
from model.errors import ConfigError, DataError
from model.tokenizer import (
    END_OF_TEXT,
    PRUNED_FROM,
    encode_corpus,
    load_tokenizer,
    prune_tokenizer,
    save_tokenizer,
)
from tasks._disk import require_free_space, total_bytes
from tasks._recipes import display
from tasks._stage import StageResult, StageRun, stage
from tasks._texts import Texts, check_encodable
from tasks._tokenizer import configured_tokenizer

BATCH_CHARACTERS = 1_000_000
"""Texts encoded at once: enough for all cores, small beside the memory of any machine."""

EXPANSION = 2
"""Bytes of shards per byte of cleaned text, at most: an id of 4 bytes covers 2 bytes or more."""

PRUNE_PASSES = 2
"""How often pruning reads all texts: what is used, and the proof."""


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How texts become token ids (paper section 5: Qwen1.5's tokenizer, merged and cut)."""

    tokenizer: str = "auto"
    """Where Qwen1.5's tokenizer comes from: "auto" (hub cache, installed package, hub), "package",
    a folder, or a hub id. Its ids are verified."""
    prune: bool = False
    """Keep only the tokens that the cleaned texts and the later stages' data use. A small model
    then spends its parameters on words it has seen; every text is proven to be cut alike."""
    shard_tokens: int = 100_000_000
    """A shard is closed once it holds this many ids (4 bytes each; 2 up to 65,536 tokens); >= 1."""


def check(config: PackConfig) -> None:
    """Obtain the tokenizer and verify its ids; takes seconds.

    Raises:
        ConfigError: shard_tokens is out of range.
        DataError: no tokenizer is there, or it is not Qwen1.5's.
    """
    if config.shard_tokens < 1:
        raise ConfigError(f"pack.shard_tokens must be 1 or more (got {config.shard_tokens})")
    configured_tokenizer(config.tokenizer)


@stage(version=2)
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
        extra_text: folders of raw data whose words a pruned vocabulary should know as well.

    Raises:
        DataError: nothing to pack, a damaged text, a wrong tokenizer, or too little disk.
    """
    files = cleaned_files(cleaned.folder)
    raw = [
        folder
        for _, result in sorted(extra_text.items())
        for folder in sorted(result.folder.iterdir())
        if folder.is_dir()
    ]
    require_free_space(run.folder, EXPANSION * total_bytes(files), "pack")
    tokenizer = _tokenizer(run, config, files, raw if config.prune else [])
    shards = run.folder / "shards"
    manifest = _pack_all(run, config, tokenizer, files, shards)
    remove_leftovers(shards, manifest.shards)
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
) -> PreTrainedTokenizerBase:
    """The tokenizer of this run, saved in run.folder; from there if an earlier attempt made it."""
    folder = run.folder / "tokenizer"
    for left in run.folder.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(left)
    if not folder.is_dir():
        full = configured_tokenizer(config.tokenizer)
        if config.prune:
            texts = Texts(files, raw)
            texts.notice = _PruningProgress(run, total_bytes(texts.files))
            prune_tokenizer(full, texts, folder)
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
        "Vocabulary pruned from %d to %d tokens; %d texts are cut into the same %d pieces",
        report["num_tokens_before"], report["num_tokens_after"],
        proof["num_texts"], proof["num_tokens"],
    )  # fmt: skip


def _pack_all(
    run: StageRun,
    config: PackConfig,
    tokenizer: PreTrainedTokenizerBase,
    files: list[Path],
    folder: Path,
) -> PackedManifest:
    """Every source's shards and, last, their manifest."""
    if (folder / PackedManifest.FILE_NAME).is_file():
        return PackedManifest.read(folder)
    total, before = total_bytes(files), 0
    shards: list[ShardInfo] = []
    for path in files:
        shards += pack_file(run, config, tokenizer, path, folder, before=before, total=total)
        before += path.stat().st_size
    if not shards:
        raise DataError(
            f"nothing to pack: no text in the {len(files)} files of {display(files[0].parents[1])}"
        )
    manifest = PackedManifest(
        vocab_size=len(tokenizer),
        end_of_document=_end(tokenizer),
        tokenizer_md5=md5_of_file(run.folder / "tokenizer" / "tokenizer.json"),
        shards=tuple(shards),
    )
    manifest.write(folder)
    return PackedManifest.read(folder)


def pack_file(
    run: StageRun,
    config: PackConfig,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    folder: Path,
    *,
    before: int,
    total: int,
) -> list[ShardInfo]:
    """Encode one file into shards, going on after those that are finished.

    Args:
        path: `<source>/<number>.jsonl`.
        folder: where the shards go.
        before, total: bytes of the files in front of this one and of all, for the progress.
    """
    end = _end(tokenizer)
    source = path.parent.name
    name = f"{source}-{path.stem}"
    with ShardWriter(
        folder,
        source=source,
        name=name,
        dtype=dtype_for(len(tokenizer)),
        shard_tokens=config.shard_tokens,
        cleaned_file=f"{source}/{path.name}",
    ) as writer:
        if writer.finished:
            run.log.info("%s: %d shards were finished before", name, len(writer.finished))
        for texts, positions in _batches(path, writer.position):
            for ids, position in zip(encode_corpus(tokenizer, texts), positions, strict=True):
                writer.add_document([*ids, end], position=position)
            run.progress(before + positions[-1], total, f"of the texts ({source})")
    return writer.shards


def _batches(path: Path, begin: int) -> Iterator[tuple[list[str], list[int]]]:
    """Texts, and at which byte each one's line ends, from a byte on; empty texts are left out."""
    texts: list[str] = []
    positions: list[int] = []
    characters = 0
    with path.open("rb") as file:
        file.seek(begin)
        at = begin
        for line in file:
            at += len(line)
            text = _text(line, path, at)
            if not text:
                continue
            texts.append(text)
            positions.append(at)
            characters += len(text)
            if characters >= BATCH_CHARACTERS:
                yield texts, positions
                texts, positions, characters = [], [], 0
    if texts:
        yield texts, positions


def _text(line: bytes, path: Path, at: int) -> str:
    where = f"{display(path)}, in the line before byte {at}"
    try:
        text = json.loads(line)["text"]
        if not isinstance(text, str):
            raise TypeError("text is no string")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{where}: not a line of {{"text": …}} ({error}). Run `clean` again'
        ) from None
    check_encodable(text, where)
    return text


def _end(tokenizer: PreTrainedTokenizerBase) -> int:
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    assert isinstance(end, int), "a verified tokenizer has <|endoftext|>"
    return end


def _account(run: StageRun, manifest: PackedManifest, vocabulary: int) -> None:
    tokens, documents = manifest.tokens_by_source, manifest.documents_by_source
    rows = [
        {
            "source": source,
            "documents": documents[source],
            "tokens": tokens[source],
            "percent": round(100 * tokens[source] / manifest.num_tokens, 2),
            "shards": sum(shard.source == source for shard in manifest.shards),
        }
        for source in manifest.sources
    ]
    run.table("pack", rows, "Documents and tokens of each source")
    run.count(
        tokens=manifest.num_tokens,
        documents=manifest.num_documents,
        shards=len(manifest.shards),
        vocabulary=vocabulary,
    )
    run.note(
        sources={row["source"]: row for row in rows},
        manifest_digest=manifest.digest,
        tokenizer_md5=manifest.tokenizer_md5,
        end_of_document=manifest.end_of_document,
    )
