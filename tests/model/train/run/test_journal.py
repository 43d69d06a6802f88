"""The run's journal on disk: what is read is what was written, or an error names the entry."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataError
from common.files import digest_of
from model.data import Append, PackedManifest
from model.train.run.folder import JOURNAL_FILE
from model.train.run.journal import (
    AppendEntry,
    JournalEntry,
    LengthEntry,
    read_journal,
    read_journal_rows,
    read_total_steps,
    write_journal,
)
from model.train.run.length import LengthChange
from model.train.run.saved_manifests import save_manifests

Pack = Callable[..., PackedManifest]


def entries_of(data: PackedManifest) -> tuple[JournalEntry, ...]:
    return (
        LengthEntry(request="r1", length=LengthChange(step=3, total_steps=30)),
        AppendEntry(
            request="r2",
            length=LengthChange(step=5, total_steps=50, decay_at=35),
            steps="extend",
            data=Append(at=40, manifest=data, seed=5, weights={"zh": 2.0}),
        ),
    )


@pytest.fixture
def more(tmp_path: Path, pack: Pack) -> PackedManifest:
    return pack(tmp_path / "old" / "more" / "shards", {"zh": [[4, 5, 6]], "en": [[7, 8]]})


@pytest.fixture
def run(tmp_path: Path, more: PackedManifest) -> Path:
    folder = tmp_path / "old" / "run"
    write_journal(folder, entries_of(more))
    return folder


def test_round_trip_survives_moving(run: Path, more: PackedManifest, tmp_path: Path) -> None:
    assert read_journal(run) == entries_of(more)
    assert read_total_steps(run, 20) == 50
    (tmp_path / "old").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "run"
    entry = read_journal(moved)[1]
    assert isinstance(entry, AppendEntry)
    assert entry.data.manifest.folder == tmp_path / "moved" / "more" / "shards"
    assert read_journal(moved) == entries_of(more)


def test_without_a_file_nothing_happened(tmp_path: Path) -> None:
    assert read_journal(tmp_path) == ()
    assert read_total_steps(tmp_path, 20) == 20


def test_rows_are_read_without_the_data(run: Path, more: PackedManifest) -> None:
    assert more.folder
    for path in more.folder.iterdir():
        path.unlink()
    rows = read_journal_rows(run)
    assert [(row["kind"], row["step"], row["total_steps"]) for row in rows] == [
        ("length", 3, 30),
        ("append", 5, 50),
    ]
    with pytest.raises(DataError, match=str(more.folder)):
        read_journal(run)


def test_refuses_edited_files(run: Path) -> None:
    path = run / JOURNAL_FILE
    good = path.read_text()
    path.write_text(good.replace('"total_steps": 50', '"total_steps": 60'))
    with pytest.raises(DataError, match=r"its entries: entry 1 \(request r2\) was edited"):
        read_journal(run)
    path.write_text(json.dumps(json.loads(good) | {"entries": []}))
    with pytest.raises(DataError, match="its entries: the list of entries was edited"):
        read_journal(run)
    path.write_text(json.dumps({**json.loads(good), "schema_version": 9}))
    with pytest.raises(DataError, match=r"schema_version .* is 9"):
        read_journal(run)
    for text in ("[]", "{"):
        path.write_text(text)
        with pytest.raises(DataError, match="not a readable journal"):
            read_journal(run)


def test_appended_data_that_changed_are_named(
    run: Path, more: PackedManifest, pack: Pack, tmp_path: Path
) -> None:
    assert more.folder
    for path in more.folder.iterdir():
        path.unlink()
    changed = pack(more.folder, {"zh": [[4, 5, 7]]})
    with pytest.raises(DataError, match="holds other data"):
        read_journal(run)
    save_manifests(run, pack(tmp_path / "base", {"zh": [[1, 2, 3]]}), [more])
    old = next(shard.md5 for shard in more.shards if shard.source == "zh")
    now = changed.shards[0].md5
    with pytest.raises(DataError, match=rf"'zh-00000.bin' holds other content \(MD5 {old}.*{now}"):
        read_journal(run)


@pytest.mark.parametrize(
    "wrong",
    [
        {"manifest": None},
        {"at": None},
        {"at": -1},
        {"at": 1.5},
        {"seed": "2"},
        {"weights": {"zh": "much"}},
        {"step": -1},
        {"total_steps": "many"},
    ],
)
def test_refuses_garbled_entries(run: Path, wrong: dict[str, Any]) -> None:
    """None: the field is missing."""
    path = run / JOURNAL_FILE
    raw = json.loads(path.read_text())
    row = raw["entries"][1] | wrong
    raw["entries"][1] = {name: value for name, value in row.items() if value is not None}
    raw["digest"] = digest_of({name: raw[name] for name in ("schema_version", "entries")})
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match=r"entry|append|length change"):
        read_journal(run)
