import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from model.data import PackedManifest, ShardWriter, dtype_for
from model.data.shards import check_shard, map_starts, open_digests, open_tokens, remove_leftovers
from tests.model.data.blocks import add_document, digest_of_ids

Pack = Callable[..., PackedManifest]
DOCUMENTS = st.lists(st.lists(st.integers(0, 60_000), min_size=1, max_size=8), max_size=15)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@settings(max_examples=30, deadline=None)
@given(documents=DOCUMENTS, shard_tokens=st.integers(1, 40))
def test_documents_come_back(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], shard_tokens: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    with ShardWriter(folder, source="zh", dtype="uint16", shard_tokens=shard_tokens) as writer:
        for ids in documents:
            add_document(writer, ids)
    found = []
    for number, info in enumerate(writer.shards):
        tokens, starts = open_tokens(folder, info), map_starts(folder, info).tolist()
        assert info.name == f"zh-{number:05d}.bin"
        assert (info.num_tokens, info.num_documents) == (len(tokens), len(starts))
        # Closed as soon as it is full: without its last document it was not yet.
        assert starts[-1] < shard_tokens
        if number < len(writer.shards) - 1:
            assert info.num_tokens >= shard_tokens
        found += [part.tolist() for part in np.split(np.asarray(tokens), starts[1:])]
    assert found == documents


@settings(max_examples=40, deadline=None)
@given(documents=DOCUMENTS, shard_tokens=st.integers(1, 40), data=st.data())
def test_many_at_once_are_the_same_shards(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[int]],
    shard_tokens: int,
    data: st.DataObject,
) -> None:
    singly, at_once = tmp_path_factory.mktemp("singly"), tmp_path_factory.mktemp("at_once")
    with ShardWriter(singly, source="zh", dtype="uint16", shard_tokens=shard_tokens) as writer:
        for number, ids in enumerate(documents, start=1):
            add_document(writer, ids, position=10 * number)
    done = 0
    with ShardWriter(at_once, source="zh", dtype="uint16", shard_tokens=shard_tokens) as writer:
        while done < len(documents):
            batch = documents[done : done + data.draw(st.integers(1, 6))]
            offsets = np.cumsum([0, *map(len, batch)])
            positions = [10 * (done + i) for i in range(1, len(batch) + 1)]
            digests = np.concatenate([digest_of_ids(ids) for ids in batch])
            writer.add_documents(np.concatenate(batch), offsets, positions, digests)
            done += len(batch)
    assert files(at_once) == files(singly)


def test_bytes_and_checksums_by_hand(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, source="a", dtype="uint32", shard_tokens=4) as writer:
        for ids in ([1, 70_000], [2, 3, 4], [5]):
            add_document(writer, ids)
    first, second = writer.shards
    data = bytes.fromhex("01000000 70110100 02000000 03000000 04000000")
    assert (tmp_path / "a-00000.bin").read_bytes() == data
    digests = b"".join(
        hashlib.blake2b(text, digest_size=8).digest() for text in (b"1 70000", b"2 3 4")
    )
    assert (tmp_path / "a-00000.idx").read_bytes() == bytes([0] * 8 + [2] + [0] * 7) + digests
    assert open_digests(tmp_path, first).tobytes() == digests
    assert (tmp_path / "a-00001.bin").read_bytes() == b"\x05\0\0\0"
    assert first.md5 == hashlib.md5(data).hexdigest()
    assert (first.num_tokens, first.num_documents, first.num_bytes) == (5, 2, 20)
    assert (second.num_tokens, second.num_documents) == (1, 1)
    check_shard(tmp_path, first)


