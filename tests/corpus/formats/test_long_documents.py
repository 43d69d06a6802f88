"""Long documents are cut where their authors drew boundaries, and lose nothing."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.formats.long_documents import cut

PIECES = st.sampled_from(
    [
        "第一章 起\n", "# 标题\n", "\n\n", "\n", "甲乙。", "问：为什么？\n", "答：因为。\n",
        "$$\n", "| a | b |\n", "def f():\n", "    return 1\n", "}\n", '"""', "/* ", " */\n",
        "#endif\n", "```\n",
        "x" * 40, " ", "e\u0301", "👨\u200d👩\u200d👧", "\r", "\u2028", "\ud800",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=200), st.integers(4, 300), st.booleans())
def test_parts_are_the_document_and_within_bounds(
    pieces: list[str], longest: int, code: bool
) -> None:
    text = "".join(pieces)
    parts = cut(text, longest, code=code)
    assert "".join(parts) == text
    assert all(len(part) <= longest for part in parts)
    if len(parts) > 1:
        assert min(map(len, parts)) >= longest // 4
    assert cut(text, longest, code=code) == parts
    assert cut(text, 0) == [text]


def test_a_bound_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        cut("abcdef", 3)


def sentences(number: int, seed: int) -> str:
    chance = random.Random(seed)
    return "".join(
        "".join(chance.choices("山水云石风花雪月人心天地", k=chance.randrange(8, 30))) + "。"
        for _ in range(number)
    )


def test_a_novel_is_cut_before_chapters() -> None:
    chapters = [
        f"第{n}回 {sentences(1, number)[:8]}\n"
        + "\n".join(sentences(9, 50 * number + i) for i in range(9))
        + "\n"
        for number, n in enumerate("一二三四五六七八九")
    ]
    parts = cut("".join(chapters), max(map(len, chapters)) * 3 // 2)
    assert parts == chapters


def test_text_is_cut_between_paragraphs_then_sentences() -> None:
    paragraphs = [sentences(20, i) + "\n\n" for i in range(40)]
    for part in cut("".join(paragraphs), 3000)[:-1]:
        assert part.endswith("。\n\n")
    for part in cut(sentences(2000, 1), 3000)[:-1]:
        assert part.endswith("。")
    english = "The river runs to the sea and nobody asks why, " * 2000
    for part in cut(english, 3000)[:-1]:
        assert part[-1] == " "


def test_questions_stay_with_their_answers() -> None:
    turns = [f"问：{sentences(2, i)}\n答：{sentences(6, -i)}\n" for i in range(200)]
    for part in cut("".join(turns), 2000):
        assert part.startswith("问：")


def test_fences_formulas_and_tables_stay_whole_where_anything_else_is_near() -> None:
    blocks = []
    for i in range(60):
        blocks += [
            sentences(8, i) + "\n\n",
            "```python\n" + "".join(f"x{n} = {n}\n\n" for n in range(20)) + "```\n\n",
            "| a | b |\n|---|---|\n" + "".join(f"| {n} | {n} |\n" for n in range(20)) + "\n",
            "$$\n" + "a + b \\\\\n\n" * 9 + "$$\n\n",
        ]
    for part in cut("".join(blocks), 2000):
        assert part.count("```") % 2 == 0
        assert part.count("$$") % 2 == 0
        assert not part.startswith("|") or part.startswith("| a |")


def functions(number: int) -> list[str]:
    return [
        f"# Step {i}: what comes next.\n"
        f"@cached\ndef step_{i}(left, right):\n"
        f'    """Docstring.\n\nAt the margin, too.\n    """\n'
        + "".join(f"    value_{j} = left[{j}] + right\n\n" for j in range(12))
        + "    return left\n\n\n"
        for i in range(number)
    ]


def test_code_is_cut_between_definitions() -> None:
    source = functions(80)
    for part in cut("".join(source), 4000, code=True):
        assert part.startswith("# Step ")
        assert part.endswith("return left\n\n\n")
    compile("".join(source), "x.py", "exec")
    for part in cut("".join(source), 4000, code=True):
        compile(part, "x.py", "exec")


def test_methods_stay_whole_where_one_class_is_the_whole_file() -> None:
    methods = [
        f"    /**\n     * Adds.\n\n     */\n    int add{i}(int a) {{\n"
        + "        a += 1;\n\n" * 15
        + "        return a;\n    }\n\n"
        for i in range(100)
    ]
    parts = cut("class A {\n" + "".join(methods) + "}\n", 5000, code=True)
    assert len(parts) > 5
    for part in parts[1:]:
        assert part.startswith("    /**")


def test_comment_stays_with_the_function_below_it() -> None:
    body = "".join(
        f"// Why {i}.\n\n// A rule\nint f{i}() {{\n" + "\n  go();\n" * 20 + "}\n\n"
        for i in range(99)
    )
    for part in cut(body, 3000, code=True):
        assert part.startswith("// Why")


def test_an_edit_moves_only_the_cuts_around_it() -> None:
    """Copies of a long document are found part by part, though one has a passage more."""
    for code, text in (
        (True, "".join(functions(400))),
        (False, "\n\n".join(sentences(9, i) for i in range(900))),
    ):
        edited = text[:5000] + "\n\nadded = 1\n\n" + text[5000:]
        before, after = set(cut(text, 8000, code=code)), set(cut(edited, 8000, code=code))
        assert len(before & after) > 0.6 * len(before)


def test_nothing_that_is_shown_as_one_is_cut() -> None:
    for unit in ("e\u0301", "👨\u200d👩\u200d👧\u200d👦", "👍🏽", "☎\ufe0f"):
        for part in cut(unit * 3000, 1001):
            assert part == unit * (len(part) // len(unit))


@pytest.mark.timeout(60)
def test_long_runs_take_linear_time() -> None:
    for run in ("a", "\n", " \n", "第", "#", "'", '"""', "/*", " ", "'\\"):
        for code in (False, True):
            text = run * (1_000_000 // len(run))
            assert "".join(cut(text, 50_000, code=code)) == text


def test_real_files_are_cut_between_definitions(shared: Path) -> None:
    import pyarrow.parquet as pq

    folder = shared / "data" / "pretrain" / "code_repos" / "cpp"
    texts = [
        t for f in sorted(folder.glob("*.parquet")) for t in pq.read_table(f)["content"].to_pylist()
    ]
    parts = [cut(text, 10_000, code=True) for text in texts]
    assert ["".join(p) for p in parts] == texts
    beginnings = [part for p in parts for part in p[1:]]
    assert len(beginnings) > 100
    indented = [b for b in beginnings if b[0] in " \t}"]
    assert len(indented) < 0.25 * len(beginnings)


def test_a_page_in_html_stays_whole() -> None:
    page = "<html><body>" + "<div class=a><p>山水云石。</p></div>\n" * 3000 + "</body></html>"
    assert cut(page, 3000) == [page]
    lesson = (sentences(40, 1) + "\n\n写作 <p>段落</p> 即可。\n\n") * 30
    assert len(cut(lesson, 3000)) > 3
