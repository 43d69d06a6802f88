"""A difference between data has the name of a shard."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataError
from model.data import PackedManifest
from model.data.manifest import describe_difference
from model.train.run.folder import MANIFESTS_FOLDER
from model.train.run.saved_manifests import check_base, read_saved_manifest, save_manifests

Simulate = Callable[..., PackedManifest]


@pytest.fixture
def manifest(simulate: Simulate) -> PackedManifest:
    return simulate({"en": [100], "zh": [80, 90, 70]})


def with_shard(manifest: PackedManifest, number: int, **changes: Any) -> PackedManifest:
    shards = list(manifest.shards)
    shards[number] = replace(shards[number], **changes)
    return replace(manifest, shards=tuple(shards))


def test_names_what_is_gone_changed_and_new(manifest: PackedManifest, simulate: Simulate) -> None:
    gone, changed = manifest.shards[1], manifest.shards[2]
    other = replace(changed, md5="f" * 32, num_tokens=75)
    (new,) = simulate({"code": [50]}).shards
    now = replace(manifest, shards=(manifest.shards[0], manifest.shards[3], other, new))
    text = describe_difference(manifest, now)
    assert f"shard {gone.name!r} (source zh, {gone.num_tokens} tokens, MD5 {gone.md5}) is gone" in (
        text
    )
    assert f"shard {changed.name!r} holds other content (MD5 {changed.md5} and" in text
    assert f"{'f' * 32} and 75 now" in text
    assert f"shard {new.name!r} (source code, 50 tokens, MD5 {new.md5}) was added" in text
    for shard in (manifest.shards[0], manifest.shards[3]):
        assert shard.name not in text


@pytest.mark.parametrize(
    ("field", "value"),
    [("source", "fr"), ("index_md5", "e" * 32), ("num_documents", 2), ("dtype", "uint16")],
)
def test_names_a_field_of_a_shard(manifest: PackedManifest, field: str, value: Any) -> None:
    old = getattr(manifest.shards[0], field)
    now = with_shard(manifest, 0, **{field: value})
    assert now.digest != manifest.digest
    expected = f"{field} of shard {manifest.shards[0].name!r} was {old!r} and is {value!r}"
    assert describe_difference(manifest, now) == expected


def test_names_a_field_of_the_whole(manifest: PackedManifest) -> None:
    now = replace(manifest, tokenizer_digest="2" * 32)
    expected = f"tokenizer_digest was {'1' * 32!r} and is {'2' * 32!r}"
    assert describe_difference(manifest, now) == expected


def test_a_long_list_is_cut(simulate: Simulate) -> None:
    many = simulate({"zh": [80] * 30})
    text = describe_difference(many, replace(many, shards=many.shards[:3]))
    assert text.count("is gone") == 5 and text.endswith("and 22 more like it")


def test_a_run_keeps_the_manifest_of_its_first_data(
    manifest: PackedManifest, simulate: Simulate, tmp_path: Path
) -> None:
    check_base(tmp_path, manifest)  # nothing to compare with yet
    assert read_saved_manifest(tmp_path) is None
    save_manifests(tmp_path, manifest)
    less = replace(manifest, shards=manifest.shards[1:])
    save_manifests(tmp_path, less)  # the first word counts
    assert read_saved_manifest(tmp_path) == manifest
    check_base(tmp_path, manifest)
    check_base(tmp_path, with_shard(manifest, 0, name="renamed.bin"))
    with pytest.raises(DataError, match=f"'{manifest.shards[0].name}' .* is gone"):
        check_base(tmp_path, less)
    path = tmp_path / MANIFESTS_FOLDER / "base.json"
    raw = json.loads(path.read_text())
    raw["shards"][0]["md5"] = "0" * 32
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match="edited or damaged"):
        read_saved_manifest(tmp_path)
