"""The model's own name in sets about another one, and claims of roles that it does not have."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.recipes import load_config
from corpus.chats import Identity, Sample, load_set, read_samples
from corpus.chats.identity import OtherIdentity, claims_role, with_identity
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
