"""Traditional Chinese becomes simplified, simplified stays as it is, Japanese and Korean too."""

import gzip
import json
from pathlib import Path
from typing import Any

import opencc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus.cleaning.operators.loading import applied, own_operator

# Traditional characters and words, and what they are in simplified text, in a sentence of its own.
TRAPS = [
    ("圖書館關著門，外頭下著雨。", "图书馆关着门，外头下着雨。"),
    ("古城有著悠久歷史，存在著問題。", "古城有着悠久历史，存在着问题。"),
    ("他看著這些著作，沿著山路走。", "他看着这些著作，沿着山路走。"),
    (
        "這些編著者討論著問題，他大著膽子說著話，成就顯著。",
        "这些编著者讨论着问题，他大着胆子说着话，成就显著。",
    ),
    (
        "他著有《紅樓夢論》，正讀著《三國》，是土著。",
        "他著有《红楼梦论》，正读着《三国》，是土著。",
    ),
    ("黏土附著在牆上，意味著這裡著火了。", "黏土附着在墙上，意味着这里着火了。"),
    (
        "乾隆年間的餅乾，乾坤與乾淨，幹部不干涉樹幹。",
        "乾隆年间的饼干，乾坤与干净，干部不干涉树干。",
    ),
    ("乾興元年，康乾盛世，乾縣乾陵。這是歷史。", "乾兴元年，康乾盛世，乾县乾陵。这是历史。"),
    ("皇后在後面，頭髮發現，太后以後。", "皇后在后面，头发发现，太后以后。"),
    ("裏面、裡面、公里，家裡。", "里面、里面、公里，家里。"),
    ("瞭解情況，遠眺瞭望，一目瞭然。", "了解情况，远眺瞭望，一目了然。"),
    ("藉口很多，聲名狼藉，慰藉心靈，憑藉實力。", "借口很多，声名狼藉，慰藉心灵，凭借实力。"),
    ("剩餘的錢，余先生，業餘時間。", "剩余的钱，余先生，业余时间。"),
    ("覆蓋面廣，反覆說明，答覆來信，顛覆。", "覆盖面广，反复说明，答复来信，颠覆。"),
    ("什麼、甚麼、怎麼、那麼。這樣說。", "什么、甚么、怎么、那么。这样说。"),
    ("一隻貓，只有你，隻身前往，船隻。這裡。", "一只猫，只有你，只身前往，船只。这里。"),
    ("鐘錶與表面，鍾情與鐘聲，鍾馗。", "钟表与表面，钟情与钟声，钟馗。"),
    ("徵求意見，宮商角徵羽，魏徵，文徵明，徵調。", "征求意见，宫商角徵羽，魏徵，文徵明，征调。"),
    ("鬱金香與憂鬱，豐收與丰采，鬆散與松樹。", "郁金香与忧郁，丰收与丰采，松散与松树。"),
    ("製造與制度，範圍與范先生，穀物與山谷。", "制造与制度，范围与范先生，谷物与山谷。"),
    ("台灣、臺灣、颱風、櫃檯。這裡。", "台湾、台湾、台风、柜台。这里。"),
    ("衞生、説明、爲了、啓發、鋭利、羣衆。", "卫生、说明、为了、启发、锐利、群众。"),
    ("於是由於樊於期。這說法。", "于是由于樊於期。这说法。"),
    ("畢昇發明活字，旭日昇起，歌舞昇平。", "毕昇发明活字，旭日升起，歌舞升平。"),
    ("瀋陽，沈先生，沉沒。漢語。這裡。", "沈阳，沈先生，沉没。汉语。这里。"),
    ("鬪爭與北斗，鬭雞，曆法與歷史，麵粉與面子。", "斗争与北斗，斗鸡，历法与历史，面粉与面子。"),
]