@settings(max_examples=20, deadline=None)
@given(documents=DOCUMENTS.filter(bool), shard_tokens=st.integers(1, 20), data=st.data())
def test_continuing_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[int]],
    shard_tokens: int,
    data: st.DataObject,
) -> None:
    straight, stopped = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("stopped")

    def feed(folder: Path, stop: int) -> None:
        with ShardWriter(folder, source="zh", dtype="uint16", shard_tokens=shard_tokens) as writer:
            for number in range(writer.position, len(documents)):
                if number == stop:
                    raise KeyboardInterrupt
                add_document(writer, documents[number], position=number + 1)

    feed(straight, -1)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            feed(stopped, data.draw(st.integers(0, len(documents) - 1)))
            raise KeyboardInterrupt  # everything was finished before the stop
    feed(stopped, -1)
    leftovers = {n: b for n, b in files(stopped).items() if not n.endswith(".partial")}
    assert leftovers == files(straight)


def test_an_interrupted_shard_is_not_visible(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        ShardWriter(tmp_path, source="zh", dtype="uint16", shard_tokens=3) as writer,
    ):
        add_document(writer, [1, 2, 3], position=1)
        add_document(writer, [4], position=2)
        raise RuntimeError
    assert {path.suffix for path in tmp_path.iterdir()} == {".bin", ".idx", ".json", ".partial"}
    again = ShardWriter(tmp_path, source="zh", dtype="uint16", shard_tokens=3)
    assert [shard.name for shard in again.shards] == ["zh-00000.bin"]
    assert again.position == 1


def test_refuses_to_continue_with_other_settings_or_damaged_shards(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, source="zh", dtype="uint16", shard_tokens=3) as writer:
        add_document(writer, [1, 2, 3])
    with pytest.raises(DataError, match="other settings"):
        ShardWriter(tmp_path, source="zh", dtype="uint16", shard_tokens=4)
    with pytest.raises(DataError, match="other settings"):
        ShardWriter(tmp_path, source="zh", dtype="uint32", shard_tokens=3)
    (tmp_path / "zh-00000.bin").write_bytes(b"\x01\0\x02\0\x04\0")
    with pytest.raises(DataError, match=r"zh-00000\.bin.* does not hold what was packed"):
        ShardWriter(tmp_path, source="zh", dtype="uint16", shard_tokens=3)


def test_refuses_ids_that_do_not_fit(tmp_path: Path) -> None:
    for bad in (-1, 1 << 16):
        with (
            pytest.raises(DataError, match=f"token id {bad} of source 'zh' does not fit uint16"),
            ShardWriter(tmp_path, source="zh", dtype="uint16", shard_tokens=3) as writer,
        ):
            add_document(writer, [5, bad])


def test_dtype_holds_the_last_id() -> None:
    assert dtype_for(1 << 16) == "uint16"
    assert dtype_for((1 << 16) + 1) == dtype_for(151_936) == "uint32"


def flip(path: Path, at: int = 5) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (flip, "does not hold what was packed"),
        (cut, "is truncated"),
        (grow, "is too long"),
        (Path.unlink, "is missing"),
    ],
)
@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_every_fault_is_found_and_named(
    packed: PackedManifest, fault: Callable[[Path], None], message: str, suffix: str
) -> None:
    assert packed.folder
    shard = packed.shards[2]
    check_shard(packed.folder, shard)
    fault((packed.folder / shard.name).with_suffix(suffix))
    with pytest.raises(DataError, match=f"shard '{shard.name}' of source .*{message}"):
        check_shard(packed.folder, shard)


def test_swapped_shards_are_found(packed: PackedManifest) -> None:
    assert packed.folder
    first, second = packed.shards[0], packed.shards[1]
    a, b = (packed.folder / s.name for s in (first, second))
    a.replace(packed.folder / "aside")
    b.replace(a)
    (packed.folder / "aside").replace(b)
    with pytest.raises(DataError, match=first.name):
        check_shard(packed.folder, replace(first, num_tokens=second.num_tokens))


def test_leftovers_go_when_they_are_told_to(packed: PackedManifest) -> None:
    assert packed.folder
    (packed.folder / "zh-00009.bin.partial").touch()
    before = set(files(packed.folder))
    remove_leftovers(packed.folder, packed.shards)
    gone = before - set(files(packed.folder))
    assert gone == {s.name.replace(".bin", ".json") for s in packed.shards} | {
        "zh-00009.bin.partial"
    }
