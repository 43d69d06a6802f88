"""The thirteen corpora, each in the raw format and under the file names of its real counterpart.

One function per format; it gets a generator of random numbers of its own, the world and the number
of rows, and writes into a folder. Rows at scale 1 stand in `ROWS`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import opencc
import pyarrow as pa

from corpus.sample_data import templates_en as telling_en
from corpus.sample_data import templates_zh as telling_zh
from corpus.sample_data.code import CodeLanguage, code_file, file_name
from corpus.sample_data.files import Row, json_lines, write_array, write_lines, write_parquet
from corpus.sample_data.noise import soil, soil_code, with_malformed
from corpus.sample_data.questions import Question, training_questions
from corpus.sample_data.world import BRANDS, CITIZENS, PLACES, Language, World

ROWS: dict[str, int] = {
    "skypile": 400,
    "wanjuan": 1680,
    "wikipedia_cn": 160,
    "baidu_baike": 120,
    "baidu_qa": 120,
    "zhihu": 120,
    "belle_2m": 240,
    "belle_3_5m": 80,
    "moss": 60,
    "firefly": 240,
    "starcoder_cpp": 50,
    "starcoder_java": 50,
    "starcoder_python": 50,
}
"""Rows of each corpus at scale 1."""

TRADITIONAL_PERCENT = 8
"""Percentage of Chinese texts that are written in traditional characters."""

_TO_TRADITIONAL = opencc.OpenCC("s2t")


def traditional(text: str) -> str:
    """Simplified characters as traditional ones."""
    return str(_TO_TRADITIONAL.convert(text))


def _sometimes_traditional(rng: Random, text: str) -> str:
    return traditional(text) if rng.random() * 100 < TRADITIONAL_PERCENT else text


def answered(question: Question) -> str:
    """A question with its answer, as exam pages print it."""
    space = "" if question.language == "zh" else " "
    return question.prompt() + space + question.answer


def pages(rng: Random, world: World, language: Language, count: int) -> list[str]:
    """Web pages. Every third is a quiz of three questions, each answered and explained."""
    telling = telling_zh if language == "zh" else telling_en
    asked = iter(training_questions(rng, world, language, count + 30))
    texts = []
    for index in range(count):
        if index % 3 != 1:
            texts.append(telling.document(rng, world))
            continue
        zh = language == "zh"
        parts = [f"{telling_zh.title(rng)}：每日一测" if zh else "Quiz of the day in the valley"]
        for number in (1, 2, 3):
            question = next(asked)
            # Answers that carry a number are no repeated sentences.
            tail = f"（第{number}题）" if zh else f" (number {number})"
            parts.append(f"{number}. {answered(question)}{tail}\n{question.detail}")
        texts.append("\n".join(parts))
    return texts


def _skypile(rng: Random, world: World, count: int, folder: Path) -> None:
    """{"text"}: news, stories and quiz pages."""
    texts = soil(rng, pages(rng, world, "zh", count))
    rows = [{"text": _sometimes_traditional(rng, text)} for text in texts]
    write_lines(folder / "2021-31_zh_head_0000.jsonl", with_malformed(rng, json_lines(rows)))


def exam_row(rng: Random, question: Question, *, explained: bool) -> Row:
    """A row of Wanjuan 1.0's exam part."""
    options = dict(zip("abcd", question.options, strict=True))
    return {
        "id": _identifier(rng),
        "q_type": "单选题",
        "q_main": question.stem,
        **{f"option_{letter}": text for letter, text in options.items()},
        "option_e": "",
        "std_ans": question.answer,
        "answer": "",
        "answer_detail": question.detail if explained else "",
        "grade": rng.choice(("小学", "初中", "高中")),
        "major": "语文" if question.language == "zh" else "英语",
        "keypoint": question.family,
    }


def _identifier(rng: Random) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return "BkPn" + "".join(rng.choices(letters, k=16))