SIMPLIFIED = [
    "孩子把玻璃打坏了，手机也打坏了。",
    "画家文徵明，晋人王濛字仲祖。毕昇、乾县。",
    "王濛",
    "文徵明",
    "李昇",
    "乾坤",
    "王濛王濛王濛",
    "张乾与李乾都姓于，於姓很少见，著名学者著书。",
    "古诗：床前明月光，疑是地上霜。细雨濛濛，雁影冥濛。",
    "繁体字“後”简化为“后”，“髮”简化为“发”。",
    "他在招牌上写着「龍門飯店」四个字。",
    "南宫适、洪适、万俟卨，甯武子，幺蛾子。",
    "冼星海谱曲，堃哥与喆弟，仝先生，彧姐。",
]

FOREIGN = [
    "東京都は日本の首都である。国際連合の加盟国でもあり、経済が発展している。",
    "涼宮ハルヒの憂鬱",
    "大韓民國은 民主共和國이다. 大韓民國의 主權은 國民에게 있다.",
    "名前は図書館の売店に関する対応。県庁",
    "Taipei (臺北) is the capital of Taiwan (臺灣), a 國家 in Chinese; the text is English.",
]

ASKED_FOR = [
    "问：请把下面的句子翻译成繁体中文：我爱中国的山水。\n答：我愛中國的山水，歡迎你們來這裡參觀學習，讀書寫字，聽風看雲。",
    "問：請用繁體中文寫一首詩。\n答：山間明月照東樓，萬裡長風送遠愁。",
    "问：把这句话译成粤语。\n答：呢個細路仔唔識講嘢，點算好呀？我哋幫佢買啲書，畀佢學習讀書寫字，聽歌睇戲。",
    "以下是繁體香港中文翻譯：\n歡迎來到計算語言學專家的網頁，這裡有許多資料。",
    "「後」的簡體字是「后」，「髮」的簡體字是「发」。這裡說明漢字簡化的歷史。",
]


@pytest.fixture(scope="module")
def mapper() -> Any:
    return own_operator("traditional_to_simplified_mapper")


@pytest.mark.parametrize(("before", "after"), TRAPS)
def test_traditional_text_is_converted(mapper: Any, before: str, after: str) -> None:
    assert applied(mapper, before) == after
    assert applied(mapper, after) == after


@pytest.mark.parametrize("text", [*SIMPLIFIED, *FOREIGN, *ASKED_FOR])
def test_other_text_stays(mapper: Any, text: str) -> None:
    assert applied(mapper, text) == text


def test_only_paragraphs_that_are_traditional_are_converted(mapper: Any) -> None:
    simplified = "本文讲解汽车的变速器，画家文徵明与此无关。"
    traditional = "一種主要是液壓傳動，一種是機械齒輪傳動，換檔過程會產生損耗，浪費燃料。"
    converted = "一种主要是液压传动，一种是机械齿轮传动，换档过程会产生损耗，浪费燃料。"
    text = "\n".join([simplified] * 3 + [traditional])
    assert applied(mapper, text) == "\n".join([simplified] * 3 + [converted])
    mostly = "\n".join([traditional] * 3 + [simplified])
    assert applied(mapper, mostly) == "\n".join([converted] * 3 + [simplified])


def test_an_answer_does_not_change_its_script_from_line_to_line(mapper: Any) -> None:
    question = "问：請構思一個主題，並創作短片"
    long = "答：鏡頭一：早上六點，鬧鐘響起，主人起床準備上班，寵物狗還在繼續睡覺，開門時叫個不停。"
    short = "鏡頭二：主人把寵物帶走"
    simplified = "\n".join(["问：这个故事还可以写得更长吗？请补充细节与对话，让读者觉得亲切。"] * 9)
    after = mapper.convert("\n".join([question, long, short, simplified, "王濛說"]))
    assert "寵" not in after
    assert "請" not in after
    assert after.endswith("王濛說")
    # Alone, neither is enough.
    alone = "\n".join([question, short, simplified])
    assert mapper.convert(alone) == alone


def test_code_and_english_do_not_hide_a_traditional_text(mapper: Any) -> None:
    code = "```python\nfor number in range(100):\n    print(number, enumerate_all(numbers))\n```"
    english = "The Taipei (臺北) Times is an English newspaper in Taiwan (臺灣)."
    text = f"這裡說明迴圈的用法。\n{code}\n{english}\n# 變數與註解\n以上就是內容。"
    assert applied(mapper, text) == (
        f"这里说明回圈的用法。\n{code}\n{english}\n# 变数与注解\n以上就是内容。"
    )


