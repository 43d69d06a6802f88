"""What a run's data were like, kept beside the run so that a difference has a name.

    <run>/manifests/base.json        the list of shards that the run started with
                    <digest>.json    the list of each append

A data state knows its data by one digest: enough to refuse others, too little to say which shard is
another. These copies are manifests without their shards, written once, before the first checkpoint
that depends on them. They decide nothing: the digests do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from common.errors import DataError
from common.files import write_json
from model.data.manifest import PackedManifest, ShardInfo

FOLDER = "manifests"
BASE = "base"
MOST_NAMED = 5
"""Shards named in a message, of each kind of difference."""


def remember(
    run: Path, base: PackedManifest, appended: Mapping[str, PackedManifest] | None = None
) -> None:
    """Keep the content lists of a run's data in its folder; called by one process, any time.

    appended: manifests by digest, as in `Journal.manifests`.
    """
    for name, manifest in {BASE: base, **(appended or {})}.items():
        path = run / FOLDER / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, manifest.to_dict())


def recall(run: Path, name: str = BASE) -> PackedManifest | None:
    """A content list that was kept: the base's, or an append's by its digest; None without one.

    Raises:
        DataError: it was edited or damaged.
    """
    path = run / FOLDER / f"{name}.json"
    return replace(PackedManifest.read(path), folder=None) if path.is_file() else None


def check_contents(run: Path, base: PackedManifest) -> None:
    """Refuse to continue a run with other data than it started with.

    Raises:
        DataError: names the shards that were removed, changed or added, or the field.
    """
    old = recall(run)
    if old is not None and old.digest != base.digest:
        raise DataError(
            f"the run in {run} started with other data than {base.folder} holds now: "
            f"{explain_difference(old, base)}. Restore them, or start a new run; data are added "
            "by an append"
        )


def explain_difference(old: PackedManifest, new: PackedManifest) -> str:
    """What differs between two manifests of unlike digests, by name, in one sentence.

    Shards are matched by content. A renamed one is no difference.
    """
    parts = [
        f"{name} was {getattr(old, name)!r} and is {getattr(new, name)!r}"
        for name in ("tokenizer_md5", "vocab_size", "end_of_document")
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
    """What the manifests say differently about the same tokens; names count for nothing."""
    both: Mapping[str, tuple[object, object]] = {
        name: (getattr(old, name), getattr(new, name))
        for name in ("source", "index_md5", "num_documents", "num_tokens", "dtype")
    }
    return [
        f"{name} of shard {new.name!r} was {then!r} and is {now!r}"
        for name, (then, now) in both.items()
        if then != now
    ]
