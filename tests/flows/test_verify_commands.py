"""`steel verify` and `steel verify-order` as a person types them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli import main
from flows.commands import BAD_INPUT, DONE, FAILED
from model.data import DataState, PackedManifest, SampleOrder, ShardWriter
from model.data.manifest import FILE_NAME
from model.data.shards import map_starts, open_digests, open_tokens
from model.train.checkpoint.progress import Progress
from model.train.config import PretrainSettings
from model.train.run.folder import CHECKPOINTS_FOLDER, DATA_STATE_FILE, JOB_FILE, PROGRESS_FILE
from model.train.run.lease import Lease
from model.train.run.plan import RunPlan
from model.train.run.requests import AppendRequest
from tasks.core.manifest import publish
from tests.model.data.blocks import add_document, write_documents

END = 0
SHORT = ["{store}", "--sequence-length", "4"]


def pack(
    folder: Path, sizes: dict[str, int], *, seed: int = 1, validation_fraction: float = 0.0
) -> PackedManifest:
    """Real shards of documents of nine ids and an end."""
    random, shards = np.random.default_rng(seed), []
    for source, documents in sizes.items():
        shards += write_documents(
            folder,
            source,
            random.integers(1, 1000, (documents, 9)).tolist(),
            shard_tokens=2_000,
            validation_fraction=validation_fraction,
            end=END,
        )
    manifest = PackedManifest(
        vocab_size=1000,
        end_of_document=END,
        tokenizer_digest="1" * 32,
        validation_fraction=validation_fraction,
        shards=tuple(shards),
    )
    manifest.write(folder)
    for path in folder.glob("*.json"):
        if path.name != FILE_NAME:
            path.unlink()
    return PackedManifest.read(folder)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one finished `pack` stage."""
    partial = tmp_path / "store" / "pack" / "0123456789abcdef.partial"
    pack(partial / "shards", {"zh": 2_000, "en": 500})
    publish_pack(partial)
    return tmp_path / "store"


def publish_pack(partial: Path) -> None:
    manifest = {"stage": "pack", "key": partial.stem, "label": "pack", "schema": 1}
    publish(partial, partial.with_suffix(""), manifest)


