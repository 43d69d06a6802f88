"""Documents are held out by their text alone: whatever packs them, wherever, whenever."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from common.errors import DataError
from corpus.packing import batches
from corpus.packing.pack_partition import PackJob
from corpus.packing.workers import pack_partitions
from corpus.partitions import cut
from model.data import Append, PackedManifest, SampleOrder, ShardInfo, ShardWriter
from model.data.shards import map_starts, open_tokens
from model.data.verify.order import OrderReport, verify_order
from model.data.verify.report import format_report
from model.data.verify.shards import verify_shards
from model.tokenizer.encoder import Encoded, joined
from tests.corpus.packing.packed import TEXTS, pack_in, write_cleaned

END = 0


class Letters:
    """An encoder whose ids are UTF-8's bytes, raised by `shift`: another tokenizer each."""

    def __init__(self, shift: int = 1) -> None:
        self.shift = shift
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> Encoded:
        self.seen += texts
        return joined(
            [np.frombuffer(t.encode(), np.uint8).astype(np.uint32) + self.shift for t in texts]
        )


def pack_texts(
    folder: Path,
    texts: Mapping[str, Sequence[str]],
    *,
    fraction: float,
    shard_tokens: int = 5_000,
    part_bytes: int = 30_000,
    encoder: Letters | None = None,
) -> PackedManifest:
    encoder = encoder or Letters()
    files = []
    for source, documents in texts.items():
        path = folder / "cleaned" / source / "00000.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        files.append((source, path))
    job = PackJob(
        tokenizer="",
        fast=False,
        end_of_text=END,
        dtype="uint16",
        shard_tokens=shard_tokens,
        validation_fraction=fraction,
        folder=str(folder / "shards"),
    )
    partitions = [partition for partition in cut(files, part_bytes) if partition.size]
    shards = pack_partitions(job, encoder, partitions, 1, folder, lambda _: None)
    return published(folder / "shards", shards, fraction)


def published(folder: Path, shards: Sequence[ShardInfo], fraction: float) -> PackedManifest:
    PackedManifest(
        vocab_size=1000,
        end_of_document=END,
        tokenizer_digest="1" * 32,
        validation_fraction=fraction,
        shards=tuple(shards),
    ).write(folder)
    return PackedManifest.read(folder)


def texts_of(manifest: PackedManifest, split: Any, shift: int = 1) -> list[str]:
    """The documents of a split, read back from their ids."""
    assert manifest.folder
    found = []
    for shard in manifest.of_split(split):
        tokens = np.asarray(open_tokens(manifest.folder, shard))
        for part in np.split(tokens, map_starts(manifest.folder, shard)[1:]):
            assert part[-1] == END
            found.append((part[:-1] - shift).astype(np.uint8).tobytes().decode())
    return sorted(found)


def held_out_by_hand(text: str, percent: int) -> bool:
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") * 100 < percent * 2**64


