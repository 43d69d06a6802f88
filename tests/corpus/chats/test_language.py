"""Languages of conversations: constructed sentences, and real rows that a person labelled."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.chats.language import _JAPANESE_HAN, language_of, language_of_text
from tests.corpus.chats.labelled_rows import FILES, conversations, labels

TEXTS = {
    "zh": [
        "請問臺灣的首都在哪裡？",
        "車站（日文：駅）在哪裡？我想從這裡走路過去，需要多久時間呢",
        "請問臺灣的首都在哪裡？",
        "車站（日文：駅）在哪裡？我想從這裡走路過去，需要多久時間呢",
        "你好",
        "三",
        "请解释 machine learning 和 deep learning 的区别。",
        "用 Python 写一个快速排序：\n```python\ndef sort(items):\n    return sorted(items)\n```",
        r"求解方程 $x^2 + 2x + 1 = 0$，其中 \(x \in \mathbb{R}\)。",
        "翻譯成英文：我想吃飯。",
        "這個詞在日語裡寫作「の」，是什麼意思？",
        "参考 https://example.com/a/very/long/address/of/a/page 回答",
        "把 SELECT name, age FROM users WHERE age > 18 ORDER BY name 改成按年龄排序",
        "&lt;table&gt;&lt;tr&gt;&lt;td&gt;姓名&lt;/td&gt;&lt;/tr&gt;&lt;/table&gt;",
    ],
    "en": [
        "Hello",
        "Hi!",
        "OK",
        "2 + 2 = 4",
        "",
        "What is the meaning of the name 李明 in Chinese?",
        "Who was Müller, the naïve café owner?",
        "Write a function f(x, y) that returns x + y; use const and let.",
        "Translate 'bonjour' into Spanish.",
        "How do I say お元気ですか politely in a letter to a colleague of mine?",
        "```\nint main() { return 0; }\n```",
        r"$$\sum_{i=1}^{n} \alpha_i$$ is a sum.",
        "High carbon steel contains\nA. Ni\nB. NH3\nC. Na\nD. Fe",
    ],
    "other": [
        "東京都庁所在地",
        "日本語文法説明",
        "東京都庁所在地",
        "日本語文法説明",
        "こんにちは、元気ですか？",
        "日本の首都はどこですか。東京です。",
        "カタカナ",
        "안녕하세요, 오늘 날씨가 어때요?",
        "Привет, как дела?",
        "Как мне установить Python на компьютер?",
        "مرحبا كيف حالك",
        "สวัสดีครับ",
        "नमस्ते आप कैसे हैं",
        "שלום מה שלומך",
        "Γειά σου, τι κάνεις;",
        "Bonjour",
        "Quelle est la capitale de la France ? La capitale est Paris.",
        "Was ist der Unterschied zwischen einer Liste und einem Tupel?",
        "¿Cuál es la capital de España?",
        "Qual è la differenza tra questi due metodi?",
        "Por que isso não funciona? Você pode me ajudar?",
        "Hoe kan ik dit het beste doen? Ik weet het niet.",
        "Dlaczego to nie jest dobre? Proszę o pomoc.",
        "Bu neden böyle? Bana bir örnek ver.",
        "Apa itu pembelajaran mesin dan bagaimana cara kerjanya?",
        "Thủ đô của Việt Nam là gì?",
    ],
}


@pytest.mark.parametrize(
    ("label", "text"), [(label, text) for label, texts in TEXTS.items() for text in texts]
)
def test_texts_of_one_language(label: str, text: str) -> None:
    assert language_of_text(text) == label


def chat(*turns: str) -> list[dict[str, str]]:
    return [
        {"role": ("user", "assistant")[number % 2], "content": text}
        for number, text in enumerate(turns)
    ]


def test_what_is_asked_in_chinese_is_chinese_and_the_system_prompt_says_nothing() -> None:
    english = "As the sun sets, the shimmer of the horizon exudes a breathtaking view of the sea."
    assert language_of(chat("用英文写一个描写日落的句子。", english)) == "zh"
    assert language_of(chat("Describe a sunset in Chinese, please.", "夕阳西下。")) == "en"
    system = {"role": "system", "content": "你是一个有用的助手，请用中文回答所有问题。"}
    assert language_of([system, *chat("Who are you?", "I am an assistant.")]) == "en"


@given(st.text(max_size=300))
def test_any_text_has_a_language(text: str) -> None:
    assert language_of_text(text) in ("zh", "en", "other")
    assert language_of(chat(text, text)) in ("zh", "en", "other")


@given(st.sampled_from(TEXTS["zh"][:2] + TEXTS["other"]), st.integers(1, 60))
def test_repeating_a_text_does_not_change_its_language(text: str, times: int) -> None:
    assert language_of_text("\n".join([text] * times)) == language_of_text(text)


def test_labelled_rows(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = labels()
    assert len(wanted) == 200
    wrong = []
    for file in FILES:
        for row, messages in conversations(shared / "data", file):
            label = wanted.pop((file, row), None)
            if label is not None and label != (found := language_of(messages)):
                wrong.append((file, row, label, found))
    assert not wanted, "rows that were labelled are no longer there"
    with capsys.disabled():
        print(f"\nlanguage: {200 - len(wrong)} of 200 labelled rows are right; wrong: {wrong}")
    assert len(wrong) <= 3


def test_what_is_written_so_in_japanese_alone_is_in_no_chinese_character_set() -> None:
    for char in _JAPANESE_HAN:
        for chinese in ("gb2312", "big5"):
            with pytest.raises(UnicodeEncodeError):
                char.encode(chinese)
        char.encode("shift_jis")
