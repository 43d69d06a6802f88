"""The stages behind a training's data: its own texts, and no others."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import DataError
from model.train.run.requests import AppendRequest, PendingRequest
from tasks.refresh.lineage import Lineage, lineage_of
from tasks.refresh.records import Refreshed
from tests.flows.schedules.store_pieces import stage


def client(joined: Sequence[Path] = (), pending: Sequence[PendingRequest] = ()) -> Any:
    """Stands for a training as it is read: journal, and requests."""
    entries = [
        SimpleNamespace(data=SimpleNamespace(manifest=SimpleNamespace(folder=path / "shards")))
        for path in joined
    ]
    return SimpleNamespace(
        plan=SimpleNamespace(append_entries=entries),
        requests=SimpleNamespace(pending=lambda: list(pending)),
    )


def request(folder: Path) -> PendingRequest:
    wanted = AppendRequest(folder=str(folder / "shards"), manifest="0" * 32, seed=0)
    return PendingRequest(name=folder.name, request=wanted)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Packed data of corpora with texts held out, benchmarks and a shared vocabulary."""
    stage(tmp_path, "acquire", "evals", {}, kind="evals")
    stage(tmp_path, "acquire", "corpora", {}, kind="corpora")
    stage(tmp_path, "normalize", "n", {"raw": "corpora"})
    stage(tmp_path, "hold_out", "h", {"normalized": "n"})
    stage(tmp_path, "clean", "c", {"benchmarks": {"ceval": "evals"}, "normalized": "h"})
    stage(tmp_path, "acquire", "another", {}, kind="corpora")
    stage(tmp_path, "normalize", "an", {"raw": "another"})
    stage(tmp_path, "clean", "ac", {"benchmarks": None, "normalized": "an"})
    return stage(tmp_path, "pack", "p", {"cleaned": "c", "extra_text": {"other": "ac"}})


def new_part(store: Path, number: int, known: Sequence[str] = ()) -> Path:
    """Packed data of a refresh that compared its texts with those of earlier refreshes."""
    at = str(number)
    stage(store, "acquire", f"a{at}", {}, kind="corpora")
    states = {f"a{one}": f"a{one}" for one in known}
    stage(store, "new_files", f"f{at}", {"raw": f"a{at}", "known": {"corpora": "corpora"} | states})
    stage(store, "normalize", f"n{at}", {"raw": f"f{at}"})
    texts = {"n": "n"} | {f"n{one}": f"n{one}" for one in known}
    stage(store, "new_documents", f"d{at}", {"normalized": f"n{at}", "known": texts})
    stage(store, "clean", f"c{at}", {"normalized": f"d{at}", "benchmarks": {"ceval": "evals"}})
    cleaned = {"c": "c"} | {f"t{one}": f"t{one}" for one in known}
    stage(
        store,
        "new_texts",
        f"t{at}",
        {"cleaned": f"c{at}", "known": cleaned, "held_out": {"h": "h"}},
    )
    return stage(store, "pack", f"p{at}", {"cleaned": f"t{at}", "extra_text": {}})


def keys(lineage: Lineage) -> dict[str, list[str]]:
    return {name: [*of] for name, of in lineage.stages.items()}


def test_only_what_the_texts_came_from_counts(begun: Path, tmp_path: Path) -> None:
    # Neither benchmarks, nor corpora that only gave a vocabulary their words.
    lineage = lineage_of(client(), begun, tmp_path, [])
    assert lineage.first("acquire").key == "corpora"
    assert keys(lineage) == {
        "pack": ["p"],
        "clean": ["c"],
        "hold_out": ["h"],
        "normalize": ["n"],
        "acquire": ["corpora"],
    }


def test_a_part_that_was_refused_is_not_in_the_training(begun: Path, tmp_path: Path) -> None:
    """Also where a later part, which has joined, was compared with it."""
    new_part(tmp_path, 1)
    second = new_part(tmp_path, 2, known=["1"])
    lineage = lineage_of(client([second]), begun, tmp_path, [])
    assert keys(lineage) == {
        "pack": ["p", "p2"],
        "clean": ["c", "c2"],
        "hold_out": ["h"],
        "normalize": ["n", "n2"],
        "acquire": ["corpora"],  # neither a1 nor a2, which has the files of a1
        "new_texts": ["t2"],
        "new_documents": ["d2"],
        "new_files": ["f2"],
    }
    packs = lineage.of("pack")
    first_state = Refreshed(acquired="a1", run="r", begun="corpora", packed="p1", beside=("p",))
    second_state = Refreshed(
        acquired="a2", run="r", begun="corpora", packed="p2", beside=("p", "p1")
    )
    assert not first_state.stands(packs)
    assert not second_state.stands(packs)
    both = {*packs, "p1"}
    assert first_state.stands(both)
    assert second_state.stands(both)
    empty = Refreshed(acquired="a3", run="r", begun="corpora", beside=("p", "p2"))
    assert empty.stands(packs)


def test_a_request_that_joins_while_one_looks_is_seen(begun: Path, tmp_path: Path) -> None:
    """The trainer journals it after the journal was read, and removes it before requests are."""
    first = new_part(tmp_path, 1)
    lineage = lineage_of(client(), begun, tmp_path, [request(first)])
    assert [*lineage.of("pack")] == ["p", "p1"]
    again = lineage_of(client([first], [request(first)]), begun, tmp_path, [request(first)])
    assert keys(again) == keys(lineage)


@pytest.mark.parametrize(
    "lost", ["normalize/n", "hold_out/h", "clean/c", "clean/c1", "normalize/n1"]
)
def test_texts_that_are_gone_are_no_new_texts(begun: Path, tmp_path: Path, lost: str) -> None:
    first = new_part(tmp_path, 1)
    shutil.rmtree(tmp_path / lost)
    with pytest.raises(DataError, match="not in this store any more"):
        lineage_of(client([first]), begun, tmp_path, [])


def test_data_without_a_stage_are_named_and_lost_ones_refused(begun: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "shards").mkdir(parents=True)
    lineage = lineage_of(client([own]), begun, tmp_path, [])
    assert lineage.unknown == (own,)
    with pytest.raises(DataError, match="data of this training are gone"):
        lineage_of(client([tmp_path / "pack" / "gone"]), begun, tmp_path, [])
