"""Pairs of a job: the ratio holds for those that are trained on, and every other one is counted."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from common.files import read_json_lines
from corpus.chats.reading import read_samples
from corpus.chats.rows import SkippedRow
from model.train.finetune.build import load_tokenizer
from model.train.finetune.config import DpoJob
from model.train.finetune.preferences import prepare
from model.train.finetune.preferences.prepare import PreferencePairs, prepare_pairs
from model.train.run.folder import LEFT_OUT_FILE, MIXTURE_FILE, PREPARED_FILE
from tests.model.train.finetune.preferences.jobs import make_job
from tests.tiny_chat import pairs, write_model


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def tokenizer(policy: Path) -> Any:
    return load_tokenizer(str(policy))


def prepared(job: DpoJob, tokenizer: Any) -> tuple[PreferencePairs, dict[str, Any]]:
    found = prepare_pairs(job, tokenizer)
    return found, json.loads((Path(job.output) / PREPARED_FILE).read_text())


def rows_of(chinese: int, english: int) -> list[dict[str, Any]]:
    rows = pairs(chinese + english)
    for row in rows[chinese:]:
        row.update(language="en", set="english")
    return rows


def check_counts(counts: dict[str, Any], lines: int) -> None:
    """Every candidate is in one column."""
    for of_set in counts["sets"].values():
        kept = of_set["trained_on"] + of_set["held_out"] + of_set["not_drawn"]
        assert of_set["drawn"] == kept + sum(of_set["left_out"].values())
        assert sum(of_set["languages"].values()) == of_set["trained_on"]
    for name in ("drawn", "trained_on", "held_out", "not_drawn"):
        assert counts[name] == sum(of_set[name] for of_set in counts["sets"].values())
    assert counts["drawn"] == lines


def test_the_ratio_holds_for_what_is_trained_on(
    policy: Path, tokenizer: Any, tmp_path: Path
) -> None:
    """Whatever is removed, for whatever reason, is removed before the draw."""
    rows = rows_of(21, 6)
    rows[0]["prompt"][0]["content"] = "长" * 200
    rows[1]["chosen"][0]["content"] = "a" * 300
    rows[2]["rejected"][0]["content"] = " "
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[4] = rows[5]
    rows.append({**rows[6], "chosen": rows[6]["rejected"], "rejected": rows[6]["chosen"]})
    rows[22]["prompt"][0]["content"] = "x" * 300
    found, counts = prepared(make_job(policy, tmp_path, rows, chinese_per_english=4), tokenizer)
    # 21 Chinese pairs, of which 6 say nothing; 6 English ones, of which 1 says nothing.
    assert counts["sets"]["sums"]["languages"] == {"zh": 12}
    assert counts["sets"]["english"]["languages"] == {"en": 3}
    assert counts["sets"]["sums"]["left_out"] == {
        "the question alone fills max_length": 1,
        "an answer ends beyond max_length": 1,
        "empty answer": 1,
        "chosen and rejected have the same tokens": 1,
        "the same pair as an earlier one": 1,
        "another row prefers the other answer": 2,
    }
    check_counts(counts, len(rows))
    assert (len(found), found.num_train) == (15, 15)
    mixture = list(read_json_lines(tmp_path / MIXTURE_FILE))
    assert Counter(row["language"] for row in mixture) == {"zh": 12, "en": 3}
    assert {row["split"] for row in mixture} == {"train"}
    left_out = list(read_json_lines(tmp_path / LEFT_OUT_FILE))
    assert [row["line"] for row in left_out] == [1, 2, 3, 4, 6, 7, 23, 28]


@given(
    chinese=st.integers(0, 30),
    english=st.integers(0, 9),
    too_long=st.sets(st.integers(0, 38)),
    limit=st.none() | st.integers(5, 30),
)
@settings(max_examples=25, deadline=None)
def test_four_to_one_whatever_is_left_out(
    policy: Path,
    tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
    chinese: int,
    english: int,
    too_long: set[int],
    limit: int | None,
) -> None:
    rows = rows_of(chinese, english)
    for n in too_long & {*range(len(rows))}:
        rows[n]["chosen"][0]["content"] = "a" * 300
    usable = Counter(r["language"] for n, r in enumerate(rows) if n not in too_long)
    units = min(usable["en"], usable["zh"] // 4, (limit or 999) // 5)
    job = make_job(policy, tmp_path_factory.mktemp("job"), rows, chinese_per_english=4, limit=limit)
    if not units:
        with pytest.raises(DataError, match="4:1"):
            prepare_pairs(job, tokenizer)
        return
    _, counts = prepared(job, tokenizer)
    check_counts(counts, len(rows))
    assert counts["trained_on"] == 5 * units
    languages = Counter[str]()
    for of_set in counts["sets"].values():
        languages.update(of_set["languages"])
    assert languages == {"zh": 4 * units, "en": units}


def test_held_out_pairs_are_never_trained_on_and_leave_the_ratio_exact(
    policy: Path, tokenizer: Any, tmp_path: Path
) -> None:
    rows = rows_of(400, 110)
    other = [{**row, "chosen": [{"role": "assistant", "content": "another"}]} for row in rows[:9]]
    job = make_job(policy, tmp_path, rows + other, chinese_per_english=4, validation_fraction=0.1)
    found, counts = prepared(job, tokenizer)
    check_counts(counts, len(rows) + len(other))
    assert counts["held_out"] == len(found) - found.num_train > 30
    mixture = list(read_json_lines(tmp_path / MIXTURE_FILE))
    prompts = {
        split: {row["prompt"][0]["content"] for row in mixture if row["split"] == split}
        for split in ("train", "validation")
    }
    assert not prompts["train"] & prompts["validation"]
    trained = Counter(row["language"] for row in mixture if row["split"] == "train")
    assert trained["zh"] == 4 * trained["en"] > 0
    # Another draw holds the same pairs out.
    small = make_job(
        policy,
        tmp_path / "small",
        rows,
        chinese_per_english=4,
        limit=50,
        validation_fraction=0.1,
        seed=9,
    )
    again, _ = prepared(small, tokenizer)
    assert again.num_train == 50
    held_out = {
        row["prompt"][0]["content"]
        for row in read_json_lines(tmp_path / "small" / MIXTURE_FILE)
        if row["split"] == "validation"
    }
    assert held_out == prompts["validation"]


def test_prepared_pairs_are_found_again_and_read_back_equal(
    policy: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(policy, tmp_path)
    first, _ = prepared(job, tokenizer)
    monkeypatch.setattr(prepare, "encode_pair", None)  # whoever encodes again fails
    second, _ = prepared(job, tokenizer)
    assert first.digest() == second.digest()
    for n in range(len(first)):
        assert all((a == b).all() for a, b in zip(first[n], second[n], strict=True))


def test_the_length_only_baseline_is_that_of_the_pairs_trained_on(
    policy: Path, tokenizer: Any, tmp_path: Path
) -> None:
    rows = pairs(10)
    for n, row in enumerate(rows):
        row["chosen"][0]["content"] = "a" * (9 if n < 7 else 3)
        row["rejected"][0]["content"] = "b" * (3 if n < 6 else 9)
    _, counts = prepared(make_job(policy, tmp_path, rows), tokenizer)
    lengths = counts["lengths"]["train"]
    assert lengths["length_accuracy"] == (6 + 0.5) / 10
    assert lengths["chosen_tokens"] == (7 * 9 + 3 * 3) / 10 + 1  # and the end token
    assert counts["lengths"]["validation"] == {}


SHARED_SETS = {
    "llamafactory_dpo_zh": "llamafactory",
    "llamafactory_dpo_en": "llamafactory",
    "medicalgpt_dpo": "medicalgpt",
    "oasst_ranked_zh": "llamafactory",
}


@pytest.mark.slow
@pytest.mark.parametrize("max_length", [700, 3000])
def test_real_pairs_are_whole_and_four_to_one(
    policy: Path, tokenizer: Any, tmp_path: Path, shared: Path, max_length: int
) -> None:
    rows = [
        item.content.columns() | {"set": name, "language": item.language, "place": item.place}
        for name, folder in SHARED_SETS.items()
        for item in read_samples("preferences", shared / "data" / "preference" / folder, name)
        if not isinstance(item, SkippedRow)
    ]
    job = make_job(policy, tmp_path, rows, chinese_per_english=4, max_length=max_length)
    found, counts = prepared(job, tokenizer)
    check_counts(counts, len(rows))
    languages = Counter[str]()
    for of_set in counts["sets"].values():
        languages.update(of_set["languages"])
    assert languages["zh"] == 4 * languages["en"] > 0
    # Two sets share rows, which are trained on once.
    assert counts["sets"]["medicalgpt_dpo"]["left_out"]["the same pair as an earlier one"] > 0
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for n in range(len(found)):
        prompt, chosen, rejected = found[n]
        assert chosen[-1] == rejected[-1] == end
        assert len(prompt) + max(len(chosen), len(rejected)) <= max_length
        assert chosen.tolist() != rejected.tolist()


@pytest.mark.slow
def test_many_pairs_are_encoded_by_processes_to_the_same_bytes(
    policy: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(700, 200)
    one, _ = prepared(make_job(policy, tmp_path / "one", rows), tokenizer)
    monkeypatch.setattr(prepare, "MANY_PAIRS", 50)
    monkeypatch.setattr(prepare, "PER_TASK", 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    many, _ = prepared(make_job(policy, tmp_path / "many", rows), tokenizer)
    assert one.digest() == many.digest()
    for name in (MIXTURE_FILE, PREPARED_FILE, LEFT_OUT_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
