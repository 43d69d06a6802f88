"""Packing by processes: the same bytes for any number and after any kill; errors name the line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from common.child import Child
from common.config import validate
from common.errors import DataError, StageError
from corpus.packing import batches as packing_batches
from corpus.packing import workers
from corpus.packing.batches import batches
from corpus.packing.fast_encoder import FastEncoder, TokenMismatchError
from corpus.packing.pack_partition import shard_prefix
from corpus.partitions import cut
from tasks.core.stage import StageRun
from tasks.pack import PackConfig
from tests.corpus.packing.packed import TEXTS, files, pack_in, result, write_cleaned
from tests.faults.places import Fault, struck, with_fault
from tests.processes import alive, wait_until

# ── partitions ───────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("ab中\n", max_size=30), max_size=25),
    part_bytes=st.integers(1, 300),
    batch_bytes=st.integers(1, 120),
    last_newline=st.booleans(),
)
def test_partitions_share_a_file_out(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    part_bytes: int,
    batch_bytes: int,
    last_newline: bool,
) -> None:
    path = tmp_path_factory.mktemp("parts") / "zh" / "00000.jsonl"
    path.parent.mkdir()
    lines = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    path.write_text(lines + "\n" * (last_newline and bool(texts)), encoding="utf-8")
    planned = [p for p in cut([("zh", path)], part_bytes) if p.size]
    assert len({shard_prefix(part) for part in planned}) == len(planned)
    expected = [text for text in texts if text]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing_batches, "BATCH_BYTES", batch_bytes)
        found = [(part, b) for part in planned for b in batches(part)]
        assert [text for _, batch in found for text in batch.texts] == expected
        # Behind any text, a part goes on with the next one.
        for part, batch in found:
            rest = [text for again in batches(part, batch.positions[0]) for text in again.texts]
            whole = [text for p, other in found if p is part for text in other.texts]
            assert rest == whole[whole.index(batch.texts[0], len(whole) - len(rest) - 1) + 1 :]


# ── the same bytes ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources of unequal size; zh is longer than a part, and has an empty text."""
    folder = tmp_path_factory.mktemp("corpus") / "cleaned"
    texts = {
        "zh": [f"{text}{number}" for number in range(400) for text in TEXTS["zh"]] + [""],
        "en": [f"{text}{number}" for number in range(90) for text in TEXTS["en"]],
        "code": TEXTS["code"] * 3,
    }
    write_cleaned(folder, texts)
    return folder


SETTINGS: dict[str, Any] = {
    "shard_tokens": 3_000,
    "part_bytes": 100_000,
    "validation_fraction": 0.2,  # so that held-out documents make several shards of a part, too
}


