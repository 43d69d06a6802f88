"""Benchmark questions planted in documents in many kinds of dress: the share that is found again.

    python -m benchmarks.planted_questions EVALS DOCUMENTS [--number 40] [--missed KIND]

EVALS holds the benchmarks' files as `acquire` leaves them; DOCUMENTS holds JSON-lines files whose
lines serve as the documents around the questions. Also prints the speed of the search over the
documents as they are, and how many of them it says contain a question.
"""

import argparse
import json
import random
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from opencc import OpenCC

from corpus.decontaminate import BenchmarkQuestion, ContaminationConfig, Index, build_index

Dress = Callable[[BenchmarkQuestion, random.Random], str]

_TRADITIONAL = OpenCC("s2t")
HEADERS = (
    "第 {n} 页 共 60 页 机密★启用前",
    "{n} / 48  二〇一八年普通高等学校招生全国统一考试",
    "———— 第{n}页 ————  扫描全能王 创建",
    "Page {n} of 92    更多资料请关注公众号：考研小站",
)
FILLER = (
    "本卷共三大题，满分一百分，考试时间九十分钟。",
    "答题前请将姓名、准考证号填写在答题卡指定位置。",
    "选出每小题答案后，用铅笔把答题卡上对应题目的标号涂黑。",
    "如需改动，用橡皮擦干净后，再选涂其他标号。",
    "考试结束后，监考人员将试卷和答题卡一并收回。",
    "保持卡面清洁，不要折叠，不要弄破。",
)
_SAME_PUNCTUATION = str.maketrans("，。？：；（）“”！、", ',.?:;()""!,')
_LOOK_ALIKES = dict(zip("已末未土日天人入千干", "己未末士曰夭入人干千", strict=True))


def listed(question: BenchmarkQuestion, options: Sequence[str] | None = None) -> str:
    """The options, a line each, with their letters."""
    shown = question.options if options is None else options
    return "\n".join(f"{letter}. {o}" for letter, o in zip("ABCD", shown, strict=False))


def asked(question: BenchmarkQuestion) -> str:
    """Stem and options as an exam prints them."""
    return f"{question.stem}\n{listed(question)}"


def inserted(text: str, middle: str) -> str:
    """`middle` on a line of its own in the middle of a text."""
    at = len(text) // 2
    return f"{text[:at]}\n{middle}\n{text[at:]}"


def broken(text: str, width: int) -> str:
    """A line break after every `width` characters."""
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))


def wrapped(text: str, width: int) -> str:
    """Lines of at most `width` characters, broken at blanks; a longer word stands alone."""
    lines = (textwrap.wrap(line, width, break_long_words=False) for line in text.split("\n"))
    return "\n".join("\n".join(parts) for parts in lines)


def misprinted(text: str, share: float, rng: random.Random) -> str:
    """This share of the characters replaced, left out, or preceded by another."""
    out = []
    for character in text:
        if character.isspace() or rng.random() >= share:
            out.append(character)
            continue
        other = chr(rng.randrange(0x4E00, 0x9000)) if ord(character) > 0x3000 else rng.choice("xyz")
        out.append(rng.choice((other, "", other + character)))
    return "".join(out)


def misspelt(text: str, share: float, rng: random.Random) -> str:
    """This share of the characters left out, doubled, swapped with the next, or a look-alike."""
    out = []
    characters = list(text)
    for at, character in enumerate(characters):
        if character.isspace() or character.isdigit() or rng.random() >= share:
            out.append(character)
            continue
        kind = rng.randrange(4)
        if kind == 1:
            out.append(2 * character)
        elif kind == 2 and at + 1 < len(characters):
            out.append(characters[at + 1])
            characters[at + 1] = character
        elif kind == 3:
            out.append(_LOOK_ALIKES.get(character, rng.choice("aeо口曰")))
    return "".join(out)


def misread(text: str, rng: random.Random) -> str:
    """As optical recognition leaves it: blanks between characters, look-alikes, specks."""
    out = []
    for character in text:
        out.append(_LOOK_ALIKES.get(character, character))
        if rng.random() < 0.15:
            out.append(rng.choice(" 　·"))
        elif rng.random() < 0.01:
            out.append(rng.choice("丨丿Il|"))
    return "".join(out)


