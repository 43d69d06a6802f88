"""Benchmark questions in every kind of dress that corpora have, and what only resembles them."""

import json
import random
from pathlib import Path

import pytest

from benchmarks.planted_questions import DRESSES, asked, documents_of, found_again, plant
from corpus.decontaminate import BenchmarkQuestion, Index
from tests.corpus.decontaminate.planted import CONFIG

PAGE = (
    "城南的旧书店在一条很窄的巷子里，门口摆着两盆兰花。老板是个沉默的人，每天早晨把门板一块一块卸下来，"
    "再把昨夜收好的书重新摆出去。\n来的多是熟客，翻书的时候谁也不说话，偶尔有孩子跑进来问有没有连环画，"
    "老板便从柜台底下摸出一本旧的，让他坐在小板凳上看。\n"
) * 3

LONG = BenchmarkQuestion(
    benchmark="ceval",
    id="geography/val/0",
    stem="下列关于黄土高原水土流失原因的叙述中，不属于人为因素造成的一项是____。",
    options=("植被遭到破坏", "夏季降水集中且多暴雨", "开矿修路未护坡", "陡坡开垦耕地"),
    answer="夏季降水集中且多暴雨",
)
BRIEF = BenchmarkQuestion(
    benchmark="cmmlu",
    id="agronomy/test/1",
    stem="水稻的分蘖盛期指",
    options=("从移栽到返青的阶段", "分蘖数增长最快的阶段", "幼穗开始分化的阶段", "抽穗以后的阶段"),
    answer="分蘖数增长最快的阶段",
)
QUESTIONS = (LONG, BRIEF)
INDEX = Index.build(QUESTIONS, CONFIG)

NOT_FOUND_BRIEF = {"stem alone", "page header in the stem, alone"}


@pytest.mark.parametrize("kind", DRESSES)
def test_a_question_is_found_in_this_dress(kind: str) -> None:
    """30 plantings of each; a misprint may hit the few words that a short question has."""
    for question in QUESTIONS:
        if question is BRIEF and kind in NOT_FOUND_BRIEF:
            continue
        hits = [
            ok
            for seed in range(30)
            for ok, _, _ in found_again(INDEX, [question], DRESSES[kind], [PAGE], seed)
        ]
        noisy = "misprinted" in kind or kind in ("misread", "3 % misspelt")
        assert sum(hits) >= (25 if noisy else 30), (question.id, sum(hits))


def test_a_short_stem_alone_or_with_another_answer_is_no_question() -> None:
    for text in (
        f"{PAGE}{BRIEF.stem}",
        f"{PAGE}问：{BRIEF.stem}\n答：这一时期的田间管理最为要紧。",
        f"{PAGE}问：水稻的抽穗盛期指\n答：{BRIEF.answer}",
    ):
        assert INDEX.find(text) == [], text


def test_a_statement_of_fact_is_no_question() -> None:
    """A textbook says the same without asking."""
    question = BenchmarkQuestion(
        benchmark="ceval",
        id="x/val/0",
        stem="我国最大的内陆盆地是____",
        options=("塔里木盆地", "准噶尔盆地", "柴达木盆地", "四川盆地"),
        answer="塔里木盆地",
    )
    index = Index.build([question], CONFIG)
    assert index.find(f"{PAGE}我国最大的内陆盆地是塔里木盆地，四周高山环绕。{PAGE}") == []
    assert index.find(f"{PAGE}\n我国最大的内陆盆地是（塔里木盆地）\n{PAGE}") != []