def shards_of(store: Path) -> Path:
    return store / "pack" / "0123456789abcdef" / "shards"


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def steel(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_the_scenario_of_the_manual(store: Path, steel: Run, tmp_path: Path) -> None:
    base = tmp_path / "base"
    packed = pack(base, {"zh": 2_000, "en": 500}, validation_fraction=0.02)
    more = pack(tmp_path / "more", {"fr": 90}, seed=2, validation_fraction=0.02)
    held_out = sum(more.tokens_by_source("validation").values())
    extra = tmp_path / "extra.json"
    shutil.copy(tmp_path / "more" / "manifest.json", extra)
    arguments = [
        "verify-order",
        base,
        "--sequence-length",
        4,
        "--ranks",
        "8,4,8",
        "--append",
        f"{extra}@400",
        "--restart",
        "100,300",
    ]
    code, text, _ = steel(*arguments)
    assert code == DONE
    assert "3 sources" in text and "restart at step 100 on 4 with 2" in text
    appended = (900 - held_out - 1) // 4
    assert f"{appended} samples appended at step 400" in text
    assert text.count("  ok     ") == 9 and "FAILED" not in text
    assert "Not looked at: documents of 1 packing(s) without shards at hand." in text
    number = sum(packed.documents_by_source("validation").values())
    assert f"of 2,500 that were looked at, the digests of the {number} held-out ones" in text
    assert "the order holds" in text
    code, text, _ = steel(*arguments, "--json")
    report = json.loads(text)
    assert code == DONE and report["ok"] is True and report["exhaustive"] is True
    assert report["num_checked"] == report["num_samples"]
    assert report["world_sizes"] == [8, 4, 8] and report["restarts"] == [100, 300]
    assert report["appends"] == [400] and report["samples_appended"] == [appended]
    code, _, err = steel(*arguments, "--validation-fraction", 0.5)
    assert code == BAD_INPUT and "was packed with 0.02; leave the option out" in err


def test_a_validation_document_in_a_training_shard_fails(tmp_path: Path, steel: Run) -> None:
    packed = pack(tmp_path, {"zh": 800}, validation_fraction=0.05)
    shard = packed.of_split("validation")[0]
    first = map_starts(tmp_path, shard)
    ids = np.asarray(open_tokens(tmp_path, shard))[: first[1]].tolist()
    with ShardWriter(
        tmp_path, source="zh", name="wrong", dtype="uint16", shard_tokens=2_000
    ) as writer:
        add_document(writer, ids, digests=open_digests(tmp_path, shard)[:1])
    replace(packed, shards=(*packed.shards, *writer.shards)).write(tmp_path)
    code, text, _ = steel("verify-order", tmp_path, "--sequence-length", 4)
    assert code == FAILED and "THE ORDER DOES NOT HOLD" in text
    assert "FAILED Documents are held out whole" in text and "Wrong: 1." in text


def test_any_way_to_name_packed_data(store: Path, steel: Run) -> None:
    places = [store, shards_of(store).parent, shards_of(store), shards_of(store) / "manifest.json"]
    digests = set()
    for where in places:
        code, text, _ = steel("verify-order", where, "--sequence-length", 16, "--json")
        assert code == DONE
        report = json.loads(text)
        digests.add(report["order_digest"])
        assert report["world_sizes"] == [1, 2, 4, 8] and len(report["restarts"]) == 3
    assert len(digests) == 1


def test_a_simulation_with_appends(steel: Run) -> None:
    arguments = ["--ranks", "8,4,8", "--append", "20k@120", "--restart", "30,90"]
    code, text, _ = steel("verify-order", "--simulate", "200k", *arguments, "--json")
    report = json.loads(text)
    assert code == DONE and report["ok"]
    assert report["num_samples"] == 220_000 and report["samples_appended"] == [20_000]
    assert report["global_batch_size"] == 512 and report["sequence_length"] == 2048
    assert set(report["samples_by_source"]) >= {"skypile", "baike", "code-cpp"}


@pytest.mark.slow
def test_half_a_billion_blocks(steel: Run) -> None:
    arguments = ["--ranks", "8,4,8", "--append", "50M@1200", "--restart", "300,900"]
    code, text, _ = steel("verify-order", "--simulate", "500M", *arguments)
    assert code == DONE and "550,000,000 samples" in text
    assert "the order holds" in text


def test_a_wrong_order_fails(store: Path, steel: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SampleOrder.locate_many

    def wrong(self: SampleOrder, samples: Any, *, validation: bool = False) -> Any:
        found = real(self, samples, validation=validation)
        if found.start.size > 1:
            found.start[0] = found.start[1]
            found.shard[0], found.source[0] = found.shard[1], found.source[1]
        return found

    monkeypatch.setattr(SampleOrder, "locate_many", wrong)
    code, text, _ = steel("verify-order", store, "--sequence-length", 4)
    assert code == FAILED
    assert "FAILED" in text and "THE ORDER DOES NOT HOLD" in text and "Wrong: " in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either packed data or a run, or --simulate"),
        (["{store}", "--simulate", "5M"], "give either packed data or a run, or --simulate"),
        (["--simulate", "many"], "'many' is no number of blocks"),
        (["{store}", "--append", "more"], "must look like MANIFEST@STEP"),
        (["{store}", "--append", "nowhere@3"], "no packed data in"),
        (["{store}", "--ranks", "2,x"], "--ranks '2,x': give whole numbers"),
        ([*SHORT, "--ranks", "2,3", "--global-batch-size", "8"], "8 is no multiple of 3 ranks"),
        (["{store}", "--ranks", "0"], "--ranks '0': give whole numbers of at least 1"),
        ([*SHORT, "--ranks", "2", "--restart", "5000"], "cannot be restarted at step 5000"),
        ([*SHORT, "--append", "9k@5000"], "cannot be appended at step 5000"),
        (["{store}", "--sequence-length", "99999"], "no block of 100000 tokens"),
        (["{store}/..", "--ranks", "2"], "nothing is packed in"),
    ],
)
def test_refuses_what_cannot_be(
    store: Path, steel: Run, arguments: list[str], message: str
) -> None:
    code, out, err = steel("verify-order", *(text.format(store=store) for text in arguments))
    assert (code, out) == (BAD_INPUT, "")
    assert message in err and "Traceback" not in err