TEXT = st.text("ab中 \n", min_size=1, max_size=12)
CORPUS = st.dictionaries(
    st.sampled_from(["en", "zh"]), st.lists(TEXT, min_size=4, max_size=25, unique=True), min_size=1
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_same_documents_are_held_out_however_they_are_packed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    texts = data.draw(CORPUS)
    texts = {name: [f"{name}{text}" for text in each] for name, each in texts.items()}
    small, large = sorted(data.draw(st.sampled_from([1, 5, 20, 37, 50])) for _ in range(2))
    chance = random.Random(data.draw(st.integers(0, 9)))
    folder = tmp_path_factory.mktemp("held-out")
    manifest = pack_texts(
        folder / "a", texts, fraction=small / 100, shard_tokens=50, part_bytes=200
    )
    shuffled = {name: chance.sample(each, len(each)) for name, each in sorted(texts.items())}
    other = pack_texts(
        folder / "b",
        shuffled,
        fraction=large / 100,
        shard_tokens=data.draw(st.integers(1, 200)),
        part_bytes=data.draw(st.integers(40, 900)),
        encoder=Letters(shift=7),
    )
    every = sorted(text for each in texts.values() for text in each)
    for packed, percent, shift in ((manifest, small, 1), (other, large, 7)):
        held_out = [text for text in every if held_out_by_hand(text, percent)]
        assert texts_of(packed, "validation", shift) == held_out
        assert texts_of(packed, "train", shift) == sorted(set(every) - set(held_out))
        assert verify_shards(packed) == []
    nested = set(texts_of(manifest, "validation")), set(texts_of(other, "validation", 7))
    assert nested[0] <= nested[1], "a larger fraction holds out what a smaller one does"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_an_append_trains_on_nothing_that_the_run_holds_out(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Documents of the run come again in what is appended, with others."""
    base = {"en": [f"{n} of the first" for n in range(40)]}
    again = data.draw(st.lists(st.sampled_from(base["en"]), max_size=20, unique=True))
    new = {"zh": [*again, *(f"{n} of the second" for n in range(data.draw(st.integers(5, 30))))]}
    folder = tmp_path_factory.mktemp("append")
    first = pack_texts(folder / "a", base, fraction=0.2, shard_tokens=50, part_bytes=200)
    fraction = data.draw(st.sampled_from([0.0, 0.1, 0.2, 0.4]))
    more = pack_texts(folder / "b", new, fraction=fraction, shard_tokens=50, part_bytes=200)
    arguments: dict[str, Any] = {"sequence_length": 4, "global_batch_size": 4}
    if fraction < 0.2:
        with pytest.raises(DataError, match="validation_fraction"):
            verify_order(first, **arguments, more=[(more, 2)])
        return
    report = verify_order(first, **arguments, more=[(more, 2)], ranks=[1, 2], restarts=[3])
    assert report.ok and report.held_out.num_documents == 40 + len(new["zh"])
    order = SampleOrder(
        first, sequence_length=4, seed=0, appends=[Append(at=8, manifest=more, seed=1)]
    )
    assert order.num_validation_samples == sum(
        (shard.num_tokens - 1) // 4 for shard in first.of_split("validation")
    )
    trained = order.locate_many(np.arange(order.num_samples)).shard
    shown = {order.shards[number].md5 for number in np.unique(trained).tolist()}
    for packed in (first, more):
        assert not shown & {shard.md5 for shard in packed.of_split("validation")}
    held_out = {text for text in base["en"] if held_out_by_hand(text, 20)}
    assert not held_out & {*texts_of(first, "train"), *texts_of(more, "train")}


# ── proved, and the proof can fail ───────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return [f"document {number}" for number in range(3000)]


def order_report(manifest: PackedManifest, **arguments: Any) -> OrderReport:
    return verify_order(manifest, sequence_length=64, global_batch_size=8, **arguments)


def lines(report: OrderReport) -> str:
    return "\n".join(
        format_report({"subject": "it", "run": None, "seconds": 0, **report.to_dict()})
    )


def test_the_split_is_proved(documents: list[str], tmp_path: Path) -> None:
    texts = {"en": documents[:2000], "zh": documents[2000:], "tiny": ["document 0 of tiny"]}
    manifest = pack_texts(tmp_path, texts, fraction=0.1)
    report = order_report(manifest)
    number = sum(held_out_by_hand(text, 10) for each in texts.values() for text in each)
    assert report.ok
    assert (report.held_out.num_documents, report.held_out.num_held_out) == (3001, number)
    assert report.validation_samples_by_source["tiny"] == 0
    [row] = [share for share in report.held_out.shares if share["source"] == "en"]
    assert row["documents_held_out"] == sum(held_out_by_hand(t, 10) for t in documents[:2000])
    # Four standard deviations of 2000 draws of a tenth, and three documents.
    assert row["tolerance"] * 2000 == pytest.approx(4 * (2000 * 0.1 * 0.9) ** 0.5 + 3)
    text = lines(report)
    assert f"the {number:,} held-out ones lie below 0.1 of all" in text
    assert "expected 10.00% ± 2.83%" in text
    assert "tiny: 0 of 1 documents" in text and "NO VALIDATION LOSS OF ITS OWN" in text
    assert "FAILED" not in text


@pytest.mark.parametrize("move", ["to training", "to validation"])
def test_one_document_on_the_wrong_side_is_found(
    documents: list[str], tmp_path: Path, move: str
) -> None:
    """A document is really moved: written into a shard of the other split, checksums and all."""
    manifest = pack_texts(tmp_path / "a", {"en": documents}, fraction=0.1)
    text = next(t for t in documents if held_out_by_hand(t, 10) == (move == "to training"))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    folder = tmp_path / "a" / "shards"
    with ShardWriter(
        folder,
        source="en",
        name="moved",
        dtype="uint16",
        shard_tokens=10**6,
        split="train" if move == "to training" else "validation",
    ) as writer:
        ids = np.frombuffer(f"{text}\0".encode(), np.uint8).astype(np.uint32)
        digests = np.frombuffer(digest, "<u8").astype(np.uint64)
        writer.add_documents(ids, np.asarray([0, ids.size]), [1], digests)
    wrong = published(folder, [*manifest.shards, *writer.shards], 0.1)
    report = order_report(wrong)
    assert not report.ok and report.held_out.num_leaked_documents == 1
    assert "FAILED Documents are held out whole" in lines(report)
    [fault] = verify_shards(wrong)
    assert "'moved" in fault and "belong to the other one at validation_fraction 0.1" in fault
    assert order_report(manifest).ok


def test_an_append_that_holds_what_the_run_holds_out_is_found(
    documents: list[str], tmp_path: Path
) -> None:
    """Beside the fraction in the manifests, the documents themselves are looked at."""
    base = pack_texts(tmp_path / "a", {"en": documents}, fraction=0.1)
    more = pack_texts(tmp_path / "b", {"zh": documents[:50]}, fraction=0.0)
    number = sum(held_out_by_hand(text, 10) for text in documents[:50])
    lying = published(tmp_path / "b" / "shards", more.shards, 0.1)
    report = order_report(base, more=[(lying, 2)])
    assert number and report.held_out.num_leaked_documents == number
    # They were packed with 0 and claim 0.1: that share is not chance either.
    assert report.held_out.num_sources_off == (number > 4 * (50 * 0.09) ** 0.5 - 2)


def test_a_share_that_chance_does_not_give_is_found(documents: list[str], tmp_path: Path) -> None:
    manifest = pack_texts(tmp_path, {"en": documents}, fraction=0.1)
    lost = published(tmp_path / "shards", manifest.of_split("train"), 0.1)
    report = order_report(lost)
    assert not report.ok and report.held_out.num_sources_off == 1
    assert "not what chance would give: en: 0 of" in lines(report)


def test_copies_of_a_document_count_once(documents: list[str], tmp_path: Path) -> None:
    """A boilerplate text that is there a thousand times says nothing about the hash."""
    text = next(text for text in documents if held_out_by_hand(text, 10))
    manifest = pack_texts(tmp_path, {"en": documents + [text] * 1000}, fraction=0.1)
    report = order_report(manifest)
    assert report.ok and report.held_out.num_documents == 4000
    assert texts_of(manifest, "validation").count(text) == 1001


def test_a_damaged_index_ends_the_proof_by_name(documents: list[str], tmp_path: Path) -> None:
    manifest = pack_texts(tmp_path, {"en": documents}, fraction=0.1)
    assert manifest.folder
    index = manifest.folder / manifest.shards[1].index_name
    data = bytearray(index.read_bytes())
    data[-1] ^= 1
    index.write_bytes(data)
    with pytest.raises(DataError, match=f"index of shard '{manifest.shards[1].name}'"):
        order_report(manifest)


# ── interrupted ──────────────────────────────────────────────────────────────────────────────────


def test_each_writer_goes_on_behind_its_own_last_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out documents fill a shard rarely: what is in shards by then is not encoded again."""
    texts = {"en": [f"document {number}" for number in range(60)]}
    packing: dict[str, Any] = {"fraction": 0.1, "shard_tokens": 40, "part_bytes": 10**6}
    straight = pack_texts(tmp_path / "straight", texts, **packing)
    monkeypatch.setattr(batches, "BATCH_BYTES", 1)

    class Stopping(Letters):
        def encode(self, texts: Sequence[str]) -> Encoded:
            if len(self.seen) == 50:
                raise KeyboardInterrupt
            return super().encode(texts)

    with pytest.raises(KeyboardInterrupt):
        pack_texts(tmp_path / "stopped", texts, encoder=Stopping(), **packing)
    shards = list((tmp_path / "stopped" / "shards").glob("*.bin"))
    assert shards and not [path for path in shards if "validation-00001" in path.name]
    again = Letters()
    stopped = pack_texts(tmp_path / "stopped", texts, encoder=again, **packing)
    assert stopped == straight
    encoded = {text for text in again.seen if not held_out_by_hand(text, 10)}
    assert len(encoded) <= 60 - 45 and set(texts["en"][50:]) & encoded
    for shard in straight.shards:
        for name in (shard.name, shard.index_name):
            contents = [tmp_path / run / "shards" / name for run in ("straight", "stopped")]
            assert contents[0].read_bytes() == contents[1].read_bytes()


def test_the_stage_counts_what_is_held_out(small: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    run = pack_in(
        tmp_path / "out", write_cleaned(tmp_path / "cleaned", TEXTS), validation_fraction=0.3
    )
    number = sum(held_out_by_hand(text, 30) for each in TEXTS.values() for text in each)
    assert run.counts["documents_held_out"] == number > 0
    manifest = PackedManifest.read(tmp_path / "out" / "shards")
    assert manifest.validation_fraction == 0.3
    assert run.counts["tokens_held_out"] == sum(manifest.tokens_by_source("validation").values())
    rows = run.notes["sources"].values()
    assert sum(row["documents_held_out"] for row in rows) == number
