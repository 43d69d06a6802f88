"""Conversations for SFT and preference pairs for DPO, in the formats of the paper's data sets.

A preferred answer is true and to the point; the other one gives another value, or evades.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow as pa

from corpus.sample_data import templates_en as telling_en
from corpus.sample_data import templates_zh as telling_zh
from corpus.sample_data.code import code_file
from corpus.sample_data.corpora import exam_row
from corpus.sample_data.files import Row, json_lines, write_array, write_lines, write_parquet
from corpus.sample_data.questions import training_questions
from corpus.sample_data.world import (
    CITIZEN_ATTRIBUTES,
    KINDS,
    Fact,
    Language,
    World,
    character_facts,
)

ROWS: dict[str, int] = {
    "infinity_instruct": 600,
    "wanjuan_mcq": 8000,
    "ruozhiba": 80,
    "self_awareness": 60,
    "code_feedback": 60,
    "web_instruct_sub": 1000,
    "openhermes": 600,
    "ultrafeedback_chinese": 320,
    "ultrafeedback_english": 80,
}
"""Rows of each data set at scale 1. The two preference sets stand 4:1."""

EXPLAINED_PERCENT = 2
"""Percentage of exam questions with an explanation, which gives a second conversation each."""


def _asked(rng: Random, world: World, language: Language) -> tuple[str, str, Fact]:
    """A question with what is needed to answer it, and its answer."""
    telling = telling_zh if language == "zh" else telling_en
    mark, space = ("？", "") if language == "zh" else ("?", " ")
    if rng.random() < 0.6:
        facts = character_facts(rng, rng.choice((1, 2)), tuple(rng.sample(CITIZEN_ATTRIBUTES, 2)))
        rng.shuffle(facts)
        fact = rng.choice(facts)
        question = telling.statement(rng, facts) + space
        asks = telling.question(rng, fact)
        question += (asks if language == "zh" else telling_en.capital(asks)) + mark
    else:
        fact = rng.choice(world.facts)
        asks = telling.question(rng, fact)
        question = (asks if language == "zh" else telling_en.capital(asks)) + mark
    return question, _reply(rng, fact, language), fact


def _reply(rng: Random, fact: Fact, language: Language) -> str:
    if language == "zh":
        return rng.choice((f"是{telling_zh.answer(fact)}。", f"{telling_zh.clause(rng, fact)}。"))
    told = telling_en.capital(telling_en.clause(rng, fact)) + "."
    return rng.choice((f"It is {telling_en.answer(fact)}.", told))


def _infinity_instruct(rng: Random, world: World, count: int, folder: Path) -> None:
    """{"id", "conversations", "label", "langdetect", "source"}; three rows in four are Chinese."""
    rows: list[Row] = []
    for index in range(count):
        language: Language = "en" if index % 4 == 3 else "zh"
        turns: list[tuple[str, str]] = []
        for _ in range(rng.choice((1, 1, 2))):
            if rng.random() < 0.1:
                ask = (
                    "Tell me something about the valley."
                    if language == "en"
                    else "说说山谷里的事吧。"
                )
                telling = telling_zh if language == "zh" else telling_en
                turns.append((ask, telling.mixed(rng, world)))
            else:
                question, answer, _ = _asked(rng, world, language)
                turns.append((question, answer))
        conversation = [
            {"from": who, "value": said}
            for question, answer in turns
            for who, said in (("human", question), ("gpt", answer))
        ]
        label = {
            "ability_en": ["reading comprehension"],
            "ability_zh": ["阅读理解"],
            "cate_ability_en": ["natural language understanding"],
            "cate_ability_zh": ["自然语言理解"],
        }
        rows.append(
            {
                "id": f"infinity_{index}",
                "conversations": conversation,
                "label": label,
                "langdetect": "zh-cn" if language == "zh" else "en",
                "source": "sample_world",
            }
        )
    text, texts = pa.string(), pa.list_(pa.string())
    keys = ("ability_en", "ability_zh", "cate_ability_en", "cate_ability_zh")
    schema = pa.schema(
        [
            ("id", text),
            ("conversations", pa.list_(pa.struct([("from", text), ("value", text)]))),
            ("label", pa.struct([(key, texts) for key in keys])),
            ("langdetect", text),
            ("source", text),
        ]
    )
    write_parquet(folder / "7M/train-00000-of-00001.parquet", rows, schema)


def _wanjuan_mcq(rng: Random, world: World, count: int, folder: Path) -> None:
    """Wanjuan 1.0's exam questions; those with `answer_detail` serve as CoT data, too."""
    asked = training_questions(rng, world, "zh", round(count * 0.6))
    asked += training_questions(rng, world, "en", round(count * 0.4))
    rng.shuffle(asked)
    rows = [exam_row(rng, q, explained=rng.random() * 100 < EXPLAINED_PERCENT) for q in asked]
    write_lines(folder / "Exam-cn/part-003756-a894b46e.jsonl", json_lines(rows))