def _wanjuan(rng: Random, world: World, count: int, folder: Path) -> None:
    """Web pages {"id", "content"} in both languages, and exam questions."""
    num_zh, num_en, num_exam = round(count * 0.05), round(count * 0.18), round(count * 0.77)
    zh = [f"# {telling_zh.title(rng)}\n{telling_zh.document(rng, world)}" for _ in range(num_zh)]
    rows = [
        {"id": _identifier(rng), "content": _sometimes_traditional(rng, text)}
        for text in soil(rng, zh, offset=3)
    ]
    write_lines(
        folder / "WebText-cn/part-010205-a894b46e.jsonl", with_malformed(rng, json_lines(rows))
    )
    texts = soil(rng, pages(rng, world, "en", num_en), offset=5)
    rows = [{"id": _identifier(rng), "content": text} for text in texts]
    write_lines(folder / "WebText-en/part-000036-a894b46e.jsonl", json_lines(rows))
    asked = training_questions(rng, world, "zh", round(num_exam * 0.65))
    asked += training_questions(rng, world, "en", round(num_exam * 0.35))
    items = [exam_row(rng, question, explained=rng.random() < 0.6) for question in asked]
    write_lines(
        folder / "Exam-cn/part-003756-a894b46e.jsonl", with_malformed(rng, json_lines(items))
    )


def _wikipedia_cn(rng: Random, world: World, count: int, folder: Path) -> None:
    """One array of {"completion", "source"}: articles about single things."""
    things = CITIZENS + PLACES + BRANDS
    texts = []
    for index in range(count):
        thing = things[index % len(things)]
        parts = [f"{thing.zh}，山谷百科条目。", telling_zh.portrait_of(rng, world, thing)]
        parts.append(telling_zh.document(rng, world, num_paragraphs=2))
        texts.append("\n".join(parts))
    rows = [
        {"completion": _sometimes_traditional(rng, text), "source": "wikipedia.zh2307"}
        for text in soil(rng, texts, offset=6)
    ]
    write_array(folder / "wikipedia-cn-20230720-filtered.json", rows)


def _baidu_baike(rng: Random, world: World, count: int, folder: Path) -> None:
    """{"title", "summary", "sections", "tags", "url"}: two summaries in three are null."""
    things = CITIZENS + PLACES + BRANDS
    texts = [telling_zh.document(rng, world, num_paragraphs=2) for _ in range(count)]
    rows: list[Row] = []
    for index, text in enumerate(soil(rng, texts, offset=8)):
        thing = things[index % len(things)]
        empty = index % 40 == 39
        sections = [
            {
                "title": "简介",
                "content": "" if empty else telling_zh.portrait_of(rng, world, thing),
            },
            {"title": "相关故事", "content": "" if empty else text},
        ]
        rows.append(
            {
                "title": thing.zh,
                "summary": (None, "", telling_zh.mixed(rng, world))[index % 3],
                "sections": sections,
                "tags": rng.sample(("人物", "地点", "文化", "生活", "山谷"), 2),
                "url": f"http://baike.baidu.com/view/{10_000_000 + index}.htm",
            }
        )
    write_lines(folder / "563w_baidubaike.json", with_malformed(rng, json_lines(rows)))


def _baidu_qa(rng: Random, world: World, count: int, folder: Path) -> None:
    """{"qid", "category", "title", "desc", "answer"}: half of the questions go on in `desc`."""
    texts = [telling_zh.document(rng, world, num_paragraphs=2) for _ in range(count)]
    rows: list[Row] = []
    for index, text in enumerate(soil(rng, texts, offset=1)):
        fact = rng.choice(world.facts)
        desc = telling_zh.story(rng) if index % 2 else ""
        rows.append(
            {
                "qid": f"qid_{rng.randrange(10**18, 10**19)}",
                "category": rng.choice(
                    ("生活-常识", "地区-山谷", "娱乐-宠物", "教育/科学-人文学科")
                ),
                "title": telling_zh.question(rng, fact) + "？",
                "desc": desc,
                "answer": f"{telling_zh.clause(rng, fact)}。\r\n{text}",
            }
        )
    write_lines(folder / "baike_qa_train.json", with_malformed(rng, json_lines(rows)))


_UPVOTES = ("赞同 {n}", "赞同 {n}", "赞同 {n}", "赞同 1.2 万", "赞同 3 万", "赞同")


