"""Short texts in GB18030 and Big5, and texts with damaged bytes: all that is sound is kept."""

import json
import random
from pathlib import Path

import opencc
import pytest

from corpus.formats.encodings import BIG5, GB18030, UTF8, encoding_of_sample
from corpus.formats.legacy_chinese import decode_document
from tests.corpus.formats.own_files import normalized

SENTENCE = "这是一个很普通的中文文本，用来检查编码。"
LONG = (SENTENCE + "\n") * 60


def test_probes(shared: Path, tmp_path: Path) -> None:
    probes = shared / "data" / "probes"
    files = {
        "a.txt": (probes / "15_short_gb18030.txt").read_bytes(),
        "b.txt": (probes / "16_one_bad_byte_gb18030.txt").read_bytes(),
    }
    result, found, _ = normalized(tmp_path, files)
    assert result.quarantined == 0
    assert found["a.txt#1"].startswith("寄生少女")
    lines = found["b.txt#1"].split("\n")
    assert len(lines) == 200
    assert sum(line == SENTENCE for line in lines) == 199
    assert list(result.damaged_files) == ["x/b.txt"]


@pytest.mark.parametrize("codec", ["gb18030", "cp950", "utf-8", "utf-16"])
@pytest.mark.parametrize("damage", ["flip", "drop", "insert"])
def test_one_bad_byte_costs_a_few_characters(codec: str, damage: str) -> None:
    draw = random.Random(3)
    text = LONG if codec != "cp950" else opencc.OpenCC("s2t").convert(LONG)
    encoding = {"gb18030": GB18030, "cp950": BIG5, "utf-8": UTF8}.get(codec)
    for _ in range(40):
        data = bytearray(text.encode(codec))
        at = draw.randrange(1000, 2000)
        if damage == "flip":
            data[at] = 0xFF
        elif damage == "drop" and codec != "utf-16":
            del data[at]
        elif damage == "insert" and codec != "utf-16":
            data.insert(at, 0x80)
        found, _ = decode_document(bytes(data), encoding or encoding_of_mark(bytes(data)))
        rows, expected = found.split("\n"), text.split("\n")
        if codec != "utf-16":
            assert len(rows) >= len(expected) - 1
        wrong = [row for row in rows if row not in expected]
        assert len(wrong) <= 1
        if wrong and codec != "utf-16":
            # The rest of the damaged line is there, too.
            assert wrong[0][:2] == expected[0][:2] or wrong[0][-3:] == expected[0][-3:]


def encoding_of_mark(data: bytes):  # type: ignore[no-untyped-def]
    import io

    from corpus.formats.encodings import detect_encoding

    return detect_encoding(io.BufferedReader(io.BytesIO(data)))  # type: ignore[arg-type]


def test_files_of_binary_junk_are_still_refused(tmp_path: Path) -> None:
    files = {"a.txt": b"x", "b.txt": bytes(range(256)) * 40, "c.txt": b"\xff" * 50}
    result, found, _ = normalized(tmp_path, files)
    assert set(found) == {"a.txt#1"}
    assert result.quarantined == 2


def test_another_encoding_is_not_taken_for_damage(tmp_path: Path) -> None:
    text = "Le café était fermé à Noël, déjà vu, naïve façade, où êtes-vous?\n" * 20
    result, found, _ = normalized(tmp_path, {"a.txt": text.encode("cp1252"), "b.txt": b"x"})
    assert set(found) == {"b.txt#1"}
    assert result.quarantined == 1


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("Le café était fermé à Noël, déjà vu", "cp1252"),
        ("Übermäßig schöne Grüße aus München", "cp1252"),
        ("Привет, как дела? Это обычный русский текст.", "cp1251"),
        ("Привет, как дела? Это обычный русский текст.", "koi8-r"),
        ("これは普通の日本語の文章です。漢字も混ざっています", "shift_jis"),
        ("안녕하세요 이것은 평범한 한국어 문장입니다", "euc_kr"),
    ],
)
def test_other_languages_are_not_taken_for_chinese(text: str, codec: str) -> None:
    assert encoding_of_sample(text.encode(codec)).codec == "utf-8"


def test_short_real_texts(shared: Path) -> None:
    file = shared / "data" / "pretrain" / "sky" / "2021-31_zh_head_0000_sample.jsonl"
    rows = [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()]
    short = [text for row in rows if not (text := row[50:70]).isascii()]
    gb = [encoding_of_sample(text.encode("gb18030")) for text in short]
    convert = opencc.OpenCC("s2t").convert
    big5 = [encoding_of_sample(convert(text).encode("cp950", "ignore")) for text in short]
    assert sum(encoding == GB18030 for encoding in gb) >= 0.93 * len(short)
    assert sum(encoding.name.startswith("Big5") for encoding in big5) >= 0.93 * len(short)
    assert not any(encoding.name.startswith("Big5") for encoding in gb)
    assert GB18030 not in big5


@pytest.mark.parametrize(
    "word", ["模", "联通", "中文", "一二三", "寄生少女ゆうちゃん", "糗糗", "，"]
)
def test_neighbours_decide_what_a_file_is_too_short_for(word: str, tmp_path: Path) -> None:
    files = {f"{n}.txt": LONG.encode("gb18030") for n in range(3)} | {
        "s.txt": word.encode("gb18030"),
        "u.txt": "模联".encode(),
        "ascii.txt": b"abc",
    }
    _, found, _ = normalized(tmp_path, files)
    assert found["s.txt#1"] == word
    assert found["u.txt#1"] == "模联"
    assert found["ascii.txt#1"] == "abc"


def test_neighbours_in_utf8_leave_a_short_text_alone(tmp_path: Path) -> None:
    files = {f"{n}.txt": LONG.encode() for n in range(3)} | {"s.txt": "é ü ж".encode()}
    assert normalized(tmp_path, files)[1]["s.txt#1"] == "é ü ж"
