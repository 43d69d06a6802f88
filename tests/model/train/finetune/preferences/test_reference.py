"""The reference is asked once: kept by content, checked when read, taken up after a kill."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.train.distributed.signals import StopFlag
from model.train.finetune.data import RowLayout
from model.train.finetune.preferences import reference as kept
from model.train.finetune.preferences.batches import documents_of
from model.train.finetune.preferences.prepare import PreferencePairs
from model.train.finetune.preferences.reference import (
    ReferenceStore,
    StoppedBeforeTraining,
    compute_reference,
)
from model.train.run.folder import METRICS_FILE
from tests.model.train.finetune.preferences import jobs
from tests.tiny_chat import write_model


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("policy"))


@pytest.fixture(autouse=True)
def small_parts(in_this_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "PAIRS_IN_PART", 5)


LAYOUT = RowLayout(packed=True, micro_batch_size=2, row_tokens=60, padding_id=0)


class Alone:
    """One rank."""

    rank, world_size = 0, 1

    def gather(self, value: Any) -> list[Any]:
        return [value]


def some_pairs(count: int = 13) -> PreferencePairs:
    rng = np.random.default_rng(3)
    parts = [rng.integers(1, 50, size=rng.integers(1, 9)) for _ in range(3 * count)]
    return PreferencePairs(
        ids=np.concatenate(parts).astype(np.int32),
        starts=np.cumsum([0, *map(len, parts)], dtype=np.int64),
        names=["a"],
        name=np.zeros(count, np.int64),
        digests=np.arange(count, dtype=np.uint64),
        num_train=count - 2,
    )


class Counting:
    """A reference by which each target token t has log-probability -t; counts its calls."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.calls, self.fail_after = 0, fail_after

    def __call__(self, rows: Any) -> torch.Tensor:
        if self.calls == self.fail_after:
            raise KeyboardInterrupt
        self.calls += 1
        return -rows["labels"].flatten()[rows["target_places"]].float()


def store_in(folder: Path, pairs: PreferencePairs, model: Path, **other: Any) -> ReferenceStore:
    given = {"model": model, "dtype": torch.float32, "device": torch.device("cpu"), **other}
    return ReferenceStore.of(folder, pairs, **given)


def test_each_token_has_its_own_value_in_the_order_of_the_pairs(
    policy: Path, tmp_path: Path
) -> None:
    pairs = some_pairs()
    found = compute_reference(store_in(tmp_path, pairs, policy), Alone(), Counting(), LAYOUT)
    for numbers in ([], [0], [12, 3, 7], [*range(13)]):
        wanted = [token for n in numbers for answer in pairs[n][1:] for token in answer]
        assert found.of_pairs(numbers).tolist() == [-float(token) for token in wanted]


