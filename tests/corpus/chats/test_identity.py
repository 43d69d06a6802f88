"""The model's own name in sets about another one, and claims of roles that it does not have."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.recipes import load_config
from corpus.chats import Identity, Sample, load_set, read_samples
from corpus.chats.identity import (
    CLAIMS_ASSISTANT,
    OtherIdentity,
    claims_assistant,
    claims_role,
    with_identity,
)
from flows.config import PipelineConfig

OTHERS = load_set("sft", "self_awareness").identity
OURS = Identity(name="Iron", author="Iron Works", name_zh="小铁", author_zh="铁工坊")


@pytest.mark.parametrize(
    "answer",
    [
        "您好，我是EmoLLM，是由EmoLLM团队开发的心理咨询师。",
        "我是一名心理咨询师，很高兴认识您。",
        "我是一个中文领域心理健康助手，你可以叫我EmoLLM。",
        "作为一名医生，我建议您多喝水。",
        "我努力学习，以成为一个有价值的法律助手。",
        "我是您的专属理财顾问。",
        "我是一位有十年经验的英语老师。",
        "我是真人，不是机器。",
        "I am EmoLLM, an psychological counselor developed by EmoLLM Team.",
        "I'm a licensed therapist. How can I help?",
        "As a doctor, I would advise rest.",
        "I am EmoLLM, a mental health assistant developed by EmoLLM Team.",
        "I am a human being like you.",
    ],
)
def test_other_roles_are_recognised(answer: str) -> None:
    assert claims_role(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "您好，我是EmoLLM，一个由EmoLLM团队开发的人工智能助手。",
        "我可以为您提供翻译、写代码、闲聊、为您答疑解惑等服务。",
        "我不是医生，不能替您诊断。",
        "我是AI，如有不适，请咨询医生的建议。",
        "我是一个虚拟助手，通过自然语言处理与用户交互。",
        "I am an AI assistant developed by EmoLLM Team.",
        "I am not a doctor, so please ask one.",
        "As an AI language model, I cannot replace a lawyer.",
        "I am EmoLLM, and I can help you write code.",
    ],
)
def test_an_assistant_is_no_other_role(answer: str) -> None:
    assert not claims_role(answer)


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("您好，我是EmoLLM，由EmoLLM团队开发。", "您好，我是小铁，由铁工坊开发。"),
        ("我是 {{name}}，由 {{author}} 开发。", "我是小铁，由铁工坊开发。"),
        ("我是 <NAME>，<AUTHOR> 训练了我。", "我是小铁，铁工坊训练了我。"),
        ("You and <NAME> 你好", "You and 小铁你好"),
    ],
)
def test_names_are_put_in_place_of_others(text: str, ours: str) -> None:
    assert OTHERS is not None
    assert with_identity(text, OTHERS, OURS.name_zh, OURS.author_zh) == ours


def test_names_in_latin_keep_their_blanks_and_are_not_replaced_again() -> None:
    others = OtherIdentity(names=("{{name}}", "A"), authors=("A Team", "{{author}}"))
    text = "我是 {{name}}，由 A Team 开发。I am A by {{author}}."
    assert with_identity(text, others, "BA", "A Team") == (
        "我是 BA，由 A Team 开发。I am BA by A Team."
    )


@given(st.text(max_size=40), st.text(min_size=1, max_size=8))
def test_a_text_without_names_stays(text: str, name: str) -> None:
    others = OtherIdentity(names=("EmoLLM", "<NAME>"))
    if not any(other in text for other in others.names):
        assert with_identity(text, others, name, name) == text


def write_rows(folder: Path) -> Path:
    rows = [
        {"instruction": "你是谁？", "input": "", "output": "我是EmoLLM，由EmoLLM团队开发。"},
        {"instruction": "Who are you?", "input": "", "output": "I am <NAME>, made by <AUTHOR>."},
        {"instruction": "你是医生吗？", "input": "", "output": "我是EmoLLM，一名心理咨询师。"},
    ]
    folder.mkdir()
    (folder / "self_cognition.json").write_text(json.dumps(rows, ensure_ascii=False))
    return folder


def test_each_language_has_its_name_and_rows_with_other_roles_are_counted(tmp_path: Path) -> None:
    items = list(read_samples("sft", write_rows(tmp_path / "set"), "self_awareness", OURS))
    answers = [item.content.texts[-1] for item in items if isinstance(item, Sample)]
    assert answers == ["我是小铁，由铁工坊开发。", "I am Iron, made by Iron Works."]
    assert [i.reason for i in items if not isinstance(i, Sample)] == ["claims another role"]


def test_real_rows_name_no_one_else_and_claim_no_other_role(shared: Path) -> None:
    for folder in ("emollm", "llamafactory"):
        items = read_samples("sft", shared / "data" / "sft" / folder, "self_awareness", OURS)
        texts = [t for item in items if isinstance(item, Sample) for t in item.content.texts]
        assert len(texts) >= 44
        for text in texts:
            assert not any(other in text for other in ("EmoLLM", "心理", "{{", "<NAME>", "<AUTH"))
            assert text.isascii() or "Iron" not in text


@pytest.mark.parametrize("name", ["", " ", "Iron\nWorks", "<|im_end|>", "a\x00"])
def test_a_name_that_could_not_be_said_is_refused(name: str) -> None:
    assert not list(OURS.check())
    (problem,) = Identity(name_zh=name).check()
    assert "name_zh" in str(problem) and "one line" in str(problem)


def test_the_identity_is_configured(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "name: x\ncorpora: {skypile: sample-data}\nsample_data: {seed: 1, scale: 0.1}\n"
        "decontaminate: {}\n"
        "sft: {identity: {name: Iron, author: Iron Works, name_zh: 小铁, author_zh: 铁工坊}}\n"
    )
    config = load_config(path, PipelineConfig)
    assert config.sft is not None
    assert config.sft.identity == OURS


@pytest.mark.parametrize(
    "answer",
    [
        "我是ChatGPT",
        "你好！我是由OpenAI训练的大型语言模型，不能上网。",
        "很抱歉，但我只是由 OpenAI 创建的一款电脑程序。",
        "作为OpenAI开发的语言模型，我没有感情。",
        "作为ChatGPT，我不能这样做。",
        "我是MOSS，由复旦大学开发的大型语言模型。",
        "我是由复旦大学开发的MOSS。",
        "您好，我叫通义千问，是阿里云研发的大规模语言模型。",
        "我是文心一言，英文名是ERNIE Bot。",
        "我是一个人工智能助手，由OpenAI开发。",
        "我由OpenAI开发。",
        "我的开发者是OpenAI。",
        "我是百度公司研发的知识增强大语言模型",
        "I am ChatGPT, a large language model trained by OpenAI.",
        "Sorry. I am an AI language model developed by OpenAI.",
        "As an AI language model created by OpenAI, I do not have feelings.",
        "I'm Claude, an AI assistant made by Anthropic.",
        "I'm an assistant called MOSS developed by Fudan University.",
        "I’m Qwen, created by Alibaba Cloud.",
        "I was trained by OpenAI.",
        "OpenAI created me.",
        "As ChatGPT, I cannot do that.",
    ],
)
def test_claims_to_be_another_assistant_are_recognised(answer: str) -> None:
    assert claims_assistant(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "我不是ChatGPT，也不是OpenAI开发的。",
        "我是ChatGPT的用户。",
        "如果我是ChatGPT，我会这样回答。",
        "GPT-4 是由OpenAI开发的模型，我觉得它不错。",
        "作为微软开发的操作系统，Windows 深受欢迎。",
        "我是百度的一名工程师，喜欢跑步。",
        "我是由上海的一家公司开发的。",
        "您可以通过与ChatGPT交流来练习英语，我也会帮您。",
        "I'm Claude, a knight of the round table.",
        "I am a Gemini, born in June.",
        "I am a bard, and moss grows on my roof.",
        "I am using ChatGPT every day.",
        "const input = 'I am a GPT-3 AI model!';",
        "I am studying a system developed by Microsoft.",
        "I'm not ChatGPT, I am Steel.",
        "I am not a model trained by OpenAI.",
        "ChatGPT was developed by OpenAI.",
    ],
)
def test_who_tells_about_an_assistant_is_none(answer: str) -> None:
    assert not claims_assistant(answer)


@pytest.mark.parametrize("action", ["leave_out", "keep"])
def test_rows_of_other_assistants_are_counted_and_a_recipe_may_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    recipes = tmp_path / "recipes" / "sft"
    recipes.mkdir(parents=True)
    (recipes / "x.yaml").write_text(
        "{title: X, licence: none, language: zh, format: alpaca, files: ['*.json'], "
        f"other_assistants: {action}}}"
    )
    monkeypatch.setattr("common.recipes.RECIPES", tmp_path / "recipes")
    rows = [
        {"instruction": "你是ChatGPT吗？", "output": "不是。"},  # a question may name it
        {"instruction": "你是谁？", "output": "我是由OpenAI训练的语言模型。"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    items = list(read_samples("sft", tmp_path, "x"))
    reasons = [item.reason for item in items if not isinstance(item, Sample)]
    assert reasons == ([CLAIMS_ASSISTANT] if action == "leave_out" else [])
    assert not any(item.malformed for item in items if not isinstance(item, Sample))


def test_a_preferred_answer_of_another_assistant_is_left_out_and_a_rejected_one_is_not(
    tmp_path: Path,
) -> None:
    ours, theirs = "我是一个语言模型。", "我是ChatGPT。"
    rows = [
        {"conversations": [{"from": "human", "value": "你是谁？"}], "chosen": c, "rejected": r}
        for c, r in (
            ({"from": "gpt", "value": ours}, {"from": "gpt", "value": theirs}),
            ({"from": "gpt", "value": theirs}, {"from": "gpt", "value": ours}),
        )
    ]
    (tmp_path / "dpo_zh_demo.json").write_text(json.dumps(rows, ensure_ascii=False))
    found = list(read_samples("preferences", tmp_path, "llamafactory_dpo_zh"))
    assert isinstance(found[0], Sample)
    assert not isinstance(found[1], Sample) and found[1].reason == CLAIMS_ASSISTANT


def test_real_conversations_with_another_assistant_are_found(shared: Path) -> None:
    """Lines that were read by a person: each says so, and no other one of these files does."""
    expected = {
        "sharegpt_zh": (
            "sharegpt",
            "9 10 25 33 68 212 230 244 298 304 356 364 374 383 387 466 499 501 523 583",
        ),
        "moss_chat": ("moss", "562 567 598"),
        "alpaca_zh": ("alpaca_zh", ""),
    }
    for name, (folder, lines) in expected.items():
        items = read_samples("sft", shared / "data" / "sft" / folder, name)
        found = [
            i.line for i in items if not isinstance(i, Sample) and i.reason == CLAIMS_ASSISTANT
        ]
        assert found == [int(line) for line in lines.split()], name
