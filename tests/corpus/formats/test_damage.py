"""Damage of every kind among good rows: every good row comes out, in order, and whatever does not
is counted with its file, line and reason."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import opencc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import json_items
from corpus.formats.encodings import detect_encoding, open_as_utf8
from corpus.formats.records import Damaged, read_records
from tasks.core.stage import StageRun
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks.running import result_of, run_stage, stage_run


def normalized(folder: Path, name: str = "skypile", **files: bytes) -> StageRun:
    """Files, named with `__` for `.`, through the stage as one corpus."""
    (folder / "raw" / name).mkdir(parents=True)
    for file, data in files.items():
        (folder / "raw" / name / file.replace("__", ".")).write_bytes(data)
    config = NormalizeConfig(corpora=(name,))
    return run_stage(normalize, folder / "out", config, raw=result_of(stage_run(folder / "raw")))


def texts(run: StageRun, name: str = "skypile") -> list[str]:
    return [json.loads(x)["text"] for x in (run.folder / f"{name}.jsonl").read_bytes().splitlines()]


def aside(run: StageRun, name: str = "skypile") -> list[dict[str, Any]]:
    lines = (run.folder / "quarantine" / f"{name}.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines]


def row(text: str) -> bytes:
    return json.dumps({"text": text}, ensure_ascii=False).encode()


HANZI = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5)
SIGNS = st.sampled_from('。，abc é"\\\n\u2028\x85{}[]')
GOOD_TEXT = st.text(HANZI | SIGNS, min_size=1, max_size=30).map(lambda text: f"好{text}好")


def _flipped(line: bytes, at: int) -> bytes:
    """Bytes that no UTF-8 text holds, in the place of one byte."""
    at %= len(line)
    return line[:at] + b"\xff\xc0" + line[at + 1 :]


def _nul(line: bytes, at: int) -> bytes:
    at %= len(line)
    return line[:at] + b"\x00" + line[at:]


BAD = st.one_of(
    st.builds(_flipped, GOOD_TEXT.map(row), st.integers(0, 99)),
    st.builds(_nul, GOOD_TEXT.map(row), st.integers(0, 99)),
    st.builds(
        lambda line, cut: line[: 1 + cut % (len(line) - 1)], GOOD_TEXT.map(row), st.integers(0, 99)
    ),
    st.binary(max_size=12).filter(lambda b: b"\n" not in b).map(lambda b: b"\xff" + b),
    st.sampled_from(
        [
            b"",
            b"   ",
            b"\t\r",
            b"null",
            b"3",
            b"true",
            b'"text"',
            b"[]",
            b"{}",
            b"[[1]]",
            b'{"text": null}',
            b'{"text": 5}',
            b'{"text": ["a"]}',
            b'{"text": {"a": 1}}',
            b'{"text": ""}',
            b'{"text": "  "}',
            b'{"text": true}',
            b'{"Text": "x"}',
            b'{"text": "\\ud800"}',
            b'{"text": "\\udc00 x"}',
            b'{"text": "\xed\xa0\x80"}',
            b'{"text": 1' + b"0" * 400 + b"}",
            b'{"text": ' + b"9" * 5000 + b"}",
            b'{"text": 1e999}',
            b'{"text": NaN}',
            b'{"text": -Infinity}',
            b"[" * 100_000,
            b'{"text": ' * 50_000,
            b"[" * 2000 + b"]" * 2000,
            b'{"text": ' + b"[" * 3000 + b"]" * 3000 + b"}",
            b'{"text": "a"} {"text": "b"}',
            b"\xef\xbb\xbf",
            b"}{",
            b"\x00",
            b"\x1a",
            b"\xfe\xff",
            b"{'text': 'a'}",
        ]
    ),
)
"""Lines that hold no document."""

FRAME = st.sampled_from([(b"", b"\n"), (b"", b"\r\n"), (b"\xef\xbb\xbf", b"\n"), (b" ", b" \n")])
"""Harmless bytes around a good line."""


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.just(True), GOOD_TEXT, FRAME) | st.tuples(st.just(False), BAD, st.none()),
        max_size=12,
    ),
    packing=st.sampled_from(["jsonl", "json", "jsonl__gz", "jsonl__zst"]),
)
def test_good_lines_come_out_among_any_damage(
    rows: list[Any], packing: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [(True, "开头", (b"", b"\n")), *rows]
    data, good, bad = b"", [], []
    for number, (is_good, content, frame) in enumerate(rows, 1):
        if is_good:
            good.append(content)
            data += frame[0] + row(content) + frame[1]
        else:
            bad.append(number)
            data += content + b"\n"
    if packing.endswith("gz"):
        data = gzip.compress(data)
    if packing.endswith("zst"):
        data = zstandard.compress(data)
    run = normalized(tmp_path_factory.mktemp("damage"), **{f"x__{packing}": data})
    assert texts(run) == good
    set_aside = aside(run)
    assert [r["line"] for r in set_aside] == bad
    assert all(r["reason"] and r["file"].startswith("skypile/x.json") for r in set_aside)
    assert run.counts["documents"] == len(good)
    assert run.counts["quarantined"] == len(bad)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.booleans(), GOOD_TEXT, st.integers(0, 99)), max_size=8),
    style=st.sampled_from([("[\n  ", ",\n  ", "\n]\n"), ("[", ",", "]"), ("[\n", ",\n", "\n]")]),
    how=st.sampled_from(["flip", "cut", "quote", "number"]),
)
def test_good_items_of_an_array_come_out_among_any_damage(
    rows: list[Any], style: tuple[str, str, str], how: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    opening, comma, closing = (part.encode() for part in style)
    items, good = [row("开头")], ["开头"]
    for is_good, text, at in rows:
        item = row(text)
        if is_good:
            good.append(text)
        elif how == "flip":
            middle = 9 + at % (len(item) - 11)
            item = item[:middle] + b"\xff\xc0" + item[middle + 1 :]
        elif how == "cut":
            item = item[: 9 + at % (len(item) - 10)].rstrip(b"\\")
        elif how == "quote":
            item = item[:9] + b'"' + item[9:]
        else:
            item = b'{"text": ' + b"7" * 30 + b"}"
        items.append(item)
    data = opening + comma.join(items) + closing
    run = normalized(tmp_path_factory.mktemp("array"), x__json=data)
    assert texts(run) == good
    assert run.counts["quarantined"] == len(items) - len(good)


# --- files that break off ----------------------------------------------------------------------

LONG = [f"{number} " + "字" * (number % 50) for number in range(60_000)]
LINES = b"".join(row(text) + b"\n" for text in LONG)


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_a_cut_off_archive_gives_all_lines_before_the_cut(packing: str, tmp_path: Path) -> None:
    whole = gzip.compress(LINES, 1) if packing == "gz" else zstandard.compress(LINES)
    cut = whole[: len(whole) * 2 // 3]
    # What the libraries themselves can still unpack of it.
    if packing == "gz":
        left = zlib.decompressobj(31).decompress(cut)
    else:
        left = zstandard.ZstdDecompressor().decompressobj().decompress(cut)
    run = normalized(tmp_path, **{f"x__jsonl__{packing}": cut, "y__jsonl": row("后面") + b"\n"})
    whole_lines = left.count(b"\n")
    assert whole_lines > 10_000
    found = texts(run)
    # The last 64 KiB may still be in the decompressor when the end is missed.
    assert whole_lines - len(found) <= 1500
    assert found == [text.strip() for text in LONG[: len(found) - 1]] + ["后面"]
    (broken,) = aside(run)
    assert broken["reason"].startswith("cannot read on")
    assert broken["file"].endswith(packing)


def test_parquet_goes_on_behind_a_damaged_row_group(tmp_path: Path) -> None:
    good = tmp_path / "good.parquet"
    table = pa.table({"text": [f"第{n}行" + "字" * 50 for n in range(3000)]})
    pq.write_table(table, good, row_group_size=1000, compression="snappy", use_dictionary=False)
    column = pq.ParquetFile(good).metadata.row_group(1).column(0)
    data = bytearray(good.read_bytes())
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    run = normalized(tmp_path, x__parquet=bytes(data))
    found = texts(run)
    assert found == [f"第{n}行" + "字" * 50 for n in (*range(1000), *range(2000, 3000))]
    (lost,) = aside(run)
    assert (lost["line"], lost["records"]) == (1001, 1000)
    assert "rows 1001 to 2000" in lost["reason"]
    assert run.counts["documents"] + run.counts["quarantined"] == 3000


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), cut=st.booleans(), garbage=st.binary(min_size=1))
def test_parquet_damaged_anywhere_never_stops_the_run(
    at: float, cut: bool, garbage: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    pq.write_table(pa.table({"text": [f"第{n}行" for n in range(50)]}), folder / "good.parquet")
    data = (folder / "good.parquet").read_bytes()
    place = int(at * len(data))
    data = data[:place] if cut else data[:place] + garbage + data[place + len(garbage) :]
    run = normalized(folder, x__parquet=data, y__jsonl=row("后面") + b"\n")
    assert texts(run)[-1] == "后面"


# --- encodings -----------------------------------------------------------------------------------

TRADITIONAL = opencc.OpenCC("s2t")


@pytest.fixture(scope="module")
def real_rows(shared: Path) -> list[str]:
    """Real texts without what GB18030's and Big5's own tables lack."""
    (file,) = (shared / "data" / "pretrain" / "baidu_QA").glob("*.json")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = [str(r["answer"]).replace("\r", " ").replace("\n", " ").strip() for r in rows]
    return [text for text in found if text][:200]


CASES = [
    ("gb18030", "GB18030"),
    ("gbk", "GB18030"),
    ("gb2312", "GB18030"),
    ("cp950", "Big5"),
    ("big5", "Big5"),
    ("utf-16", "UTF-16"),
    ("utf-8-sig", "UTF-8"),
]


@pytest.mark.parametrize(("codec", "name"), CASES)
@pytest.mark.parametrize("array", [False, True])
def test_real_rows_in_any_encoding_come_out_as_they_were(
    codec: str, name: str, array: bool, real_rows: list[str], tmp_path: Path
) -> None:
    rows = [TRADITIONAL.convert(t) for t in real_rows] if name == "Big5" else real_rows
    plain = "gbk" if codec.startswith("utf") else codec
    rows = [t for text in rows if (t := text.encode(plain, "ignore").decode(plain).strip())]
    items = [json.dumps({"text": text}, ensure_ascii=False) for text in rows]
    text = f"[{', '.join(items)}]" if array else "\n".join(items)
    # A long beginning of nothing but ASCII must not decide.
    head = ["ascii only " * 10] * 15_000
    if not array:
        text = "".join(json.dumps({"text": t}) + "\n" for t in head) + text
    run = normalized(tmp_path, x__json=text.encode(codec))
    expected = rows if array else [t.strip() for t in head] + rows
    assert texts(run) == expected
    assert run.notes["sources"]["skypile"]["encodings"] == {name: 1}
    assert run.counts["quarantined"] == 0


@pytest.mark.parametrize("codec", ["gb18030", "cp950"])
def test_damaged_lines_of_another_encoding_are_set_aside_by_line(
    codec: str, real_rows: list[str], tmp_path: Path
) -> None:
    rows = [TRADITIONAL.convert(t) if codec == "cp950" else t for t in real_rows]
    rows = [t for text in rows if (t := text.encode(codec, "ignore").decode(codec).strip())]
    data = [json.dumps({"text": text}, ensure_ascii=False).encode(codec) for text in rows]
    data[3:3] = [b'{"text": "\xff\xff"}']
    data[40:40] = [b'{"text": "\x81\x30']  # a character cut off by the line's end
    run = normalized(tmp_path, x__jsonl=b"\n".join(data))
    assert texts(run) == rows
    assert [(r["line"], r["reason"].split(" at ")[0]) for r in aside(run)] == [
        (4, f"not {'GB18030' if codec == 'gb18030' else 'Big5'}"),
        (41, f"not {'GB18030' if codec == 'gb18030' else 'Big5'}"),
    ]


@pytest.mark.parametrize("codec", ["gb18030", "cp950", "latin-1"])
def test_utf8_with_bad_lines_stays_utf8(codec: str, real_rows: list[str], tmp_path: Path) -> None:
    strange = (
        "café naïve"
        if codec == "latin-1"
        else TRADITIONAL.convert("这一行不是的，我们在这里说了一些别的话。")
    )
    lines = [row(text) for text in real_rows[:60]]
    for place in (0, 20, 40):
        lines.insert(place, json.dumps({"text": strange}, ensure_ascii=False).encode(codec))
    run = normalized(tmp_path, x__jsonl=b"\n".join(lines))
    if codec == "latin-1":
        assert texts(run) == real_rows[:60]
        assert [r["line"] for r in aside(run)] == [1, 21, 41]
        assert all(r["reason"].startswith("not UTF-8 at byte") for r in aside(run))
    else:  # Chinese lines are read in their own encoding
        assert texts(run)[::20][:3] == [strange] * 3
        assert len(texts(run)) == 63
    assert run.notes["sources"]["skypile"]["encodings"] == {"UTF-8": 1}


def test_a_file_of_an_unknown_encoding_is_set_aside_with_a_guess(tmp_path: Path) -> None:
    russian = "Шла Саша по шоссе и сосала сушку. " * 3
    lines = [json.dumps({"text": f"{n} {russian}"}, ensure_ascii=False) for n in range(30)]
    run = normalized(tmp_path, x__jsonl="\n".join(lines).encode("cp1251"), y__jsonl=row("好"))
    assert texts(run) == ["好"]
    assert len(aside(run)) == 30
    assert "looks like windows1251" in aside(run)[0]["reason"]


def test_each_file_of_a_corpus_has_its_own_encoding(real_rows: list[str], tmp_path: Path) -> None:
    text = "\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in real_rows[:30])
    run = normalized(
        tmp_path,
        a__jsonl=text.encode("gb18030"),
        b__jsonl=text.encode(),
        c__jsonl=TRADITIONAL.convert(text).encode("cp950", "ignore"),
    )
    assert run.notes["sources"]["skypile"]["encodings"] == {"GB18030": 1, "UTF-8": 1, "Big5": 1}
    assert texts(run)[:60] == real_rows[:30] * 2


def test_a_character_of_hong_kong_does_not_hide_big5(real_rows: list[str], tmp_path: Path) -> None:
    text = TRADITIONAL.convert("".join(real_rows[:50])).encode("cp950", "ignore").decode("cp950")
    (tmp_path / "x").write_bytes((text + "嘅喺咁冇").encode("big5hkscs"))
    with (tmp_path / "x").open("rb") as file:
        assert detect_encoding(file).name == "Big5-HKSCS"
    with open_as_utf8(tmp_path / "x") as (stream, _, _):
        assert stream.read().decode() == text + "嘅喺咁冇"


def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged item that never ends is given up after MAX_RECORD, and reading goes on."""
    monkeypatch.setattr(json_items, "MAX_RECORD", 1 << 16)
    monkeypatch.setattr(json_items, "CHUNK", 1 << 14)
    path = tmp_path / "x.json"
    path.write_text(
        '[\n{"text": "一"},\n{"text": "' + "y" * (1 << 20) + '\n{"text": "二"},\n{"text": "三"}\n]',
        encoding="utf-8",
    )
    values = [r.value for r in read_records(path)]
    assert [v["text"] for v in values if not isinstance(v, Damaged)] == ["一", "二", "三"]
    assert sum(isinstance(v, Damaged) for v in values) == 1