def answer(question: BenchmarkQuestion, rng: random.Random) -> str:
    """The right option; any where the benchmark keeps the right one to itself."""
    return question.answer or rng.choice(question.options)


def wide(text: str) -> str:
    """Other punctuation, full width."""
    text = text.replace("，", ", ").replace("。", ".").replace("____", "（　）").replace("？", "?")
    return "".join(chr(ord(c) + 0xFEE0) if 33 <= ord(c) < 127 else c for c in text)


def _header(rng: random.Random) -> str:
    return rng.choice(HEADERS).format(n=rng.randrange(1, 60))


def _filled(count: int, rng: random.Random) -> str:
    return "\n".join(rng.choice(FILLER) for _ in range(count))


def _without_one(q: BenchmarkQuestion, rng: random.Random) -> str:
    options = list(q.options)
    del options[rng.randrange(len(options))]
    return f"{q.stem}\n{listed(q, options)}"


DRESSES: dict[str, Dress] = {
    "as it is": lambda q, rng: asked(q),
    "options in another order": lambda q, rng: (
        f"{q.stem}\n{listed(q, rng.sample(q.options, len(q.options)))}"
    ),
    "one option missing": _without_one,
    "traditional": lambda q, rng: _TRADITIONAL.convert(asked(q)),
    "other punctuation, full width": lambda q, rng: wide(asked(q)),
    "half-width punctuation": lambda q, rng: asked(q).translate(_SAME_PUNCTUATION),
    "page header in the stem": lambda q, rng: f"{inserted(q.stem, _header(rng))}\n{listed(q)}",
    "page header in the stem, alone": lambda q, rng: inserted(q.stem, _header(rng)),
    "page header before the options": lambda q, rng: f"{q.stem}\n{_header(rng)}\n{listed(q)}",
    "page header among the options": lambda q, rng: (
        f"{q.stem}\n{inserted(listed(q), _header(rng))}"
    ),
    "1 % misprinted": lambda q, rng: misprinted(asked(q), 0.01, rng),
    "3 % misprinted": lambda q, rng: misprinted(asked(q), 0.03, rng),
    "5 % misprinted": lambda q, rng: misprinted(asked(q), 0.05, rng),
    "3 % misprinted, stem and answer": lambda q, rng: misprinted(
        f"问：{q.stem}\n答：{answer(q, rng)}", 0.03, rng
    ),
    "3 % misspelt": lambda q, rng: misspelt(asked(q), 0.03, rng),
    "misread": lambda q, rng: misread(asked(q), rng),
    "options after 10 sentences": lambda q, rng: f"{q.stem}\n{_filled(10, rng)}\n{listed(q)}",
    "options after 60 sentences": lambda q, rng: f"{q.stem}\n{_filled(60, rng)}\n{listed(q)}",
    "options before the stem": lambda q, rng: f"{listed(q)}\n{_filled(3, rng)}\n{q.stem}",
    "stem and answer": lambda q, rng: f"问：{q.stem}\n答：{answer(q, rng)}",
    "stem and answer, a line each": lambda q, rng: f"{q.stem}\n{answer(q, rng)}",
    "stem and answer, named": lambda q, rng: f"题目：{q.stem}\n参考答案：{answer(q, rng)}。",
    "stem, explanation, answer": lambda q, rng: (
        f"{q.stem}\n解析：这道题考查基础知识，请结合教材复习。所以正确答案是{answer(q, rng)}。"
    ),
    "answer before the stem": lambda q, rng: f"答案是“{answer(q, rng)}”的题目：{q.stem}",
    "row of a table": lambda q, rng: f"| 12 | {q.stem} | {answer(q, rng)} | 单选 |",
    "row of tab-separated values": lambda q, rng: f"12\t{q.stem}\t{answer(q, rng)}\t2",
    "object of JSON": lambda q, rng: json.dumps(
        {"question": q.stem, "answer": answer(q, rng)}, ensure_ascii=False
    ),
    "answer in bold": lambda q, rng: f"**{q.stem}**\n\n- **{answer(q, rng)}** ✓",
    "answer in English": lambda q, rng: f"{q.stem} The correct answer is {answer(q, rng)}.",
    "answer in the blank": lambda q, rng: (
        q.stem.replace("____", f"（{answer(q, rng)}）")
        if "____" in q.stem
        else f"{q.stem}（{answer(q, rng)}）"
    ),
    "stem alone": lambda q, rng: q.stem,
    "a line break every 12 characters": lambda q, rng: broken(asked(q), 12),
    "lines of whole words, 12 characters": lambda q, rng: wrapped(asked(q), 12),
    "a line break every 30 characters": lambda q, rng: broken(asked(q), 30),
    "numbers between": lambda q, rng: (
        f"12、{q.stem}\n" + "\n".join(f"（{i}）{o}" for i, o in enumerate(q.options, 1))
    ),
    "points of the question": lambda q, rng: f"23．（2 分）{q.stem}（　　）\n{listed(q)}\n【考点】",
}
"""Kind of dress -> the text that is planted."""


