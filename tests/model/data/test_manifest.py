import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataError
from model.data import PackedManifest

Simulate = Callable[..., PackedManifest]


def test_round_trip(simulate: Simulate, tmp_path: Path) -> None:
    manifest = simulate({"zh": [30, 20], "en": [10]}, validation={"zh": [7], "fr": [8, 9]})
    path = manifest.write(tmp_path)
    assert path == tmp_path / "manifest.json"
    again = PackedManifest.read(tmp_path)
    assert again == manifest == PackedManifest.read(path)
    assert again.digest == manifest.digest
    assert again.folder == tmp_path
    assert again.sources == ("en", "fr", "zh")
    assert again.tokens_by_source() == {"en": 10, "fr": 17, "zh": 57}
    assert again.tokens_by_source("train") == {"en": 10, "fr": 0, "zh": 50}
    assert again.documents_by_source("validation") == {"en": 0, "fr": 2, "zh": 1}
    assert [s.split for s in again.shards] == ["train"] * 3 + ["validation"] * 3
    assert (again.num_tokens, again.num_documents) == (84, 6)
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_digest_follows_content_and_not_names(simulate: Simulate) -> None:
    manifest = simulate({"zh": [30, 20], "en": [10]})
    first, *rest = manifest.shards
    moved = replace(manifest, shards=(*rest, replace(first, name="other.bin", cleaned_file="b")))
    assert moved.digest == manifest.digest
    for change in (
        {"md5": "2" * 32},
        {"index_md5": "2" * 32},
        {"num_tokens": 11},
        {"num_documents": 2},
        {"source": "fr"},
        {"split": "validation"},
        {"dtype": "uint16"},
    ):
        changed: dict[str, Any] = dict(change)
        assert (
            replace(manifest, shards=(replace(first, **changed), *rest)).digest != manifest.digest
        )
    assert replace(manifest, tokenizer_digest="2" * 32).digest != manifest.digest
    assert replace(manifest, end_of_document=1).digest != manifest.digest
    assert replace(manifest, validation_fraction=0.1).digest != manifest.digest


def test_refuses_the_same_content_twice(simulate: Simulate) -> None:
    manifest = simulate({"zh": [30, 20]})
    copy = replace(manifest.shards[0], name="copy.bin", source="other")
    with pytest.raises(DataError, match=r"'copy\.bin'.*same content|same content.*'copy\.bin'"):
        replace(manifest, shards=(*manifest.shards, copy))
    # Two files that each hold out one document, the same one, are no mistake.
    held_out = [replace(shard, split="validation", md5="3" * 32) for shard in manifest.shards]
    assert len(replace(manifest, shards=tuple(held_out)).shards) == 2


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "../zh.bin", "plain file name"),
        ("name", "zh.txt", r"\.bin"),
        ("num_tokens", 0, "num_tokens 0"),
        ("num_tokens", 1.5, "num_tokens 1.5"),
        ("num_documents", True, "num_documents True"),
        ("md5", "abc", "md5 'abc'"),
        ("dtype", "int64", "dtype 'int64'"),
        ("split", "test", "split 'test'"),
    ],
)
def test_refuses_impossible_shards(
    simulate: Simulate, field: str, value: object, message: str
) -> None:
    manifest = simulate({"zh": [30]})
    changed: dict[str, Any] = {field: value}
    with pytest.raises(DataError, match=message):
        replace(manifest, shards=(replace(manifest.shards[0], **changed),))


def edit(path: Path, **changes: object) -> None:
    raw = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            del raw[name]
        else:
            raw[name] = value
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "other.bin"),
        ("cleaned_file", "other.jsonl"),
        ("index_md5", "f" * 32),
        ("num_tokens", 91),
        ("check", "0" * 12),
        ("note", "new"),
    ],
)
def test_names_the_shard_that_was_edited(
    simulate: Simulate, tmp_path: Path, field: str, value: object
) -> None:
    path = simulate({"zh": [100, 90, 80]}).write(tmp_path)
    raw = json.loads(path.read_text())
    raw["shards"][1][field] = value
    name = raw["shards"][1]["name"]
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match=f"shard {name!r} was edited or damaged"):
        PackedManifest.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version .* is 2.* pack the data again"),
        ({"validation_fraction": 0.2}, "digest .* edited or damaged"),
        ({"validation_fraction": 0.7}, r"validation_fraction 0.7 .* \[0, 0.5\]"),
        ({"validation_fraction": None}, "lacks or garbles .*validation_fraction"),
        ({"digest": "0" * 32}, "digest .* edited or damaged"),
        ({"end_of_document": 5}, "digest .* edited or damaged"),
        ({"tokenizer_digest": "3" * 32}, "digest .* edited or damaged"),
        ({"shards": []}, "digest .* edited or damaged"),
        ({"shards": None}, "lacks or garbles"),
        ({"shards": [{"name": "a.bin"}]}, "lacks or garbles .*source"),
        ({"vocab_size": "many"}, "lacks or garbles"),
        ({"end_of_document": 1000}, "not an id of a vocabulary"),
    ],
)
def test_refuses_an_edited_file(
    simulate: Simulate, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = simulate({"zh": [30]}).write(tmp_path)
    edit(path, **changes)
    with pytest.raises(DataError, match=message):
        PackedManifest.read(path)


def test_refuses_absent_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist\. Run the stage `pack`"):
        PackedManifest.read(tmp_path)
    for text in ("{", "[]", '"text"'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DataError, match="not a"):
            PackedManifest.read(tmp_path)
