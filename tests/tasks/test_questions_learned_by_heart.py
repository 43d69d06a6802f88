"""A model that was trained on questions of a benchmark: its adjusted scores say so, for real.

24 of 48 questions of C-Eval with their right answers, 20 in each of two SFT sets
    └─▶ SFT ─▶ evaluation ─▶ adjusted scores ─▶ report
"""

import csv
import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from prefect import flow

from common.files import read_json_lines
from common.paths import RECIPES
from corpus.benchmarks.questions import LETTERS
from corpus.decontaminate import ContaminationConfig
from flows.config import PipelineConfig
from flows.graph import Pipeline
from tasks.core.stage import Context, StageResult
from tasks.evaluate import EvaluateConfig
from tasks.sft import SftConfig
from tests.tiny_chat import byte_tokenizer, save_tiny_model

ASKED, PLANTED, IN_A_SET = 48, 24, 20
"""Questions of the benchmark; those that are trained on; those of them in each of the two sets."""
OTHERS = 24
"""Questions of each set that no benchmark asks."""
FIRST = 10
"""Number of the first planted question in its file: planted ones are no prefix of it."""
LM_EVAL = "以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n"
"""System turn that lm-eval puts before a question of the subject; Alpaca has none, so there
it begins the question, and what was learned is asked a little otherwise."""


def questions(count: int, seed: int) -> list[dict[str, Any]]:
    """Different questions of characters drawn at random, so that nothing but memory helps."""
    rng = Random(seed)
    common = [chr(code) for code in range(0x4E00, 0x5E00)]
    return [
        {
            "stem": "".join(rng.sample(common, 14)) + "？",
            "options": ["".join(rng.sample(common, 3)) for _ in LETTERS],
            "answer": LETTERS[number % 4],
        }
        for number in range(count)
    ]


BENCHMARK = questions(ASKED, 1)
LEARNED = BENCHMARK[FIRST : FIRST + PLANTED]


def write_ceval(folder: Path) -> None:
    """The questions as C-Eval's files; the worked examples are others."""
    for split, rows in (("val", BENCHMARK), ("dev", questions(5, 2))):
        path = folder / split / f"law_{split}.csv"
        path.parent.mkdir(parents=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "question", *LETTERS, "answer"])
            writer.writerows(
                [n, row["stem"], *row["options"], row["answer"]] for n, row in enumerate(rows)
            )


def write_sets(folder: Path) -> dict[str, str]:
    """Planted questions among others: as Wanjuan has them, and in Alpaca nearly as lm-eval does."""
    exams = [
        {
            "q_type": "单选题",
            "q_main": row["stem"],
            **{f"option_{x}": o for x, o in zip("abcd", row["options"], strict=True)},
            "std_ans": row["answer"],
            "answer_detail": "",
        }
        for row in [*LEARNED[:IN_A_SET], *questions(OTHERS, 3)]
    ]
    asked = [
        {"instruction": LM_EVAL + listed(row) + "\n答案：", "input": "", "output": row["answer"]}
        for row in [*LEARNED[-IN_A_SET:], *questions(OTHERS, 4)]
    ]
    wanjuan, alpaca = folder / "wanjuan" / "part.jsonl", folder / "alpaca" / "zh-data.json"
    for path in (wanjuan, alpaca):
        path.parent.mkdir(parents=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in exams)
    wanjuan.write_text("\n".join(lines), encoding="utf-8")
    alpaca.write_text(json.dumps(asked, ensure_ascii=False), encoding="utf-8")
    return {"wanjuan_mcq": str(wanjuan.parent), "alpaca_zh": str(alpaca.parent)}


