"""Packing with the real tokenizer: ids, pruning, interruptions, refusals."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from common.config import validate
from common.errors import ConfigError, DataError
from corpus.packing import batches
from corpus.packing.fast_encoder import FastEncoder
from model.data import PackedManifest, ShardWriter
from model.data.verify.shards import verify_shards
from model.tokenizer.encoder import Encoded
from model.tokenizer.qwen import load_tokenizer
from tasks import pack as module
from tasks.core.stage import Context
from tasks.pack import PackConfig, pack
from tests.corpus.packing.packed import TEXTS, documents, files, pack_in, result, write_cleaned
from tests.model.tokenizer.encoded import pruned_from


def test_ids_are_the_tokenizers_with_an_end(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    run = pack_in(tmp_path / "out", write_cleaned(tmp_path / "cleaned", TEXTS), shard_tokens=40)
    for source, expected in documents(tmp_path / "out").items():
        assert len(expected) == len(TEXTS[source])
        for ids, text in zip(expected, TEXTS[source], strict=True):
            assert ids[-1] == 151_643
            assert 151_643 not in ids[:-1] and 151_645 not in ids  # spelled out, not obeyed
            assert tokenizer.decode(ids[:-1]) == text
            if "<|" not in text:
                assert ids[:-1] == tokenizer(text, add_special_tokens=False)["input_ids"]
    manifest = PackedManifest.read(tmp_path / "out" / "shards")
    assert set(manifest.sources) == set(TEXTS)
    assert verify_shards(manifest) == []
    documents_by_source = {name: len(texts) for name, texts in TEXTS.items()}
    assert manifest.documents_by_source() == documents_by_source
    written = json.loads((tmp_path / "out" / "shards" / "manifest.json").read_text())
    assert written["documents_by_source"] == documents_by_source
    assert written["tokens_by_source"] == manifest.tokens_by_source()
    assert (manifest.vocab_size, manifest.end_of_document) == (151_646, 151_643)
    assert {shard.dtype for shard in manifest.shards} == {"uint32"}
    assert run.counts["tokens"] == manifest.num_tokens
    assert run.notes["sources"]["zh"]["tokens"] == manifest.tokens_by_source()["zh"]
    assert run.notes["manifest_digest"] == manifest.digest
    track: Any = run.track
    assert [row["source"] for row in track.tables["pack.json"]] == ["code", "en", "zh"]
    saved = load_tokenizer(tmp_path / "out" / "tokenizer")
    assert saved.get_vocab() == tokenizer.get_vocab() and saved.chat_template


def test_pruning_changes_the_numbers_and_not_the_pieces(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    cleaned = write_cleaned(tmp_path / "cleaned", TEXTS)
    pack_in(tmp_path / "full", cleaned)
    run = pack_in(tmp_path / "pruned", cleaned, prune=True)
    old_ids = pruned_from(tmp_path / "pruned" / "tokenizer")
    assert old_ids is not None and len(old_ids) < 600
    translated = {
        source: [[old_ids[i] for i in ids] for ids in texts]
        for source, texts in documents(tmp_path / "pruned").items()
    }
    assert translated == documents(tmp_path / "full")
    manifest = PackedManifest.read(tmp_path / "pruned" / "shards")
    assert {shard.dtype for shard in manifest.shards} == {"uint16"}
    assert manifest.vocab_size == len(old_ids) == run.counts["vocabulary"]
    assert old_ids[manifest.end_of_document] == 151_643
    assert run.notes["pruning"]["proof"]["num_texts"] == sum(map(len, TEXTS.values()))


def test_a_pruned_vocabulary_knows_the_later_stages_words(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    sft = tmp_path / "sft"
    (sft / "some_set").mkdir(parents=True)
    (sft / "some_set" / "train.json").write_text('[{"instruction": "Mississippi riverboat"}]')
    (sft / "manifest.json").write_text('{"mlflow": {"note": "Massachusetts"}}')
    cleaned = write_cleaned(tmp_path / "cleaned", TEXTS)
    pack_in(tmp_path / "out", cleaned, {"sft": result(sft, "acquire")}, prune=True)
    pruned = load_tokenizer(tmp_path / "out" / "tokenizer")

    def pieces(of: PreTrainedTokenizerBase, text: str) -> list[str]:
        ids = of(text, add_special_tokens=False)["input_ids"]
        return of.convert_ids_to_tokens(ids)

    for text in ("Mississippi riverboat", *TEXTS["zh"]):
        assert pieces(pruned, text) == pieces(tokenizer, text)
    # A stage's manifest has dates and numbers of runs: no two vocabularies would be the same.
    assert len(pieces(pruned, "Massachusetts")) > len(pieces(tokenizer, "Massachusetts"))


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    stops=st.lists(st.integers(0, 20), max_size=3),
    shard_tokens=st.integers(1, 150),
    fraction=st.sampled_from([0.0, 0.2, 0.5]),
)
def test_interrupted_and_resumed_gives_the_same_bytes(
    small: PreTrainedTokenizerBase,
    tmp_path_factory: pytest.TempPathFactory,
    stops: list[int],
    shard_tokens: int,
    fraction: float,
) -> None:
    folder = tmp_path_factory.mktemp("pack")
    cleaned = write_cleaned(folder / "cleaned", TEXTS)
    config: dict[str, Any] = {"shard_tokens": shard_tokens, "validation_fraction": fraction}
    pack_in(folder / "straight", cleaned, **config)
    real = ShardWriter.add_documents
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BATCH_BYTES", 150)
        for stop in stops:
            left = iter(range(stop))

            def stopping(*args: Any, left: Any = left, **kwargs: Any) -> None:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                real(*args, **kwargs)

            patch.setattr(ShardWriter, "add_documents", stopping)
            with pytest.raises(KeyboardInterrupt):
                pack_in(folder / "stopped", cleaned, **config)
                raise KeyboardInterrupt  # everything was packed before the stop
        patch.setattr(ShardWriter, "add_documents", real)
        pack_in(folder / "stopped", cleaned, **config)
    assert files(folder / "stopped") == files(folder / "straight")


def test_finished_shards_are_not_encoded_again(
    small: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = write_cleaned(tmp_path / "cleaned", {"zh": TEXTS["zh"]})
    encoded: list[str] = []
    limit = 6
    real = FastEncoder.encode

    def counting(self: FastEncoder, texts: list[str]) -> Encoded:
        if len(encoded) >= limit:
            raise KeyboardInterrupt
        encoded.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(batches, "BATCH_BYTES", 1)
    monkeypatch.setattr(FastEncoder, "encode", counting)
    with pytest.raises(KeyboardInterrupt):
        pack_in(tmp_path / "out", cleaned, shard_tokens=1)
    assert len(list((tmp_path / "out" / "shards").glob("*.bin"))) == 6
    encoded.clear()
    limit = len(TEXTS["zh"])
    pack_in(tmp_path / "out", cleaned, shard_tokens=1)
    assert encoded == TEXTS["zh"][6:]
    assert sum(map(len, documents(tmp_path / "out").values())) == limit


def test_the_same_source_under_two_names_is_refused(
    small: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    cleaned = write_cleaned(tmp_path / "cleaned", {"zh": TEXTS["zh"], "copy": TEXTS["zh"]})
    names = r"'copy-00000-00000\.bin' and 'zh-00000-00000\.bin'"
    with pytest.raises(DataError, match=f"{names}.*same content"):
        pack_in(tmp_path / "out", cleaned)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"zh/00000\.jsonl, line 2: not a line of"),
        (b'{"txt": "a"}', "not a line of"),
        (b'{"text": 5}', "text is no string"),
        (b'{"text": "a \\ud800"}', "half of a surrogate pair at character 2"),
        (b'{"text": "\xff"}', "not a line of"),
    ],
)
def test_damaged_lines_are_named(
    small: PreTrainedTokenizerBase, tmp_path: Path, line: bytes, message: str
) -> None:
    (tmp_path / "cleaned" / "zh").mkdir(parents=True)
    (tmp_path / "cleaned" / "zh" / "00000.jsonl").write_bytes(b'{"text": "good"}\n' + line)
    with pytest.raises(DataError, match=message):
        pack_in(tmp_path / "out", result(tmp_path / "cleaned"))


def test_nothing_to_pack_is_refused(small: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing to pack: .* holds no cleaned"):
        pack_in(tmp_path / "out", write_cleaned(tmp_path / "none", {}))
    with pytest.raises(DataError, match=r"nothing to pack: no text in the 1 files"):
        pack_in(tmp_path / "out", write_cleaned(tmp_path / "empty", {"zh": [""]}))


def test_too_little_disk_is_refused_before_work(
    small: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    )
    with pytest.raises(DataError, match="pack needs about"):
        pack_in(tmp_path / "out", write_cleaned(tmp_path / "cleaned", TEXTS))
    assert not list((tmp_path / "out").iterdir())


def test_preflight_refuses_other_tokenizers(full: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    refused = "shard_tokens = 0; it must be a whole number of at least 1"
    with pytest.raises(ConfigError, match=refused):
        validate(PackConfig(shard_tokens=0), "pack")
    with pytest.raises(DataError, match="neither a folder nor a hub id"):
        validate(PackConfig(tokenizer=str(tmp_path / "absent")), "pack")
    full.save_pretrained(tmp_path / "good")
    validate(PackConfig(tokenizer=str(tmp_path / "good")), "pack")
    # The same pieces, two of them with each other's ids: silent nonsense if it were not noticed.
    data = json.loads((tmp_path / "good" / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    shutil.copytree(tmp_path / "good", tmp_path / "swapped")
    (tmp_path / "swapped" / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"is not Qwen1\.5's"):
        validate(PackConfig(tokenizer=str(tmp_path / "swapped")), "pack")


def test_as_a_stage(small: PreTrainedTokenizerBase, tmp_path: Path, context: Context) -> None:
    cleaned = write_cleaned(tmp_path / "cleaned", TEXTS)
    arguments: dict[str, Any] = {"context": context, "cleaned": cleaned, "extra_text": {}}
    packed = pack(PackConfig(), **arguments)
    assert {path.name for path in packed.folder.iterdir()} == {
        "manifest.json",
        "shards",
        "tokenizer",
    }
    names = {path.suffix for path in (packed.folder / "shards").iterdir()}
    assert names == {".bin", ".idx", ".json"}
    assert packed.manifest["counts"]["documents"] == sum(map(len, TEXTS.values()))
    assert pack(PackConfig(), **arguments).reused


def test_interrupted_while_pruning_leaves_nothing(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = write_cleaned(tmp_path / "cleaned", {"en": TEXTS["en"]})
    (tmp_path / "out" / "tokenizer.partial-1").mkdir(parents=True)  # as a killed process leaves it
    real = module.Texts.__iter__
    passes = iter(range(3))

    def stopping(self: module.Texts) -> Iterator[str]:
        if next(passes) == 2:  # asked whether it can be repeated; what is used; the proof
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(module.Texts, "__iter__", stopping)
        with pytest.raises(KeyboardInterrupt):
            pack_in(tmp_path / "out", cleaned, prune=True)
    assert not files(tmp_path / "out")
    pack_in(tmp_path / "out", cleaned, prune=True)
    pack_in(tmp_path / "straight", cleaned, prune=True)
    assert files(tmp_path / "out") == files(tmp_path / "straight")
