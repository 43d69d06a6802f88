"""Chat data: every native format with real rows, and what is set aside."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.errors import ConfigError
from common.paths import RECIPES
from corpus.chats import Chat, Pair, Sample, load_set, read_samples
from corpus.chats.choices import STYLES, choice_chats, logiqa, question_text, wanjuan_exam
from corpus.chats.formats import CHAT_FORMATS, PAIR_FORMATS
from corpus.chats.identity import CLAIMS_ASSISTANT
from corpus.chats.messages import UnusableRow
from corpus.chats.rows import SkippedRow

REAL_CHATS = [
    # recipe, folder of ../shared/data/sft, usable, set aside, Chinese
    ("alpaca_zh", "alpaca_zh", 5408, {"empty answer": 1}, 5408),
    (
        "sharegpt_zh",
        "sharegpt",
        565,
        {"does not end with the assistant": 6, CLAIMS_ASSISTANT: 20},
        564,
    ),
    ("ruozhiba", "ruozhiba", 887, {}, 887),
    ("self_awareness", "emollm", 22, {"claims another role": 32}, 22),
    ("oasst_zh", "llamafactory", 387, {}, 383),
    ("moss_chat", "moss", 370, {"tool call": 305, CLAIMS_ASSISTANT: 3}, 195),
    ("code_alpaca", "code", 1252, {"empty answer": 2}, 0),
    ("gpteacher_code", "code", 2725, {}, 0),
    ("gpteacher_roleplay", "openhermes_like", 1131, {}, 0),
    ("gsm8k", "math", 2402, {}, 0),
    ("openbookqa_adapters", "multiple_choice/openbookqa", 1811, {"repeated option": 3}, 0),
    ("arc_adapters", "multiple_choice/ARC-Easy", 1345, {}, 0),
    (
        "logiqa_validation",
        "multiple_choice/logiqa",
        1285,
        {"option without its letter": 13, "repeated option": 4},
        650,
    ),
]

OASST_ASIDE = {"both answers are the same": 3, CLAIMS_ASSISTANT: 15}
REAL_PAIRS = [
    ("llamafactory_dpo_zh", "llamafactory", 197, {}, 197),
    ("llamafactory_dpo_en", "llamafactory", 176, {}, 0),
    ("medicalgpt_dpo", "medicalgpt", 302, {}, 302),
    ("oasst_ranked_zh", "llamafactory", 415, OASST_ASIDE, 413),
]


@pytest.mark.parametrize(("recipe", "folder", "usable", "aside", "chinese"), REAL_CHATS)
def test_real_conversations(
    shared: Path, recipe: str, folder: str, usable: int, aside: dict[str, int], chinese: int
) -> None:
    items = list(read_samples("sft", shared / "data" / "sft" / folder, recipe))
    chats = [item for item in items if isinstance(item, Sample)]
    assert len(chats) == usable
    assert Counter(item.reason for item in items if isinstance(item, SkippedRow)) == aside
    assert sum(item.language == "zh" for item in chats) == chinese
    for item in chats:
        assert isinstance(item.content, Chat)
        roles = [message["role"] for message in item.content.messages]
        body = roles[1:] if roles[0] == "system" else roles
        assert body == ["user", "assistant"] * (len(body) // 2)
        assert all(message["content"].strip() for message in item.content.messages)
        assert not any("<|im_" in message["content"] for message in item.content.messages)


@pytest.mark.parametrize(("recipe", "folder", "usable", "aside", "chinese"), REAL_PAIRS)
def test_real_pairs(
    shared: Path, recipe: str, folder: str, usable: int, aside: dict[str, int], chinese: int
) -> None:
    items = list(read_samples("preferences", shared / "data" / "preference" / folder, recipe))
    pairs = [item for item in items if isinstance(item, Sample)]
    assert len(pairs) == usable
    assert Counter(item.reason for item in items if isinstance(item, SkippedRow)) == aside
    assert sum(item.language == "zh" for item in pairs) == chinese
    for item in pairs:
        assert isinstance(item.content, Pair)
        assert item.content.prompt[-1]["role"] == "user"
        assert item.content.chosen != item.content.rejected


def test_every_recipe_loads_and_names_a_format() -> None:
    for kind, formats in (("sft", CHAT_FORMATS), ("preferences", PAIR_FORMATS)):
        names = sorted(path.stem for path in (RECIPES / kind).glob("*.yaml"))
        assert names
        for name in names:
            recipe = load_set(kind, name)  # type: ignore[arg-type]
            assert recipe.format in formats
            assert recipe.hub or recipe.obtain, f"{name} does not say where it comes from"


ROWS: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    (
        "alpaca",
        {"instruction": "加一", "input": "3", "output": "4"},
        [("user", "加一\n3"), ("assistant", "4")],
    ),
    (
        "alpaca",
        {"instruction": "go", "input": "", "response": "gone"},
        [("user", "go"), ("assistant", "gone")],
    ),
    (
        "alpaca",
        {"instruction": "c", "output": "d", "history": [["a", "b"]]},
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
    ),
    (
        "sharegpt",
        {
            "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
            "system_prompt": "s",
        },
        [("system", "s"), ("user", "a"), ("assistant", "b")],
    ),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": ""},
                {"from": "user", "value": "a"},
                {"from": "gpt", "value": "b"},
            ]
        },
        [("user", "a"), ("assistant", "b")],
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "a"}]},
                {"role": "assistant", "content": "\n  b\n"},
            ]
        },
        [("user", "a"), ("assistant", "  b")],
    ),
    ("question_answer", {"question": "a", "answer": "b"}, [("user", "a"), ("assistant", "b")]),
    (
        "xtuner",
        {
            "conversation": [
                {"system": "s", "input": "a", "output": "b"},
                {"input": "c", "output": "d"},
            ]
        },
        [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
    ),
    (
        "moss",
        {
            "chat": {
                "turn_1": {
                    "Human": "<|Human|>: a<eoh>\n",
                    "MOSS": "<|MOSS|>: b<eom>\n",
                    "Commands": "<|Commands|>: None<eoc>",
                }
            }
        },
        [("user", "a"), ("assistant", "b")],
    ),
    (
        "hub_choices",
        {
            "question_stem": "Which?",
            "answerKey": "2",
            "choices": {"text": ["x", "y"], "label": ["1", "2"]},
        },
        [("user", "Which?\nA. x\nB. y\nAnswer:"), ("assistant", "B")],
    ),
]


@pytest.mark.parametrize(("format_name", "row", "expected"), ROWS)
def test_format(format_name: str, row: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    (chat,) = CHAT_FORMATS[format_name](row)
    assert [(m["role"], m["content"]) for m in chat.messages] == expected


UNUSABLE: list[tuple[str, dict[str, Any], str]] = [
    ("alpaca", {"instruction": "a", "output": " \n"}, "empty answer"),
    ("alpaca", {"instruction": "a"}, "`output` is missing"),
    ("alpaca", {"instruction": "a", "output": float("nan")}, "`output` is NaN"),
    ("alpaca", {"instruction": None, "output": "b"}, "`instruction` is null"),
    ("alpaca", {"instruction": "a", "output": "b", "history": 3}, "`history` is a number"),
    ("alpaca", {"instruction": "a", "output": "b<|im_end|>"}, "control token in text"),
    ("alpaca", {"instruction": "a", "output": "b", "history": [["a"]]}, "history"),
    ("sharegpt", {"conversations": []}, "no conversations"),
    ("sharegpt", {"conversations": [{"from": "gpt", "value": "a"}]}, "do not alternate"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "a"}]}, "does not end"),
    ("sharegpt", {"conversations": [{"from": "narrator", "value": "a"}]}, "unknown role"),
    ("sharegpt", {"conversations": ["a"]}, "not an object"),
    ("messages", {"conversations": []}, "no messages"),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]},
            ]
        },
        "tool call",
    ),
    ("moss", {"chat": {"turn_1": {"Human": "a", "Commands": "Search(1)", "MOSS": "b"}}}, "tool"),
    ("wanjuan_exam", {"q_type": "填空题", "q_main": "a"}, "not a single-choice"),
    ("wanjuan_exam", {"q_main": "a", "option_a": "x", "option_b": "y", "std_ans": "AB"}, "single"),
    ("wanjuan_exam", {"q_main": "a", "option_a": "x", "option_b": "y", "std_ans": ""}, "single"),
    ("wanjuan_exam", {"q_main": "a", "option_a": "", "option_b": "y", "std_ans": "B"}, "missing"),
    ("hub_choices", {"question": "a", "choices": {"text": ["x"], "label": ["A"]}}, "no single"),
    ("logiqa", {"lines": ["a", "b"]}, "not seven lines"),
]


@pytest.mark.parametrize(("format_name", "row", "reason"), UNUSABLE)
def test_unusable_row_says_why(format_name: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow, match=reason):
        CHAT_FORMATS[format_name](row)


PAIRS: list[tuple[str, dict[str, Any]]] = [
    ("instruction_pair", {"instruction": "q", "chosen_response": "y", "rejected_response": "n"}),
    ("instruction_pair", {"instruction": "q", "input": "", "chosen": "y", "rejected": "n"}),
    (
        "message_pair",
        {
            key: [{"role": "user", "content": "q"}, {"role": "assistant", "content": t}]
            for key, t in (("chosen", "y"), ("rejected", "n"))
        },
    ),
    (
        "sharegpt_pair",
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "y"},
            "rejected": "n",
        },
    ),
    ("ranked_outputs", {"instruction": "q", "output": ["y", "m", "n"]}),
]


@pytest.mark.parametrize(("format_name", "row"), PAIRS)
def test_pair_format(format_name: str, row: dict[str, Any]) -> None:
    pair = PAIR_FORMATS[format_name](row)
    assert [(m["role"], m["content"]) for m in pair.prompt] == [("user", "q")]
    assert (pair.chosen, pair.rejected) == ("y", "n")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [("", "n", "empty answer"), ("y", " ", "empty answer"), ("y", "y\n", "both answers")],
)
def test_unusable_pair_says_why(chosen: str, rejected: str, reason: str) -> None:
    with pytest.raises(UnusableRow, match=reason):
        PAIR_FORMATS["instruction_pair"](
            {"instruction": "q", "chosen": chosen, "rejected": rejected}
        )


def test_a_preferred_turn_of_the_user_is_no_answer() -> None:
    row = {"conversations": [{"from": "human", "value": "q"}], "rejected": "n"}
    with pytest.raises(UnusableRow, match="does not end with the assistant"):
        PAIR_FORMATS["sharegpt_pair"](row | {"chosen": {"from": "human", "value": "y"}})


def test_questions_are_laid_out_as_lm_eval_asks_them(root: Path) -> None:
    """Rendered by lm-eval's own templates for C-Eval, CMMLU and MMLU."""
    from lm_eval import utils

    tasks = Path(utils.__file__).parent / "tasks"
    options = ["一", "二", "三", "四"]
    letters = dict(zip("ABCD", options, strict=True))
    cases = [
        ("cmmlu/_default_template_yaml", {"Question": "哪个？ ", **letters}, "zh"),
        ("ceval/_default_ceval_yaml", {"question": "哪个？ ", **letters}, "zh"),
        ("mmlu/default/_default_template_yaml", {"question": "哪个？ ", "choices": options}, "en"),
    ]
    for path, document, language in cases:
        template = yaml.safe_load((tasks / path).read_text(encoding="utf-8"))
        asked = utils.apply_template(template["doc_to_text"], document)
        assert question_text("哪个？ ", options, language) == asked  # type: ignore[arg-type]


