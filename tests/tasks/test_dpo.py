"""The stage `dpo`: exactly four Chinese pairs for an English one, and a run to the end."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import validate
from common.errors import ConfigError, DataError
from common.files import read_json_lines
from model.train.run.folder import MIXTURE_FILE, MODEL_FOLDER
from tasks.core.stage import StageResult
from tasks.dpo import DpoConfig, count_pairs, dpo, write_candidates
from tests.tasks.running import data_sets, result_of, run_stage, stage_run
from tests.tiny_chat import write_model

SMALL = DpoConfig(global_batch_size=8, micro_batch_size=4, log_interval=1, learning_rate=1e-3)


def test_contradictions_are_refused_before_anything_starts() -> None:
    validate(SMALL, "dpo")
    for change, message in [
        ({"beta": 0.0}, "beta"),
        ({"chinese_per_english": -1}, "chinese_per_english"),
        ({"limit": 4}, "limit = 4"),
        ({"micro_batch_size": 3}, "not a multiple"),
        ({"sets": ("ultrafeedback",)}, "ultrafeedback_chinese"),
    ]:
        with pytest.raises(ConfigError, match=message):
            validate(replace(SMALL, **change), "dpo")  # type: ignore[arg-type]


def write_sets(folder: Path, *, english: int = 5) -> StageResult:
    """21 Chinese pairs, one of them without a difference, and some English ones."""
    rows = [
        {"instruction": f"问{n}", "chosen_response": f"好{n}", "rejected_response": "坏"}
        for n in range(20)
    ]
    rows.append({"instruction": "问", "chosen_response": "同", "rejected_response": "同"})
    path = folder / "ultrafeedback_chinese" / "pairs.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    dialogues = [
        {
            key: [{"role": "user", "content": f"ask {n}"}, {"role": "assistant", "content": text}]
            for key, text in (("chosen", f"good {n}"), ("rejected", "bad"))
        }
        for n in range(english)
    ]
    path = folder / "ultrafeedback_english" / "pairs.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(json.dumps(row) for row in dialogues))
    return StageResult(stage="acquire", key="d", folder=folder, manifest={})


def test_every_usable_pair_is_a_candidate_with_its_place(tmp_path: Path) -> None:
    data = write_sets(tmp_path / "data", english=3)
    run = stage_run(tmp_path / "run")
    assert write_candidates(run, SMALL, data_sets(data)) == 23
    rows = list(read_json_lines(run.scratch / "candidates.jsonl"))
    assert Counter(row["language"] for row in rows) == {"zh": 20, "en": 3}
    assert len({row["place"] for row in rows}) == 23
    assert rows[-1]["place"] == "ultrafeedback_english/pairs.jsonl#3"
    assert run.counts["skipped.ultrafeedback_chinese"] == 1
    aside = [path.name for path in (run.folder / "quarantine").iterdir()]
    assert aside == ["ultrafeedback_chinese.jsonl"]
    again = stage_run(tmp_path / "again")
    write_candidates(again, SMALL, data_sets(data))
    written = [(r.scratch / "candidates.jsonl").read_bytes() for r in (run, again)]
    assert written[0] == written[1]


def test_ties_and_reversed_ratings_are_counted_by_reason(tmp_path: Path) -> None:
    data = write_sets(tmp_path / "data")
    path = data.folder / "ultrafeedback_chinese" / "pairs.jsonl"
    rated = [
        {"instruction": f"q{n}", "chosen_response": "a", "rejected_response": "b", **ratings}
        for n, ratings in enumerate(
            [
                {"chosen-rating": 4.0, "rejected-rating": 4},
                {"score_chosen": 3, "score_rejected": 8.5},
                {"chosen_rating": 5, "rejected_rating": 1},
                {"chosen_rating": None, "rejected_rating": None},
                {"chosen_rating": "5", "rejected_rating": "5"},
            ]
        )
    ]
    path.write_text("\n".join([path.read_text(), *map(json.dumps, rated)]))
    run = stage_run(tmp_path / "run")
    assert write_candidates(run, SMALL, data_sets(data)) == 20 + 3 + 5
    reasons = run.notes["mixture"][0]["reasons"]
    assert "tie: both answers are rated alike: 1" in reasons
    assert "the rejected answer is rated higher: 1" in reasons


def test_what_became_of_every_pair_is_in_the_table(tmp_path: Path) -> None:
    data = write_sets(tmp_path / "data")
    run = stage_run(tmp_path / "run")
    write_candidates(run, SMALL, data_sets(data))
    of_set = {"drawn": 20, "trained_on": 12, "held_out": 1, "not_drawn": 4, "cut": 2}
    prepared = {
        "trained_on": 15,
        "held_out": 1,
        "not_drawn": 6,
        "left_out": 3,
        "drawn": 25,
        "cut": 2,
        "packed": True,
        "real_tokens": 0.99,
        "lengths": {"train": {"length_accuracy": 0.6, "chosen_tokens": 5.0}, "validation": {}},
        "sets": {
            "ultrafeedback_chinese": {
                **of_set,
                "languages": {"zh": 12},
                "left_out": {"an answer ends beyond max_length": 3},
            }
        },
    }
    count_pairs(run, "pairs", prepared)
    assert (run.counts["pairs"], run.counts["chinese"], run.counts["english"]) == (15, 12, 0)
    assert run.counts["length_accuracy"] == 0.6
    assert run.counts["left_out.ultrafeedback_chinese"] == 3
    (row, english) = run.notes["mixture"]
    assert row["left out"] == "an answer ends beyond max_length: 3"
    assert (row["held out"], row["not drawn (ratio, limit)"], row["trained on"]) == (1, 4, 12)
    assert row["without their oldest turns"] == 2
    assert english["trained on"] == 0


def test_bad_rows_are_counted_apart_from_sound_ones_that_teach_nothing(tmp_path: Path) -> None:
    data = write_sets(tmp_path / "data")
    path = data.folder / "ultrafeedback_chinese" / "pairs.jsonl"
    bad = '{"instruction": "q", "chosen_response": NaN, "rejected_response": "t"}'
    path.write_text(f"{path.read_text()}\n{bad}\n")
    run = stage_run(tmp_path / "run")
    write_candidates(run, SMALL, data_sets(data))
    assert (run.counts["bad_rows"], run.counts["skipped.ultrafeedback_chinese"]) == (1, 2)
    (row, _) = run.notes["mixture"]
    assert (row["set"], row["bad rows"]) == ("ultrafeedback_chinese", 1)
    assert "`chosen_response` is NaN: 1" in row["reasons"]


def test_a_set_that_was_not_acquired_is_named(tmp_path: Path) -> None:
    data = write_sets(tmp_path / "data")
    config = replace(SMALL, sets=("ultrafeedback_chinese", "medicalgpt_dpo"))
    with pytest.raises(DataError, match="medicalgpt_dpo"):
        write_candidates(stage_run(tmp_path / "run"), config, data_sets(data))


@pytest.mark.slow
def test_stage_aligns_the_policy(tmp_path: Path) -> None:
    policy = stage_run(tmp_path / "policy")
    write_model(policy.folder / MODEL_FOLDER)
    data = write_sets(tmp_path / "data")
    inputs = {"policy": result_of(policy), "data": data_sets(data)}
    run = run_stage(dpo, tmp_path / "dpo", SMALL, **inputs)
    assert (run.folder / MODEL_FOLDER / "model.safetensors").exists()
    assert (run.counts["pairs"], run.counts["chinese"], run.counts["english"]) == (25, 20, 5)
    assert run.counts["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert run.counts["steps"] == SMALL.num_steps(25)
    assert 0 < run.counts["length_accuracy"] <= 1
    lines = list(read_json_lines(run.folder / MIXTURE_FILE))
    assert Counter(line["language"] for line in lines) == {"zh": 20, "en": 5}