@pytest.fixture(scope="module")
def straight(
    corpus: Path, few_tokens: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Its shards by one process."""
    folder = tmp_path_factory.mktemp("straight") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.pack.configured_tokenizer", lambda source: few_tokens)
        pack_in(folder, result(corpus), workers=1, **SETTINGS)
    return packed(folder)


def packed(folder: Path) -> dict[str, bytes]:
    """Everything that is published; working files are not."""
    return {name: data for name, data in files(folder).items() if not name.startswith(".scratch")}


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The worker processes that are started."""
    started: list[subprocess.Popen[bytes]] = []
    real = workers._Workers._start

    def start(self: Any, job: Path) -> Child:
        worker = real(self, job)
        started.append(worker.process)
        return worker

    monkeypatch.setattr(workers._Workers, "_start", start)
    yield started
    assert all(child.returncode is not None for child in started), "no worker is left behind"


@pytest.mark.parametrize("number", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(
    small: PreTrainedTokenizerBase,
    corpus: Path,
    straight: dict[str, bytes],
    tmp_path: Path,
    children: list[Any],
    number: int,
) -> None:
    pack_in(tmp_path, result(corpus), workers=number, **SETTINGS)
    assert packed(tmp_path) == straight
    assert len(children) == number
    assert any("-p0002-" in name for name in straight)
    assert any("-p0000-validation-00001" in name for name in straight)


def test_transformers_gives_the_same_bytes(
    small: PreTrainedTokenizerBase, corpus: Path, straight: dict[str, bytes], tmp_path: Path
) -> None:
    run = pack_in(tmp_path, result(corpus), encoder="transformers", workers=2, **SETTINGS)
    assert packed(tmp_path) == straight
    assert run.notes["encoder"] == "transformers"


def test_no_more_workers_than_the_text_is_worth() -> None:
    assert workers.num_workers(1000) == 1
    assert 1 <= workers.num_workers(10**12) <= (os.cpu_count() or 1)
    with pytest.raises(ValueError, match="workers = 0; it must be a whole number of at least 1"):
        validate(PackConfig(workers=0), "pack")
    with pytest.raises(ValueError, match="part_bytes = 0; it must be a whole number of at least 1"):
        validate(PackConfig(part_bytes=0), "pack")


# ── killed ───────────────────────────────────────────────────────────────────────────────────────


def strike(patch: pytest.MonkeyPatch, folder: Path, number: signal.Signals) -> None:
    """Let the worker that is about to publish the fourth shard end by this signal."""
    fault = Fault(number.name, "os.rename", r"/shards/[^/]*\.bin$", 4)
    for name, value in with_fault(folder, fault).items():
        patch.setenv(name, value)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, r"packed .*00000\.jsonl was killed, most likely because memory ran out"),
        (signal.SIGILL, r"was ended by SIGILL.*pack\.encoder: transformers"),
    ],
)
def test_a_killed_worker_is_an_error_and_no_loss(
    small: PreTrainedTokenizerBase,
    corpus: Path,
    straight: dict[str, bytes],
    tmp_path: Path,
    children: list["subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    message: str,
) -> None:
    strike(monkeypatch, tmp_path, number)
    with pytest.raises(StageError, match=message):
        pack_in(tmp_path, result(corpus), workers=2, **SETTINGS)
    assert struck(tmp_path) and -number in [child.returncode for child in children]
    assert not (tmp_path / "shards" / "manifest.json").exists()
    pack_in(tmp_path, result(corpus), workers=2, **SETTINGS)
    assert packed(tmp_path) == straight


def test_cancelling_ends_the_workers(
    small: PreTrainedTokenizerBase,
    corpus: Path,
    straight: dict[str, bytes],
    tmp_path: Path,
    children: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cancel(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "progress", cancel)
        with pytest.raises(KeyboardInterrupt):
            pack_in(tmp_path, result(corpus), workers=2, **SETTINGS)
    assert [child.returncode for child in children] == [-signal.SIGKILL] * 2
    pack_in(tmp_path, result(corpus), workers=3, **SETTINGS)
    assert packed(tmp_path) == straight


PARENT = """
import sys, pathlib
from model.tokenizer.qwen import load_tokenizer
from tasks import pack
from tests.corpus.packing.packed import pack_in, result
corpus, out, tokenizer = map(pathlib.Path, sys.argv[1:])
pack.configured_tokenizer = lambda source: load_tokenizer(tokenizer)
settings = dict(shard_tokens=3_000, part_bytes=100_000, validation_fraction=0.2)
pack_in(out, result(corpus), workers=2, **settings)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 4, 9])
def test_workers_die_with_their_parent(
    small: PreTrainedTokenizerBase,
    corpus: Path,
    straight: dict[str, bytes],
    tmp_path: Path,
    root: Path,
    after: int,
) -> None:
    small.save_pretrained(tmp_path / "tokenizer")
    arguments = [str(path) for path in (corpus, tmp_path / "out", tmp_path / "tokenizer")]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], cwd=root)
    shards = tmp_path / "out" / "shards"
    wait_until(lambda: len(list(shards.glob("*.bin"))) >= after, "shards", process=parent)
    of_parent = children_of(parent.pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    # At once: what waits for them is the lock.
    pack_in(tmp_path / "out", result(corpus), workers=2, **SETTINGS)
    assert packed(tmp_path / "out") == straight
    assert len(of_parent) == 2 and not any(map(alive, of_parent))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# ── refused ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": 5}', r"zh/00000\.jsonl, line 3: not a line of .*text is no string"),
        ('{"text": "\\ud800"}', r"zh/00000\.jsonl, line 3: .* half of a surrogate pair"),
    ],
)
def test_a_worker_names_file_and_line(
    small: PreTrainedTokenizerBase,
    corpus: Path,
    tmp_path: Path,
    children: list[Any],
    line: str,
    message: str,
) -> None:
    cleaned = tmp_path / "cleaned"
    for source in ("en", "zh"):
        (cleaned / source).mkdir(parents=True)
        lines = (corpus / source / "00000.jsonl").read_text().splitlines()
        lines.insert(2, line if source == "zh" else lines[0])
        (cleaned / source / "00000.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        pack_in(tmp_path / "out", result(cleaned), workers=2, part_bytes=50_000)


def test_a_flipped_byte_in_a_finished_shard_is_found_on_resuming(
    small: PreTrainedTokenizerBase,
    corpus: Path,
    tmp_path: Path,
    children: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strike(monkeypatch, tmp_path, signal.SIGKILL)
    with pytest.raises(StageError):
        pack_in(tmp_path, result(corpus), workers=2, **SETTINGS)
    finished = sorted((tmp_path / "shards").glob("*.json"))[0].with_suffix(".bin")
    data = bytearray(finished.read_bytes())
    data[77] ^= 1
    finished.write_bytes(data)
    with pytest.raises(
        DataError, match=f"shard '{finished.name}' .* does not hold what was packed"
    ):
        pack_in(tmp_path, result(corpus), workers=2, **SETTINGS)


def test_a_defect_in_a_worker_shows_its_log(
    small: PreTrainedTokenizerBase,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: list[Any],
) -> None:
    real = workers.PackJob

    def broken(**values: Any) -> workers.PackJob:
        return real(**values | {"shard_tokens": 0})

    monkeypatch.setattr("tasks.pack.PackJob", broken)
    with pytest.raises(StageError, match=r"ended with status 1(.|\n)*AssertionError"):
        pack_in(tmp_path, result(corpus), workers=2, part_bytes=100_000)


def test_doubtful_shards_are_removed(
    small: PreTrainedTokenizerBase,
    corpus: Path,
    straight: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing_batches, "BATCH_BYTES", 20_000)
    with monkeypatch.context() as patch:
        calls = iter(range(99))
        real = FastEncoder._compare

        def differing(self: FastEncoder, *arguments: Any) -> None:
            if next(calls) == 9:
                raise TokenMismatchError("fastokens cuts a text into other ids")
            real(self, *arguments)

        patch.setattr(FastEncoder, "_compare", differing)
        with pytest.raises(
            StageError, match=r"removed: run again with pack\.encoder: transformers"
        ):
            pack_in(tmp_path, result(corpus), workers=1, **SETTINGS)
    assert not (tmp_path / "shards").exists()
    pack_in(tmp_path, result(corpus), encoder="transformers", **SETTINGS)
    assert packed(tmp_path) == straight


def test_an_encoder_that_differs_is_not_used(
    small: PreTrainedTokenizerBase,
    corpus: Path,
    straight: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def differing(*_: Any) -> None:
        raise TokenMismatchError("fastokens cuts a text into other ids")

    monkeypatch.setattr(FastEncoder, "_compare", differing)
    pack_in(tmp_path, result(corpus), workers=1, **SETTINGS)
    assert packed(tmp_path) == straight
    assert "Encoding by Transformers, some forty times as slow" in caplog.text
