"""The manifest of a folder of packed shards: its list of contents.

    shards/
      manifest.json        this module; written last, so its existence means that packing is done
      skypile-00000.bin    raw little-endian token ids, documents ended by <|endoftext|>
      skypile-00000.idx    raw little-endian uint64: where each document starts, in tokens; then the
                           digest of each document's text
      skypile-validation-00000.bin   the same of documents that are held out (held_out.py)
      …

The digest of a manifest is that of its *content*: sources, checksums, counts and the tokenizer.
File names are left out on purpose: data that were moved or renamed are still the same data, and the
order of training (model/data/order.py) depends on nothing else. A name that points to other content
is caught by the checksum instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from common.errors import DataError, shown
from common.files import digest_of, write_json
from common.reading.files import read_json_object
from model.data.held_out import MAX_FRACTION, Split

SCHEMA_VERSION = 3
FILE_NAME = "manifest.json"

DType = Literal["uint16", "uint32"]

MOST_NAMED = 5
"""Shards named in a message, of each kind of difference."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard: a file of token ids and the index of its documents."""

    name: str
    """File name of the token ids inside the folder, with the suffix .bin; the index has .idx."""
    source: str
    """Corpus that the documents came from, e.g. "skypile"."""
    split: Split
    """Use of its documents: to train on, or to validate with."""
    num_tokens: int
    """Token ids in the file, ends of documents included."""
    num_documents: int
    """Documents in the file; a document never continues in another shard."""
    md5: str
    """MD5 of every byte of the token file (32 hex digits), computed while it was written."""
    index_md5: str
    """MD5 of every byte of the document index (32 hex digits)."""
    dtype: DType
    """Little-endian type of an id: uint16 where the vocabulary fits, else uint32."""
    cleaned_file: str
    """Name of the cleaned file that was packed, for tracing a token back to its document."""

    @property
    def index_name(self) -> str:
        """File name of the document index."""
        return Path(self.name).with_suffix(".idx").name

    @property
    def num_bytes(self) -> int:
        """Size of the token file."""
        return self.num_tokens * (2 if self.dtype == "uint16" else 4)

    @property
    def index_bytes(self) -> int:
        """Size of the document index: two 64-bit numbers a document."""
        return 16 * self.num_documents


