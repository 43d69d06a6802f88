"""Rules recognise what is spam beyond doubt, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from corpus.cleaning.quality.rules import reason_to_drop, rules
from tests.corpus.cleaning.operators.loading import own_operator

NEWS = (
    "市气象台昨天发布大风预警，今天白天到夜间本市大部分地区有五级左右的偏北风，山区阵风可达八级。"
    "交通部门提醒市民出行注意安全，公园的水上项目全部暂停。"
)
SPAM = {
    "spun: summary with a planted brand": f"本文摘要：某某手机版登录，某某官网报道：{NEWS}",
    "gambling: planted brand": f"买球平台-官网\n{NEWS}",
    "question bank bait": "考题答案公众号搜题\n发送给公众号即可查题，题目答案秒回，备考神器。"
    + NEWS,
    "job offers": "某某有限公司招聘：岗位职责看机器，月薪六千，包食宿，双休，招聘岗位：普工。"
    "本岗位请打电话报名。",
    "goods for sale": "限时抢购，原价99元，现价59元，每套再减10元，扫码下单，地址在大街一号。",
    "materials bait": "后台回复“资料”，扫码添加助手，免费领取完整版笔记，资料每天更新。",
    "insurance for sale": "惠民保开始参保，参保后理赔方便，投保不限年龄，抓紧扫码，保额三百万。",
    "estate advertisement": "楼盘推广名某某府，户型多样，本资料不构成要约，最终解释权归开发商。",
    "meals of a week": "食谱\n"
    + "".join(f"星期{day}\n早点：牛奶\n午餐：米饭\n午点：苹果\n" for day in "一二三四五"),
    "coupons": "今日好价：领券减20元，券后9.9元，优惠券先到先得，包邮，复制这条打开淘宝。" * 2,
}


@pytest.mark.parametrize("reason", SPAM)
def test_spam_is_named(reason: str) -> None:
    assert reason_to_drop(SPAM[reason]) == reason


@pytest.mark.parametrize(
    "text",
    [
        "",
        NEWS,
        f"本文摘要：{NEWS}\n关键词：大风；预警",
        "警方通报：三名男子因在网上经营买卖彩票的赌博网站被判刑，涉案金额两千万元。" + NEWS,
        "消费者协会提醒，领取优惠券时要看清使用期限，包邮的商品退货时运费由谁承担也要问明。",
        "公司招聘，先看岗位职责和任职要求，再谈薪资与五险一金，劳动法对双休也有规定。",
        "惠民保是由政府指导的补充医疗保险，参保不限年龄，理赔时先扣除医保已付的部分，保额各地不同。",
        "《民法典》规定，商业广告的内容符合要约条件的，构成要约；楼盘的户型图是不是要约邀请，看约定。",
        "白癜风是一种皮肤色素脱失病，病因尚不清楚，遗传、免疫和神经因素可能都有作用。",
    ],
)
def test_pages_on_the_same_subjects_stay(text: str) -> None:
    assert not reason_to_drop(text)


def test_the_filter_notes_the_reason() -> None:
    texts = [NEWS, *SPAM.values()]
    stats: list[dict[str, Any]] = [{} for _ in texts]
    samples: dict[str, Any] = {"text": texts, "__dj__stats__": stats}
    for action, kept in (("drop", [True] + [False] * len(SPAM)), ("flag", [True] * len(texts))):
        filtered = own_operator("spam_rules_filter", action=action)
        assert filtered.process_batched(filtered.compute_stats_batched(samples)) == kept
    assert [one["reason"] for one in stats] == ["", *SPAM]
    assert [one["spam_rule"] for one in stats] == [0] + [1] * len(SPAM)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: 1", "a list of rules"),
        ("- {reason: a}", "rule 1: it needs `reason`"),
        ("- {reason: a, all: [{words: []}]}", "neither"),
        ("- {reason: a, all: [{words: [b], measure: han}]}", "neither"),
        ("- {reason: a, all: [{measure: han}]}", "neither"),
        ("- {reason: a, all: [{measure: hun, least: 1}]}", "no measure 'hun'"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=told):
        rules(path)


def test_rules_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(
        json.dumps(
            [
                {
                    "reason": "cats",
                    "all": [
                        {"words": ["Cat"], "count": 2, "within": 10},
                        {"measure": "length", "most": 5},
                    ],
                }
            ]
        )
    )
    assert reason_to_drop("a cat, a cat", path) == ""
    assert reason_to_drop("Cats, CATS", path) == "cats"
    assert reason_to_drop("Cats, CATS" + " and dogs" * 40, path) == ""


@pytest.mark.slow
def test_no_rule_holds_for_other_kinds_of_text(shared: Path) -> None:
    folder = shared / "data" / "pretrain"

    def rows(pattern: str) -> list[Any]:
        (path,) = folder.glob(pattern)
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    texts = [
        *("\n".join(s["content"] or "" for s in row["sections"]) for row in rows("baidu_baike/*")),
        *(row["completion"] for row in json.loads(next(folder.glob("wiki_cn/*")).read_text())),
        *(f"{row['title']}\n{row['desc']}\n{row['answer']}" for row in rows("baidu_QA/*")),
        *(f"{row['input']}\n{row['target']}" for row in rows("firefly/*")),
        *(folder / "thucnews" / "test.txt").read_text("utf-8").splitlines(),
        *(
            "\n".join(poem["paragraphs"])
            for path in folder.glob("poetry/*.json")
            for poem in json.loads(path.read_text("utf-8"))
            if isinstance(poem, dict) and "paragraphs" in poem
        ),
    ]
    assert len(texts) > 14_000
    assert [text for text in texts if reason_to_drop(text)] == []