def test_nothing_is_computed_twice_and_a_kill_costs_one_part(policy: Path, tmp_path: Path) -> None:
    pairs = some_pairs()
    whole = Counting()
    compute_reference(store_in(tmp_path / "a", pairs, policy), Alone(), whole, LAYOUT)
    killed, store = Counting(fail_after=whole.calls - 1), store_in(tmp_path / "b", pairs, policy)
    with pytest.raises(KeyboardInterrupt):
        compute_reference(store, Alone(), killed, LAYOUT)
    assert store.read() is None
    rest, again = Counting(), Counting()
    compute_reference(store, Alone(), rest, LAYOUT)
    assert 0 < rest.calls < whole.calls
    compute_reference(store, Alone(), again, LAYOUT)
    assert again.calls == 0
    names = {path.name for path in store.folder.iterdir()}
    other = tmp_path / "a" / store.folder.name
    assert names == {path.name for path in other.iterdir()}
    assert all((store.folder / n).read_bytes() == (other / n).read_bytes() for n in names)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"),
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_part_alone_is_computed_again(
    policy: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    pairs, counting = some_pairs(), Counting()
    store = store_in(tmp_path, pairs, policy)
    before = compute_reference(store, Alone(), counting, LAYOUT)
    damage(store.folder / "part-00001.npy")
    again = Counting()
    after = compute_reference(store, Alone(), again, LAYOUT)
    assert 0 < again.calls < counting.calls
    assert np.array_equal(before.values, after.values)


def test_a_list_of_checksums_that_cannot_be_read_costs_no_pass(
    policy: Path, tmp_path: Path
) -> None:
    store = store_in(tmp_path, some_pairs(), policy)
    compute_reference(store, Alone(), Counting(), LAYOUT)
    for content in ("", "[]", "{}", '{"parts": 3}'):
        (store.folder / "reference.json").write_text(content)
        again = Counting()
        compute_reference(store, Alone(), again, LAYOUT)
        assert again.calls == 0
        assert store.read() is not None


def test_the_key_is_all_that_the_numbers_depend_on(policy: Path, tmp_path: Path) -> None:
    pairs = some_pairs()
    other_model = write_model(tmp_path / "other", seed=1)
    other_ids = replace(pairs, ids=pairs.ids + np.int32(pairs.ids == 7))
    folders = [
        store_in(tmp_path, pairs, policy).folder,
        store_in(tmp_path, pairs, other_model).folder,
        store_in(tmp_path, other_ids, policy).folder,
        store_in(tmp_path, pairs, policy, dtype=torch.bfloat16).folder,
    ]
    assert len(set(folders)) == 4
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in policy.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    assert store_in(tmp_path, pairs, copied).folder == folders[0]


def test_being_asked_to_stop_keeps_what_is_there(policy: Path, tmp_path: Path) -> None:
    asked = iter([False, True])
    store, counting = store_in(tmp_path, some_pairs(), policy), Counting()
    with pytest.raises(StoppedBeforeTraining):
        compute_reference(store, Alone(), counting, LAYOUT, stop=lambda: next(asked))
    assert store.read_part(0) is not None
    assert store.read_part(1) is None


def test_padded_and_packed_rows_ask_for_the_same_targets() -> None:
    pairs = some_pairs()
    documents = [d for n in (4, 1) for d in documents_of(pairs, n)]
    found = [
        Counting()(replace(LAYOUT, packed=packed).batch(documents)).tolist()
        for packed in (True, False)
    ]
    assert found[0] == found[1]


def test_another_beta_and_learning_rate_does_not_ask_the_reference_again(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = kept.ReferenceStore.write_part
    monkeypatch.setattr(
        kept.ReferenceStore,
        "write_part",
        lambda self, part, values: asked.append(part) or original(self, part, values),
    )
    place = tmp_path / "cache"
    first = jobs.make_job(policy, tmp_path / "first", reference=place)
    assert jobs.run(first) == 0
    assert asked == [0, 1, 2]
    second = jobs.make_job(
        policy, tmp_path / "second", reference=place, beta=0.5, learning_rate=1e-4
    )
    forwards: list[int] = []

    def watch(trainer: Any, method: Any) -> None:
        """From here on, before the first step, the model has not been called."""
        forwards.append(calls["n"])

    calls = {"n": 0}
    original_forward = kept.compute_reference

    def counted(store: Any, ranks: Any, log_probs: Any, layout: Any, **rest: Any) -> Any:
        def noted(rows: Any) -> torch.Tensor:
            calls["n"] += 1
            return log_probs(rows)  # type: ignore[no-any-return]

        return original_forward(store, ranks, noted, layout, **rest)

    monkeypatch.setattr("model.train.finetune.preferences.method.compute_reference", counted)
    assert jobs.run(second, watch) == 0
    assert asked == [0, 1, 2]
    assert forwards == [0]
    lines = (tmp_path / "second" / METRICS_FILE).read_text().splitlines()
    assert json.loads(lines[0])["metrics"]["train/reward_margin"] == pytest.approx(0, abs=1e-5)


def test_sigterm_in_the_middle_of_the_reference_is_a_stop(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StopFlag, "__init__", lambda self: setattr(self, "requested", True))
    job = jobs.make_job(policy, tmp_path / "run")
    assert jobs.run(job) == 143
    assert not (tmp_path / "run" / "model").exists()