SAID = {
    "水的化学式是____。": ("H2O", "H2O2", "HO", "H3O"),
    "我国最长的河流是____。": ("长江", "黄河", "珠江", "淮河"),
    "植物进行光合作用的主要场所是____。": ("叶绿体", "线粒体", "核糖体", "高尔基体"),
    "世界上面积最大的海洋是____。": ("太平洋", "大西洋", "印度洋", "北冰洋"),
    "《呐喊》这部短篇小说集的作者是____。": ("鲁迅", "茅盾", "巴金", "老舍"),
    "人体内最大的消化腺是____。": ("肝脏", "胰腺", "唾液腺", "胃腺"),
    "公民具有选举权的年龄是____。": ("十八周岁", "十六周岁", "八周岁", "十四周岁"),
    "The capital city of Australia is": ("Canberra", "Sydney", "Melbourne", "Perth"),
    "The powerhouse of the cell is the": ("mitochondrion", "nucleus", "ribosome", "membrane"),
    "The chemical symbol of the element gold is": ("Au", "Ag", "Fe", "Gd"),
}


@pytest.mark.parametrize("stem", SAID)
def test_a_textbook_says_the_same_without_asking(stem: str) -> None:
    """Definitions, titles above them, lists of facts: three pages for each question."""
    options = SAID[stem]
    question = BenchmarkQuestion(
        benchmark="x", id="x/val/0", stem=stem, options=options, answer=options[0]
    )
    index = Index.build([question], CONFIG)
    fact = stem.rstrip("_。") + options[0]
    for text in (
        f"{PAGE}{fact}，这一点教科书上写得很清楚。{PAGE}",
        f"{PAGE}\n{options[0]}\n{fact}，后面几章还要谈到它。\n{PAGE}",
        f"{PAGE}\n- 其一，{fact}；\n- 其二，见下一节。\n{PAGE}",
    ):
        assert index.find(text) == [], text
    if question not in index.unchecked():
        assert index.find(f"{PAGE}\n{asked(question)}\n{PAGE}") != []


ENGLISH = BenchmarkQuestion(
    benchmark="mmlu",
    id="anatomy/test/3",
    stem="Which of these muscles lifts the shoulder blade toward the neck during a shrug?",
    options=("Levator scapulae", "Serratus anterior", "Latissimus dorsi", "Pectoralis minor"),
    answer="Levator scapulae",
)
FOREIGN = Index.build([ENGLISH], CONFIG)
CHAPTER = (
    "The muscles of the back lift, turn and lower the shoulder blade. During a shrug several of "
    "them work together, and which of these does most depends on the load that is carried.\n"
) * 4


@pytest.mark.parametrize("kind", [k for k in DRESSES if "alone" not in k and k != "misread"])
def test_an_english_question_is_found_in_this_dress(kind: str) -> None:
    hits = [
        ok
        for seed in range(30)
        for ok, _, _ in found_again(FOREIGN, [ENGLISH], DRESSES[kind], [CHAPTER], seed)
    ]
    noisy = "misprinted" in kind or kind in ("a line break every 12 characters", "3 % misspelt")
    assert sum(hits) >= (20 if noisy else 30), sum(hits)


def test_another_english_question_of_the_same_words_is_none() -> None:
    assert FOREIGN.find(CHAPTER) == []
    for old, new in (("lifts", "lowers"), ("shoulder blade", "rib cage")):
        other = ENGLISH.stem.replace(old, new)
        assert FOREIGN.find(f"{CHAPTER}{other}\nA. Trapezius\nB. Soleus\nC. Psoas") == []


CLASSIC = (
    "山不在高，有仙则名。水不在深，有龙则灵。斯是陋室，惟吾德馨。苔痕上阶绿，草色入帘青。谈笑有鸿儒，"
    "往来无白丁。可以调素琴，阅金经。无丝竹之乱耳，无案牍之劳形。"
)
LAW = (
    "当事人一方不履行合同义务或者履行合同义务不符合约定的，应当承担继续履行、采取补救措施或者赔偿损失等"
    "违约责任"
)
QUOTING = {
    "a line": "“苔痕上阶绿，草色入帘青。谈笑有鸿儒，往来无白丁”一句所用的修辞手法是____。",
    "a line and a title": "《陋室铭》中“无丝竹之乱耳，无案牍之劳形”表达了作者怎样的志趣？",
    "a passage": f"阅读下面的文字。\n{CLASSIC}\n下列对文中词语的解释，不正确的一项是____。",
    "without marks": "刘禹锡的名句山不在高有仙则名水不在深有龙则灵出自哪一篇散文？",
    "an article of a law": f"根据民法典规定，{LAW}，这里体现的原则是____。",
    "in corner brackets": "「苔痕上阶绿，草色入帘青。谈笑有鸿儒，往来无白丁」的作者是",
}


