"""The thirteen corpora, each in the raw format and under the file names of its real counterpart.

One function per format; it gets a generator of random numbers of its own, the facts and the number
of rows. Texts around the documents: phrases/corpora.yaml.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import opencc

from corpus.sample_data.code import CodeLanguage, code_file, file_name
from corpus.sample_data.facts import BRANDS, CITIZENS, PLACES, KnowledgeBase, Language
from corpus.sample_data.files import (
    DatasetWriter,
    Row,
    RowMaker,
    Writer,
    array,
    json_lines,
    parquet,
    write_lines,
)
from corpus.sample_data.noise import add_code_noise, add_noise, with_malformed
from corpus.sample_data.phrases import phrases
from corpus.sample_data.questions import Question, training_questions
from corpus.sample_data.templates import EN, TEMPLATES, ZH

_TEXTS = phrases("corpora")

TRADITIONAL_PERCENT = 8
"""Percentage of Chinese texts that are written in traditional characters."""

_TO_TRADITIONAL = opencc.OpenCC("s2t")


def _sometimes_traditional(rng: Random, text: str) -> str:
    if rng.random() * 100 < TRADITIONAL_PERCENT:
        return str(_TO_TRADITIONAL.convert(text))
    return text


def _documents(rng: Random, base: KnowledgeBase, count: int, num_paragraphs: int = 0) -> list[str]:
    return [ZH.document(rng, base, num_paragraphs=num_paragraphs) for _ in range(count)]


def _write_noisy_lines(path: Path, rng: Random, rows: Iterable[Row]) -> None:
    """JSON lines with malformed ones among them."""
    write_lines(path, with_malformed(rng, json_lines(rows)))


def noisy_lines(path: str, make: RowMaker) -> Writer:
    """Writer of a file of JSON lines with malformed ones among them."""
    return lambda rng, base, count, folder: _write_noisy_lines(
        folder / path, rng, make(rng, base, count)
    )


def web_pages(rng: Random, base: KnowledgeBase, language: Language, count: int) -> list[str]:
    """Web pages. Every third is a quiz of three questions, each answered and explained."""
    questions = iter(training_questions(rng, base, language, count + 30))
    texts, space = _TEXTS["quiz"][language], TEMPLATES[language].punctuation["space"]
    pages = []
    for index in range(count):
        if index % 3 != 1:
            pages.append(TEMPLATES[language].document(rng, base))
            continue
        parts = [texts["heading"].format(title=ZH.title(rng) if language == "zh" else "")]
        for number in (1, 2, 3):
            question = next(questions)
            answered = question.prompt() + space + question.answer
            # Answers that carry a number are no repeated sentences.
            tail = texts["number"].format(number=number)
            parts.append(f"{number}. {answered}{tail}\n{question.explanation}")
        pages.append("\n".join(parts))
    return pages


def _skypile(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """{"text"}: news, stories and quiz pages."""
    for text in add_noise(rng, web_pages(rng, base, "zh", count)):
        yield {"text": _sometimes_traditional(rng, text)}


def multiple_choice_row(rng: Random, question: Question, *, explained: bool) -> Row:
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
        "answer_detail": question.explanation if explained else "",
        "grade": rng.choice(_TEXTS["grades"]),
        "major": "语文" if question.language == "zh" else "英语",
        "keypoint": question.family,
    }


def _identifier(rng: Random) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return "BkPn" + "".join(rng.choices(letters, k=16))


def _wanjuan(rng: Random, base: KnowledgeBase, count: int, folder: Path) -> None:
    """Web pages {"id", "content"} in both languages, and exam questions."""
    num_zh, num_en, num_questions = round(count * 0.05), round(count * 0.18), round(count * 0.77)
    zh = [f"# {ZH.title(rng)}\n{ZH.document(rng, base)}" for _ in range(num_zh)]
    rows: list[Row] = [
        {"id": _identifier(rng), "content": _sometimes_traditional(rng, text)}
        for text in add_noise(rng, zh, offset=3)
    ]
    _write_noisy_lines(folder / "WebText-cn/part-010205-a894b46e.jsonl", rng, rows)
    en = add_noise(rng, web_pages(rng, base, "en", num_en), offset=5)
    rows = [{"id": _identifier(rng), "content": text} for text in en]
    write_lines(folder / "WebText-en/part-000036-a894b46e.jsonl", json_lines(rows))
    questions = training_questions(rng, base, "zh", round(num_questions * 0.65))
    questions += training_questions(rng, base, "en", round(num_questions * 0.35))
    rows = [
        multiple_choice_row(rng, question, explained=rng.random() < 0.6) for question in questions
    ]
    _write_noisy_lines(folder / "Exam-cn/part-003756-a894b46e.jsonl", rng, rows)


def _wikipedia_cn(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """One array of {"completion", "source"}: articles about single things."""
    things = CITIZENS + PLACES + BRANDS
    texts = []
    for index in range(count):
        thing = things[index % len(things)]
        parts = [_TEXTS["encyclopedia_head"].format(name=thing.zh)]
        parts += [ZH.portrait_of(rng, base, thing), ZH.document(rng, base, num_paragraphs=2)]
        texts.append("\n".join(parts))
    for text in add_noise(rng, texts, offset=6):
        yield {"completion": _sometimes_traditional(rng, text), "source": "wikipedia.zh2307"}


def _baidu_baike(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """{"title", "summary", "sections", "tags", "url"}: two summaries in three are null."""
    things = CITIZENS + PLACES + BRANDS
    for index, text in enumerate(add_noise(rng, _documents(rng, base, count, 2), offset=8)):
        thing = things[index % len(things)]
        contents = ["", ""]
        if index % 40 != 39:
            contents = [ZH.portrait_of(rng, base, thing), text]
        yield {
            "title": thing.zh,
            "summary": (None, "", ZH.mixed(rng, base))[index % 3],
            "sections": [
                {"title": title, "content": content}
                for title, content in zip(_TEXTS["sections"], contents, strict=True)
            ],
            "tags": rng.sample(_TEXTS["tags"], 2),
            "url": f"http://baike.baidu.com/view/{10_000_000 + index}.htm",
        }


def _baidu_qa(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """{"qid", "category", "title", "desc", "answer"}: half of the questions go on in `desc`."""
    for index, text in enumerate(add_noise(rng, _documents(rng, base, count, 2), offset=1)):
        fact = rng.choice(base.facts)
        description = ZH.story(rng) if index % 2 else ""
        yield {
            "qid": f"qid_{rng.randrange(10**18, 10**19)}",
            "category": rng.choice(_TEXTS["categories"]),
            "title": ZH.whole_question(rng, fact),
            "desc": description,
            "answer": f"{ZH.sentence(rng, fact)}\r\n{text}",
        }


def _zhihu(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """INSTRUCTION, RESPONSE, SOURCE, METADATA (a JSON text with the up-votes)."""
    for text in add_noise(rng, _documents(rng, base, count), offset=10):
        fact = rng.choice(base.facts)
        question, answer = rng.randrange(10**8, 6 * 10**8), rng.randrange(10**8, 3 * 10**9)
        metadata = {
            "question_id": float(question),
            "answer_id": float(answer),
            "url": f"https://www.zhihu.com/question/{question}/answer/{answer}",
            "upvotes": rng.choice(_TEXTS["upvotes"]).format(n=rng.randint(1, 999)),
            "answer_creation_time": f"2022-0{rng.randint(1, 9)}-1{rng.randint(0, 9)}T08:30:00.000Z",
        }
        yield {
            "INSTRUCTION": _TEXTS["zhihu_question"].format(
                question=ZH.whole_question(rng, fact), title=ZH.title(rng)
            ),
            "RESPONSE": f"{ZH.sentence(rng, fact)}\n" + _sometimes_traditional(rng, text),
            "SOURCE": "Zhihu",
            "METADATA": json.dumps(metadata, ensure_ascii=False),
        }


def _belle_2m(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """{"instruction", "input", "output"}; where `input` is filled, the output depends on it."""
    questions = iter(training_questions(rng, base, "zh", count))
    for index, text in enumerate(add_noise(rng, _documents(rng, base, count, 2), offset=4)):
        given = ""
        if index % 2 == 0:
            question = next(questions)
            instruction, output = question.prompt(), f"{question.answer}。{question.explanation}"
        elif index % 4 == 1:
            instruction, given = _TEXTS["continuation_request"], ZH.mixed(rng, base)
            output = text
        else:
            fact = rng.choice(base.facts)
            instruction = _TEXTS["introduction_request"].format(name=fact.thing.zh)
            output = f"{ZH.sentence(rng, fact)}\n{text}"
        yield {"instruction": instruction, "input": given, "output": output}


def _belle_3_5m(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """{"conversations": [{"from", "value"}], "id"}, of two to four turns."""
    for text in add_noise(rng, _documents(rng, base, count, 2), offset=7):
        request = _TEXTS["talk_request"].format(title=ZH.title(rng))
        messages = [("human", request), ("assistant", text)]
        for fact in rng.sample(base.facts, rng.choice((1, 2))):
            messages.append(("human", ZH.whole_question(rng, fact)))
            messages.append(("assistant", ZH.sentence(rng, fact)))
        yield {
            "conversations": [{"from": who, "value": text} for who, text in messages],
            "id": str(rng.randrange(10**7, 10**8)),
        }


def _moss(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """{"conversation_id", "meta_instruction", "num_turns", "chat": {"turn_1": …}, "category"}."""
    for index, text in enumerate(add_noise(rng, _documents(rng, base, count, 2), offset=9)):
        language: Language = "en" if index % 4 == 3 else "zh"
        facts = rng.sample(base.facts, 2)
        story = EN.document(rng, base, num_paragraphs=2) if language == "en" else text
        turns = [(_TEXTS["story_request"][language], story)]
        templates = TEMPLATES[language]
        turns += [(templates.whole_question(rng, f), templates.sentence(rng, f)) for f in facts]
        chat = {
            f"turn_{number}": {
                "Human": f"<|Human|>: {question}<eoh>\n",
                "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
                "Commands": "<|Commands|>: None<eoc>\n",
                "Tool Responses": "<|Results|>: None<eor>\n",
                "MOSS": f"<|MOSS|>: {answer}<eom>\n",
            }
            for number, (question, answer) in enumerate(turns, 1)
        }
        yield {
            "conversation_id": index + 1,
            "meta_instruction": _TEXTS["moss_instruction"],
            "num_turns": len(turns),
            "chat": chat,
            "category": "Writing",
        }


def _firefly(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """{"kind", "input", "target"}."""
    questions = iter(training_questions(rng, base, "zh", count))
    for index, text in enumerate(add_noise(rng, _documents(rng, base, count, 3), offset=2)):
        if index % 4:
            question = next(questions)
            target = f"{question.answer}。{question.explanation}"
            yield {"kind": "MRC", "input": question.prompt(), "target": target}
        else:
            request = _TEXTS["titled_story_request"].format(title=ZH.title(rng))
            yield {"kind": "StoryGeneration", "input": request, "target": text}


def _starcoder(language: CodeLanguage, num_files: int) -> Writer:
    """Writer of one language; num_files: files of the real data set, part of the file name."""

    def rows(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
        files = [code_file(rng, base, language) for _ in range(count)]
        number = float if language == "cpp" else int  # as the real files have it
        for index, content in enumerate(add_code_noise(rng, language, files)):
            yield {
                "max_stars_repo_path": file_name(rng, language, index),
                "max_stars_repo_name": f"valley/{language}-tools",
                "max_stars_count": number(rng.randint(0, 300)),
                "id": str(index),
                "content": content,
            }

    return parquet(f"{language}/train-00000-of-{num_files:05d}.parquet", rows)


CORPORA = {
    "skypile": DatasetWriter(400, noisy_lines("2021-31_zh_head_0000.jsonl", _skypile)),
    "wanjuan": DatasetWriter(1680, _wanjuan),
    "wikipedia_cn": DatasetWriter(160, array("wikipedia-cn-20230720-filtered.json", _wikipedia_cn)),
    "baidu_baike": DatasetWriter(120, noisy_lines("563w_baidubaike.json", _baidu_baike)),
    "baidu_qa": DatasetWriter(120, noisy_lines("baike_qa_train.json", _baidu_qa)),
    "zhihu": DatasetWriter(
        120, parquet("data/train-00000-of-00005-a1278ede4e8c5cdb.parquet", _zhihu)
    ),
    "belle_2m": DatasetWriter(240, noisy_lines("train_2M_CN.json", _belle_2m)),
    "belle_3_5m": DatasetWriter(80, noisy_lines("train_3.5M_CN.json", _belle_3_5m)),
    "moss": DatasetWriter(60, noisy_lines("moss-003-sft-data.jsonl", _moss)),
    "firefly": DatasetWriter(240, noisy_lines("firefly-train-1.1M.jsonl", _firefly)),
    "starcoder_cpp": DatasetWriter(50, _starcoder("cpp", 48)),
    "starcoder_java": DatasetWriter(50, _starcoder("java", 87)),
    "starcoder_python": DatasetWriter(50, _starcoder("python", 59)),
}
