import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import DataError
from model.data import Journal, JournalEntry, PackedManifest

Simulate = Callable[..., PackedManifest]
Pack = Callable[..., PackedManifest]


def test_appending_twice_changes_nothing(simulate: Simulate) -> None:
    base, new = simulate({"zh": [50]}), simulate({"zh": [20]}, prefix="x")
    once = Journal().append(base, new, at=3, seed=5, weights={"zh": 0.5})
    assert once.append(base, new, at=3, seed=5, weights={"zh": 0.5}) is once
    for at, seed in ((4, 5), (3, 6)):
        with pytest.raises(DataError, match="appended already, at sample 3 with seed 5"):
            once.append(base, new, at=at, seed=seed)


def test_the_same_content_is_refused_by_name(simulate: Simulate) -> None:
    base = simulate({"zh": [50, 40], "en": [30]})
    new = simulate({"zh": [20, 25]}, prefix="x")
    copied = replace(base.shards[0], name="harmless.bin", source="other")
    with pytest.raises(DataError, match=r"'harmless\.bin'.*'en-00000\.bin' of the first manifest"):
        Journal().append(base, replace(new, shards=(*new.shards, copied)), at=3, seed=5)
    journal = Journal().append(base, new, at=3, seed=5)
    later = replace(simulate({"zh": [9]}, prefix="y"), shards=(new.shards[1],))
    with pytest.raises(DataError, match="journal entry 0"):
        journal.append(base, later, at=9, seed=6)


def test_refuses_the_past_and_other_tokenizers(simulate: Simulate) -> None:
    base, new = simulate({"zh": [50]}), simulate({"zh": [20]}, prefix="x")
    later = simulate({"zh": [20]}, prefix="y")
    journal = Journal().append(base, new, at=3, seed=5)
    with pytest.raises(DataError, match="begins at sample 2, before"):
        journal.append(base, later, at=2, seed=5)
    assert journal.append(base, later, at=3, seed=5).entries[1].at == 3
    with pytest.raises(DataError, match="tokenizer_md5 of the appended data"):
        Journal().append(base, replace(new, tokenizer_md5="2" * 32), at=3, seed=5)


def test_file_round_trip_survives_moving(pack: Pack, tmp_path: Path) -> None:
    old = tmp_path / "old"
    base = pack(old / "base", {"zh": [[1, 2, 3]]})
    new = pack(old / "more" / "shards", {"zh": [[4, 5, 6]], "en": [[7, 8]]})
    run = old / "run"
    run.mkdir()
    journal = Journal().append(base, new, at=3, seed=5, weights={"en": 2})
    journal.write(run / "journal.json")
    assert Journal.read(run / "journal.json") == journal
    old.rename(tmp_path / "moved")
    moved = Journal.read(tmp_path / "moved" / "run" / "journal.json")
    assert moved == journal
    assert moved.manifests[new.digest].folder == tmp_path / "moved" / "more" / "shards"
    assert Journal.read(tmp_path / "absent.json") == Journal()


def test_refuses_edited_files_and_other_data(pack: Pack, tmp_path: Path) -> None:
    base = pack(tmp_path / "base", {"zh": [[1, 2, 3]]})
    new = pack(tmp_path / "more", {"zh": [[4, 5, 6]]})
    path = tmp_path / "journal.json"
    Journal().append(base, new, at=3, seed=5).write(path)
    good = path.read_text()
    raw = json.loads(good)
    raw["entries"][0]["at"] = 2
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match=rf"its entries: entry 0 \(manifest {new.digest}\) was"):
        Journal.read(path)
    path.write_text(json.dumps(json.loads(good) | {"entries": []}))
    with pytest.raises(DataError, match="its entries: the list of entries was edited"):
        Journal.read(path)
    path.write_text(json.dumps({**json.loads(good), "schema_version": 9}))
    with pytest.raises(DataError, match=r"schema_version .* is 9"):
        Journal.read(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="not a readable append journal"):
        Journal.read(path)
    path.write_text(good)
    pack(tmp_path / "more", {"fr": [[9, 9]]})
    with pytest.raises(DataError, match="holds other data"):
        Journal.read(path)


@pytest.mark.parametrize(
    "raw",
    [
        {"at": 1, "seed": 2},
        {"at": -1, "manifest": "m", "seed": 2},
        {"at": 1.5, "manifest": "m", "seed": 2},
        {"at": 1, "manifest": "m", "seed": "2"},
        {"at": 1, "manifest": "m", "seed": 2, "weights": {"zh": "much"}},
    ],
)
def test_refuses_garbled_entries(raw: dict[str, object]) -> None:
    with pytest.raises(DataError, match="journal entry"):
        JournalEntry.from_dict(raw)