def listed(row: dict[str, Any]) -> str:
    """Stem and options with their letters."""
    options = (f"{x}. {o}" for x, o in zip(LETTERS, row["options"], strict=True))
    return "\n".join((row["stem"], *options))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineConfig:
    """SFT on both sets from a tiny model of random weights, and C-Eval."""
    recipes = tmp_path / "recipes"
    (recipes / "mixtures").mkdir(parents=True)
    for kind in RECIPES.iterdir():
        if kind.name != "mixtures":
            (recipes / kind.name).symlink_to(kind)
    (recipes / "mixtures" / "by-heart.yaml").write_text(
        "{title: By heart, sets: {wanjuan_mcq: {styles: [letter]}, alpaca_zh: {}}}"
    )
    monkeypatch.setattr("common.recipes.RECIPES", recipes)
    model = save_tiny_model(
        tmp_path / "model",
        byte_tokenizer(),
        seed=5,
        vocab_size=264,
        hidden_size=64,
        expert_intermediate_size=64,
        max_position_embeddings=1024,
        initializer_range=0.09,
    )
    write_ceval(tmp_path / "ceval")
    return PipelineConfig(
        name="by-heart",
        sft_sets=write_sets(tmp_path / "sets"),
        benchmarks={"ceval": str(tmp_path / "ceval")},
        mixtures=["by-heart"],
        sft=SftConfig(
            base_model=str(model),
            epochs=40,
            global_batch_size=8,
            micro_batch_size=8,
            learning_rate=3e-3,
            warmup_fraction=0.05,
            betas=(0.9, 0.95),
            max_length=512,
            contamination=ContaminationConfig(action="flag"),
        ),
        evaluate=EvaluateConfig(
            num_fewshot=0, further_num_fewshot=(1,), modes=["likelihood", "answer_first"]
        ),
    )


def adjusted(config: PipelineConfig, context: Context) -> tuple[Pipeline, StageResult]:
    """Run the pipeline up to its report; the adjusted scores of its one model."""
    pipeline = Pipeline(config, context)

    @flow
    def run() -> StageResult:
        pipeline.prepare("report")
        return pipeline.report

    run()
    (result,) = pipeline.adjusted.values()
    return pipeline, result


def rows_of(result: StageResult) -> dict[tuple[str, int], dict[str, Any]]:
    """Form of the answers and number of worked examples -> their row."""
    rows = json.loads((result.folder / "adjusted.json").read_text())["rows"]
    return {(row["form"], row["num_fewshot"]): row for row in rows}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_questions_that_were_trained_on_are_answered_better_and_no_others(
    config: PipelineConfig, context: Context
) -> None:
    """Kept, they are the contaminated ones, and known by heart; dropped, there is none."""
    pipeline, result = adjusted(config, context)
    rows = rows_of(result)
    assert rows.keys() == {("likelihood", 0), ("answer_first", 0), ("likelihood", 1)}
    for place, row in rows.items():
        assert row["full"]["num_questions"] == ASKED
        assert row["contaminated"]["num_questions"] == PLANTED
        assert row["clean"]["num_questions"] == ASKED - PLANTED
        assert row["not_checkable"]["num_questions"] == 0
        assert row["sources"] == {f"SFT set {name}": IN_A_SET for name in config.sft_sets}
        assert row["unknown"] == ["what the given model model was trained on"]
        if place[1] == 0:  # asked as they were learned
            assert row["contaminated"]["accuracy"] >= 0.75 > 0.6 > row["clean"]["accuracy"]
            assert row["difference"][1] > 0
    lines = list(read_json_lines(result.folder / "contaminated.jsonl"))
    planted = {f"law/val/{number}" for number in range(FIRST, FIRST + PLANTED)}
    assert {line["question_id"] for line in lines} == planted
    own = {"likelihood": "SFT set alpaca_zh", "answer_first": "SFT set wanjuan_mcq"}
    for form, source in own.items():
        learned = [
            line["right"]
            for line in lines
            if (line["form"], line["num_fewshot"]) == (form, 0) and source in line["sources"]
        ]
        assert len(learned) == IN_A_SET
        assert sum(learned) >= 0.8 * IN_A_SET
    report = (pipeline.report.folder / "report.html").read_text(encoding="utf-8")
    assert f"SFT set alpaca_zh {IN_A_SET}, SFT set wanjuan_mcq {IN_A_SET}" in report

    assert config.sft is not None
    dropping = replace(config.sft, epochs=1, contamination=ContaminationConfig(action="drop"))
    pipeline, result = adjusted(replace(config, sft=dropping), context)
    for row in rows_of(result).values():
        assert row["contaminated"]["num_questions"] == 0
        assert row["contaminated"]["accuracy"] is None and row["difference"] is None
        assert row["clean"]["num_questions"] == ASKED
        assert row["sources"] == {}
    counts = pipeline.tuned["by-heart"].manifest["counts"]
    assert counts["conversations"] == 2 * OTHERS