@dataclass(frozen=True, kw_only=True)
class PackedManifest:
    """All shards of one folder, in an order that only their content decides.

    Raises:
        DataError: two shards have the same name or the same content, or a field cannot be.
    """

    vocab_size: int
    """Ids lie in [0, vocab_size)."""
    end_of_document: int
    """Id that ends every document (<|endoftext|>, 151643 in the full Qwen1.5 vocabulary)."""
    tokenizer_digest: str
    """Digest of the tokenizer (model/tokenizer/digest.py): says what the ids mean. Data of another
    tokenizer cannot be appended, and a model of another one not trained on these."""
    validation_fraction: float = 0.0
    """Documents with digests below this part of all digests are held out, and lie in shards of
    their own; [0, 0.5]."""
    shards: tuple[ShardInfo, ...]
    """Sorted by (split, source, md5) whatever order they are given in."""
    folder: Path | None = field(default=None, compare=False)
    """Place of the shards on this machine; not part of the content."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "shards", tuple(sorted(self.shards, key=lambda s: (s.split, s.source, s.md5)))
        )
        if not 0 <= self.validation_fraction <= MAX_FRACTION:
            raise DataError(
                f"validation_fraction {self.validation_fraction} of the manifest must lie in "
                f"[0, {MAX_FRACTION}]: pack the data again"
            )
        if not 0 <= self.end_of_document < self.vocab_size:
            raise DataError(
                f"end_of_document {self.end_of_document} is not an id of a vocabulary of "
                f"{self.vocab_size}: pack the data again"
            )
        names: set[str] = set()
        contents: dict[str, str] = {}
        for shard in self.shards:
            _check_shard(shard)
            if shard.name in names:
                raise DataError(f"the shard name {shard.name!r} occurs twice in the manifest")
            names.add(shard.name)
            if shard.split == "validation":
                # Two files may hold out one and the same document, and nothing else.
                continue
            if shard.md5 in contents:
                raise DataError(
                    f"shards {contents[shard.md5]!r} and {shard.name!r} hold the same content (MD5 "
                    f"{shard.md5}): it would be trained on twice. Remove one of them, or give the "
                    "source a weight of 2 if that is what you want"
                )
            contents[shard.md5] = shard.name

    @cached_property
    def digest(self) -> str:
        """MD5 of the content (32 hex digits): equal for renamed or moved data."""
        return digest_of(
            {
                "schema_version": SCHEMA_VERSION,
                "vocab_size": self.vocab_size,
                "end_of_document": self.end_of_document,
                "tokenizer_digest": self.tokenizer_digest,
                "validation_fraction": self.validation_fraction,
                "shards": [
                    [s.source, s.split, s.md5, s.index_md5, s.num_tokens, s.num_documents, s.dtype]
                    for s in self.shards
                ],
            }
        )

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, sorted."""
        return tuple(sorted({shard.source for shard in self.shards}))

    @property
    def num_tokens(self) -> int:
        """Tokens in all shards."""
        return sum(shard.num_tokens for shard in self.shards)

    @property
    def num_documents(self) -> int:
        """Documents in all shards."""
        return sum(shard.num_documents for shard in self.shards)

    def of_split(self, split: Split) -> tuple[ShardInfo, ...]:
        """Shards to train on, or of held-out documents."""
        return tuple(shard for shard in self.shards if shard.split == split)

    def tokens_by_source(self, split: Split | None = None) -> dict[str, int]:
        """Tokens of each source, in all shards or those of one split."""
        return self._totals("num_tokens", split)

    def documents_by_source(self, split: Split | None = None) -> dict[str, int]:
        """Documents of each source, in all shards or those of one split."""
        return self._totals("num_documents", split)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as in the file."""
        return {
            "schema_version": SCHEMA_VERSION,
            "digest": self.digest,
            "vocab_size": self.vocab_size,
            "end_of_document": self.end_of_document,
            "tokenizer_digest": self.tokenizer_digest,
            "validation_fraction": self.validation_fraction,
            "num_tokens": self.num_tokens,
            "num_documents": self.num_documents,
            "tokens_by_source": self.tokens_by_source(),
            "documents_by_source": self.documents_by_source(),
            "validation_tokens_by_source": self.tokens_by_source("validation"),
            "validation_documents_by_source": self.documents_by_source("validation"),
            "shards": [_checked(asdict(shard)) for shard in self.shards],
        }

    def write(self, folder: Path) -> Path:
        """Publish folder/manifest.json atomically and return its path."""
        path = folder / FILE_NAME
        write_json(path, self.to_dict())
        return path

    @classmethod
    def read(cls, path: Path) -> PackedManifest:
        """Read a manifest file, or the one in a folder.

        Raises DataError when it is missing, damaged, of another schema, or was edited.
        """
        file = path / FILE_NAME if path.is_dir() else path
        try:
            raw = read_json_object(file)
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise DataError(
                    f"no packed data: {file} does not exist. Run the stage `pack` first"
                ) from None
            raise DataError(f"{file} is not a readable manifest: {error}") from None
        if raw.get("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"schema_version in {file} is {shown(raw.get('schema_version'))}, this version "
                f"reads {SCHEMA_VERSION}: pack the data again"
            )
        manifest = cls._parse(raw, file)
        # The digest leaves out names; a row's own check covers them too.
        if edited := _edited_rows(raw):
            raise DataError(
                f"{file}: {', '.join(edited[:MOST_NAMED])} was edited or damaged: its fields "
                "do not give its check. Pack the data again"
            )
        if raw.get("digest") != manifest.digest:
            raise DataError(
                f"digest in {file} is {shown(raw.get('digest'))}, but its fields give "
                f"{manifest.digest!r}: the list of shards, or a field beside it, was edited or "
                "damaged. Pack the data again"
            )
        return manifest

    @classmethod
    def _parse(cls, raw: Mapping[str, Any], file: Path) -> PackedManifest:
        try:
            names = [f.name for f in fields(ShardInfo)]
            shards = tuple(
                ShardInfo(**{name: shard[name] for name in names}) for shard in raw["shards"]
            )
            return cls(
                vocab_size=int(raw["vocab_size"]),
                end_of_document=int(raw["end_of_document"]),
                tokenizer_digest=str(raw["tokenizer_digest"]),
                validation_fraction=float(raw["validation_fraction"]),
                shards=shards,
                folder=file.parent,
            )
        except DataError as error:
            raise DataError(f"{file}: {str(error)[:1000]}") from None
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{file} lacks or garbles a field: {repr(error)[:1000]}. Pack again"
            ) from None

    def _totals(self, name: str, split: Split | None) -> dict[str, int]:
        totals = dict.fromkeys(self.sources, 0)
        for shard in self.shards if split is None else self.of_split(split):
            totals[shard.source] += int(getattr(shard, name))
        return totals


def find_manifest(data: Path) -> Path:
    """The manifest.json of packed shards, from any path that points to them.

    data: a finished folder of the stage `pack`, a folder of shards, or the manifest itself. Raises
    DataError when there is none.
    """
    for place in (data / "shards" / FILE_NAME, data / FILE_NAME, data):
        if place.is_file():
            return place
    raise DataError(
        f"no packed data in {data}: give a finished folder of the stage `pack`, a folder of shards "
        "or its manifest.json"
    )


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """With a digest of its own, by which an edited row is named."""
    return row | {"check": digest_of(row)[:12]}


def _edited_rows(raw: Mapping[str, Any]) -> list[str]:
    """Shards whose row in the file is not what was written."""
    names = []
    for row in raw["shards"]:
        content = {key: value for key, value in row.items() if key != "check"}
        if row.get("check") != digest_of(content)[:12]:
            names.append(f"shard {shown(row['name'])}")
    return names


def _check_shard(shard: ShardInfo) -> None:
    """Refuse what cannot be, before it becomes a path or the size of an array."""
    if Path(shard.name).name != shard.name or not shard.name.endswith(".bin"):
        raise DataError(f"shard name {shard.name!r} must be a plain file name ending in .bin")
    if shard.split not in ("train", "validation"):
        raise DataError(f"split {shard.split!r} of {shard.name!r} must be train or validation")
    if shard.dtype not in ("uint16", "uint32"):
        raise DataError(f"dtype {shard.dtype!r} of shard {shard.name!r} must be uint16 or uint32")
    for name in ("num_tokens", "num_documents"):
        value = getattr(shard, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DataError(f"{name} {value!r} of shard {shard.name!r} must be a positive integer")
    for name in ("md5", "index_md5"):
        value = getattr(shard, name)
        if not isinstance(value, str) or len(value) != 32:
            raise DataError(f"{name} {value!r} of shard {shard.name!r} must be 32 hex digits")


def describe_difference(old: PackedManifest, new: PackedManifest) -> str:
    """The difference between two manifests of unlike digests, by name, in one sentence.

    Shards are matched by content. A renamed one is no difference.
    """
    parts = [
        f"{name} was {getattr(old, name)!r} and is {getattr(new, name)!r}"
        for name in ("tokenizer_digest", "vocab_size", "end_of_document", "validation_fraction")
        if getattr(old, name) != getattr(new, name)
    ]
    before, after = ({shard.md5: shard for shard in m.shards} for m in (old, new))
    gone = [shard for md5, shard in before.items() if md5 not in after]
    come = [shard for md5, shard in after.items() if md5 not in before]
    successors = {shard.name: shard for shard in come}
    changed = [(shard, successors[shard.name]) for shard in gone if shard.name in successors]
    parts += _listed(_change(*pair) for pair in changed)
    names = {shard.name for shard, _ in changed}
    parts += _listed(f"{_named(s)} is gone" for s in gone if s.name not in names)
    parts += _listed(f"{_named(s)} was added" for s in come if s.name not in names)
    kept = [(before[md5], after[md5]) for md5 in before if md5 in after]
    parts += _listed(text for pair in kept for text in _fields(*pair))
    return "; ".join(parts)


def _listed(texts: Iterable[str]) -> list[str]:
    every = list(texts)
    more = len(every) - MOST_NAMED
    return every[:MOST_NAMED] + ([f"and {more} more like it"] if more > 0 else [])


def _named(shard: ShardInfo) -> str:
    return (
        f"shard {shard.name!r} (source {shard.source}, {shard.num_tokens} tokens, MD5 {shard.md5})"
    )


def _change(old: ShardInfo, new: ShardInfo) -> str:
    return (
        f"shard {old.name!r} holds other content (MD5 {old.md5} and {old.num_tokens} tokens then, "
        f"{new.md5} and {new.num_tokens} now)"
    )


def _fields(old: ShardInfo, new: ShardInfo) -> list[str]:
    """Differences in what two manifests say of the same tokens; names count for nothing."""
    both: Mapping[str, tuple[object, object]] = {
        name: (getattr(old, name), getattr(new, name))
        for name in ("source", "split", "index_md5", "num_documents", "num_tokens", "dtype")
    }
    return [
        f"{name} of shard {new.name!r} was {then!r} and is {now!r}"
        for name, (then, now) in both.items()
        if then != now
    ]