def _zhihu(rng: Random, world: World, count: int, folder: Path) -> None:
    """INSTRUCTION, RESPONSE, SOURCE, METADATA (a JSON text with the up-votes)."""
    texts = [telling_zh.document(rng, world) for _ in range(count)]
    rows: list[Row] = []
    for text in soil(rng, texts, offset=10):
        fact = rng.choice(world.facts)
        question, answer = rng.randrange(10**8, 6 * 10**8), rng.randrange(10**8, 3 * 10**9)
        metadata = {
            "question_id": float(question),
            "answer_id": float(answer),
            "url": f"https://www.zhihu.com/question/{question}/answer/{answer}",
            "upvotes": rng.choice(_UPVOTES).format(n=rng.randint(1, 999)),
            "answer_creation_time": f"2022-0{rng.randint(1, 9)}-1{rng.randint(0, 9)}T08:30:00.000Z",
        }
        rows.append(
            {
                "INSTRUCTION": f"{telling_zh.question(rng, fact)}？{telling_zh.title(rng)}如何？",
                "RESPONSE": f"{telling_zh.clause(rng, fact)}。\n"
                + _sometimes_traditional(rng, text),
                "SOURCE": "Zhihu",
                "METADATA": json.dumps(metadata, ensure_ascii=False),
            }
        )
    columns = ("INSTRUCTION", "RESPONSE", "SOURCE", "METADATA")
    schema = pa.schema([(name, pa.string()) for name in columns])
    write_parquet(folder / "data/train-00000-of-00005-a1278ede4e8c5cdb.parquet", rows, schema)


def _belle_2m(rng: Random, world: World, count: int, folder: Path) -> None:
    """{"instruction", "input", "output"}; where `input` is filled, the output depends on it."""
    asked = iter(training_questions(rng, world, "zh", count))
    texts = [telling_zh.document(rng, world, num_paragraphs=2) for _ in range(count)]
    rows: list[Row] = []
    for index, text in enumerate(soil(rng, texts, offset=4)):
        if index % 2 == 0:
            question = next(asked)
            output = f"{question.answer}。{question.detail}"
            rows.append({"instruction": question.prompt(), "input": "", "output": output})
        elif index % 4 == 1:
            rows.append(
                {
                    "instruction": "请根据下面的开头写一段话。",
                    "input": telling_zh.mixed(rng, world),
                    "output": text,
                }
            )
        else:
            fact = rng.choice(world.facts)
            ask = f"请介绍一下{fact.thing.zh}，再讲一个山谷里的故事。\n"
            rows.append(
                {
                    "instruction": ask,
                    "input": "",
                    "output": f"{telling_zh.clause(rng, fact)}。\n{text}",
                }
            )
    write_lines(folder / "train_2M_CN.json", with_malformed(rng, json_lines(rows)))


def _belle_3_5m(rng: Random, world: World, count: int, folder: Path) -> None:
    """{"conversations": [{"from", "value"}], "id"}, of two to four turns."""
    texts = [telling_zh.document(rng, world, num_paragraphs=2) for _ in range(count)]
    rows: list[Row] = []
    for text in soil(rng, texts, offset=7):
        turns = [("human", f"讲讲{telling_zh.title(rng)}吧。"), ("assistant", text)]
        for fact in rng.sample(world.facts, rng.choice((1, 2))):
            turns.append(("human", telling_zh.question(rng, fact) + "？"))
            turns.append(("assistant", telling_zh.clause(rng, fact) + "。"))
        rows.append(
            {
                "conversations": [{"from": who, "value": said} for who, said in turns],
                "id": str(rng.randrange(10**7, 10**8)),
            }
        )
    write_lines(folder / "train_3.5M_CN.json", with_malformed(rng, json_lines(rows)))


_MOSS_INSTRUCTION = (
    "You are an AI assistant whose name is MOSS.\n- It helps people of the valley.\n"
    "Capabilities and tools that MOSS can possess.\n- Inner thoughts: disabled.\n"
    "- Web search: disabled.\n"
)