def plant(text: str, document: str, rng: random.Random) -> str:
    """A document with a text on lines of its own, at any place."""
    at = rng.randrange(len(document) + 1)
    return f"{document[:at]}\n{text}\n{document[at:]}"


def documents_of(folder: Path) -> list[str]:
    """The text of every line of the JSON-lines files below a folder, at least 200 characters."""
    texts = []
    for path in sorted(folder.rglob("*.json*")):
        for line in path.read_text("utf-8", "replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            values = row.values() if isinstance(row, dict) else ()
            text = max((v for v in values if isinstance(v, str)), key=len, default="")
            if len(text) >= 200:
                texts.append(text)
    return texts


def found_again(
    index: Index,
    questions: Sequence[BenchmarkQuestion],
    dress: Dress,
    documents: Sequence[str],
    seed: int,
) -> list[tuple[bool, BenchmarkQuestion, str]]:
    """Plant each question in a document: found or not, the question, what was planted."""
    rng = random.Random(seed)
    results = []
    for question in questions:
        text = dress(question, rng)
        matches = index.find(plant(text, rng.choice(documents), rng))
        # A benchmark may ask a question twice: what counts is that the document is recognised.
        results.append((bool(matches), question, text))
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("evals", type=Path)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--number", type=int, default=40, help="questions of each benchmark")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--missed", default="", help="print what was missed of this kind")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    index = build_index(arguments.evals, (), ContaminationConfig())
    print(f"index of {len(index.questions):,} questions: {time.perf_counter() - started:.1f} s")
    documents = documents_of(arguments.documents)
    started, num_bytes, marked = time.process_time(), 0, 0
    for document in documents:
        num_bytes += len(document.encode("utf-8", "replace"))
        marked += bool(index.find(document))
    speed = num_bytes / 1e6 / (time.process_time() - started)
    print(f"{marked} of {len(documents):,} documents as they are; {speed:.1f} MB/s\n")
    by_benchmark: dict[str, list[BenchmarkQuestion]] = {}
    for question in index.questions:
        by_benchmark.setdefault(question.benchmark, []).append(question)
    rng = random.Random(arguments.seed)
    chosen = {n: rng.sample(qs, arguments.number) for n, qs in sorted(by_benchmark.items())}
    print(f"{'of ' + str(arguments.number):34}" + "".join(f"{name:>8}" for name in chosen))
    for kind, dress in DRESSES.items():
        if arguments.missed and arguments.missed != kind:
            continue
        row = {
            n: found_again(index, q, dress, documents, arguments.seed) for n, q in chosen.items()
        }
        counts = "".join(f"{sum(ok for ok, _, _ in results):8}" for results in row.values())
        print(f"{kind:34}{counts}", flush=True)
        for _, question, text in (r for rs in row.values() for r in rs if not r[0]):
            if arguments.missed:
                print("---", question.benchmark, question.id, "\n", text)


if __name__ == "__main__":
    main()