def test_japanese_within_a_traditional_text_stays(mapper: Any) -> None:
    text = "他喜歡《涼宮ハルヒの憂鬱》和《進擊的巨人》，這是日本動畫，歡迎觀看。"
    assert applied(mapper, text) == text.translate(
        str.maketrans("歡進擊這動畫觀", "欢进击这动画观")
    )


def test_classical_text_keeps_the_character_of_writing(mapper: Any) -> None:
    """著 of 著作 is the usual one where nobody writes 的 and 了."""
    before = "射策名先著，論兵氣益雄。功成身不退，自古多愆尤。"
    after = "射策名先著，论兵气益雄。功成身不退，自古多愆尤。"
    assert applied(mapper, before) == after
    before, after = (
        "形則著，著則明，明則動。中庸之言也。馮著，漢陽人也。",
        "形则著，著则明，明则动。中庸之言也。冯著，汉阳人也。",
    )
    assert applied(mapper, before) == after


LINES = st.lists(
    st.sampled_from([*SIMPLIFIED, *FOREIGN, *(a for a, _ in TRAPS), "", "abc 123"]), max_size=6
).map("\n".join)


@settings(max_examples=100)
@given(text=LINES)
def test_a_second_time_changes_nothing(mapper: Any, text: str) -> None:
    once = applied(mapper, text)
    assert applied(mapper, once) == once
    assert len(once) == len(text)
    assert [not line for line in once.split("\n")] == [not line for line in text.split("\n")]


@settings(max_examples=100)
@given(text=st.lists(st.sampled_from(SIMPLIFIED), max_size=8).map("\n".join))
def test_simplified_documents_are_fixed_points(mapper: Any, text: str) -> None:
    assert applied(mapper, text) == text


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("sky/*", "skypile"),
        ("baidu_baike/*", "baidu_baike"),
        ("wiki_cn/*", "wikipedia_cn"),
        ("baidu_QA/*", "baidu_qa"),
        ("BELLE/*2M*", "belle_instruction"),
    ],
)
def test_real_simplified_rows_are_fixed_points(
    mapper: Any, real_rows: Any, place: str, name: str
) -> None:
    assert [t for t in real_rows(place, name) if applied(mapper, t) != t] == []


def test_real_headlines_verse_and_classics_are_fixed_points(mapper: Any, shared: Path) -> None:
    folder = shared / "data" / "pretrain"
    texts = (folder / "thucnews" / "test.txt").read_text(encoding="utf-8").split("\n")
    verses = json.loads((folder / "poetry" / "ci.song.1000.json").read_bytes())
    texts += ["\n".join([verse["author"], *verse["paragraphs"]]) for verse in verses]
    texts += json.loads((folder / "poetry" / "lunyu.json").read_bytes())[0]["paragraphs"]
    with gzip.open(folder / "classics" / "xiyouji.txt.gz", "rt", encoding="utf-8") as file:
        texts.append(file.read())
    with gzip.open(folder / "classics" / "classical_modern_shiji.jsonl.gz", "rt") as file:
        texts += [json.loads(line)["text"] for line in file]
    assert [t[:99] for t in texts if applied(mapper, t) != t] == []


def test_real_traditional_articles_agree_with_opencc(mapper: Any, shared: Path) -> None:
    """But for 著, which OpenCC's plain conversion keeps, every character; and nothing is left."""
    path = shared / "data" / "pretrain" / "wiki_traditional" / "DRCD_dev.json.gz"
    with gzip.open(path) as file:
        articles = json.load(file)["data"]
    plain = opencc.OpenCC("t2s")
    different = total = left = 0
    for text in (p["context"] for article in articles for p in article["paragraphs"]):
        got, expected = applied(mapper, text), plain.convert(text)
        assert len(got) == len(expected)
        different += sum(
            a != b for a, b in zip(got, expected, strict=True) if (a, b) != ("着", "著")
        )
        left += sum(a != b for a, b in zip(got, plain.convert(got), strict=True))
        total += len(text)
    assert total > 400_000
    assert different < 30
    assert left < 60