@pytest.mark.parametrize("kind", QUOTING)
def test_a_classic_that_an_exam_quotes_is_no_question(kind: str) -> None:
    question = BenchmarkQuestion(
        benchmark="cmmlu",
        id="classics/test/0",
        stem=QUOTING[kind],
        options=("对偶与借代", "比喻与夸张", "全面履行", "诚实信用"),
        answer="对偶与借代",
    )
    index = Index.build([question], CONFIG)
    assert index.find(f"陋室铭\n刘禹锡\n{CLASSIC}南阳诸葛庐，西蜀子云亭。孔子云：何陋之有？") == []
    assert index.find(f"第五百七十七条　{LAW}。\n第五百七十八条　略。") == []
    (match,) = index.find(f"{PAGE}\n{asked(question)}\n{PAGE}")
    assert match.overlap > 0.95


def test_probes_of_short_stems_and_page_headers(shared: Path) -> None:
    """The sample of the benchmarks lacks the probes' questions: they are put together again."""
    probes = shared / "data" / "probes"
    text = json.loads((probes / "17_decontamination_stem_and_answer.json").read_text("utf-8"))[
        "text"
    ]
    stem, answer = (line.partition("：")[2] for line in text.split("\n"))
    brief = BenchmarkQuestion(
        benchmark="cmmlu",
        id="agronomy/test/19",
        stem=stem,
        options=("从出生到断奶", answer, "从断奶到性成熟", "从体成熟到衰老"),
        answer=answer,
    )
    assert len(Index.build([brief], CONFIG).find(text)) == 1
    paper = (probes / "18_decontamination_page_header.txt").read_text("utf-8")
    before, _, after, options = paper.split("\n")[:4]
    headed = BenchmarkQuestion(
        benchmark="ceval",
        id="middle_school_geography/test/92",
        stem=before + after,
        options=tuple(options.replace(".", "").split()[1::2]),
    )
    assert len(Index.build([headed], CONFIG).find(paper)) == 1


LEAST = {
    "page header in the stem": 36,
    "3 % misprinted": 36,
    "stem and answer": 36,
    "stem and answer, named": 36,
    "stem, explanation, answer": 34,
    "options after 10 sentences": 36,
    "options after 60 sentences": 36,
    "options before the stem": 36,
    "misread": 32,
}
"""Of 40; every other kind with its options is found 38 times."""


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["ceval", "cmmlu"])
def test_real_questions_are_found_in_real_documents(
    shared: Path, real_index: Index, benchmark: str
) -> None:
    documents = documents_of(shared / "data" / "pretrain")
    ours = [q for q in real_index.questions if q.benchmark == benchmark]
    questions = random.Random(11).sample(ours, 40)
    for kind, dress in DRESSES.items():
        if "alone" in kind or ("answer" in kind and kind not in LEAST):
            continue
        hits = sum(ok for ok, _, _ in found_again(real_index, questions, dress, documents, 3))
        assert hits >= LEAST.get(kind, 36 if "%" in kind else 38), (kind, hits)


@pytest.mark.slow
def test_real_rows_hold_no_question(shared: Path, real_index: Index) -> None:
    documents = documents_of(shared / "data" / "pretrain")
    assert [d[:60] for d in documents if real_index.find(d)] == []


def test_planting_is_the_same_each_time() -> None:
    texts = [plant(asked(LONG), PAGE, random.Random(4)) for _ in range(2)]
    assert texts[0] == texts[1] and asked(LONG) in texts[0]
