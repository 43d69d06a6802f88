"""The stage `dpo`: exactly four Chinese pairs for an English one, and a run to the end."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import validate
from common.errors import ConfigError, DataError
from common.files import read_json_lines
from model.train.run.folder import MODEL_FOLDER
from tasks.core.stage import StageResult
from tasks.dpo import DpoConfig, dpo, write_pairs
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


def test_pairs_are_drawn_at_the_ratio_and_counted(tmp_path: Path) -> None:
    data = write_sets(tmp_path / "data", english=3)
    run = stage_run(tmp_path / "run")
    assert write_pairs(run, SMALL, data_sets(data)) == 15
    rows = list(read_json_lines(run.folder / "mixture.jsonl"))
    assert Counter(row["language"] for row in rows) == {"zh": 12, "en": 3}
    assert all(row["chosen"][0]["content"] != row["rejected"][0]["content"] for row in rows)
    assert len({row["prompt"][0]["content"] for row in rows}) == 15
    assert run.counts["skipped.ultrafeedback_chinese"] == 1
    aside = [path.name for path in (run.folder / "quarantine").iterdir()]
    assert aside == ["ultrafeedback_chinese.jsonl"]
    again = stage_run(tmp_path / "again")
    write_pairs(again, SMALL, data_sets(data))
    written = [(r.folder / "mixture.jsonl").read_bytes() for r in (run, again)]
    assert written[0] == written[1]


def test_bad_rows_are_counted_apart_from_sound_ones_that_teach_nothing(tmp_path: Path) -> None:
    data = write_sets(tmp_path / "data")
    path = data.folder / "ultrafeedback_chinese" / "pairs.jsonl"
    bad = '{"instruction": "q", "chosen_response": NaN, "rejected_response": "t"}'
    path.write_text(f"{path.read_text()}\n{bad}\n")
    run = stage_run(tmp_path / "run")
    write_pairs(run, SMALL, data_sets(data))
    assert (run.counts["bad_rows"], run.counts["skipped.ultrafeedback_chinese"]) == (1, 2)
    (row, _) = run.notes["mixture"]
    assert (row["set"], row["bad rows"]) == ("ultrafeedback_chinese", 1)
    assert "`chosen_response` is NaN: 1" in row["reasons"]


def test_a_set_that_was_not_acquired_is_named(tmp_path: Path) -> None:
    data = write_sets(tmp_path / "data")
    config = replace(SMALL, sets=("ultrafeedback_chinese", "medicalgpt_dpo"))
    with pytest.raises(DataError, match="medicalgpt_dpo"):
        write_pairs(stage_run(tmp_path / "run"), config, data_sets(data))


@pytest.mark.slow
def test_stage_aligns_the_policy(tmp_path: Path) -> None:
    policy = stage_run(tmp_path / "policy")
    write_model(policy.folder / MODEL_FOLDER)
    data = write_sets(tmp_path / "data")
    run = run_stage(dpo, tmp_path / "dpo", SMALL, policy=result_of(policy), data=data_sets(data))
    assert (run.folder / MODEL_FOLDER / "model.safetensors").exists()
    assert run.counts["pairs"] == 25
    assert run.counts["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert run.counts["steps"] == SMALL.num_steps(25, 1)