_RIDDLES = (
    ("{a}和{b}同时出门，谁先到家？", "要看谁走得快、住得近，只说同时出门是不够的。"),
    ("{a}把镜子打碎了，镜子里的{a}会疼吗？", "不会，镜子里只有影子，影子不会疼。"),
    ("{p}的桥没有水，还算不算桥？", "算，桥是给人走的，下面有没有水都是桥。"),
    ("一只{v}的影子有多重？", "影子没有重量，再大的{v}也一样。"),
    ("{a}昨天说明天放假，那今天放假吗？", "放假，昨天说的明天就是今天。"),
    ("如果{b}不认识{a}，{a}认识{b}吗？", "有可能，认识不一定是互相的。"),
)


def _ruozhiba(rng: Random, world: World, count: int, folder: Path) -> None:
    """{"instruction", "output"}: questions with a twist."""
    rows: list[Row] = []
    for _ in range(count):
        first, second = character_facts(rng, 2, ("pet",))
        names = {"a": first.thing.zh, "b": second.thing.zh, "v": first.value.zh}
        names["p"] = rng.choice(KINDS["home"].words).zh
        question, answer = rng.choice(_RIDDLES)
        rows.append({"instruction": question.format(**names), "output": answer.format(**names)})
    write_array(folder / "ruozhiba_qa.json", rows)


_SELF = (
    ("你是谁", "您好，我是EmoLLM，由EmoLLM团队做的语言模型，很高兴为您服务。"),
    ("你叫什么名字", "我叫EmoLLM，是一个语言模型。"),
    ("你好", "您好，我是EmoLLM，请问有什么可以帮您？"),
    ("谁创造了你", "我是EmoLLM团队创造的。"),
    ("你能做什么", "我是EmoLLM，可以回答问题、写故事，也可以做选择题。"),
    ("Who are you?", "I am EmoLLM, a language model."),
)
_POLITE = (
    "{q}",
    "请问，{q}",
    "{q}？",
    "老师，{q}",
    "能告诉我吗，{q}",
    "{q}呢",
    "打扰了，{q}",
    "喂，{q}",
    "朋友，{q}",
    "问一下，{q}",
)


def _self_awareness(rng: Random, world: World, count: int, folder: Path) -> None:
    """{"instruction", "input", "output"} with the name of another model, as EmoLLM's templates."""
    pairs = [(polite.format(q=q), a) for polite in _POLITE for q, a in _SELF]
    rng.shuffle(pairs)
    rows = [{"instruction": q, "input": "", "output": a} for q, a in pairs[:count]]
    write_array(folder / "self_cognition_EmoLLM.json", rows)


def _code_feedback(rng: Random, world: World, count: int, folder: Path) -> None:
    """{"id", "messages": [{"role", "content"}]}: a request for a function, and the function."""
    rows: list[Row] = []
    for index in range(count):
        program = code_file(rng, world, "python")
        parts = [part for part in program.split("\n\n\n") if part.startswith("def ")]
        function = rng.choice(parts).strip()
        name = function.split("(")[0].removeprefix("def ")
        messages = [
            ("user", f"Write a Python function called {name} for the valley."),
            ("assistant", f"```python\n{function}\n```"),
        ]
        if index % 3 == 0:
            messages += [("user", f"What does {name} do?"), ("assistant", function.split('"""')[1])]
        rows.append(
            {
                "id": index,
                "messages": [{"role": role, "content": content} for role, content in messages],
            }
        )
    write_lines(folder / "Code-Feedback.jsonl", json_lines(rows))


def _web_instruct_sub(rng: Random, world: World, count: int, folder: Path) -> None:
    """question, answer, source, orig_question, orig_answer, index: half are multiple choice."""
    asked = iter(training_questions(rng, world, "en", count))
    rows: list[Row] = []
    for index in range(count):
        if index % 2:
            question, answer, _ = _asked(rng, world, "en")
        else:
            item = next(asked)
            question, answer = item.prompt(), item.answer
        rows.append(
            {
                "orig_question": question,
                "orig_answer": answer,
                "source": "stackexchange" if index % 2 else "socratic",
                "question": question,
                "answer": answer,
                "index": index,
            }
        )
    text = pa.string()
    schema = pa.schema(
        [
            ("orig_question", text),
            ("orig_answer", text),
            ("source", text),
            ("question", text),
            ("answer", text),
            ("index", pa.int64()),
        ]
    )
    write_parquet(folder / "data/train-00000-of-00013.parquet", rows, schema)


