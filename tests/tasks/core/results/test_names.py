"""A stage by the words that a person has for it."""

from pathlib import Path

import pytest

from common.errors import ConfigError, DataError
from tasks.checkpoint_scores.run import PretrainingRun
from tasks.core.results.entries import entries
from tasks.core.results.names import find_stage
from tasks.core.store import find_pretraining, named_packed
from tasks.review import cleaned_stage
from tests.tasks.core.results.stages import finished, interrupted, key, pipeline


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    pipeline(store, 0x100, name="mine")
    pipeline(store, 0x200, name="smoke")
    return store


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("newest", 0x201),
        ("pack", 0x201),
        ("newest:pack", 0x201),
        ("pack:newest", 0x201),
        ("pack/newest", 0x201),
        (key(0x101), 0x101),
        (f"pack/{key(0x101)}", 0x101),
        ("0101", 0x101),
        ("pack/0101", 0x101),
        ("mine", 0x101),
        ("mine:pack", 0x101),
        ("smoke", 0x201),
    ],
)
def test_words_that_mean_packed_data(store: Path, words: str, number: int) -> None:
    assert find_stage(store, words, ("pack",)).key == key(number)
    assert named_packed(store, words) == store / "pack" / key(number)


def test_a_configurations_name_means_what_was_made_from_its_base_too(tmp_path: Path) -> None:
    pipeline(tmp_path, 0x100, name="mine")
    pipeline(tmp_path, 0x200, name="smoke")
    for report in tmp_path.glob("report/*"):
        (report / "manifest.json").unlink()  # not finished yet
    assert find_stage(tmp_path, "mine", ("sft",)).key == key(0x103)
    assert find_stage(tmp_path, "smoke:sft", ("pretrain", "sft")).key == key(0x203)
    assert find_stage(tmp_path, "mine", ("acquire",)).key == key(0x100)


@pytest.mark.parametrize("place", ["pack/{}", "pack/{}.partial"])
def test_a_path_means_its_stage(store: Path, place: str) -> None:
    path = store / place.format(key(0x101))
    assert find_stage(store, str(path), ("pack",)).key == key(0x101)


def test_labels_with_and_without_their_stage(store: Path) -> None:
    assert find_stage(store, "balanced", ("sft", "pretrain")).key == key(0x203)
    assert find_stage(store, "sft/balanced", ("sft",)).key == key(0x203)
    with pytest.raises(ConfigError, match="there is no pretrain 'balanced'"):
        find_stage(store, "balanced", ("pretrain",))


def test_words_that_mean_nothing_say_what_there_is(store: Path) -> None:
    with pytest.raises(ConfigError, match="which has pretrain/smoke, pretrain/mine"):
        find_stage(store, "nothing", ("pretrain",))
    with pytest.raises(ConfigError, match="holds no finished one"):
        find_stage(store, "newest", ("dpo",))
    finished(store, "pack", 0x1010)  # its key begins with 1010, and so on
    finished(store, "pack", 0x1011)
    with pytest.raises(ConfigError, match="there is no pack '101'"):
        find_stage(store, "101", ("pack",))
    beginning = key(0x1010)[:4]
    assert find_stage(store, beginning, ("pack",)).key == key(0x1010)
    (store / "pack" / key(0x1010)).rename(store / "pack" / f"{beginning}{'0' * 12}")
    finished(store, "pack", 0x1010)
    text = (store / "pack" / f"{beginning}{'0' * 12}" / "manifest.json").read_text()
    (store / "pack" / f"{beginning}{'0' * 12}" / "manifest.json").write_text(
        text.replace(key(0x1010), f"{beginning}{'0' * 12}")
    )
    with pytest.raises(ConfigError, match="beginning of several keys"):
        find_stage(store, beginning, ("pack",))


def test_unfinished_ones_are_taken_where_they_are_asked_for(store: Path) -> None:
    folder = interrupted(store, "pretrain", 0x300, label="smoke")
    assert find_stage(store, "newest", ("pretrain",)).key == key(0x202)
    assert find_stage(store, "newest", ("pretrain",), unfinished=True).key == key(0x300)
    for words in ("newest", "newest:pretrain", "smoke", "0300", str(folder)):
        assert find_pretraining(store, words) == (folder, False)
        assert PretrainingRun.find(store, words).folder == folder
    assert PretrainingRun.find(store, "mine").key == key(0x102)
    with pytest.raises(DataError, match="is finished"):
        find_pretraining(store, key(0x202))
    with pytest.raises(DataError, match=f"unfinished in .*: {key(0x300)}"):
        find_pretraining(store, "nothing")


def test_a_cleaning_is_named_in_the_same_words(store: Path) -> None:
    finished(store, "clean", 0x400, label="old")
    finished(store, "clean", 0x500)
    assert cleaned_stage(store).key == cleaned_stage(store, "newest").key == key(0x500)
    assert cleaned_stage(store, "old").key == cleaned_stage(store, "0400").key == key(0x400)
    with pytest.raises(ConfigError, match="no finished cleaning 'nothing'"):
        cleaned_stage(store, "nothing")


def test_damaged_and_foreign_folders_are_no_stages(store: Path) -> None:
    before = {entry.key for entry in entries(store)}
    (store / "pack" / "broken").mkdir()
    (store / "pack" / "broken" / "manifest.json").write_text("{")
    (store / "pack" / f"{key(1)}.old.partial").mkdir()
    (store / "mlflow" / "artifacts").mkdir(parents=True)
    assert {entry.key for entry in entries(store)} == before