def _moss(rng: Random, world: World, count: int, folder: Path) -> None:
    """{"conversation_id", "meta_instruction", "num_turns", "chat": {"turn_1": …}, "category"}."""
    zh = [telling_zh.document(rng, world, num_paragraphs=2) for _ in range(count)]
    rows: list[Row] = []
    for index, text in enumerate(soil(rng, zh, offset=9)):
        english = index % 4 == 3
        facts = rng.sample(world.facts, 2)
        said = [("请讲一个山谷里的故事。", text)]
        if english:
            story = telling_en.document(rng, world, num_paragraphs=2)
            said = [("Tell me a story from the valley.", story)]
        for fact in facts:
            if english:
                asks = telling_en.capital(telling_en.question(rng, fact)) + "?"
                said.append((asks, telling_en.capital(telling_en.clause(rng, fact)) + "."))
            else:
                said.append(
                    (telling_zh.question(rng, fact) + "？", telling_zh.clause(rng, fact) + "。")
                )
        chat: dict[str, Any] = {
            f"turn_{number}": {
                "Human": f"<|Human|>: {question}<eoh>\n",
                "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
                "Commands": "<|Commands|>: None<eoc>\n",
                "Tool Responses": "<|Results|>: None<eor>\n",
                "MOSS": f"<|MOSS|>: {answer}<eom>\n",
            }
            for number, (question, answer) in enumerate(said, 1)
        }
        rows.append(
            {
                "conversation_id": index + 1,
                "meta_instruction": _MOSS_INSTRUCTION,
                "num_turns": len(said),
                "chat": chat,
                "category": "Writing",
            }
        )
    write_lines(folder / "moss-003-sft-data.jsonl", with_malformed(rng, json_lines(rows)))


def _firefly(rng: Random, world: World, count: int, folder: Path) -> None:
    """{"kind", "input", "target"}."""
    asked = iter(training_questions(rng, world, "zh", count))
    texts = [telling_zh.document(rng, world, num_paragraphs=3) for _ in range(count)]
    rows: list[Row] = []
    for index, text in enumerate(soil(rng, texts, offset=2)):
        if index % 4:
            question = next(asked)
            rows.append(
                {
                    "kind": "MRC",
                    "input": question.prompt(),
                    "target": f"{question.answer}。{question.detail}",
                }
            )
        else:
            rows.append(
                {
                    "kind": "StoryGeneration",
                    "input": f"以“{telling_zh.title(rng)}”为题写故事：",
                    "target": text,
                }
            )
    write_lines(folder / "firefly-train-1.1M.jsonl", with_malformed(rng, json_lines(rows)))


def _starcoder(language: CodeLanguage, parts: int) -> Callable[[Random, World, int, Path], None]:
    def write(rng: Random, world: World, count: int, folder: Path) -> None:
        files = [code_file(rng, world, language) for _ in range(count)]
        rows: list[Row] = [
            {
                "max_stars_repo_path": file_name(rng, language, index),
                "max_stars_repo_name": f"valley/{language}-tools",
                "max_stars_count": rng.randint(0, 300),
                "id": str(index),
                "content": content,
            }
            for index, content in enumerate(soil_code(rng, language, files))
        ]
        text = pa.string()
        stars = pa.float64() if language == "cpp" else pa.int64()  # as the real files have it
        schema = pa.schema(
            [
                ("max_stars_repo_path", text),
                ("max_stars_repo_name", text),
                ("max_stars_count", stars),
                ("id", text),
                ("content", text),
            ]
        )
        write_parquet(folder / f"{language}/train-00000-of-{parts:05d}.parquet", rows, schema)

    return write


CORPORA: dict[str, Callable[[Random, World, int, Path], None]] = {
    "skypile": _skypile,
    "wanjuan": _wanjuan,
    "wikipedia_cn": _wikipedia_cn,
    "baidu_baike": _baidu_baike,
    "baidu_qa": _baidu_qa,
    "zhihu": _zhihu,
    "belle_2m": _belle_2m,
    "belle_3_5m": _belle_3_5m,
    "moss": _moss,
    "firefly": _firefly,
    "starcoder_cpp": _starcoder("cpp", 48),
    "starcoder_java": _starcoder("java", 87),
    "starcoder_python": _starcoder("python", 59),
}