@pytest.fixture
def run_folder(store: Path, tmp_path: Path) -> Path:
    """A pretraining that was appended to and has a checkpoint; its files, without weights."""
    folder = store / "pretrain" / "run.partial"
    settings: dict[str, Any] = {
        "sequence_length": 4,
        "global_batch_size": 16,
        "micro_batch_size": 2,
        "warmup_steps": 2,
        "steps": 300,
        "seed": 7,
        "weights": {"en": 1.5},
    }
    job = {"settings": settings, "packed": str(shards_of(store).parent), "output": str(folder)}
    folder.mkdir(parents=True)
    (folder / JOB_FILE).write_text(json.dumps(job))
    more = pack(tmp_path / "more", {"fr": 90}, seed=2)
    plan = RunPlan.read(folder, PretrainSettings(**settings), PackedManifest.read(shards_of(store)))
    request = AppendRequest(folder=str(more.folder), manifest=more.digest, seed=5)
    plan = plan.apply("request", request, step=100, consumed=1600)
    plan.write(Lease.take(folder))
    checkpoint = folder / CHECKPOINTS_FOLDER / "step-00000120"
    checkpoint.mkdir(parents=True)
    state = DataState.of(plan.order, 120 * 16)
    (checkpoint / DATA_STATE_FILE).write_text(state.to_json())
    (checkpoint / PROGRESS_FILE).write_text(Progress(step=120, batch=120).to_json())
    (checkpoint / "complete.json").write_text('{"files": {}}')
    return folder


def test_what_a_run_saw(run_folder: Path, steel: Run) -> None:
    code, text, _ = steel("verify-order", run_folder)
    assert code == DONE
    assert "step-00000120: 1,920 samples consumed" in text
    assert "224 samples appended at step 100" in text
    code, text, _ = steel("verify-order", run_folder, "--append", "100@200", "--json")
    report = json.loads(text)
    assert code == DONE and report["appends"] == [100, 200]
    assert report["run"] == {
        "checkpoint": "step-00000120",
        "samples_consumed": 1920,
        "samples_skipped": 0,
    }
    assert (report["sequence_length"], report["global_batch_size"]) == (4, 16)
    code, _, err = steel("verify-order", run_folder, "--seed", 3)
    assert code == BAD_INPUT and "has settings of its own" in err
    # The order gives out every sample; what health left out of training is told as well.
    trainer = run_folder / CHECKPOINTS_FOLDER / "step-00000120" / PROGRESS_FILE
    trainer.write_text(Progress(step=117, batch=120).to_json())
    code, text, _ = steel("verify-order", run_folder)
    assert code == DONE
    assert "1,920 samples consumed (48 of them in batches that health skipped), " in text


def test_a_run_whose_state_was_edited(run_folder: Path, steel: Run) -> None:
    path = run_folder / CHECKPOINTS_FOLDER / "step-00000120" / DATA_STATE_FILE
    path.write_text(path.read_text().replace('"seed":7', '"seed":8', 1))
    code, _, err = steel("verify-order", run_folder)
    assert code == BAD_INPUT and "seed of the data state does not fit its check" in err


def test_verify_finds_every_fault(store: Path, steel: Run) -> None:
    code, text, err = steel("verify", store)
    assert code == DONE and "every shard of tokens makes sense" in text and err == ""
    shards = sorted(shards_of(store).glob("*.bin"))
    data = bytearray(shards[0].read_bytes())
    data[7] ^= 1
    shards[0].write_bytes(data)
    shards[1].unlink()
    with shards[2].open("ab") as file:
        file.write(b"??")
    code, text, err = steel("verify", store, "--json")
    assert code == FAILED
    damaged = json.loads(text)["damaged"]
    assert len(damaged) == 3
    for path, what in zip(shards, ("has changed", "is missing", "bytes, not"), strict=False):
        assert any(path.name in line and what in line for line in damaged)


def test_verify_looks_into_shards(tmp_path: Path, steel: Run) -> None:
    """Bytes that are as they were packed and make no sense: a second end inside of a document."""
    partial = tmp_path / "store" / "pack" / "0123456789abcdef.partial"
    with ShardWriter(partial / "shards", source="zh", dtype="uint16", shard_tokens=2_000) as writer:
        add_document(writer, [5, END, 6, END])
    PackedManifest(
        vocab_size=1000, end_of_document=END, tokenizer_digest="1" * 32, shards=tuple(writer.shards)
    ).write(partial / "shards")
    publish_pack(partial)
    code, _, err = steel("verify", tmp_path / "store")
    assert code == FAILED
    assert "'zh-00000.bin' holds the end of a document (id 0) 2 times, but 1 documents" in err
