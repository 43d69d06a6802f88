"""The append journal: which data joined a training run, and when.

An entry says: from sample `at` on, the order is a fresh permutation over what was unseen of the old
data and all of the new (model/data/order.py has the rule, docs/adr/0004 the reasons). Entries
compose, in the order of `at`. A journal is immutable; `append` returns a longer one.

On disk (`journal.json` beside a run) an entry also says where its shards lie. The training state
keeps a `JournalLine` of each: under a hundred bytes, however many sources were weighted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import digest_of, write_json
from model.train.run.saved_manifests import explain_difference, recall
from model.data.manifest import PackedManifest

SCHEMA_VERSION = 1
FILE_NAME = "journal.json"


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One append."""

    at: int
    """Global number of the first sample that may come from the new data, >= 0."""
    manifest: str
    """Digest of the manifest of the new shards."""
    seed: int
    """Seed of the permutation from `at` on."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Epochs per source of the new shards; a source that is not named counts once."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        value: dict[str, Any] = {"at": self.at, "manifest": self.manifest, "seed": self.seed}
        return value | ({"weights": dict(self.weights)} if self.weights else {})

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> JournalEntry:
        """The inverse of `to_dict`. Raises DataError for a missing or mistyped field."""
        try:
            at, manifest, seed = raw["at"], raw["manifest"], raw["seed"]
            weights = {str(k): float(v) for k, v in dict(raw.get("weights", {})).items()}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"journal entry {dict(raw)!r} lacks or garbles {error}") from None
        if type(at) is not int or at < 0 or type(seed) is not int or type(manifest) is not str:
            raise DataError(f"journal entry {dict(raw)!r}: at >= 0 and seed are integers")
        return cls(at=at, manifest=manifest, seed=seed, weights=weights)


@dataclass(frozen=True, kw_only=True)
class JournalLine:
    """All that tells one append from another, in little space."""

    at: int
    seed: int
    manifest: str
    weights: str
    """Digest of the weights (12 hex digits) without those that are 1; "" where all are."""

    @classmethod
    def of(cls, entry: JournalEntry) -> JournalLine:
        """The line of an entry."""
        weights = {name: float(weight) for name, weight in entry.weights.items() if weight != 1}
        return cls(
            at=entry.at,
            seed=entry.seed,
            manifest=entry.manifest,
            weights=digest_of(weights)[:12] if weights else "",
        )


@dataclass(frozen=True, kw_only=True)
class Journal:
    """All appends of a run, in order, and the manifests they speak of."""

    entries: tuple[JournalEntry, ...] = ()
    """Ascending in `at`; several entries may share one `at`."""
    manifests: Mapping[str, PackedManifest] = field(default_factory=dict)
    """The manifest of each entry, by digest."""

    def append(
        self,
        base: PackedManifest,
        new: PackedManifest,
        *,
        at: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
    ) -> Journal:
        """The journal with one more entry; the same journal if it has this very entry already.

        Args:
            base: manifest the run started with.
            new: manifest of the new shards.
            at: first sample that may come from the new data; not before the last entry's.
            seed: of the permutation from there on.
            weights: epochs per new source, 1.0 where not named.

        Raises:
            DataError: some content is in the run already (named), was packed with another
                tokenizer, or `at` lies before an earlier append.
        """
        entry = JournalEntry(at=at, manifest=new.digest, seed=seed, weights=dict(weights or {}))
        if entry in self.entries:
            return self
        for old in self.entries:
            if old.manifest == new.digest:
                raise DataError(
                    f"manifest {new.digest} ({new.folder}) was appended already, at sample "
                    f"{old.at} with seed {old.seed}: the same data are not trained on again"
                )
        longer = Journal(
            entries=(*self.entries, entry), manifests={**self.manifests, new.digest: new}
        )
        longer.check(base)
        return longer

    def check(self, base: PackedManifest) -> None:
        """Refuse a journal that cannot extend a base manifest.

        Raises:
            DataError: unsorted entries, a manifest that is not at hand, another tokenizer, or
                content that occurs twice anywhere in the run.
        """
        seen = {shard.md5: f"{shard.name!r} of the first manifest" for shard in base.shards}
        last = 0
        for number, entry in enumerate(self.entries):
            if entry.at < last:
                raise DataError(
                    f"journal entry {number} begins at sample {entry.at}, before the one in front "
                    f"of it ({last}): what was trained on would change"
                )
            last = entry.at
            new = self.manifests.get(entry.manifest)
            if new is None:
                raise DataError(
                    f"journal entry {number} needs the data of manifest {entry.manifest}, which "
                    "are not at hand: restore the folder that was appended"
                )
            assert new.digest == entry.manifest
            for name in ("tokenizer_md5", "vocab_size", "end_of_document"):
                if getattr(new, name) != getattr(base, name):
                    raise DataError(
                        f"{name} of the appended data ({new.folder}) is {getattr(new, name)!r}, "
                        f"of the run {getattr(base, name)!r}: pack them with the run's tokenizer"
                    )
            for shard in new.shards:
                if shard.md5 in seen:
                    raise DataError(
                        f"shard {shard.name!r} of the appended data ({new.folder}) has the content "
                        f"of {seen[shard.md5]} (MD5 {shard.md5}): it would be trained on twice. "
                        "Take it out and append the rest"
                    )
                seen[shard.md5] = f"{shard.name!r} of journal entry {number}"

    def to_list(self) -> list[dict[str, Any]]:
        """The entries as plain JSON values."""
        return [entry.to_dict() for entry in self.entries]

    @property
    def lines(self) -> tuple[JournalLine, ...]:
        """The entries as the training state keeps them."""
        return tuple(map(JournalLine.of, self.entries))

    def write(self, path: Path) -> None:
        """Publish the journal atomically; folders are written relative to the file's."""
        entries = []
        for entry in self.entries:
            folder = self.manifests[entry.manifest].folder
            assert folder is not None, "an appended manifest lies somewhere"
            row = entry.to_dict() | {"folder": os.path.relpath(folder, path.parent)}
            entries.append(row | {"check": digest_of(row)[:12]})
        content = {"schema_version": SCHEMA_VERSION, "entries": entries}
        write_json(path, content | {"digest": digest_of(content)})

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read a journal and the manifests it names; an absent file is an empty journal.

        Raises:
            DataError: the file is damaged, of another schema, was edited, or names a folder whose
                content is another than what was appended.
        """
        if not path.is_file():
            return cls()
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            version, entries, digest = raw["schema_version"], raw["entries"], raw["digest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a readable append journal: {error!r}") from None
        if version != SCHEMA_VERSION:
            raise DataError(
                f"schema_version in {path} is {version!r}, this version reads {SCHEMA_VERSION}"
            )
        if digest != digest_of({"schema_version": version, "entries": entries}):
            raise DataError(
                f"digest in {path} does not fit its entries: {_edited(entries)} edited. Restore it"
            )
        manifests: dict[str, PackedManifest] = {}
        for item in entries:
            folder = Path(os.path.normpath(path.parent / item["folder"]))
            manifest = PackedManifest.read(folder)
            if manifest.digest != item["manifest"]:
                old = recall(path.parent, item["manifest"])
                what = f": {explain_difference(old, manifest)}" if old else ""
                raise DataError(
                    f"{folder} holds other data (digest {manifest.digest}) than were appended "
                    f"(manifest {item['manifest']} in {path}){what}. Restore them"
                )
            manifests[manifest.digest] = manifest
        return cls(entries=tuple(map(JournalEntry.from_dict, entries)), manifests=manifests)


def _edited(entries: list[dict[str, Any]]) -> str:
    """Which entry was changed, as the subject of a sentence."""
    for number, row in enumerate(entries):
        content = {key: value for key, value in row.items() if key != "check"}
        if row.get("check") != digest_of(content)[:12]:
            return f"entry {number} (manifest {row.get('manifest')}) was"
    return "the list of entries was"