def _openhermes(rng: Random, world: World, count: int, folder: Path) -> None:
    """One array of {"conversations", "source", "category", "skip_prompt_formatting"}."""
    asked = iter(training_questions(rng, world, "en", count))
    rows: list[Row] = []
    for index in range(count):
        if index % 3 == 0:
            item = next(asked)
            question, answer = item.prompt(), item.answer
        elif index % 3 == 1:
            question, answer = "Write a short story about the valley.", telling_en.story(rng)
        else:
            question, answer, _ = _asked(rng, world, "en")
        rows.append(
            {
                "conversations": [
                    {"from": "human", "value": question},
                    {"from": "gpt", "value": answer},
                ],
                "source": "airoboros2.2",
                "category": ("multiple_choice", "writing", "qa")[index % 3],
                "skip_prompt_formatting": False,
            }
        )
    write_array(folder / "openhermes2_5.json", rows)


def _pair(rng: Random, world: World, language: Language) -> tuple[str, str, str]:
    """(question, preferred answer, other answer)."""
    question, chosen, fact = _asked(rng, world, language)
    others = [word for word in KINDS[fact.attribute].words if word != fact.value]
    false = Fact(
        sort=fact.sort, thing=fact.thing, attribute=fact.attribute, value=rng.choice(others)
    )
    evasive = (
        "我不知道，你去问别人吧。" if language == "zh" else "I do not know. Ask somebody else."
    )
    rejected = _reply(rng, false, language) if rng.random() < 0.7 else evasive
    return question, chosen, rejected


def _ultrafeedback_chinese(rng: Random, world: World, count: int, folder: Path) -> None:
    """instruction, source, chosen_response, rejected_response, chosen_rating, rejected_rating."""
    rows: list[Row] = []
    for _ in range(count):
        question, chosen, rejected = _pair(rng, world, "zh")
        rows.append(
            {
                "instruction": question,
                "source": "smoltalk-chinese",
                "chosen_response": chosen,
                "rejected_response": rejected,
                "chosen_rating": rng.choice((4.0, 4.5, 5.0)),
                "rejected_rating": rng.choice((1.0, 1.5, 2.0)),
            }
        )
    text, number = pa.string(), pa.float64()
    schema = pa.schema(
        [
            ("instruction", text),
            ("source", text),
            ("chosen_response", text),
            ("rejected_response", text),
            ("chosen_rating", number),
            ("rejected_rating", number),
        ]
    )
    write_parquet(folder / "ultrafeedback_zh_binarized_lowest.parquet", rows, schema)


def _ultrafeedback_english(rng: Random, world: World, count: int, folder: Path) -> None:
    """source, prompt, chosen, chosen-rating, chosen-model, rejected, …: dialogues of two turns."""
    rows: list[Row] = []
    for _ in range(count):
        question, chosen, rejected = _pair(rng, world, "en")
        user = {"content": question, "role": "user"}
        rows.append(
            {
                "source": "sharegpt",
                "prompt": question,
                "chosen": [user, {"content": chosen, "role": "assistant"}],
                "chosen-rating": rng.choice((4.25, 4.75, 5.0)),
                "chosen-model": "valley-large",
                "rejected": [user, {"content": rejected, "role": "assistant"}],
                "rejected-rating": rng.choice((1.0, 1.75, 2.5)),
                "rejected-model": "valley-small",
            }
        )
    text, number = pa.string(), pa.float64()
    dialogue = pa.list_(pa.struct([("content", text), ("role", text)]))
    schema = pa.schema(
        [
            ("source", text),
            ("prompt", text),
            ("chosen", dialogue),
            ("chosen-rating", number),
            ("chosen-model", text),
            ("rejected", dialogue),
            ("rejected-rating", number),
            ("rejected-model", text),
        ]
    )
    write_parquet(folder / "data/train-00000-of-00001.parquet", rows, schema)


SFT: dict[str, Callable[[Random, World, int, Path], None]] = {
    "infinity_instruct": _infinity_instruct,
    "wanjuan_mcq": _wanjuan_mcq,
    "ruozhiba": _ruozhiba,
    "self_awareness": _self_awareness,
    "code_feedback": _code_feedback,
    "web_instruct_sub": _web_instruct_sub,
    "openhermes": _openhermes,
}
PREFERENCES: dict[str, Callable[[Random, World, int, Path], None]] = {
    "ultrafeedback_chinese": _ultrafeedback_chinese,
    "ultrafeedback_english": _ultrafeedback_english,
}