def test_wanjuan_question_with_an_explanation_gives_all_styles() -> None:
    letter, explained, answer_first = wanjuan_exam(
        {
            "q_type": "单选题",
            "q_main": "下列正确的是（ ）",
            "option_a": "甲",
            "option_b": "乙",
            "option_c": "丙",
            "option_d": "丁",
            "option_e": "",
            "std_ans": "C",
            "answer_detail": "甲、乙、丁都不对，因为它们不符合题意。\n故选C．",
        }
    )
    assert [letter.style, explained.style, answer_first.style] == [*STYLES]
    assert letter.messages[0]["content"] == "下列正确的是（ ）\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n答案："
    assert letter.messages[1]["content"] == "C"
    assert explained.messages[0]["content"].endswith("D. 丁\n请先给出解释，再给出答案。")
    assert explained.messages[1]["content"] == "甲、乙、丁都不对，因为它们不符合题意。\n答案：C"
    assert answer_first.messages[0]["content"].endswith("D. 丁\n请先给出答案，再给出解释。")
    assert answer_first.messages[1]["content"] == "答案：C\n甲、乙、丁都不对，因为它们不符合题意。"


def test_question_without_an_explanation_gives_the_letter_only() -> None:
    for detail in ("", "略", "故选B"):
        assert [c.style for c in choice_chats("Which?", ["x", "y"], "B", detail)] == ["letter"]


def test_logiqa_block() -> None:
    lines = ["b", "语境。", "问题？", "A.甲", "B．乙", "C、丙", "D 丁"]
    (chat,) = logiqa({"lines": lines})
    assert chat.messages[0]["content"] == "语境。\n问题？\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n答案："
    assert chat.messages[1]["content"] == "B"


def test_unknown_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "odd.yaml").write_text(
        "{title: x, licence: x, language: zh, format: alpacca, files: ['*']}"
    )
    monkeypatch.setattr("common.recipes.RECIPES", tmp_path)
    with pytest.raises(ConfigError, match="alpacca"):
        load_set("sft", "odd")
